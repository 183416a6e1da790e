//! `thalweg watch`: the merges of a run in training, kept current.

use std::fmt::Write;

use serde_json::json;
use thalweg_study::watch::{FailedMerge, WatchEnds, WatchPass, WatchRequest, WatchedOutput, Watcher};
use thalweg_tensor::counted;

use crate::args::WatchArgs;
use crate::command::Outcome;
use crate::command::merge::execute_options;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::options::show_bytes;

/// Merges that a person reads one by one; JSON has all of them.
const MAX_ROWS: usize = 40;

pub(crate) fn run(args: &WatchArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let resolver = world.resolver();
    let cx = world.context(args.execution.memory.0);
    let run = resolver.find(&args.run_path)?;
    let mut watcher = Watcher::open(request(args, run), execute_options(&args.execution), &resolver, &cx)?;
    let pass = watcher.bring_up_to_date();
    world.clear_progress();
    let pass = pass?;
    messages.json(&document(&pass));
    messages.text(&table(args, &pass));
    finish(&pass, messages)
}

fn request(args: &WatchArgs, run: std::path::PathBuf) -> WatchRequest {
    let ends = match args.every {
        Some(interval) => WatchEnds::Multiples(interval.get()),
        None if args.ends.is_empty() => WatchEnds::All,
        None => WatchEnds::Named(args.ends.clone()),
    };
    WatchRequest {
        run,
        run_options: (&args.run).into(),
        windows: args.windows.clone(),
        interval_steps: args.interval_steps.map(|steps| steps.0),
        interval_tokens: args.interval_tokens.map(|tokens| tokens.0),
        ends,
        from_step: args.from_step.map(|step| step.0),
        output: (&args.output).into(),
        folder: args.out.clone(),
    }
}

/// Says which merges could not be made. They make the command fail, after the others were made.
fn finish(pass: &WatchPass, messages: &Messages) -> Result<Outcome, Error> {
    let Some(first) = pass.failed.first() else { return Ok(Outcome::Done) };
    for failed in &pass.failed {
        messages.note(format!("`{}` could not be made: {}", failed.path.display(), failed.error));
    }
    let n_all = pass.failed.len() + pass.outputs.len();
    let what = format!("{} of {} could not be made", pass.failed.len(), counted(n_all, "merge"));
    let hint = first.hint.clone().unwrap_or_else(|| "repair the checkpoints that are named, then rerun".to_owned());
    Err(Error::usage_with_hint(what, hint))
}

fn document(pass: &WatchPass) -> serde_json::Value {
    let output = |one: &WatchedOutput| {
        json!({
            "path": one.path, "end_step": one.end_step, "scheme": one.scheme, "n_checkpoints": one.n_checkpoints,
            "bytes_read": one.bytes_read, "was_done": one.was_done, "digest": one.digest,
        })
    };
    let failed = |one: &FailedMerge| json!({"path": one.path, "error": one.error});
    json!({
        "kind": "thalweg-watch", "version": 1,
        "outputs": pass.outputs.iter().map(output).collect::<Vec<_>>(),
        "failed": pass.failed.iter().map(failed).collect::<Vec<_>>(),
        "skipped": pass.skipped.iter()
            .map(|one| json!({"n_checkpoints": one.n_checkpoints, "end_steps": one.steps})).collect::<Vec<_>>(),
        "needed_steps": pass.needed_steps,
        "bytes_read": pass.bytes_read,
    })
}

fn table(args: &WatchArgs, pass: &WatchPass) -> String {
    let mut text = String::new();
    let made: Vec<&WatchedOutput> = pass.outputs.iter().filter(|one| !one.was_done).collect();
    // Writing to a String cannot fail.
    if !made.is_empty() {
        let _ = writeln!(text, "{:>10} {:>5} {:<16} folder in `{}`", "end step", "N", "scheme", args.out.display());
    }
    for one in made.iter().take(MAX_ROWS) {
        let name = one.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let _ = writeln!(text, "{:>10} {:>5} {:<16} {name}", one.end_step, one.n_checkpoints, one.scheme);
    }
    if made.len() > MAX_ROWS {
        let _ = writeln!(text, "and {} more", made.len() - MAX_ROWS);
    }
    let n_kept = pass.outputs.len() - made.len();
    let newest = pass.newest_step.map_or_else(String::new, |step| format!(", the newest at step {step}"));
    let _ = writeln!(
        text,
        "{}{newest}; made {}, kept {n_kept}, read {}",
        counted(pass.n_finished, "finished checkpoint"),
        counted(made.len(), "merge"),
        show_bytes(pass.bytes_read)
    );
    text
}
