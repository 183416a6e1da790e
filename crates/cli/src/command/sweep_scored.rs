//! `thalweg sweep --suite`: merges scored in memory beside raw checkpoints; the best one by the suite that decides.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use thalweg_merge::pending::check_places;
use thalweg_merge::plan::{MergePlan, OutputPlan, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_study::evaluator::{Evaluator, ModelScores, TaskScore};
use thalweg_study::record::{ScoreRow, StudyRecord, TrialRow};
use thalweg_study::sweep::{SweepFindings, SweepTrial, WindowInterval, score_sweep};
use thalweg_trajectory::{Extent, Trajectory};

use super::sweep::{Trial, check_budget};
use crate::args::{KeepChoice, RawChoice, SweepArgs};
use crate::command::Outcome;
use crate::command::merge::execute;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::meter::{Meter, Urgency};
use crate::options::{show_bytes, show_count};
use crate::resolve::output_plan;
use crate::scoring::{deciding, make_evaluator, may_choose, open_suites};
use crate::study_record::{begin_record, publish_record};

pub(super) fn run(
    args: &SweepArgs,
    trajectory: &Trajectory,
    (trials, outputs): (&[Trial], Vec<OutputPlan>),
    world: &World<'_>,
    messages: &Messages,
) -> Result<Outcome, Error> {
    let suites = open_suites(&args.scoring, args.report_suite.as_deref(), world, messages)?;
    let raws = raw_trials(args, trials, world)?;
    let plan = MergePlan::new(outputs.clone())?;
    check_budget(args, &plan, world)?;
    check_evaluations(args, raws.len() + outputs.len())?;
    if args.keep != Some(KeepChoice::None) {
        check_places(outputs.iter(), &*world.storage)?;
    }
    let trials: Vec<SweepTrial> = trials.iter().zip(outputs).map(|(trial, output)| as_trial(trial, output)).collect();
    let like = raws.first().and_then(|raw| raw.output.sources.first()).map(|source| source.path.clone());
    let like = like.ok_or_else(|| Error::usage("the sweep has no windows"))?;
    // A sweep counts models, so that the bars of single merges and scorings would be in the way.
    let run = world.quiet_context(args.execution.memory.0);
    let mut evaluator =
        make_evaluator(&args.scoring, &suites, (&like, Some(&args.out)), (world.quiet_eval_context(), &run), messages)?;
    tell_cost(&*evaluator, raws.len(), trials.len(), messages);
    if args.dry_run {
        return Ok(Outcome::Done);
    }
    let began = Instant::now();
    let findings = score_all(raws, trials, &mut *evaluator, messages)?;
    let record = describe(args, trajectory, &findings, &*evaluator, began, may_choose(&suites))?;
    let record = keep(args, record, &findings, world)?;
    world.storage.create_folder(&args.out)?;
    publish_record(&args.out, &record, world)?;
    messages.json(&document(&record));
    messages.text(&table(args, &record, &findings)?);
    Ok(Outcome::Done)
}

fn score_all(
    raws: Vec<SweepTrial>,
    trials: Vec<SweepTrial>,
    evaluator: &mut dyn Evaluator,
    messages: &Messages,
) -> Result<SweepFindings, Error> {
    let n_models = raws.len() + trials.len();
    let meter = Meter::new(messages, "scoring {wide_bar} {msg}");
    let began = Instant::now();
    let findings = score_sweep(raws, trials, evaluator, &mut |n_done, name| {
        let seconds_left = began.elapsed().as_secs_f64() / n_done as f64 * (n_models - n_done) as f64;
        let text = || format!("{n_done} of {n_models} models, {name}, {seconds_left:.0} s left");
        meter.show([n_done as u64, n_models as u64], Urgency::InTurn, text);
    });
    meter.clear();
    Ok(findings?)
}

fn as_trial(trial: &Trial, output: OutputPlan) -> SweepTrial {
    let steps: Vec<u64> = trial.window.iter().filter_map(|one| one.step).collect();
    let gaps: BTreeSet<u64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let interval_tokens = match trial.interval {
        Some(Extent::Tokens(tokens)) => Some(tokens.0),
        _ => None,
    };
    let interval_steps = (gaps.len() == 1).then(|| gaps.first().copied()).flatten();
    SweepTrial { name: trial.name(), output, interval: WindowInterval { interval_steps, interval_tokens } }
}

/// The raw checkpoints that are scored too: each once, as a window of one.
fn raw_trials(args: &SweepArgs, trials: &[Trial], world: &World<'_>) -> Result<Vec<SweepTrial>, Error> {
    let mut wanted: Vec<&SourceRef> = match args.raws {
        RawChoice::Newest => trials.iter().filter_map(|trial| trial.window.last()).collect(),
        RawChoice::Window => trials.iter().flat_map(|trial| &trial.window).collect(),
    };
    wanted.sort_by_key(|one| one.step);
    wanted.dedup_by_key(|one| one.step);
    let raw = |one: &&SourceRef| {
        let window = std::slice::from_ref(*one);
        let coefficients = Scheme::Sma.coefficients(1)?;
        let name = format!("raw-step{:07}", one.step.unwrap_or(0));
        let output =
            output_plan((window, 0), (&coefficients, "raw".to_owned()), &args.output, &args.out.join(&name), world)?;
        Ok(SweepTrial { name, output, interval: WindowInterval::default() })
    };
    wanted.iter().map(raw).collect()
}

fn check_evaluations(args: &SweepArgs, n_models: usize) -> Result<(), Error> {
    match args.budget_evaluations {
        Some(budget) if n_models > budget => Err(Error::usage_with_hint(
            format!("this sweep scores {n_models} models, more than the {budget} of `--budget-evaluations`"),
            "take fewer windows, ends or schemes",
        )),
        _ => Ok(()),
    }
}

/// Says what it will take before it begins.
fn tell_cost(evaluator: &dyn Evaluator, n_raws: usize, n_trials: usize, messages: &Messages) {
    let n_models = (n_raws + n_trials) as u64;
    let tokens = evaluator.tokens_per_model().map_or_else(String::new, |tokens| {
        format!(", {} tokens each, {} in all", show_count(tokens), show_count(tokens * n_models))
    });
    messages.note(format!(
        "scoring {n_trials} merges and {n_raws} raw checkpoints{tokens}; what is known is not scored again"
    ));
}

fn describe(
    args: &SweepArgs,
    trajectory: &Trajectory,
    findings: &SweepFindings,
    evaluator: &dyn Evaluator,
    began: Instant,
    may_choose: bool,
) -> Result<StudyRecord, Error> {
    let mut record = begin_record(format!("Sweep of {}", args.run_path.display()), trajectory);
    (record.raws, record.trials) = findings.rows()?;
    record.suites = evaluator.suites();
    if may_choose && !findings.trials.is_empty() {
        record.choice = findings.choose(&deciding(&args.scoring, &models(findings))?);
    }
    record.cost = evaluator.cost();
    record.cost.seconds = began.elapsed().as_secs_f64();
    Ok(record)
}

/// Writes the merges that are wanted, and says where they are.
fn keep(
    args: &SweepArgs,
    mut record: StudyRecord,
    findings: &SweepFindings,
    world: &World<'_>,
) -> Result<StudyRecord, Error> {
    let chosen = record.choice.as_ref().map(|choice| choice.trial.clone());
    let is_kept = |name: &str| match args.keep.unwrap_or(KeepChoice::Best) {
        KeepChoice::All => true,
        KeepChoice::Best => chosen.as_deref() == Some(name),
        KeepChoice::None => false,
    };
    let kept: Vec<OutputPlan> =
        findings.trials.iter().filter(|one| is_kept(&one.trial.name)).map(|one| one.trial.output.clone()).collect();
    if kept.is_empty() {
        return Ok(record);
    }
    world.storage.create_folder(&args.out)?;
    let outcomes = execute(&MergePlan::new(kept)?, &args.execution, world)?;
    for outcome in outcomes {
        let name = outcome.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(row) = record.trials.iter_mut().find(|row| row.name == name) {
            row.path = Some(outcome.path.display().to_string());
        }
    }
    Ok(record)
}

fn document(record: &StudyRecord) -> serde_json::Value {
    json!({
        "kind": "thalweg-sweep", "version": 1, "suites": record.suites, "raws": record.raws, "trials": record.trials,
        "choice": record.choice, "bytes_read": record.cost.bytes_read, "cost": record.cost,
    })
}

/// The scores of every merge.
fn models(findings: &SweepFindings) -> Vec<&ModelScores> {
    findings.trials.iter().map(|one| &one.scores).collect()
}

/// Rows of a table that a person reads; the page has all of them.
const MAX_ROWS: usize = 40;

fn table(args: &SweepArgs, record: &StudyRecord, findings: &SweepFindings) -> Result<String, Error> {
    if findings.trials.is_empty() {
        return Ok(String::new());
    }
    let decides = deciding(&args.scoring, &models(findings))?;
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
        if let Some(row) = find_row(&raw.scores, &decides) {
            let _ = writeln!(text, "{:>10} {:>5} {:<16} {:>10.4}", raw.step, 1, "raw", row.value);
        }
    }
    let mut ranked: Vec<(&TrialRow, &ScoreRow)> =
        record.trials.iter().filter_map(|trial| Some((trial, find_row(&trial.scores, &decides)?))).collect();
    let sign = if decides.higher_is_better { -1.0 } else { 1.0 };
    ranked.sort_by(|a, b| (sign * a.1.value).total_cmp(&(sign * b.1.value)));
    for (trial, row) in ranked.iter().take(MAX_ROWS) {
        text.push_str(&line(trial, row));
    }
    if ranked.len() > MAX_ROWS {
        let _ = writeln!(text, "and {} more, on the page", ranked.len() - MAX_ROWS);
    }
    text.push_str(&closing(args, record, findings, &decides));
    Ok(text)
}

fn find_row<'a>(scores: &'a [ScoreRow], like: &TaskScore) -> Option<&'a ScoreRow> {
    scores.iter().find(|row| row.suite == like.suite && row.task == like.task && row.measure == like.measure)
}

fn line(trial: &TrialRow, row: &ScoreRow) -> String {
    let gain = row.gain.map_or_else(String::new, |gain| {
        let interval =
            gain.interval_95.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:+.4} to {high:+.4}"));
        format!(" {:>+10.4}  {interval}", gain.value)
    });
    let (end, n, scheme) = (trial.end_step, trial.n_checkpoints, &trial.scheme);
    let every = trial.interval_steps.map_or_else(String::new, |steps| format!("  every {steps}"));
    format!("{end:>10} {n:>5} {scheme:<16} {:>10.4}{gain}{every}\n", row.value)
}

/// What was chosen, what it scores where nothing was chosen, and where everything is.
fn closing(args: &SweepArgs, record: &StudyRecord, findings: &SweepFindings, decides: &TaskScore) -> String {
    let mut text = String::new();
    if let Some(choice) = &record.choice {
        let _ = writeln!(
            text,
            "\nbest of {} by {} on `{}`: {}",
            choice.n_candidates,
            decides.label(),
            choice.suite,
            choice.trial
        );
        let chosen = findings.trials.iter().find(|one| one.trial.name == choice.trial);
        let row = record.trials.iter().find(|row| row.name == choice.trial);
        if let (Some(chosen), Some(row)) = (chosen, row) {
            for score in row.scores.iter().filter(|score| score.suite != choice.suite) {
                let gain = score.gain.map_or_else(String::new, |gain| {
                    let interval =
                        gain.interval_95.map_or_else(String::new, |[low, high]| format!(" ({low:+.4} to {high:+.4})"));
                    format!(", gain {:+.4}{interval}", gain.value)
                });
                let _ = writeln!(
                    text,
                    "on `{}`, which decided nothing: {} {} {:.4}{gain}",
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
                let _ = writeln!(text, "written to `{path}`");
            }
        }
    } else {
        text.push_str("\nnothing is chosen: the suite's role is to report\n");
    }
    let cost = &record.cost;
    let (bytes, tokens) = (show_bytes(cost.bytes_read), show_count(cost.n_tokens));
    let _ =
        writeln!(text, "read {bytes}, scored {} models ({tokens} tokens) in {:.1} s", cost.n_evaluations, cost.seconds);
    let _ = writeln!(text, "record and page in `{}`", Path::new(&args.out).display());
    text
}
