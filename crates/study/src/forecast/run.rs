//! A forecast from its question to its record.

use std::path::{Path, PathBuf};

use thalweg_merge::context::RunContext;
use thalweg_trajectory::Trajectory;
use thalweg_trajectory::check_new_document;

use super::case::{CASES, Case, add_cases, known_cases};
use super::request::{AnnealQuestion, ForecastRequest, Refusal};
use super::{ForecastOutcome, forecast_anneal};
use crate::Error;
use crate::begin_record::begin_record;
use crate::evaluator::{Evaluator, ModelScores};
use crate::record::{CostRow, Fact, RawRow, StudyRecord};
use crate::sweep::SweepFindings;
use crate::write_study::{check_study_folder, write_study};

/// What a forecast learns from, and where its results go.
#[expect(missing_debug_implementations, reason = "callbacks have none")]
pub struct ForecastOptions<'a> {
    /// What the record is called.
    pub title: String,
    /// The command or call that made it, for the record.
    pub command: String,
    /// Cases of the user's own anneals.
    pub own_cases: Vec<Case>,
    /// The annealed checkpoint, if the anneal was run after all.
    pub truth: Option<PathBuf>,
    /// A file that gets the new cases, and the name of the run in it.
    pub save_cases: Option<(PathBuf, String)>,
    /// Folder of the record and the page.
    pub folder: Option<PathBuf>,
    /// Called after each model with how many are done and its name.
    pub on_score: &'a mut dyn FnMut(usize, &str),
}

/// The answer to a question about an anneal.
#[derive(Debug, Clone)]
pub struct ForecastAnswer {
    /// The anneal in steps.
    pub request: ForecastRequest,
    /// What was found, or why the run cannot answer.
    pub outcome: Result<ForecastOutcome, Refusal>,
    /// What it took.
    pub cost: CostRow,
}

/// Checks that a forecast's results may be written, before anything is scored.
///
/// # Errors
/// `Storage` where something else is in the way; what reading the old cases gives.
pub fn check_forecast_places(options: &ForecastOptions<'_>, cx: &RunContext<'_>) -> Result<(), Error> {
    if let Some(folder) = &options.folder {
        check_study_folder(&cx.storage, folder)?;
    }
    if let Some((path, _)) = &options.save_cases {
        check_new_document(&cx.storage, path, CASES.file())?;
        known_cases(&*cx.storage, path)?;
    }
    Ok(())
}

/// Answers a question about an anneal that was never run, and puts record, page and cases where they are wanted.
///
/// # Errors
/// `Request` where the question does not fit the run; `Storage`; what scoring gives.
pub fn run_forecast(
    question: &AnnealQuestion,
    trajectory: &Trajectory,
    evaluator: &mut dyn Evaluator,
    options: ForecastOptions<'_>,
    cx: &RunContext<'_>,
) -> Result<ForecastAnswer, Error> {
    check_forecast_places(&options, cx)?;
    let ForecastOptions { title, command, own_cases, truth, save_cases, folder, on_score } = options;
    let request = question.in_steps(trajectory)?;
    let began = cx.host.elapsed_seconds();
    let mut outcome = match forecast_anneal(trajectory, &request, &own_cases, evaluator, on_score)? {
        Ok(outcome) => outcome,
        Err(refusal) => {
            let cost = CostRow::default();
            return Ok(ForecastAnswer { request, outcome: Err(refusal), cost });
        }
    };
    let truth = truth.map(|path| Ok::<_, Error>((evaluator.score_checkpoint(&path)?, path))).transpose()?;
    if let Some((scores, _)) = &truth {
        fill_truth(&mut outcome, scores);
    }
    if let Some((path, run)) = save_cases {
        let cases = outcome.cases.iter().map(|case| Case { run: run.clone(), ..case.clone() });
        add_cases(&*cx.storage, &path, cases)?;
    }
    let cost = CostRow { seconds: cx.host.elapsed_seconds() - began, ..evaluator.cost() };
    if let Some(folder) = folder {
        let mut record = begin_record(title, command, trajectory);
        fill_record(&mut record, &outcome, truth.as_ref().map(|(scores, path)| (scores, path.as_path())))?;
        record.suites = evaluator.suites();
        record.cost = cost;
        cx.storage.create_folder(&folder)?;
        write_study(&*cx.storage, &folder, &record)?;
    }
    Ok(ForecastAnswer { request, outcome: Ok(outcome), cost })
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

fn fill_record(
    record: &mut StudyRecord,
    outcome: &ForecastOutcome,
    truth: Option<(&ModelScores, &Path)>,
) -> Result<(), Error> {
    let (raws, trials) = outcome.probes.split_at(1.min(outcome.probes.len()));
    let findings = SweepFindings { raws: raws.to_vec(), trials: trials.to_vec() };
    (record.raws, record.trials) = findings.rows()?;
    record.forecasts.clone_from(&outcome.forecasts);
    let refused = outcome.refused.iter();
    record
        .facts
        .extend(refused.map(|(score, why)| Fact { name: format!("no forecast of {score}"), value: why.to_string() }));
    record.proposal = outcome.proposal.clone().ok();
    if let Some((scores, path)) = truth {
        let step = outcome.cases.first().map_or(0, |case| case.end_step);
        let baseline = findings.raws.first().map(|raw| &raw.scores);
        let (path, params_digest) = (path.display().to_string(), scores.params_digest.clone());
        record.annealed = vec![RawRow { step, path, params_digest, scores: scores.rows(baseline) }];
    }
    Ok(())
}
