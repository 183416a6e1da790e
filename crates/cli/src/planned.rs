//! What a plan would do, for people: its sources with their coefficients, and the work.

use std::fmt::Write;

use thalweg_checkpoint::SideFileComparison;
use thalweg_merge::align::{MergeLayout, align_sources};
use thalweg_merge::engine::open_sources;
use thalweg_merge::estimate::{MergeEstimate, estimate_merge};
use thalweg_merge::output_format::{OptimizerPolicy, OutputFormat, describe_format, find_kept_state};
use thalweg_merge::pending::place_notes;
use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_merge::side_files::side_file_notes;
use thalweg_study::text::or_dash;
use thalweg_tensor::counted;

use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::from_here;
use crate::options::{show_bytes, show_count};

/// Sources that a table shows of a long window: the first and the last ones.
const MAX_ROWS: usize = 24;

/// Checks the plan against the headers of its sources and prints it.
pub(crate) fn show_plan(plan: &MergePlan, memory_bytes: u64, world: &World<'_>) -> Result<Outcome, Error> {
    let run = world.context(memory_bytes);
    let sources = open_sources(plan, &run)?;
    let layout = align_sources(&sources, plan, &*run.storage)?;
    layout.notes.iter().for_each(|note| world.note(note));
    let mut compared = SideFileComparison::default();
    for output in &plan.outputs {
        let notes = side_file_notes(output, &sources, &mut compared, &*world.storage);
        let notes = notes.map_err(thalweg_merge::Error::from)?;
        notes.into_iter().for_each(|note| world.note(note));
    }
    place_notes(plan, &*world.storage).iter().for_each(|note| world.note(note));
    let estimate = estimate_merge(plan, &sources, &layout, &run)?;
    let document = serde_json::to_value(plan).map_err(|error| Error::usage(error.to_string()))?;
    let mut text = String::new();
    for output in &plan.outputs {
        describe_output(&mut text, output);
        // Writing to a String cannot fail.
        let kept = find_kept_state(output, &sources, &run.storage)?;
        let _infallible = describe_format(output, &sources, kept.as_ref()).map(|line| writeln!(text, "{line}"));
    }
    describe_work(&mut text, &layout, &estimate, world);
    Ok(world.answer(&document, &text))
}

fn describe_output(text: &mut String, output: &OutputPlan) {
    let checkpoints = output.checkpoints();
    let coefficients: Vec<f64> = match &output.mean {
        None => output.sources.iter().map(|source| source.coefficient).collect(),
        // The sums stand for checkpoints that each count once.
        Some(_) => vec![1.0 / checkpoints.len() as f64; checkpoints.len()],
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} of {} into `{}`",
        output.scheme,
        counted(checkpoints.len(), "checkpoint"),
        from_here(&output.path).display()
    );
    let _ = writeln!(text, "{:>12} {:>10} {:>14}  checkpoint", "step", "tokens", "coefficient");
    let n_sources = checkpoints.len();
    let is_shown = |i: usize| n_sources <= MAX_ROWS || i < MAX_ROWS / 2 || i + MAX_ROWS / 2 >= n_sources;
    let mut skipped = 0;
    for (i, (source, coefficient)) in checkpoints.iter().zip(coefficients).enumerate() {
        if !is_shown(i) {
            skipped += 1;
            continue;
        }
        if skipped > 0 {
            let _ = writeln!(text, "{:>12} {skipped} more", "...");
            skipped = 0;
        }
        let step = or_dash(source.step, |step| step.to_string());
        let tokens = or_dash(source.tokens, show_count);
        let path = source.path.display();
        let _ = writeln!(text, "{step:>12} {tokens:>10} {coefficient:>14.9}  {path}");
    }
    let sum = if output.mean.is_some() { "1" } else { &*output.sum };
    let _ = writeln!(text, "{:>12} {:>10} {sum:>14}", "sum", "");
    if output.mean.is_some() {
        let sums: Vec<String> =
            output.sources.iter().filter(|source| source.is_sum).map(|s| s.path.display().to_string()).collect();
        let _ = writeln!(text, "read instead of the older checkpoints: `{}`", sums.join("`, `"));
    }
    let state = match output.policy.optimizer {
        OptimizerPolicy::Newest => "that of the newest checkpoint",
        OptimizerPolicy::Average => "that of the newest checkpoint, with the average of all moments",
        OptimizerPolicy::Drop if output.format != OutputFormat::Safetensors => "left out",
        OptimizerPolicy::Drop => return,
    };
    let _ = writeln!(text, "state of the optimizer: {state}");
}

fn describe_work(text: &mut String, layout: &MergeLayout, estimate: &MergeEstimate, world: &World<'_>) {
    let entries = layout.catalog.entries();
    let _ = writeln!(
        text,
        "\n{}, {} parameters; reads {}, writes {} in {}",
        counted(entries.len(), "tensor"),
        show_count(layout.n_params()),
        show_bytes(estimate.bytes_read),
        show_bytes(estimate.bytes_written),
        counted(estimate.n_files, "file")
    );
    let _ = writeln!(
        text,
        "memory: at most about {} with {}; time: {:.0} s at 1 GB/s, {:.0} s at 5 GB/s",
        show_bytes(estimate.memory_bytes),
        counted(world.n_threads(), "thread"),
        estimate.seconds_at(1e9),
        estimate.seconds_at(5e9),
    );
}
