//! `thalweg eval --eval-command`: another program scores, its results are read and compared.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use thalweg_checkpoint::{ReadOptions, open_checkpoint_with};
use thalweg_eval::check_sound;
use thalweg_eval::external::{ExternalResults, ExternalScore, read_results, unpaired_gain};
use thalweg_merge::context::RunContext;
use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::shell_path;

use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::messages::Messages;
use crate::options::Seconds;
use crate::shell::run_shell;

/// The largest file of results.
pub(crate) const MAX_RESULTS_BYTES: u64 = 256_000_000;
/// Folders below `{out}` that are looked into: lm-evaluation-harness makes one named after the model.
const MAX_DEPTH: usize = 2;

pub(crate) fn run(
    command: &str,
    limit: Option<Seconds>,
    paths: &[PathBuf],
    world: &World<'_>,
    messages: &Messages,
) -> Result<Outcome, Error> {
    check_command(command)?;
    let checkpoints = paths.iter().map(|path| world.resolve_checkpoint(path)).collect::<Result<Vec<_>, _>>()?;
    // All checkpoints are checked before the first is scored: scoring takes hours, and one full of NaNs must not get a
    // score.
    for (path, checkpoint) in paths.iter().zip(&checkpoints) {
        check_params(path, checkpoint, (&world.storage, &world.reading), messages)?;
    }
    let (scratch, cx) = (Scratch::new(&world.storage)?, world.quiet_context(SUMMING_MEMORY_BYTES));
    let score = |(i, (path, checkpoint)): (usize, (&PathBuf, &PathBuf))| {
        score_one(command, path, checkpoint, &scratch.out(i), (limit, &cx))
    };
    let all = paths.iter().zip(&checkpoints).enumerate().map(score).collect::<Result<Vec<_>, Error>>();
    scratch.close(all.is_ok(), messages);
    let all = all?;
    for (path, found) in paths.iter().zip(&all) {
        tell_refused(path, found, messages);
    }
    messages.json(&document(paths, &all));
    messages.text(&text(paths, &all));
    Ok(Outcome::Done)
}

/// Notes which scores cannot be used. The others are kept.
pub(crate) fn tell_refused(path: &Path, found: &ExternalResults, messages: &Messages) {
    for refused in &found.refused {
        messages.note(format!("`{}`: `{}` is left out: {}", path.display(), refused.task, refused.why));
    }
}

/// Gains over the first checkpoint, by task.
fn gains<'a>(
    baseline: &'a ExternalResults,
    found: &'a ExternalResults,
) -> impl Iterator<Item = (&'a ExternalScore, f64, Option<[f64; 2]>)> {
    found.scores.iter().filter_map(|b| {
        let a = baseline.scores.iter().find(|a| a.task == b.task)?;
        let (gain, interval) = unpaired_gain(a, b);
        Some((b, gain, interval))
    })
}

fn document(paths: &[PathBuf], all: &[ExternalResults]) -> Value {
    let (mut scores, mut refused, mut comparisons) = (Vec::new(), Vec::new(), Vec::new());
    for (path, found) in paths.iter().zip(all) {
        scores.extend(found.scores.iter().map(|score| {
            json!({
                "checkpoint": path, "task": score.task, "value": score.value, "standard_error": score.standard_error,
                "n": score.n, "higher_is_better": score.higher_is_better,
            })
        }));
        let row = |one: &thalweg_eval::external::RefusedScore| json!({"checkpoint": path, "task": one.task, "reason": one.why});
        refused.extend(found.refused.iter().map(row));
    }
    for (path, found) in paths.iter().zip(all).skip(1) {
        comparisons.extend(gains(&all[0], found).map(|(b, gain, interval)| {
            json!({
                "a": paths[0], "b": path, "task": b.task, "gain": gain, "interval_95": interval, "n": b.n, "paired": false,
            })
        }));
    }
    json!({"kind": "thalweg-eval", "version": 1, "scores": scores, "refused": refused, "comparisons": comparisons})
}

fn text(paths: &[PathBuf], all: &[ExternalResults]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (path, found) in paths.iter().zip(all) {
        let _ =
            writeln!(text, "{}\n  {:<32} {:>10} {:>10} {:>7}", path.display(), "task", "value", "std. err.", "items");
        found.scores.iter().for_each(|score| text.push_str(&row(score)));
    }
    for (path, found) in paths.iter().zip(all).skip(1) {
        let (a, b) = (paths[0].display(), path.display());
        let _ = writeln!(text, "\ngain of {b}\nover {a} (positive is better; items are not paired)");
        for (score, gain, interval) in gains(&all[0], found) {
            let shown = interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("[{low:+.4}, {high:+.4}]"));
            let _ = writeln!(text, "  {:<32} {gain:>+10.4}  {shown}", score.task);
        }
    }
    text
}

fn row(score: &ExternalScore) -> String {
    let error = score.standard_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.4}"));
    let n = score.n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    format!("  {:<32} {:>10.4} {error:>10} {n:>7}\n", score.task, score.value)
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
            format!("the command succeeded for `{}` but wrote no JSON file to {{out}}", path.display()),
            "make it write one to `{out}` itself, or into a folder of that name",
        )
    })?;
    Ok(read_results(&storage.read_file(&file, MAX_RESULTS_BYTES)?, &file)?)
}

/// The file itself, or the last JSON file by name in a folder. Files whose names begin with `results` take precedence.
pub(crate) fn find_results(storage: &dyn Storage, path: &Path) -> Result<Option<PathBuf>, Error> {
    find_results_at(storage, path, 0)
}

fn find_results_at(storage: &dyn Storage, path: &Path, depth: usize) -> Result<Option<PathBuf>, Error> {
    let kind = match storage.file_info(path) {
        Ok(info) => info.kind,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if kind == FileKind::File {
        return Ok(Some(path.to_owned()));
    }
    let entries = storage.list_folder(path)?;
    let files = entries.iter().filter(|entry| entry.kind == FileKind::File && entry.name.ends_with(".json"));
    if let Some(last) = files.max_by_key(|entry| (entry.name.starts_with("results"), &entry.name)) {
        return Ok(Some(path.join(&last.name)));
    }
    for folder in entries.iter().filter(|entry| entry.kind == FileKind::Folder && depth < MAX_DEPTH) {
        if let Some(found) = find_results_at(storage, &path.join(&folder.name), depth + 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
