//! `thalweg forecast`: the score of an anneal that was never run, and the window to merge.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use thalweg_merge::scheme::DecayCurve;
use thalweg_storage::guard::check_document;
use thalweg_storage::publish::publish_file;
use thalweg_study::evaluator::{Evaluator, ModelScores};
use thalweg_study::forecast::case::{CASE_FILE, Case, read_cases};
use thalweg_study::forecast::request::{ForecastRequest, Refusal};
use thalweg_study::forecast::{ForecastOutcome, forecast_anneal};
use thalweg_study::record::{ForecastRow, RawRow};
use thalweg_study::sweep::SweepFindings;
use thalweg_study::write_study::check_study_folder;
use thalweg_trajectory::Trajectory;

use crate::args::{CurveChoice, ForecastArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::meter::{Meter, Urgency};
use crate::options::{Count, show_bytes, show_count};
use crate::run::open_trajectory;
use crate::scoring::{make_evaluator, open_suites};
use crate::study_record::{begin_record, publish_record};

/// The largest file of cases.
const MAX_CASES_BYTES: u64 = 256 << 20;
/// The share of a run's end step that an anneal takes by default.
const DEFAULT_SHARE: u64 = 10;

pub(crate) fn run(args: &ForecastArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    if args.scoring.suite.is_none() && args.scoring.eval_command.is_none() {
        return Err(Error::usage_with_hint("what should be forecast?", "name a suite with `--suite FILE`"));
    }
    if args.scoring.by.is_some() {
        return Err(Error::usage(
            "`--by` decides between windows, and a forecast is made for every score of the suite",
        ));
    }
    if !(0.0..=1.0).contains(&args.anneal_floor) {
        return Err(Error::usage(format!("`--anneal-floor {}` is not between 0 and 1", args.anneal_floor)));
    }
    // Scoring takes long, so the places of its results are checked first.
    if let Some(folder) = &args.out {
        check_study_folder(&*world.storage, folder)?;
    }
    if let Some(path) = &args.save_cases {
        check_document(&*world.storage, path, CASE_FILE)?;
    }
    let own = args.calibrate.as_deref().map(|path| read_case_file(path, world)).transpose()?.unwrap_or_default();
    let trajectory = open_trajectory(&args.run_path, &args.run, world, messages)?;
    let request = request(args, &trajectory)?;
    let suites = open_suites(&args.scoring, None, world, messages)?;
    let like = trajectory.finished().next_back().map(|newest| newest.path.clone());
    let like = like.ok_or_else(|| Error::usage(format!("`{}` has no finished checkpoint", args.run_path.display())))?;
    let run = world.quiet_context(MEMORY_BYTES);
    let from = (like.as_path(), args.out.as_deref());
    let mut evaluator = make_evaluator(&args.scoring, &suites, from, (world.quiet_eval_context(), &run), messages)?;
    let began = Instant::now();
    let meter = Meter::new(messages, "scoring {wide_bar} {msg}");
    let found = forecast_anneal(&trajectory, &request, &own, &mut *evaluator, &mut |n_done, name| {
        meter.show([n_done as u64, 4], Urgency::InTurn, || format!("{n_done} of 4 models, {name}"));
    });
    meter.clear();
    let mut outcome = match found? {
        Ok(outcome) => outcome,
        Err(refusal) => return Ok(refuse(&refusal, &request, messages)),
    };
    let truth = args
        .truth
        .as_deref()
        .map(|path| Ok::<_, Error>((path, evaluator.score_checkpoint(&world.resolve_checkpoint(path)?)?)));
    let truth = truth.transpose()?;
    if let Some((_, scores)) = &truth {
        fill_truth(&mut outcome, scores);
    }
    if let Some(path) = &args.save_cases {
        save_cases(path, args, &outcome, world)?;
    }
    if let Some(folder) = &args.out {
        write_record(folder, args, &trajectory, &outcome, (&*evaluator, began, truth), world)?;
    }
    messages.json(&document(&outcome, &*evaluator));
    messages.text(&text(&request, &outcome, &*evaluator, began.elapsed().as_secs_f64()));
    Ok(if outcome.forecasts.is_empty() { Outcome::No } else { Outcome::Done })
}

/// Windows are summed in pieces: this much is plenty.
const MEMORY_BYTES: u64 = 1 << 30;

fn request(args: &ForecastArgs, trajectory: &Trajectory) -> Result<ForecastRequest, Error> {
    let newest = trajectory.finished().next_back().map_or(0, |newest| newest.step.0);
    let end_step = args.end_step.map_or(newest, |step| step.0);
    if !trajectory.finished().any(|one| one.step.0 == end_step) {
        let steps: Vec<String> = trajectory.finished().map(|one| one.step.0.to_string()).collect();
        let shown = if steps.len() > 8 { &steps[steps.len() - 8..] } else { &steps };
        return Err(Error::usage_with_hint(
            format!("there is no finished checkpoint at step {end_step}"),
            format!("the newest are at {}", shown.join(", ")),
        ));
    }
    let anneal_steps = match (args.anneal_steps, args.anneal_tokens) {
        (Some(steps), _) => steps.0,
        (None, Some(tokens)) => tokens_to_steps(tokens, end_step, trajectory)?,
        (None, None) => end_step / DEFAULT_SHARE,
    };
    let curve = match args.anneal {
        CurveChoice::Linear => DecayCurve::Linear,
        CurveChoice::Cosine => DecayCurve::Cosine,
        CurveChoice::OneMinusSqrt => DecayCurve::OneMinusSqrt,
    };
    Ok(ForecastRequest { end_step, anneal_steps, curve, floor: args.anneal_floor })
}

fn tokens_to_steps(tokens: Count, end_step: u64, trajectory: &Trajectory) -> Result<u64, Error> {
    let end = trajectory.finished().find(|one| one.step.0 == end_step).and_then(|one| one.tokens);
    let per_step = end.map(|tokens| tokens.0 / end_step.max(1)).filter(|tokens| *tokens > 0);
    let per_step = per_step.ok_or_else(|| {
        Error::usage_with_hint(
            "the run's tokens are not known",
            "give the length with `--anneal-steps`, or add `--tokens-per-step`",
        )
    })?;
    Ok(tokens.0.div_ceil(per_step))
}

/// No forecast: an answer, with its reason.
fn refuse(refusal: &Refusal, request: &ForecastRequest, messages: &Messages) -> Outcome {
    messages.json(&json!({
        "kind": "thalweg-forecast", "version": 1, "forecasts": [], "window": null, "n_evaluations": 0,
        "end_step": request.end_step, "anneal_steps": request.anneal_steps,
        "reason": refusal.to_string(), "hint": refusal.hint(),
    }));
    messages.text(&format!("no forecast: {refusal}\n{}\n", refusal.hint()));
    Outcome::No
}

fn read_case_file(path: &Path, world: &World<'_>) -> Result<Vec<Case>, Error> {
    let bytes = world.storage.read_file(path, MAX_CASES_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::usage(format!("`{}` is not UTF-8 text", path.display())))?;
    Ok(read_cases(&text)?)
}

fn fill_truth(outcome: &mut ForecastOutcome, truth: &ModelScores) {
    let find = |task: &str, measure: &str| {
        truth.tasks.iter().find(|one| one.task == task && one.measure == measure).map(|one| one.value)
    };
    for row in &mut outcome.forecasts {
        row.truth = find(&row.task, &row.measure);
    }
    for case in &mut outcome.cases {
        case.truth = find(&case.task, &case.measure);
    }
}

/// Adds the cases to the file; those that it has already are not added again.
fn save_cases(path: &Path, args: &ForecastArgs, outcome: &ForecastOutcome, world: &World<'_>) -> Result<(), Error> {
    let mut known = match world.storage.file_info(path) {
        Ok(_) => read_case_file(path, world)?,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for case in &outcome.cases {
        // As it was typed, so that a file of cases tells no more than it needs.
        let case = Case { run: args.run_path.display().to_string(), ..case.clone() };
        if !known.contains(&case) {
            known.push(case);
        }
    }
    let text: String = known.iter().map(|case| case.to_line() + "\n").collect();
    Ok(publish_file(&*world.storage, path, text.as_bytes(), CASE_FILE)?)
}

fn write_record(
    folder: &Path,
    args: &ForecastArgs,
    trajectory: &Trajectory,
    outcome: &ForecastOutcome,
    (evaluator, began, truth): (&dyn Evaluator, Instant, Option<(&Path, ModelScores)>),
    world: &World<'_>,
) -> Result<(), Error> {
    let mut record = begin_record(format!("Forecast for {}", args.run_path.display()), trajectory);
    let (raws, trials) = outcome.probes.split_at(1.min(outcome.probes.len()));
    let findings = SweepFindings { raws: raws.to_vec(), trials: trials.to_vec() };
    (record.raws, record.trials) = findings.rows()?;
    record.suites = evaluator.suites();
    record.forecasts.clone_from(&outcome.forecasts);
    record.proposal = outcome.proposal.clone().ok();
    if let Some((path, scores)) = truth {
        let step = outcome.cases.first().map_or(0, |case| case.end_step);
        let baseline = findings.raws.first().map(|raw| &raw.scores);
        let (path, params_digest) = (path.display().to_string(), scores.params_digest.clone());
        record.annealed = vec![RawRow { step, path, params_digest, scores: scores.rows(baseline) }];
    }
    record.cost = evaluator.cost();
    record.cost.seconds = began.elapsed().as_secs_f64();
    world.storage.create_folder(folder)?;
    publish_record(folder, &record, world)
}

fn document(outcome: &ForecastOutcome, evaluator: &dyn Evaluator) -> serde_json::Value {
    let refused = outcome.refused.iter().map(|(score, why)| json!({"score": score, "reason": why.to_string()}));
    let reason = outcome.refused.first().filter(|_| outcome.forecasts.is_empty()).map(|(_, why)| why.to_string());
    let window = outcome.proposal.as_ref().ok();
    json!({
        "kind": "thalweg-forecast",
        "version": 1,
        "forecasts": outcome.forecasts,
        "refused": refused.collect::<Vec<_>>(),
        "reason": reason,
        "window": window,
        "window_reason": outcome.proposal.as_ref().err().map(|why| why.reason()),
        "n_evaluations": evaluator.cost().n_evaluations,
        "cost": evaluator.cost(),
        "cases": outcome.cases,
    })
}

fn text(request: &ForecastRequest, outcome: &ForecastOutcome, evaluator: &dyn Evaluator, seconds: f64) -> String {
    let mut text = String::new();
    let ForecastRequest { end_step, anneal_steps, floor, .. } = request;
    let curve = outcome.cases.first().map_or("", |case| case.curve.as_str());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "an anneal ({curve}, {anneal_steps} steps, to {floor} of the peak) that ends at step {end_step} would score"
    );
    let _ = writeln!(
        text,
        "  {:<28} {:>9} {:>9} {:>9}  {:<20} {:<20}",
        "task and measure", "raw", "merge", "annealed", "80 %", "95 %"
    );
    for row in &outcome.forecasts {
        text.push_str(&line(row));
    }
    for (score, why) in &outcome.refused {
        let _ = writeln!(text, "  {score}: no forecast: {why}\n    {}", why.hint());
    }
    for row in &outcome.forecasts {
        let _ = writeln!(text, "{} {} rests on {}", row.task, row.measure, row.rests_on);
    }
    match &outcome.proposal {
        Ok(window) => {
            let [low, high] = window.n_interval_95;
            let _ = writeln!(
                text,
                "to merge: {} checkpoints ({low} to {high}), {} steps apart, {}\n  from {}",
                window.n_checkpoints, window.interval_steps, window.scheme, window.rests_on
            );
        }
        Err(why) => {
            let _ = writeln!(text, "no window is proposed: {}", why.reason());
        }
    }
    let cost = evaluator.cost();
    let (bytes, tokens, n) = (show_bytes(cost.bytes_read), show_count(cost.n_tokens), cost.n_evaluations);
    let _ = writeln!(text, "read {bytes}, scored {n} models ({tokens} tokens) in {seconds:.1} s");
    text
}

fn line(row: &ForecastRow) -> String {
    let show = |[low, high]: [f64; 2]| format!("{low:.4} to {high:.4}");
    let name = format!("{} {}", row.task, row.measure);
    let truth = row.truth.map_or_else(String::new, |truth| format!("  true {truth:.4} ({:+.4})", row.value - truth));
    let (raw, merge, value) = (row.raw, row.imitation, row.value);
    format!(
        "  {name:<28} {raw:>9.4} {merge:>9.4} {value:>9.4}  {:<20} {:<20}{truth}\n",
        show(row.interval_80),
        show(row.interval_95)
    )
}
