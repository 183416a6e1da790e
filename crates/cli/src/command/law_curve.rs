//! `thalweg law curve`: subsets of experts merged in memory and scored; each expert is read once.

use std::fmt::Write;

use serde_json::json;
use thalweg_study::law::{CurveOptions, CurveOutcome, ExpertCurve, SubsetChoice, choose_subsets, run_curve};
use thalweg_study::request::{Resolver, Selection};
use thalweg_tensor::counted;

use crate::args::LawCurveArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::meter::ScoringMeter;
use crate::options::show_bytes;
use crate::scoring::{check_scoring, make_evaluator, open_suites, tell_cost};

/// Experts whose subsets are all merged by default.
const MAX_FOR_ALL: usize = 10;

pub(super) fn run(args: &LawCurveArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_scoring(&args.scoring, "which suite should score the merges?")?;
    let resolver = world.resolver();
    let curve = if args.newest.is_empty() { of_experts(args, &resolver)? } else { of_run(args, &resolver)? };
    curve.check()?;
    let suites = open_suites(&args.scoring, None, world)?;
    let cx = world.quiet_context(SUMMING_MEMORY_BYTES);
    let Some(like) = curve.experts.last().map(|one| one.path.clone()) else {
        return Err(Error::usage("there are no models"));
    };
    let from = (like.as_path(), None);
    let mut evaluator = make_evaluator(&args.scoring, &suites, from, (world, &cx))?;
    let n_models = curve.n_models();
    let what = format!("{} of {}", counted(n_models, "merge"), counted(curve.experts.len(), "model"));
    tell_cost(&*evaluator, (n_models, &what), world);
    let meter = ScoringMeter::new(world.messages, n_models, "merges");
    let options = CurveOptions {
        by: args.scoring.by.clone(),
        path: args.out.clone(),
        on_score: &mut |n_done| meter.show(n_done, None),
    };
    let outcome = run_curve(&curve, &mut *evaluator, options, (&resolver, &cx))?;
    Ok(world.answer(&document(args, &curve, &outcome), &text(args, &curve, &outcome)))
}

/// Subsets of models that were named one by one.
fn of_experts(args: &LawCurveArgs, resolver: &Resolver<'_>) -> Result<ExpertCurve, Error> {
    if let Some(run) = &args.run_path {
        return Err(Error::usage_with_hint(
            "the windows of a run need numbers of checkpoints",
            format!("add `--newest 1,2,4,8`, or name experts with `-m CKPT` instead of `{}`", run.display()),
        ));
    }
    let run = &args.run.options;
    let parse = |text: &String| resolver.parse_model(text);
    let models = args.models.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let experts = resolver.equal_models(&models, run)?;
    let base = args.base.as_ref().map(|path| resolver.lone_model(path, run)).transpose()?;
    let choice = match args.subsets {
        Some(most) => SubsetChoice::AtMost(most),
        None if experts.len() <= MAX_FOR_ALL => SubsetChoice::All,
        None => SubsetChoice::AtMost(2 * experts.len()),
    };
    let subsets = choose_subsets(experts.len(), &args.k, choice, args.seed)?;
    Ok(ExpertCurve { experts, base, subsets })
}

/// The newest k checkpoints of a run, for each k.
fn of_run(args: &LawCurveArgs, resolver: &Resolver<'_>) -> Result<ExpertCurve, Error> {
    let Some(path) = args.run_path.as_ref().filter(|_| args.models.is_empty()) else {
        return Err(Error::usage_with_hint(
            "`--newest` takes the checkpoints of a run, but no run is named",
            "name the run folder, and leave out `-m`",
        ));
    };
    let longest = args.newest.iter().copied().max().unwrap_or(0);
    let trajectory = resolver.open_run(path, &args.run.options)?;
    let selection = Selection { last: Some(longest), end_step: args.end_step, ..Selection::default() };
    let experts = resolver.select(&trajectory, &selection)?;
    let mut counts = args.newest.clone();
    counts.sort_unstable();
    counts.dedup();
    let subsets = counts.into_iter().map(|k| (longest - k..longest).collect()).collect();
    Ok(ExpertCurve { experts, base: None, subsets })
}

/// The share of the time that was not scoring.
fn overhead(outcome: &CurveOutcome) -> Option<f64> {
    let seconds = outcome.cost.seconds;
    (outcome.scoring_seconds > 0.0).then(|| (seconds - outcome.scoring_seconds).max(0.0) / outcome.scoring_seconds)
}

fn document(args: &LawCurveArgs, curve: &ExpertCurve, outcome: &CurveOutcome) -> serde_json::Value {
    json!({
        "kind": "thalweg-merge-curve-summary",
        "version": 1,
        "path": args.out,
        "n_experts": curve.experts.len(),
        "n_merges": curve.n_models(),
        "records": outcome.records,
        "cost": outcome.cost,
        "scoring_seconds": outcome.scoring_seconds,
        "overhead": overhead(outcome),
    })
}

fn text(args: &LawCurveArgs, curve: &ExpertCurve, outcome: &CurveOutcome) -> String {
    let mut text = String::new();
    let (cost, path) = (&outcome.cost, args.out.display());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "scored {} of {} into `{path}`",
        counted(curve.n_models(), "merge"),
        counted(curve.experts.len(), "model")
    );
    let overhead = overhead(outcome).map_or_else(String::new, |share| {
        format!("; merging and bookkeeping took {:.1} % as long as scoring", 100.0 * share)
    });
    let _ = writeln!(text, "read {} in {:.1} s{overhead}", show_bytes(cost.bytes_read), cost.seconds);
    let more = if args.newest.is_empty() { "" } else { " --checkpoints" };
    let _ = writeln!(text, "next: `thalweg law merge {}{more}`", thalweg_tensor::shell_path(&args.out));
    text
}
