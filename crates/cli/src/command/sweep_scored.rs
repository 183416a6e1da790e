//! `thalweg sweep --suite`: merges scored in memory beside raw checkpoints; the best one by the suite that decides.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use thalweg_study::evaluator::TaskScore;
use thalweg_study::record::{ScoreRow, StudyRecord, TrialRow};
use thalweg_study::study_answer::answer_word;
use thalweg_study::sweep::{
    ComparedBest, EarlierSweep, Sweep, SweepFindings, SweepOptions, SweepOutcome, check_sweep_places, run_sweep,
};
use thalweg_study::text::or_dash;
use thalweg_tensor::counted;
use thalweg_trajectory::Trajectory;

use crate::args::SweepArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{World, command_line};
use crate::merged::{execute_options, from_here};
use crate::meter::ScoringMeter;
use crate::options::{show_cost, show_gain, show_signed_range};
use crate::scoring::{make_evaluator, open_suites, tell_cost};

pub(super) fn run(
    args: &SweepArgs,
    trajectory: &Trajectory,
    sweep: &Sweep,
    world: &World<'_>,
) -> Result<Outcome, Error> {
    let suites = open_suites(&args.scoring, args.report_suite.as_deref(), world)?;
    if let Some(budget) = args.budget_evaluations {
        sweep.check_evaluations(budget)?;
    }
    let keep = args.keep.unwrap_or_default();
    // Models are counted, so that the bars of single merges and scorings would be in the way.
    let cx = world.quiet_context(args.execution.memory);
    check_sweep_places(sweep, keep, &args.out, &cx)?;
    let from = (&*sweep.any_checkpoint()?, Some(&*args.out));
    let mut evaluator = make_evaluator(&args.scoring, &suites, from, (world, &cx))?;
    let (n_raws, n_trials) = (sweep.raws.len(), sweep.trials.len());
    let n_models = n_raws + n_trials;
    let what = format!("{} and {}", counted(n_trials, "merge"), counted(n_raws, "raw checkpoint"));
    tell_cost(&*evaluator, (n_models, &what), world);
    if args.dry_run {
        return Ok(Outcome::Done);
    }
    let meter = ScoringMeter::new(world.messages, n_models, "models");
    let options = SweepOptions {
        title: format!("Sweep of {}", args.run_path.display()),
        command: command_line(),
        by: args.scoring.by.clone(),
        keep,
        execute: execute_options(&args.execution),
        folder: args.out.clone(),
        on_score: &mut |n_done, name| meter.show(n_done, Some(name)),
    };
    // The merges that are kept are written with a bar.
    let writing = world.context(args.execution.memory);
    let outcome = run_sweep(sweep, trajectory, &mut *evaluator, options, &writing)?;
    Ok(world.answer(&document(&outcome), &table(&args.out, &outcome)))
}

fn document(SweepOutcome { record, earlier, .. }: &SweepOutcome) -> serde_json::Value {
    json!({
        "kind": "thalweg-sweep", "version": 1, "suites": record.suites, "raws": record.raws, "trials": record.trials,
        "choice": record.choice, "bytes_read": record.cost.bytes_read, "cost": record.cost, "earlier": earlier,
    })
}

/// Rows of a table that a person reads; the page has all of them.
const MAX_ROWS: usize = 40;

fn table(folder: &Path, outcome: &SweepOutcome) -> String {
    let SweepOutcome { record, findings, decides, earlier } = outcome;
    let Some(decides) = decides else { return String::new() };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} by suite `{}`, gain over the raw checkpoint at the window's end",
        decides.label(),
        decides.suite
    );
    let _ =
        writeln!(text, "{:>10} {:>5} {:<16} {:>10} {:>10}  95 % interval", "end step", "N", "scheme", "value", "gain");
    for raw in &record.raws {
        if let Some(row) = find_row(&raw.scores, decides) {
            let _ = writeln!(text, "{:>10} {:>5} {:<16} {:>10.4}", raw.step, 1, "raw", row.value);
        }
    }
    let mut ranked: Vec<(&TrialRow, &ScoreRow)> =
        record.trials.iter().filter_map(|trial| Some((trial, find_row(&trial.scores, decides)?))).collect();
    let sign = if decides.higher_is_better { -1.0 } else { 1.0 };
    ranked.sort_by(|a, b| (sign * a.1.value).total_cmp(&(sign * b.1.value)));
    for (trial, row) in ranked.iter().take(MAX_ROWS) {
        text.push_str(&line(trial, row));
    }
    if ranked.len() > MAX_ROWS {
        let _ = writeln!(text, "and {} more, on the page", ranked.len() - MAX_ROWS);
    }
    text.push_str(&closing(folder, record, findings, decides));
    text.push_str(&earlier.as_ref().map_or_else(String::new, describe_earlier));
    text
}

/// What is no longer in the record, and what of it is still in the folder.
fn describe_earlier(earlier: &EarlierSweep) -> String {
    let windows = counted(earlier.n_others, "other window");
    let mut text = format!("the record of an earlier sweep of {windows} was replaced");
    if let Some(best) = &earlier.best {
        let than = match best.compared {
            None => String::new(),
            Some(ComparedBest { value, is_better: true }) => {
                format!(" (score {value:.4}, better than the best of this sweep)")
            }
            Some(ComparedBest { value, .. }) => format!(" (score {value:.4}, not better than the best of this sweep)"),
        };
        text.push_str(&format!("; its best was `{}`{than}", best.name));
        if let Some(path) = &best.path {
            text.push_str(&format!(", still in `{}`", from_here(Path::new(path)).display()));
        }
    }
    text.push_str("\nto compare all windows, name them in one sweep: scores are reused\n");
    text
}

fn find_row<'a>(scores: &'a [ScoreRow], like: &TaskScore) -> Option<&'a ScoreRow> {
    scores.iter().find(|row| row.suite == like.suite && row.task == like.task && row.measure == like.measure)
}

fn line(trial: &TrialRow, row: &ScoreRow) -> String {
    let gain = row.gain.map_or_else(String::new, |gain| {
        format!(" {:>+10.4}  {}", gain.value, or_dash(gain.interval_95, show_signed_range))
    });
    let (end, n, scheme) = (trial.end_step, trial.n_checkpoints, &trial.scheme);
    let every = trial.interval_steps.map_or_else(String::new, |steps| format!("  every {steps}"));
    format!("{end:>10} {n:>5} {scheme:<16} {:>10.4}{gain}{every}\n", row.value)
}

/// What was chosen, what it scores where nothing was chosen, and where everything is.
fn closing(folder: &Path, record: &StudyRecord, findings: &SweepFindings, decides: &TaskScore) -> String {
    let mut text = String::new();
    if let Some(choice) = &record.choice {
        let _ = writeln!(
            text,
            "\n{}: best of {} by {} on `{}` is {}",
            answer_word(record),
            choice.n_candidates,
            decides.label(),
            choice.suite,
            choice.trial
        );
        let chosen = findings.trials.iter().find(|one| one.trial.name == choice.trial);
        let row = record.trials.iter().find(|row| row.name == choice.trial);
        if let (Some(chosen), Some(row)) = (chosen, row) {
            for score in row.scores.iter().filter(|score| score.suite != choice.suite) {
                let gain = score.gain.map_or_else(String::new, |gain| format!(", gain {}", show_gain(gain)));
                let _ = writeln!(
                    text,
                    "on `{}`, which did not affect the choice: {} {} {:.4}{gain}",
                    score.suite, score.task, score.measure, score.value
                );
            }
            if let Some(ingredients) = findings.ingredients(chosen, decides, decides) {
                let _ = writeln!(
                    text,
                    "its ingredients: mean {:.4}, best {:.4} (step {}, chosen by the same score)",
                    ingredients.mean, ingredients.best, ingredients.best_step
                );
            }
            if let Some(path) = &row.path {
                let _ = writeln!(text, "written to `{}`", from_here(Path::new(path)).display());
            }
        }
    } else {
        text.push_str("\nnothing is chosen: the suite's role is to report\n");
    }
    let cost = &record.cost;
    let _ = writeln!(text, "scored {}", show_cost(&counted(cost.n_evaluations, "model"), cost));
    let _ = writeln!(text, "record and page in `{}`", folder.display());
    text
}
