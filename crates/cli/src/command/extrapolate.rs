//! `thalweg extrapolate`: a step along the line of merged checkpoints, if it is better than a plain mean.

use std::fmt::Write;

use serde_json::json;
use thalweg_study::extrapolate::{
    CandidateRow, ExtrapolationOptions, ExtrapolationOutcome, ExtrapolationRequest, run_extrapolation,
};
use thalweg_study::record::GainRow;
use thalweg_study::text::or_dash;
use thalweg_tensor::counted;

use crate::args::ExtrapolateArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe_with, execute_options};
use crate::messages::document_of;
use crate::meter::{Meter, Urgency};
use crate::options::{show_cost, show_gain};
use crate::scoring::{check_scoring, make_evaluator, open_suites};

/// Models that are scored at most.
const MAX_MODELS: u64 = 6;

pub(crate) fn run(args: &ExtrapolateArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_scoring(&args.scoring, "a suite is needed: every step is scored, even one given by `--alpha`")?;
    if args.confirm.is_some() && args.scoring.suite.is_none() {
        return Err(Error::usage_with_hint(
            "`--confirm` needs a suite to choose by, but a command scores instead",
            "name one with `--suite FILE`, or leave `--confirm` out",
        ));
    }
    let resolver = world.resolver();
    let trajectory = resolver.open_run(&args.run_path, &args.run.options)?;
    let request = request(args);
    // A request that does not fit the run is refused before suites are opened.
    let points = resolver.merged_points(&request, &trajectory)?;
    let suites = open_suites(&args.scoring, args.confirm.as_deref(), world)?;
    let Some(like) = points.sources.last().map(|one| one.path.clone()) else {
        return Err(Error::usage(format!("`{}` has no finished checkpoint", args.run_path.display())));
    };
    let cx = world.quiet_context(args.execution.memory);
    let from = (like.as_path(), None);
    let mut evaluator = make_evaluator(&args.scoring, &suites, from, (world, &cx))?;
    let meter = Meter::new(world.messages, "scoring {wide_bar} {msg}");
    let options = ExtrapolationOptions {
        by: args.scoring.by.clone(),
        out: args.out.clone(),
        output: args.output.clone(),
        execute: execute_options(&args.execution),
        on_score: &mut |n_done, name| {
            let text = || format!("{n_done} of at most {MAX_MODELS} models, {name}");
            meter.show([n_done as u64, MAX_MODELS], Urgency::InTurn, text);
        },
    };
    // Measuring the line and writing the merge have bars.
    let writing = world.context(args.execution.memory);
    let outcome = run_extrapolation(&request, &trajectory, &mut *evaluator, options, (&resolver, &writing))?;
    world.answer(&document(&outcome), &text(args, &outcome));
    Ok(Outcome::when(outcome.refusal.is_none()))
}

fn request(args: &ExtrapolateArgs) -> ExtrapolationRequest {
    ExtrapolationRequest {
        selection: args.selection.clone(),
        window: args.window,
        n_points: args.points,
        direction: args.direction,
        alpha: args.alpha,
    }
}

fn document(outcome: &ExtrapolationOutcome) -> serde_json::Value {
    let mut document = document_of("thalweg-extrapolation", outcome);
    document["output"] = json!(outcome.written.as_ref().map(|written| &written.path));
    document
}

fn text(args: &ExtrapolateArgs, outcome: &ExtrapolationOutcome) -> String {
    let mut text = String::new();
    let line = &outcome.line;
    let share = |shares: &[f64]| or_dash(shares.first(), |share| format!("{:.0} %", share * 100.0));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", outcome.method);
    let _ = writeln!(
        text,
        "{} of {}, {} apart; verdict: {}",
        counted(outcome.n_points, "mean"),
        counted(outcome.window, "checkpoint"),
        counted(outcome.interval_steps, "step"),
        line.verdict
    );
    let _ = writeln!(
        text,
        "  first component {} (random walk {}), cosine of successive displacements {} (random walk {:.2})",
        share(&line.component_shares),
        share(&line.random_walk_shares),
        or_dash(line.mean_cosine, |cosine| format!("{cosine:.2}")),
        line.random_walk_cosine
    );
    let _ = writeln!(text, "  drift {:.4} per interval, lag {} intervals", line.drift_per_interval, line.lag);
    text.push_str(&candidates(outcome));
    text.push_str(&closing(args, outcome));
    text
}

fn candidates(outcome: &ExtrapolationOutcome) -> String {
    let mut text = format!("\n{:<20} {:>10} {:>10} {:>10}\n", "model", "score", "gain", "std. err.");
    let show = |value: Option<f64>| or_dash(value, |value| format!("{value:.4}"));
    for average in &outcome.averages {
        let best = if average.n_checkpoints == outcome.best_average { "  best mean" } else { "" };
        let name = format!("mean of {}", average.n_checkpoints);
        let _ = writeln!(text, "{name:<20} {:>10} {:>10} {:>10}{best}", show(average.value), "", "");
    }
    let is_step = |row: &&CandidateRow| row.alpha > 0.0;
    for row in outcome.candidates.iter().filter(is_step) {
        let name = format!("step of {:.2} lags", row.alpha);
        let gain = or_dash(row.gain, |gain| format!("{gain:+.4}"));
        let error = or_dash(row.gain_standard_error, |error| format!("{error:.4}"));
        let _ = writeln!(text, "{name:<20} {:>10} {gain:>10} {error:>10}", show(row.value));
    }
    let _ = writeln!(text, "gains are over the mean of {}, and positive is better", outcome.window);
    text
}

fn closing(args: &ExtrapolateArgs, outcome: &ExtrapolationOutcome) -> String {
    let mut text = String::new();
    let show = |gain: Option<GainRow>| or_dash(gain, show_gain);
    let _ = writeln!(text);
    for row in &outcome.gains {
        let role = if row.is_held_out { ", which did not affect the choice" } else { "" };
        let _ = writeln!(
            text,
            "on `{}`{role}: the step of {:.2} lags gains {} over the best mean, {} over the mean of {}",
            row.suite,
            outcome.alpha,
            show(row.over_best_average),
            show(row.over_newest_point),
            outcome.window
        );
    }
    if let Some(refusal) = &outcome.refusal {
        let run = thalweg_tensor::shell_path(&args.run_path);
        let end = outcome.point_steps.last().map_or(0, |[_, last]| *last);
        let (n, v) = (outcome.best_average, outcome.interval_steps);
        let _ = writeln!(text, "no extrapolation: {refusal}");
        let _ = writeln!(text, "  thalweg merge {run} --end-step {end} --count {n} --interval-steps {v} -o merged");
    }
    if let Some(written) = &outcome.written {
        let checkpoints = counted(outcome.coefficients.len(), "checkpoint");
        let what = format!("extrapolated {checkpoints} by {:.2} lags into", outcome.alpha);
        text.push_str(&describe_with(&what, written));
    }
    let cost = &outcome.cost;
    let _ = writeln!(text, "scored {}", show_cost(&counted(cost.n_evaluations, "model"), cost));
    text
}
