//! `thalweg inspect RUN`: its checkpoints by step and tokens, phases, what is unfinished.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_checkpoint::Checkpoint;
use thalweg_storage::{FileKind, Storage};
use thalweg_study::restart::log_document;
use thalweg_study::text::or_dash;
use thalweg_tensor::counted;
use thalweg_trajectory::{Fault, Spike, Trajectory, describe_own_output, lasting_spike};

use crate::args::InspectArgs;
use crate::command::{Outcome, inspect_checkpoint};
use crate::error::Error;
use crate::host::World;
use crate::options::show_count;
use crate::run::{log_words, spike_line};

/// Checkpoints that a table shows of a long run: the first and the last ones.
const MAX_ROWS: usize = 40;

/// `beside` is the checkpoint in the run folder itself, such as a trainer's final model.
pub(super) fn run(
    args: &InspectArgs,
    (path, beside): (&Path, Option<&Checkpoint>),
    world: &World<'_>,
) -> Result<Outcome, Error> {
    let trajectory = world.resolver().open_run(path, &args.run.options)?;
    let mut json = document(&trajectory);
    let mut text = table(&trajectory);
    let outputs = unnamed_outputs(&trajectory, &*world.storage)?;
    json["outputs"] = outputs.iter().map(|(path, what)| json!({"path": path, "what": what})).collect();
    for (path, what) in &outputs {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "also in this folder: `{}`, {what}", thalweg_tensor::display_name(&name));
    }
    if let Some(beside) = beside {
        json["checkpoint_beside"] = inspect_checkpoint::document(beside);
        text.push_str("\nbeside them in the same folder:\n");
        text.push_str(&inspect_checkpoint::describe(beside));
    }
    world.answer(&json, &text);
    for checkpoint in trajectory.checkpoints() {
        let name = thalweg_tensor::display_name(&checkpoint.name);
        checkpoint.doubts.iter().for_each(|doubt| world.note(format!("`{name}`: {doubt}")));
    }
    Ok(Outcome::Done)
}

/// What thalweg wrote into the folder of a run under names without a step, and what it is.
fn unnamed_outputs(trajectory: &Trajectory, storage: &dyn Storage) -> Result<Vec<(PathBuf, String)>, Error> {
    let is_listed = |path: &Path| trajectory.checkpoints().iter().any(|checkpoint| checkpoint.path == path);
    let entries = storage.list_folder(trajectory.path())?.into_iter().filter(|entry| entry.kind == FileKind::Folder);
    let paths = entries.map(|entry| trajectory.path().join(entry.name)).filter(|path| !is_listed(path));
    Ok(paths.filter_map(|path| describe_own_output(storage, &path).map(|what| (path, what))).collect())
}

fn document(trajectory: &Trajectory) -> serde_json::Value {
    let checkpoints: Vec<_> = trajectory
        .checkpoints()
        .iter()
        .map(|checkpoint| {
            json!({
                "path": checkpoint.path,
                "step": checkpoint.step,
                "tokens": checkpoint.tokens,
                "tokens_source": checkpoint.tokens_source.map(|source| source.to_string()),
                "phase": checkpoint.phase.map(|phase| phase.name()),
                "format": checkpoint.format,
                "finished": checkpoint.state.is_finished(),
                "fault": checkpoint.state.fault().map(|fault| fault.name()),
                "reason": checkpoint.state.reason(),
                "doubts": checkpoint.doubts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "kind": "thalweg-inspect-run",
        "version": 1,
        "path": trajectory.path(),
        "log": log_document(trajectory),
        "checkpoints": checkpoints,
        "spikes": trajectory.spikes().iter().map(spike_row).collect::<Vec<_>>(),
    })
}

fn spike_row(spike: &Spike) -> serde_json::Value {
    json!({"onset": spike.onset, "peak": spike.peak, "end": spike.end, "signal": spike.signal.to_string()})
}

fn table(trajectory: &Trajectory) -> String {
    let checkpoints = trajectory.checkpoints();
    let n_finished = trajectory.finished().count();
    let n_merges = checkpoints.iter().filter(|one| one.state.fault() == Some(Fault::Merge)).count();
    let merges = match n_merges {
        0 => String::new(),
        n => format!(", and {}", counted(n, "merge")),
    };
    let mut formats: Vec<&str> = trajectory.finished().filter_map(|checkpoint| checkpoint.format).collect();
    formats.sort_unstable();
    formats.dedup();
    let formats = if formats.is_empty() { String::new() } else { format!("; format: {}", formats.join(", ")) };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "`{}`: a run of {}, {n_finished} finished{merges}{formats}",
        trajectory.path().display(),
        counted(checkpoints.len() - n_merges, "checkpoint")
    );
    if let Some(log) = log_words(trajectory) {
        let n_entries = trajectory.log().map_or(0, |log| log.entries().len());
        let _ = writeln!(text, "step log {log}: {}", counted(n_entries, "entry"));
    }
    let _ = writeln!(text, "{:>12} {:>10}  {:<7} checkpoint", "step", "tokens", "phase");
    let is_shown =
        |i: usize| checkpoints.len() <= MAX_ROWS || i < MAX_ROWS / 2 || i + MAX_ROWS / 2 >= checkpoints.len();
    for (i, checkpoint) in checkpoints.iter().enumerate() {
        if !is_shown(i) {
            if i == MAX_ROWS / 2 {
                let _ = writeln!(text, "{:>12} {} more", "...", checkpoints.len() - MAX_ROWS);
            }
            continue;
        }
        let tokens = or_dash(checkpoint.tokens, |tokens| show_count(tokens.0));
        let phase = checkpoint.phase.map_or("-", |phase| phase.name());
        let name = thalweg_tensor::display_name(&checkpoint.name);
        let reason = checkpoint.state.reason().map_or_else(String::new, |reason| format!("  {reason}"));
        let spike = trajectory.log().and_then(|log| lasting_spike(log, trajectory.spikes(), checkpoint.step));
        let spike = spike.map_or_else(String::new, |spike| format!("  in the spike of step {}", spike.onset));
        let _ = writeln!(text, "{:>12} {tokens:>10}  {phase:<7} {name}{reason}{spike}", checkpoint.step.0);
    }
    text.extend(trajectory.spikes().iter().map(spike_line));
    text
}
