//! `thalweg sweep`: many windows and schemes of one run, each source byte read once. With a suite, see `sweep_scored`.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::own::merges_in;
use thalweg_storage::guard::check_place;
use thalweg_study::sweep::{Keep, SweepRequest, SweepTrial};
use thalweg_study::text::or_dash;
use thalweg_tensor::counted;

use crate::args::SweepArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merge_shares::{run_finish, run_share};
use crate::merged::execute;
use crate::planned::show_plan;

pub(crate) fn run(args: &SweepArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let resolver = world.resolver();
    let trajectory = resolver.open_run(&args.run_path, &args.run.options)?;
    let sweep = resolver.sweep(&request(args), &trajectory).map_err(with_counts)?;
    let is_scored = args.scoring.is_given();
    if !is_scored {
        check_unscored(args)?;
    }
    if let Some(budget) = args.budget_bytes {
        sweep.check_budget(budget, &world.context(args.execution.memory))?;
    }
    let is_shared = args.shares.shard.is_some() || args.shares.finish;
    if is_scored && is_shared {
        return Err(Error::usage_with_hint(
            "`--shard` and `--finish` only make merges",
            "leave out the scoring, and score the finished merges with `thalweg eval`",
        ));
    }
    if is_scored {
        return super::sweep_scored::run(args, &trajectory, &sweep, world);
    }
    let plan = sweep.plan()?;
    if args.dry_run {
        return show_plan(&plan, args.execution.memory, world);
    }
    if let Some(first) = sweep.trials.first() {
        check_place(&*world.storage, &args.out.join(&first.name))?;
    }
    world.storage.create_folder(&args.out)?;
    if let Some(choice) = args.shares.shard {
        return run_share(&args.execution, (choice, &plan), world);
    }
    if args.shares.finish {
        return run_finish(&args.execution, &plan, world);
    }
    let outcomes = execute(&plan, &args.execution, world)?;
    world.answer(&document(&sweep.trials, &outcomes), &table(&args.out, &sweep.trials, &outcomes));
    tell_beyond(&args.out, &outcomes, world)?;
    Ok(Outcome::Done)
}

/// Says what this sweep did not do, and what else is in its folder.
fn tell_beyond(folder: &Path, outcomes: &[MergeOutcome], world: &World<'_>) -> Result<(), Error> {
    world.note("nothing was scored: add `--suite FILE` or `--eval-command CMD` to find the best of these merges");
    let mut others = merges_in(&*world.storage, &world.storage.canonical_path(folder)?)?;
    others.retain(|path| outcomes.iter().all(|outcome| outcome.path != *path));
    if let Some(first) = others.first() {
        let name = first.file_name().unwrap_or_default().display();
        let (folder, others) = (folder.display(), counted(others.len(), "merge"));
        world.note(format!("`{folder}` also holds {others} of earlier sweeps, such as `{name}`"));
    }
    Ok(())
}

/// A run with fewer checkpoints than the windows need: the lengths to ask for are `--counts` here.
fn with_counts(error: thalweg_study::Error) -> Error {
    use thalweg_study::Error::Trajectory;
    use thalweg_trajectory::Error::TooFew;
    match &error {
        Trajectory(TooFew { found, .. }) if *found > 1 => {
            let counts = if *found > 3 { format!("{},{found}", found / 2) } else { found.to_string() };
            let hint = format!(
                "`--counts` says how many checkpoints are in a window: here at most {found}, such as `--counts {counts}`"
            );
            Error::Usage { what: error.to_string(), hint: Some(hint), details: error.details() }
        }
        _ => error.into(),
    }
}

fn request(args: &SweepArgs) -> SweepRequest {
    SweepRequest {
        counts: args.counts.clone(),
        interval_steps: args.interval_steps.clone(),
        interval_tokens: args.interval_tokens.clone(),
        schemes: args.schemes.clone(),
        ends: args.ends.clone(),
        raws: args.raws,
        output: args.output.clone(),
        folder: args.out.clone(),
    }
}

/// Options that need scores.
fn check_unscored(args: &SweepArgs) -> Result<(), Error> {
    let needs = [
        ("--keep best or none", args.keep.is_some_and(|keep| keep != Keep::All)),
        ("--report-suite", args.report_suite.is_some()),
        ("--by", args.scoring.by.is_some()),
        ("--budget-evaluations", args.budget_evaluations.is_some()),
    ];
    match needs.iter().find(|(_, is_asked)| *is_asked) {
        Some((option, _)) => Err(Error::usage_with_hint(
            format!("`{option}` needs scores"),
            "add `--suite FILE` or `--eval-command CMD`",
        )),
        None => Ok(()),
    }
}

fn document(trials: &[SweepTrial], outcomes: &[MergeOutcome]) -> serde_json::Value {
    let rows: Vec<_> = trials
        .iter()
        .zip(outcomes)
        .map(|(trial, outcome)| {
            json!({
                "plan_digest": outcome.receipt.plan_digest,
                "end_step": trial.output.newest_source().and_then(|newest| newest.step),
                "n_checkpoints": trial.output.sources.len(),
                "interval_tokens": trial.interval.interval_tokens,
                "scheme": trial.output.scheme,
                "path": outcome.path,
                "distance_to_newest": outcome.receipt.distance_to_newest(),
                "was_done": outcome.was_done,
                "scores": [],
            })
        })
        .collect();
    // Outputs of one reading share it; those that were there already were not read for now.
    let bytes_read =
        outcomes.iter().filter(|outcome| !outcome.was_done).map(|outcome| outcome.receipt.bytes_read).max();
    json!({"kind": "thalweg-sweep", "version": 1, "trials": rows, "bytes_read": bytes_read.unwrap_or(0)})
}

fn table(out: &Path, trials: &[SweepTrial], outcomes: &[MergeOutcome]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:>10} {:>5} {:<16} {:>14}  folder in `{}`",
        "end step",
        "N",
        "scheme",
        "to newest",
        out.display()
    );
    for (trial, outcome) in trials.iter().zip(outcomes) {
        let end = trial.end_step();
        let distance = outcome.receipt.distance_to_newest();
        let distance = or_dash(distance, |distance| format!("{distance:.6}"));
        let scheme = &trial.output.scheme;
        let (n, name) = (trial.output.sources.len(), &trial.name);
        let _ = writeln!(text, "{end:>10} {n:>5} {scheme:<16} {distance:>14}  {name}");
    }
    text
}
