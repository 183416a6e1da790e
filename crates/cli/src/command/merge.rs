//! `thalweg merge`: a window of a run, or given checkpoints, into one new checkpoint.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use thalweg_merge::engine::{Compared, ComparedBy};
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, PartialStage, execute_merge};
use thalweg_merge::plan::{MergePlan, SourceRef};
use thalweg_merge::receipt::{MergeReceipt, RECEIPT_NAME};
use thalweg_storage::publish::Replace;
use thalweg_study::append::{AppendRequest, append_plan};
use thalweg_study::sums::{keep_sums, prepare_sums};
use thalweg_tensor::counted;

use crate::args::{ExecutionArgs, MergeArgs};
use crate::command::Outcome;
use crate::command::against::{check_target, compare};
use crate::command::merge_shares::{run_finish, run_share};
use crate::command::plan::show_plan;
use crate::command::recipe::{is_anything_typed, plan_of_recipe, recipe_of};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::options::{show_bytes, show_figures};
use crate::pace::show_rate;
use crate::requests::merge_request;

/// The largest plan file that is read.
const MAX_PLAN_BYTES: u64 = 256 << 20;

pub(crate) fn run(args: &MergeArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    if args.plan.is_none() && (args.shares.shard.is_some() || args.shares.finish) {
        return Err(Error::usage_with_hint(
            "all shares must be of one plan, so `--shard` and `--finish` need `--plan`",
            "write the plan first: `thalweg plan ... -o plan.json`",
        ));
    }
    let plan = match &args.append {
        Some(old) => find_append(old, args, world)?,
        None => find_plan(args, world)?,
    };
    if let Some(choice) = args.shares.shard {
        return run_share(args, (choice, &plan), world, messages);
    }
    if args.shares.finish {
        return run_finish(args, &plan, world, messages);
    }
    let options = execute_options(&args.execution);
    let cx = world.context(args.execution.memory.0);
    // What cannot be kept is refused before the work.
    let sums = args.keep_sums.as_ref().map(|folder| prepare_sums(&plan, folder, options.replace, &cx)).transpose()?;
    if args.dry_run {
        show_plan(&plan, args.execution.memory.0, world, messages)?;
        return Ok(Outcome::Done);
    }
    // A mistyped path is found before the work, not after it.
    let against = args.against.as_ref().map(|path| world.resolver().open_checkpoint(path)).transpose()?;
    if let Some(target) = &against {
        check_target(&plan, target, args.execution.memory.0, world)?;
    }
    let outcomes = execute(&plan, &args.execution, world)?;
    let mut document = document("thalweg-merge", &plan, &outcomes);
    let mut text = String::new();
    for (i, outcome) in outcomes.iter().enumerate() {
        text.push_str(&describe(outcome));
        note_distance(outcome, messages);
        if let Some(target) = &against {
            let comparison = compare(outcome, target, args.execution.memory.0, world)?;
            document["outputs"][i]["against"] = comparison.document();
            text.push_str(&comparison.text());
            comparison.remarks().iter().for_each(|remark| messages.note(remark));
        }
    }
    text.push_str(&next_steps(&outcomes));
    if let (Some(folder), Some(sums), [outcome]) = (&args.keep_sums, &sums, outcomes.as_slice()) {
        let kept = keep_sums(&outcome.receipt, sums, &cx);
        world.clear_progress();
        let kept = kept?;
        let (planes, size) = (counted(kept.n_planes, "plane"), show_bytes(kept.n_bytes));
        let what = if kept.was_done { "the exact sum is already" } else { "kept the exact sum" };
        text.push_str(&format!("{what} in `{}`: {planes} of doubles, {size}\n", folder.display()));
        document["sums"] = json!({"path": folder, "n_planes": kept.n_planes, "n_bytes": kept.n_bytes});
    }
    messages.json(&document);
    messages.text(&text);
    Ok(Outcome::Done)
}

/// The plan of a mean with one more checkpoint.
fn find_append(old: &Path, args: &MergeArgs, world: &World<'_>) -> Result<MergePlan, Error> {
    let resolver = world.resolver();
    let [checkpoint] = args.source.models.as_slice() else {
        return Err(Error::usage_with_hint(
            "`--append` adds one checkpoint",
            "give one `-m CKPT`; append the others one after the other, or merge from scratch",
        ));
    };
    let mut rest = args.source.clone();
    rest.models.clear();
    // What is said about the run is for notes about it.
    let run = std::mem::take(&mut rest.run);
    rest.run.reading = run.reading.clone();
    if is_anything_typed(&rest, world)? {
        return Err(Error::usage_with_hint(
            "the old merge says how its checkpoints are merged, so other options would have no effect",
            "leave them out, or merge from scratch",
        ));
    }
    let model = resolver.parse_model(checkpoint)?;
    if model.coefficient.is_some() {
        return Err(Error::usage_with_hint(
            "a mean takes no coefficients",
            "leave out the coefficient after the colon",
        ));
    }
    let Some(out) = args.out.clone() else {
        return Err(Error::usage_with_hint("where should the merged checkpoint go?", "name a folder with `-o OUT`"));
    };
    let (old, sums, run) = (old.to_owned(), args.sums.clone(), (&run).into());
    let request = AppendRequest { old, checkpoint: model.path, sums, out, run };
    Ok(append_plan(&request, &resolver, &world.context(args.execution.memory.0))?)
}

/// What the user says about existing outputs and stages.
pub(crate) fn execute_options(args: &ExecutionArgs) -> ExecuteOptions {
    ExecuteOptions {
        replace: if args.force { Replace::Force } else { Replace::Never },
        partial: if args.discard_partial { PartialStage::Discard } else { PartialStage::Resume },
    }
}

/// Executes a plan with the user's limits.
pub(crate) fn execute(plan: &MergePlan, args: &ExecutionArgs, world: &World<'_>) -> Result<Vec<MergeOutcome>, Error> {
    let outcomes = execute_merge(plan, execute_options(args), &world.context(args.memory.0));
    world.clear_progress();
    Ok(outcomes?)
}

fn find_plan(args: &MergeArgs, world: &World<'_>) -> Result<MergePlan, Error> {
    if let Some(path) = &args.plan {
        if is_anything_typed(&args.source, world)? {
            return Err(Error::usage_with_hint(
                "a plan names everything that is merged and how, so other options would have no effect",
                "leave them out, or make another plan with `thalweg plan`",
            ));
        }
        let mut plan = read_plan(path, world)?;
        if args.allow_changed {
            plan.seen_sources.clear();
        } else if plan.seen_sources.is_empty() {
            world.resolver().note("the plan does not say what its sources were: changes since are not noticed");
        }
        if let Some(out) = &args.out {
            plan = with_output(plan, out, world)?;
        }
        return Ok(plan);
    }
    if let Some((recipe, out)) = recipe_of(&args.source.inputs, args.out.as_deref())? {
        return plan_of_recipe(recipe, out, &args.source, world);
    }
    let Some(out) = &args.out else {
        return Err(Error::usage_with_hint("where should the merged checkpoint go?", "name a folder with `-o OUT`"));
    };
    let resolver = world.resolver();
    Ok(resolver.merge_plan(&merge_request(&args.source, &resolver)?, out)?)
}

/// Reads a plan that `plan -o` wrote.
pub(crate) fn read_plan(path: &Path, world: &World<'_>) -> Result<MergePlan, Error> {
    let bytes = world.storage.read_file(path, MAX_PLAN_BYTES)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::usage(format!("`{}` is not a plan: it is not UTF-8 text", path.display())))?;
    Ok(MergePlan::from_json(&text)?)
}

fn with_output(plan: MergePlan, out: &Path, world: &World<'_>) -> Result<MergePlan, Error> {
    let MergePlan { outputs, seen_sources, .. } = plan;
    let n_outputs = outputs.len();
    let Ok([mut output]) = <[_; 1]>::try_from(outputs) else {
        return Err(Error::usage(format!("the plan has {n_outputs} outputs, so `-o` cannot name one for all")));
    };
    output.path = world.resolver().output_folder(out)?;
    Ok(MergePlan { seen_sources, ..MergePlan::new(vec![output])? })
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

/// What a user may want to do with new outputs.
fn next_steps(outcomes: &[MergeOutcome]) -> String {
    match outcomes {
        [only] if only.compared.is_none() => {
            let path = thalweg_tensor::shell_path(&only.path);
            format!("next: `thalweg verify {path} --inputs` checks it, `thalweg eval {path} --suite SUITE` scores it\n")
        }
        _ => String::new(),
    }
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

/// A note where the sources of a merge are so far apart that they may not be of one run.
fn note_distance(outcome: &MergeOutcome, messages: &Messages) {
    /// Two unrelated models of equal norms are 71 % of it away from their mean; checkpoints of one run a few percent.
    const FAR: f64 = 0.5;
    let receipt = &outcome.receipt;
    let share = receipt
        .relative_distance()
        .filter(|share| outcome.compared.is_none() && receipt.plan.rule.is_none() && *share > FAR);
    if let Some(share) = share {
        let (path, percent) = (outcome.path.display(), show_figures(share * 100.0));
        messages.note(format!(
            "`{path}` is {percent} % of the norm away from its newest checkpoint: these may not be checkpoints of one run"
        ));
    }
}

/// What was done, and how much was read and written. `what` precedes the output's path.
pub(crate) fn describe_with(what: &str, outcome: &MergeOutcome) -> String {
    let receipt = &outcome.receipt;
    let path = outcome.path.display();
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
    let rate = show_rate(bytes_per_second(read_now, receipt.seconds));
    let _ = writeln!(
        text,
        "read {}{earlier}, wrote {}, {:.2} s ({rate}), {}",
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

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn bytes_per_second(n_bytes: u64, seconds: f64) -> f64 {
    n_bytes as f64 / seconds.max(1e-9)
}
