//! `thalweg eval --eval-command`: another program scores, its results are read and compared.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use thalweg_eval::external::{ExternalScore, read_results, unpaired_gain};
use thalweg_storage::{FileKind, Storage};

use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

/// The largest file of results.
const MAX_RESULTS_BYTES: u64 = 256_000_000;
/// Folders below `{out}` that are looked into: lm-evaluation-harness makes one named after the model.
const MAX_DEPTH: usize = 2;

pub(crate) fn run(command: &str, paths: &[PathBuf], world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    check_command(command)?;
    let mut all = Vec::new();
    for path in paths {
        all.push(score_one(command, path, &world.resolve_checkpoint(path)?, &*world.storage)?);
    }
    let mut scores = Vec::new();
    let mut comparisons = Vec::new();
    let mut text = String::new();
    for (path, found) in paths.iter().zip(&all) {
        let _ =
            writeln!(text, "{}\n  {:<32} {:>10} {:>10} {:>7}", path.display(), "task", "value", "std. err.", "items");
        for score in found {
            text.push_str(&row(score));
            scores.push(json!({
                "checkpoint": path, "task": score.task, "value": score.value, "standard_error": score.standard_error,
                "n": score.n, "higher_is_better": score.higher_is_better,
            }));
        }
    }
    for (path, found) in paths.iter().zip(&all).skip(1) {
        let _ = writeln!(
            text,
            "\ngain of {}\nover {} (positive is better; items are not paired)",
            path.display(),
            paths[0].display()
        );
        for b in found {
            let Some(a) = all[0].iter().find(|a| a.task == b.task) else { continue };
            let (gain, interval) = unpaired_gain(a, b);
            let shown = interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("[{low:+.4}, {high:+.4}]"));
            let _ = writeln!(text, "  {:<32} {gain:>+10.4}  {shown}", b.task);
            comparisons.push(json!({
                "a": paths[0], "b": path, "task": b.task, "gain": gain, "interval_95": interval, "n": b.n, "paired": false,
            }));
        }
    }
    messages.json(&json!({"kind": "thalweg-eval", "version": 1, "scores": scores, "comparisons": comparisons}));
    messages.text(&text);
    Ok(Outcome::Done)
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

/// Runs the command on `checkpoint`, which messages call `path`, and reads what it wrote.
pub(crate) fn score_one(
    command: &str,
    path: &Path,
    checkpoint: &Path,
    storage: &dyn Storage,
) -> Result<Vec<ExternalScore>, Error> {
    let scratch = std::env::temp_dir().join(format!("thalweg-eval-{}", std::process::id()));
    storage.create_folder(&scratch)?;
    let out = scratch.join("out");
    let line = command.replace("{checkpoint}", &quoted(checkpoint)).replace("{out}", &quoted(&out));
    let result = run_shell(&line, path).and_then(|()| {
        let file = find_results(storage, &out, 0)?.ok_or_else(|| {
            Error::usage(format!("the command ended well for `{}` and wrote no results to {{out}}", path.display()))
        })?;
        Ok(read_results(&storage.read_file(&file, MAX_RESULTS_BYTES)?, &file)?)
    });
    // What is left in the folder of temporary files does no harm.
    let _ = storage.remove(&scratch);
    result
}

fn run_shell(line: &str, path: &Path) -> Result<(), Error> {
    // What the command prints is for people; standard output is kept for our own result.
    let child = Command::new("sh").arg("-c").arg(line).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match child {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::usage(format!("the command failed for `{}`: {status}", path.display()))),
        Err(error) => Err(Error::usage(format!("the shell `sh` cannot be started: {error}"))),
    }
}

/// The file itself, or the last JSON file by name in a folder.
fn find_results(storage: &dyn Storage, path: &Path, depth: usize) -> Result<Option<PathBuf>, Error> {
    let kind = match storage.file_info(path) {
        Ok(info) => info.kind,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if kind == FileKind::File {
        return Ok(Some(path.to_owned()));
    }
    let entries = storage.list_folder(path)?;
    let mut files = entries.iter().filter(|entry| entry.kind == FileKind::File && entry.name.ends_with(".json"));
    if let Some(last) = files.next_back() {
        return Ok(Some(path.join(&last.name)));
    }
    for folder in entries.iter().filter(|entry| entry.kind == FileKind::Folder && depth < MAX_DEPTH) {
        if let Some(found) = find_results(storage, &path.join(&folder.name), depth + 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}
