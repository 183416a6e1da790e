//! Executing plans, and what a command says about its merges.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_merge::engine::{Compared, ComparedBy, ExecuteOptions, MergeOutcome, PartialStage, execute_merge};
use thalweg_merge::plan::{MergePlan, SourceRef};
use thalweg_merge::receipt::{MergeReceipt, RECEIPT_NAME};
use thalweg_storage::publish::Replace;
use thalweg_storage::text_of;
use thalweg_tensor::counted;

use crate::args::ExecutionArgs;
use crate::error::Error;
use crate::host::World;
use crate::options::{show_bytes, show_figures};
use crate::pace::show_rate;

/// The largest plan file that is read.
const MAX_PLAN_BYTES: u64 = 256 << 20;

/// What the user says about existing outputs and stages.
pub(crate) fn execute_options(args: &ExecutionArgs) -> ExecuteOptions {
    ExecuteOptions {
        replace: if args.force { Replace::Force } else { Replace::Never },
        partial: if args.discard_partial { PartialStage::Discard } else { PartialStage::Resume },
    }
}

/// Executes a plan with the user's limits.
pub(crate) fn execute(plan: &MergePlan, args: &ExecutionArgs, world: &World<'_>) -> Result<Vec<MergeOutcome>, Error> {
    Ok(execute_merge(plan, execute_options(args), &world.context(args.memory))?)
}

/// Reads a plan that `plan -o` wrote.
pub(crate) fn read_plan(path: &Path, world: &World<'_>) -> Result<MergePlan, Error> {
    let bytes = world.storage.read_file(path, MAX_PLAN_BYTES)?;
    let text = text_of(bytes)
        .map_err(|_| Error::usage(format!("`{}` is not a plan: it is not UTF-8 text", path.display())))?;
    Ok(MergePlan::from_json(&text)?)
}

/// The plan's own keys, with what happened added to each output.
pub(crate) fn document(kind: &str, plan: &MergePlan, outcomes: &[MergeOutcome]) -> serde_json::Value {
    let mut document = json!({"kind": kind, "version": 1});
    let outputs = plan.outputs.iter().zip(outcomes).map(|(output, outcome)| {
        let mut row = serde_json::to_value(output).unwrap_or_default();
        row["receipt"] = json!(outcome.path.join(RECEIPT_NAME));
        row["was_done"] = json!(outcome.was_done);
        row["seconds"] = json!(outcome.receipt.seconds);
        row["bytes_read"] = json!(outcome.receipt.bytes_read);
        row["bytes_resumed"] = json!(outcome.bytes_resumed);
        row["bytes_written"] = json!(outcome.receipt.bytes_written);
        row["peak_memory_bytes"] = json!(outcome.receipt.peak_memory_bytes);
        row["distance_to_newest"] = json!(outcome.receipt.distance_to_newest());
        row["relative_distance_to_newest"] = json!(outcome.receipt.relative_distance());
        row["max_abs_change"] = json!(outcome.receipt.max_abs_change());
        row
    });
    document["outputs"] = outputs.collect();
    document
}

pub(crate) fn describe(outcome: &MergeOutcome) -> String {
    let receipt = &outcome.receipt;
    let checkpoints = receipt.plan.checkpoints();
    let n_sources = checkpoints.len();
    let merged = match &receipt.plan.rule {
        None => format!("{}{}", counted(n_sources, "checkpoint"), describe_steps(&checkpoints)),
        Some(rule) if rule.base.is_none() => counted(n_sources, "expert"),
        Some(_) => {
            format!("{} and {} base", counted(n_sources - 1, "expert"), if n_sources == 2 { "its" } else { "their" })
        }
    };
    let what = format!("merged {merged} by {} into", receipt.plan.scheme);
    let mut text = describe_with(&what, outcome);
    if outcome.compared.is_none() {
        text.push_str(&describe_distance(receipt));
    }
    text
}

/// A path as a user would type it: relative where it is below the current folder.
pub(crate) fn from_here(path: &Path) -> PathBuf {
    let below = std::env::current_dir().ok().and_then(|here| Some(path.strip_prefix(here).ok()?.to_owned()));
    below.filter(|below| !below.as_os_str().is_empty()).unwrap_or_else(|| path.to_owned())
}

/// What a user may want to do with new outputs.
pub(crate) fn next_steps(outcomes: &[MergeOutcome], world: &World<'_>) -> String {
    match outcomes {
        [only] if only.compared.is_none() => {
            let path = thalweg_tensor::shell_path(from_here(&only.path));
            let mut text = format!("next: `thalweg verify {path} --inputs` checks it");
            if can_be_scored(&only.receipt, world) {
                text.push_str(&format!(", `thalweg eval {path} --suite SUITE` scores it"));
            }
            text + "\n"
        }
        _ => String::new(),
    }
}

/// Whether an output is a model that can be run: one without a config cannot, nor one in files of ranks, which only the
/// trainer can join.
fn can_be_scored(receipt: &MergeReceipt, world: &World<'_>) -> bool {
    let plan = &receipt.plan;
    // It is open already, and an output is in files of ranks where its newest source is.
    let newest = || plan.sources.get(plan.policy.newest).map(|one| world.pool.open(&one.path, &plan.reading_options()));
    receipt.files.iter().any(|file| file.name == "config.json")
        && newest().is_some_and(|newest| newest.is_ok_and(|newest| newest.findings().n_ranks == 0))
}

/// The steps of the sources in brackets, if each has one.
fn describe_steps(checkpoints: &[SourceRef]) -> String {
    const MAX_LISTED: usize = 6;
    let steps: Option<Vec<u64>> = checkpoints.iter().map(|source| source.step).collect();
    match steps.as_deref() {
        None | Some([]) => String::new(),
        Some([only]) => format!(" (step {only})"),
        Some(steps) if steps.len() <= MAX_LISTED => {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            format!(" (steps {})", steps.join(", "))
        }
        Some([first, .., last]) => format!(" (steps {first} to {last})"),
    }
}

/// How far the merge is from the newest source.
fn describe_distance(receipt: &MergeReceipt) -> String {
    let (Some(distance), Some(largest)) = (receipt.distance_to_newest(), receipt.max_abs_change()) else {
        return String::new();
    };
    let share = receipt
        .relative_distance()
        .map_or_else(String::new, |share| format!("{} % of its norm, ", show_figures(share * 100.0)));
    let (distance, largest) = (show_figures(distance), show_figures(largest));
    let newest = match &receipt.plan.rule {
        None => "newest checkpoint",
        Some(rule) if rule.base.is_some() => "base",
        Some(_) => "last expert",
    };
    format!("distance to the {newest}: {share}{distance} in all, at most {largest} in one element\n")
}

/// What was done, and how much was read and written. `what` precedes the output's path.
pub(crate) fn describe_with(what: &str, outcome: &MergeOutcome) -> String {
    let receipt = &outcome.receipt;
    let path = from_here(&outcome.path);
    let path = path.display();
    if let Some(compared) = outcome.compared {
        return format!("`{path}` already holds the result of this plan ({})\n", describe_comparison(compared));
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{what} `{path}`");
    let read_now = receipt.bytes_read.saturating_sub(outcome.bytes_resumed);
    let earlier = match outcome.bytes_resumed {
        0 => String::new(),
        n_bytes => format!(", of which {} by an earlier run", show_bytes(n_bytes)),
    };
    // Where an earlier run read everything, this one has no rate.
    let rate = match read_now {
        0 => String::new(),
        n_bytes => format!(" ({})", show_rate(n_bytes as f64 / receipt.seconds.max(1e-9))),
    };
    let _ = writeln!(
        text,
        "read {}{earlier}, wrote {}, {:.2} s{rate}, {}",
        show_bytes(receipt.bytes_read),
        show_bytes(receipt.bytes_written),
        receipt.seconds,
        counted(receipt.tensors.len(), "tensor")
    );
    text
}

/// What was compared to find that nothing need be done.
fn describe_comparison(compared: Compared) -> String {
    let words = |by| match by {
        ComparedBy::Digests => "every byte",
        ComparedBy::Headers => "sizes and headers",
        ComparedBy::Times => "sizes and times",
    };
    format!("compared: {} of the output, {} of the sources", words(compared.output), words(compared.sources))
}
