//! `thalweg merge`: a window of a run, or given checkpoints, into one new checkpoint.

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::plan::MergePlan;
use thalweg_study::append::{AppendRequest, append_plan};
use thalweg_study::sums::{keep_sums, prepare_sums};
use thalweg_tensor::counted;

use crate::args::MergeArgs;
use crate::command::Outcome;
use crate::command::merge_against::{check_target, compare};
use crate::error::Error;
use crate::host::World;
use crate::merge_shares::{run_finish, run_share};
use crate::merged::{describe, document, execute, execute_options, next_steps, read_plan};
use crate::options::{show_bytes, show_figures};
use crate::planned::show_plan;
use crate::recipe::{is_anything_typed, plan_of_recipe, recipe_of};
use crate::requests::merge_request;

pub(crate) fn run(args: &MergeArgs, world: &World<'_>) -> Result<Outcome, Error> {
    if args.plan.is_none() && (args.shares.shard.is_some() || args.shares.finish) {
        return Err(Error::usage_with_hint(
            "all shares must come from one plan, so `--shard` and `--finish` need `--plan`",
            "write the plan first: `thalweg plan ... -o plan.json`",
        ));
    }
    if args.sums.is_some() && args.append.is_none() {
        return Err(Error::usage_with_hint(
            "`--sums` names the exact sums that `--append OLD` reads, and nothing is appended",
            "to keep the sums of this merge for a later `--append`, give `--keep-sums DIR` instead",
        ));
    }
    let plan = match &args.append {
        Some(old) => find_append(old, args, world)?,
        None => find_plan(args, world)?,
    };
    if let Some(choice) = args.shares.shard {
        return run_share(&args.execution, (choice, &plan), world);
    }
    if args.shares.finish {
        return run_finish(&args.execution, &plan, world);
    }
    let options = execute_options(&args.execution);
    let cx = world.context(args.execution.memory);
    // What cannot be kept is refused before the work.
    let sums = args.keep_sums.as_ref().map(|folder| prepare_sums(&plan, folder, options.replace, &cx)).transpose()?;
    if args.dry_run {
        return show_plan(&plan, args.execution.memory, world);
    }
    // A mistyped path is found before the work, not after it.
    let against = args.against.as_ref().map(|path| world.resolver().open_checkpoint(path)).transpose()?;
    if let Some(target) = &against {
        check_target(&plan, target, args.execution.memory, world)?;
    }
    let outcomes = execute(&plan, &args.execution, world)?;
    let mut document = document("thalweg-merge", &plan, &outcomes);
    let mut text = String::new();
    for (i, outcome) in outcomes.iter().enumerate() {
        text.push_str(&describe(outcome));
        note_distance(outcome, world);
        if let Some(target) = &against {
            let comparison = compare(outcome, target, args.execution.memory, world)?;
            document["outputs"][i]["against"] = comparison.document();
            text.push_str(&comparison.text());
            comparison.remarks().iter().for_each(|remark| world.note(remark));
        }
    }
    text.push_str(&next_steps(&outcomes, world));
    if let (Some(folder), Some(sums), [outcome]) = (&args.keep_sums, &sums, outcomes.as_slice()) {
        let kept = keep_sums(&outcome.receipt, sums, &cx)?;
        let (planes, size) = (counted(kept.n_planes, "plane"), show_bytes(kept.n_bytes));
        let what = if kept.was_done { "the exact sum is already" } else { "kept the exact sum" };
        text.push_str(&format!("{what} in `{}`: {planes} of doubles, {size}\n", folder.display()));
        document["sums"] = json!({"path": folder, "n_planes": kept.n_planes, "n_bytes": kept.n_bytes});
    }
    Ok(world.answer(&document, &text))
}

/// The plan of a mean with one more checkpoint.
fn find_append(old: &Path, args: &MergeArgs, world: &World<'_>) -> Result<MergePlan, Error> {
    let resolver = world.resolver();
    let [checkpoint] = args.source.models.as_slice() else {
        return Err(Error::usage_with_hint(
            "`--append` adds one checkpoint",
            "give one `-m CKPT`; append the others one at a time, or merge from scratch",
        ));
    };
    let mut rest = args.source.clone();
    rest.models.clear();
    // What is said about the run is for notes about it.
    let run = std::mem::take(&mut rest.run.options);
    if is_anything_typed(rest, world)? || args.allow_changed {
        return Err(Error::usage_with_hint(
            "the old merge determines how checkpoints are merged, so other options would have no effect",
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
    let (old, sums) = (old.to_owned(), args.sums.clone());
    let request = AppendRequest { old, checkpoint: model.path, sums, out, run };
    Ok(append_plan(&request, &resolver, &world.context(args.execution.memory))?)
}

fn find_plan(args: &MergeArgs, world: &World<'_>) -> Result<MergePlan, Error> {
    if let Some(path) = &args.plan {
        if is_anything_typed(args.source.clone(), world)? {
            return Err(Error::usage_with_hint(
                "a plan already says what is merged and how, so other options would have no effect",
                "leave them out, or make another plan with `thalweg plan`",
            ));
        }
        let mut plan = read_plan(path, world)?;
        if args.allow_changed {
            plan.seen_sources.clear();
        } else if plan.seen_sources.is_empty() {
            world
                .resolver()
                .note("the plan does not record the state of its sources, so changes since then cannot be detected");
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
        // A plan among the checkpoints has an output already, and its error says how it is executed.
        let is_document = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "json");
        if let Some(path) = args.source.inputs.iter().find(is_document) {
            world.resolver().open_checkpoint(path)?;
        }
        return Err(Error::usage_with_hint("where should the merged checkpoint go?", "name a folder with `-o OUT`"));
    };
    let resolver = world.resolver();
    Ok(resolver.merge_plan(&merge_request(args.source.clone(), &resolver)?, out)?)
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

/// A note where the sources of a merge are so far apart that they may not be of one run.
fn note_distance(outcome: &MergeOutcome, world: &World<'_>) {
    /// Two unrelated models of equal norms are 71 % of it away from their mean; checkpoints of one run a few percent.
    const FAR: f64 = 0.5;
    let receipt = &outcome.receipt;
    let share = receipt
        .relative_distance()
        .filter(|share| outcome.compared.is_none() && receipt.plan.rule.is_none() && *share > FAR);
    if let Some(share) = share {
        let (path, percent) = (outcome.path.display(), show_figures(share * 100.0));
        world.note(format!(
            "`{path}` is {percent} % of the norm away from its newest checkpoint: these may not be checkpoints of one run"
        ));
    }
}
