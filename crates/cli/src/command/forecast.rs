//! `thalweg forecast`: the score of an anneal that was never run, and the window to merge.

use std::fmt::Write;

use serde_json::json;
use thalweg_study::forecast::ForecastOutcome;
use thalweg_study::forecast::case::read_case_file;
use thalweg_study::forecast::request::{AnnealQuestion, ForecastRequest, Refusal};
use thalweg_study::forecast::run::{ForecastOptions, check_forecast_places, run_forecast};
use thalweg_study::record::{CostRow, ForecastRow};
use thalweg_tensor::{counted, shell_path, shell_word};

use crate::args::ForecastArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World, command_line};
use crate::meter::ScoringMeter;
use crate::options::show_cost;
use crate::requests::anneal_question;
use crate::scoring::{check_scoring, make_evaluator, open_suites};

/// Models that are scored.
const N_MODELS: usize = 4;

pub(crate) fn run(args: &ForecastArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_scoring(&args.scoring, "which scores should be forecast?")?;
    if args.scoring.by.is_some() {
        return Err(Error::usage(
            "`--by` chooses between windows, but a forecast is made for every score of the suite",
        ));
    }
    let resolver = world.resolver();
    let cx = world.quiet_context(SUMMING_MEMORY_BYTES);
    let meter = ScoringMeter::new(world.messages, N_MODELS, "models");
    let own = args.anneal.calibrate.as_deref().map(|path| read_case_file(&*world.storage, path)).transpose()?;
    let options = ForecastOptions {
        title: format!("Forecast for {}", args.run_path.display()),
        command: command_line(),
        own_cases: own.unwrap_or_default(),
        truth: args.truth.as_deref().map(|path| resolver.resolve_checkpoint(path)).transpose()?,
        // The run as it was typed, so that a file of cases tells no more than it needs.
        save_cases: args.save_cases.clone().map(|path| (path, args.run_path.display().to_string())),
        folder: args.out.clone(),
        on_score: &mut |n_done, name| meter.show(n_done, Some(name)),
    };
    // Opening run and suite takes a while too.
    check_forecast_places(&options, &cx)?;
    let trajectory = resolver.open_run(&args.run_path, &args.run.options)?;
    question(args).in_steps(&trajectory)?;
    let suites = open_suites(&args.scoring, None, world)?;
    let like = trajectory.finished().next_back().map(|newest| newest.path.clone());
    let like = like.ok_or_else(|| Error::usage(format!("`{}` has no finished checkpoint", args.run_path.display())))?;
    let from = (like.as_path(), args.out.as_deref());
    let mut evaluator = make_evaluator(&args.scoring, &suites, from, (world, &cx))?;
    let answer = run_forecast(&question(args), &trajectory, &mut *evaluator, options, &cx)?;
    let outcome = match answer.outcome {
        Ok(outcome) => outcome,
        Err(refusal) => return Ok(refuse(&refusal, &answer.request, world)),
    };
    world.answer(&document(&outcome, answer.cost), &text(args, &answer.request, &outcome, answer.cost));
    Ok(Outcome::when(!outcome.forecasts.is_empty()))
}

fn question(args: &ForecastArgs) -> AnnealQuestion {
    AnnealQuestion { end_step: args.end_step, ..anneal_question(&args.anneal) }
}

/// No forecast: an answer, with its reason.
fn refuse(refusal: &Refusal, request: &ForecastRequest, world: &World<'_>) -> Outcome {
    let document = json!({
        "kind": "thalweg-forecast", "version": 1, "forecasts": [], "window": null, "n_evaluations": 0,
        "end_step": request.end_step, "anneal_steps": request.anneal_steps,
        "reason": refusal.to_string(), "hint": refusal.hint(),
    });
    world.answer(&document, &format!("no forecast: {refusal}\n{}\n", refusal.hint()));
    Outcome::No
}

fn document(outcome: &ForecastOutcome, cost: CostRow) -> serde_json::Value {
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
        "n_evaluations": cost.n_evaluations,
        "cost": cost,
        "cases": outcome.cases,
    })
}

fn text(args: &ForecastArgs, request: &ForecastRequest, outcome: &ForecastOutcome, cost: CostRow) -> String {
    let mut text = String::new();
    let ForecastRequest { end_step, anneal_steps, floor, .. } = request;
    let curve = outcome.cases.first().map_or("", |case| case.curve.as_str());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "an anneal ({curve}, {}, {}) that ends at step {end_step} would score",
        counted(*anneal_steps, "step"),
        if *floor > 0.0 { format!("to {floor} of the peak") } else { "to 0".to_owned() }
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
    for rows in outcome.forecasts.chunk_by(|a, b| a.rests_on == b.rests_on) {
        let names: Vec<String> = rows.iter().map(|row| format!("{} {}", row.task, row.measure)).collect();
        let verb = if rows.len() == 1 { "is" } else { "are" };
        let rests_on = rows.first().map_or("", |row| row.rests_on.as_str());
        let _ = writeln!(text, "{} {verb} based on {rests_on}", names.join(", "));
    }
    match &outcome.proposal {
        Ok(window) => {
            let [low, high] = window.n_interval_95;
            let _ = writeln!(
                text,
                "proposed window: {} ({low} to {high}), {} apart, {}\n  based on {}",
                counted(window.n_checkpoints, "checkpoint"),
                counted(window.interval_steps, "step"),
                window.scheme,
                window.rests_on
            );
            if window.n_checkpoints > 1 {
                let run = shell_path(&args.run_path);
                let (n, steps, scheme) = (window.n_checkpoints, window.interval_steps, shell_word(&window.scheme));
                let _ = writeln!(
                    text,
                    "  thalweg merge {run} --end-step {end_step} --count {n} --interval-steps {steps} --scheme {scheme} -o merged"
                );
            }
        }
        Err(why) => {
            let _ = writeln!(text, "no window is proposed: {}", why.reason());
        }
    }
    let _ = writeln!(text, "scored {}", show_cost(&counted(cost.n_evaluations, "model"), &cost));
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
