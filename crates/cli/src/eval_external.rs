//! `thalweg eval --eval-command`: another program scores, its results are read and compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{ReadOptions, open_checkpoint_with};
use thalweg_eval::external::{ExternalResults, find_results, read_results_file};
use thalweg_eval::{RESULTS_EXAMPLE, check_sound};
use thalweg_merge::context::RunContext;
use thalweg_storage::Storage;
use thalweg_tensor::shell_path;

use crate::command::Outcome;
use crate::error::Error;
use crate::eval_results::{tell_refused, tell_results};
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::messages::Messages;
use crate::options::Seconds;
use crate::shell::run_shell;

pub(crate) fn run(
    command: &str,
    limit: Option<Seconds>,
    paths: &[PathBuf],
    world: &World<'_>,
) -> Result<Outcome, Error> {
    check_command(command)?;
    let checkpoints = paths.iter().map(|path| world.resolve_checkpoint(path)).collect::<Result<Vec<_>, _>>()?;
    // All checkpoints are checked before the first is scored: scoring takes hours, and one full of NaNs must not get a
    // score.
    for (path, checkpoint) in paths.iter().zip(&checkpoints) {
        check_params(path, checkpoint, (&world.storage, &world.reading), world.messages)?;
    }
    let (scratch, cx) = (Scratch::new(&world.storage)?, world.quiet_context(SUMMING_MEMORY_BYTES));
    let score = |(i, (path, checkpoint)): (usize, (&PathBuf, &PathBuf))| {
        score_one(command, path, checkpoint, &scratch.out(i), (limit, &cx))
    };
    let all = paths.iter().zip(&checkpoints).enumerate().map(score).collect::<Result<Vec<_>, Error>>();
    scratch.close(all.is_ok(), world.messages);
    let all = all?;
    for (path, found) in paths.iter().zip(&all) {
        tell_refused(path, found, world.messages);
    }
    Ok(tell_results(paths, &all, world))
}

/// # Errors
/// `Usage` where the command does not say where checkpoint and results go.
pub(crate) fn check_command(command: &str) -> Result<(), Error> {
    for mark in ["{checkpoint}", "{out}"] {
        if !command.contains(mark) {
            let hint = "for example `--eval-command 'score.py {checkpoint} {out}'`";
            return Err(Error::usage_with_hint(format!("the command has no `{mark}`"), hint));
        }
    }
    Ok(())
}

/// Refuses a checkpoint with NaN or infinity among its parameters. One that cannot be opened is only noted: the command
/// may know its format.
///
/// # Errors
/// `NonFiniteParams`, or a file that cannot be read.
pub(crate) fn check_params(
    path: &Path,
    checkpoint: &Path,
    (storage, reading): (&Arc<dyn Storage>, &ReadOptions),
    messages: &Messages,
) -> Result<(), Error> {
    match open_checkpoint_with(storage, checkpoint, reading) {
        Ok(checkpoint) => Ok(check_sound(path, &checkpoint)?),
        Err(error) => {
            messages.note(format!("`{}` is not checked for NaN: {error}", path.display()));
            Ok(())
        }
    }
}

/// A new folder for what commands write. It is removed only if everything in it was used.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    storage: Arc<dyn Storage>,
}

impl Scratch {
    pub(crate) fn new(storage: &Arc<dyn Storage>) -> Result<Self, Error> {
        let process = std::process::id();
        let mut number = 0_u32;
        let folder = loop {
            let folder = std::env::temp_dir().join(format!("thalweg-eval-{process}-{number}"));
            match storage.file_info(&folder) {
                // It belongs to an earlier process with this id, or to another program.
                Ok(_) => number += 1,
                Err(_) => break folder,
            }
        };
        storage.create_folder(&folder)?;
        Ok(Self { folder, storage: Arc::clone(storage) })
    }

    /// The path that replaces `{out}` in run `i`. Nothing is there yet.
    pub(crate) fn out(&self, i: usize) -> PathBuf {
        self.folder.join(format!("out-{}", i + 1))
    }

    /// Removes the folder if its content was used or it is empty; otherwise notes where it is kept.
    pub(crate) fn close(self, is_used: bool, messages: &Messages) {
        let is_empty = self.storage.list_folder(&self.folder).is_ok_and(|entries| entries.is_empty());
        if is_used || is_empty {
            // A file that is left in the folder of temporary files does no harm.
            let _ = self.storage.remove(&self.folder);
        } else {
            messages.note(format!("the command's output is kept in `{}`", self.folder.display()));
        }
    }
}

/// The command with a path for each mark.
pub(crate) fn fill_command(command: &str, paths: &[(&str, &Path)]) -> String {
    paths.iter().fold(command.to_owned(), |line, (mark, path)| line.replace(mark, &shell_path(path)))
}

/// Runs the command on `checkpoint`, which messages call `path`, and reads what it wrote to `out`.
pub(crate) fn score_one(
    command: &str,
    path: &Path,
    checkpoint: &Path,
    out: &Path,
    (limit, cx): (Option<Seconds>, &RunContext<'_>),
) -> Result<ExternalResults, Error> {
    let line = fill_command(command, &[("{checkpoint}", checkpoint), ("{out}", out)]);
    run_shell(&line, path, limit, cx)?;
    let storage = &*cx.storage;
    let file = find_results(storage, out)?.ok_or_else(|| {
        Error::usage_with_hint(
            format!("the command succeeded for `{}` but wrote no results to {{out}}", path.display()),
            format!("make it write a JSON file, such as `{RESULTS_EXAMPLE}`, to `{{out}}` itself or into a folder of that name"),
        )
    })?;
    Ok(read_results_file(storage, &file)?)
}
