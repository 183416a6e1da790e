//! What a model would score after an anneal that was never run, from four scored windows of its stable phase.
//!
//! The anneal is one that *ends* at the step asked about, having left the constant branch some steps before: the same
//! tokens as the windows. Over its span the mean of the checkpoints trails as far as a linear anneal does (Tian et al.
//! 2025, WSM, arXiv 2507.17634, theorem 3.1); what is left between the two, noise that the mean keeps and a bend of the
//! way that the mean cuts, is learned from anneals that were run ([`calibrate`]). The same four scores propose the
//! window to merge ([`crate::propose`]).

pub mod calibrate;
pub mod case;
pub mod request;
pub mod run;

use std::sync::Arc;

use thalweg_eval::TaskScores;
use thalweg_merge::scheme::{Scheme, SchemeParameters};
use thalweg_trajectory::{Phase, Trajectory, TrajectoryCheckpoint};

use self::calibrate::Calibration;
use self::case::{CASES, Case, read_cases};
use self::request::{ForecastRequest, Probes, Refusal, find_probes};
use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, TaskScore};
use crate::propose::{Choices, propose};
use crate::record::{ForecastRow, ProposalRow};
use crate::resample::resampled_values;
use crate::select::window_output;
use crate::sweep::{ScoredTrial, SweepTrial, WindowInterval, score_trials};
use crate::text::name_of;
use crate::window_fit::{ScoredWindow, Unsupported, Weighing};

/// Cases of the lab that come with the program; `runs/forecast` makes them.
const LAB_CASES: &str = include_str!("lab_cases.jsonl");
/// Resamplings of items behind the interval of the proposed window.
const N_RESAMPLES: usize = 200;

/// What came out.
#[derive(Debug, Clone)]
pub struct ForecastOutcome {
    /// A forecast for each score that allows one.
    pub forecasts: Vec<ForecastRow>,
    /// Scores that allow none, and why.
    pub refused: Vec<(String, Refusal)>,
    /// What was scored, for others to learn from once the truth is known.
    pub cases: Vec<Case>,
    /// The window to merge, or why none is proposed.
    pub proposal: Result<ProposalRow, Unsupported>,
    /// The four windows, the newest checkpoint first, with their scores.
    pub probes: Vec<ScoredTrial>,
}

impl ForecastOutcome {
    /// The merge that imitates the anneal.
    pub(crate) fn imitation(&self) -> Option<&ScoredTrial> {
        self.probes.get(1)
    }
}

/// The cases that come with the program.
///
/// # Errors
/// `LineForm`, which a test excludes.
pub fn lab_cases() -> Result<Vec<Case>, Error> {
    read_cases(LAB_CASES)
}

/// Forecasts an anneal of `trajectory`: scores four windows and corrects by what `own` cases and the lab's teach.
///
/// # Errors
/// The inner error is why the run cannot answer at all; the outer one what scoring gives.
pub(crate) fn forecast_anneal(
    trajectory: &Trajectory,
    request: &ForecastRequest,
    own: &[Case],
    evaluator: &mut dyn Evaluator,
    on_score: &mut dyn FnMut(usize, &str),
) -> Result<Result<ForecastOutcome, Refusal>, Error> {
    let probes = match find_probes(trajectory, request) {
        Ok(probes) => probes,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let calibration = Calibration::fit(own, &lab_cases()?);
    let asked = case_of(trajectory, request, &probes);
    if let Some(Err(refusal)) = calibration.as_ref().map(|calibration| calibration.check_domain(&asked)) {
        return Ok(Err(refusal));
    }
    let scored = score_probes(&probes, evaluator, on_score)?;
    let proposal = propose_window(trajectory, request, &probes, &scored)?;
    let mut outcome =
        ForecastOutcome { forecasts: Vec::new(), refused: Vec::new(), cases: Vec::new(), proposal, probes: scored };
    for raw in outcome.probes.first().map(|probe| probe.scores.tasks.clone()).unwrap_or_default() {
        let Some(case) = fill_case(&asked, &raw, &outcome.probes) else { continue };
        let predicted = calibration.as_ref().ok_or(Refusal::NothingLearned).and_then(|known| known.predict(&case));
        match predicted {
            Ok(predicted) => outcome.forecasts.push(ForecastRow {
                task: case.task.clone(),
                measure: case.measure.clone(),
                higher_is_better: case.higher_is_better,
                end_step: case.end_step,
                anneal_steps: case.anneal_steps,
                curve: case.curve.clone(),
                floor: case.floor,
                raw: case.raw,
                imitation: case.full,
                value: predicted.value,
                interval_80: predicted.interval_80,
                interval_95: predicted.interval_95,
                truth: None,
                rests_on: rests_on(&case, calibration.as_ref()),
            }),
            Err(refusal) => outcome.refused.push((raw.label(), refusal)),
        }
        outcome.cases.push(case);
    }
    Ok(Ok(outcome))
}

fn rests_on(case: &Case, calibration: Option<&Calibration>) -> String {
    let learned = calibration.map_or_else(|| "nothing".to_owned(), Calibration::describe);
    let windows = format!("the mean of {} checkpoints over the anneal's span", case.n_checkpoints);
    if case.is_accuracy() {
        format!("{windows} as it scores; spread in paired standard errors of the items")
    } else {
        format!("{windows} and a correction by three more scores, learned from {learned}")
    }
}

/// A case without scores.
fn case_of(trajectory: &Trajectory, request: &ForecastRequest, probes: &Probes) -> Case {
    Case {
        kind: CASES.kind.to_owned(),
        version: CASES.version,
        run: trajectory.path().display().to_string(),
        end_step: request.end_step,
        anneal_steps: request.anneal_steps,
        curve: name_of(request.curve),
        floor: request.floor,
        n_checkpoints: probes.full.len(),
        ..Case::default()
    }
}

fn fill_case(asked: &Case, raw: &TaskScore, probes: &[ScoredTrial]) -> Option<Case> {
    let [_, full, half, thin] = probes else { return None };
    let find = |probe: &ScoredTrial| probe.scores.find(raw).cloned();
    let (full, half, thin) = (find(full)?, find(half)?, find(thin)?);
    Some(Case {
        task: raw.task.clone(),
        measure: raw.measure.clone(),
        higher_is_better: raw.higher_is_better,
        raw: raw.value,
        full: full.value,
        half: half.value,
        thin: thin.value,
        standard_error: full.paired_gain(raw).and_then(|gain| gain.standard_error),
        ..asked.clone()
    })
}

fn score_probes(
    probes: &Probes,
    evaluator: &mut dyn Evaluator,
    on_score: &mut dyn FnMut(usize, &str),
) -> Result<Vec<ScoredTrial>, Error> {
    let sma = Scheme::parse("sma", SchemeParameters::default())?;
    let windows = [("raw", &probes.raw), ("full", &probes.full), ("half", &probes.half), ("thin", &probes.thin)];
    let trial = |&(name, window): &(&str, &Vec<TrajectoryCheckpoint>)| {
        let output = window_output(name, window, &sma)?;
        Ok(SweepTrial { name: name.to_owned(), output, interval: WindowInterval::default() })
    };
    score_trials(windows.iter().map(trial).collect::<Result<_, Error>>()?, evaluator, on_score)
}

/// From the first score that is a loss.
fn propose_window(
    trajectory: &Trajectory,
    request: &ForecastRequest,
    probes: &Probes,
    scored: &[ScoredTrial],
) -> Result<Result<ProposalRow, Unsupported>, Error> {
    let first = scored.first().and_then(|raw| raw.scores.tasks.iter().find(|task| !task.higher_is_better).cloned());
    let Some(like) = first else { return Ok(Err(Unsupported::TooFewWindows)) };
    let windows: Vec<(&Vec<TrajectoryCheckpoint>, &ModelScores)> =
        [&probes.raw, &probes.full, &probes.half, &probes.thin]
            .into_iter()
            .zip(scored.iter().map(|one| &one.scores))
            .collect();
    let mut scored_windows = Vec::new();
    let mut items: Vec<Arc<TaskScores>> = Vec::new();
    for (window, scores) in windows {
        let Some(score) = scores.find(&like) else { return Ok(Err(Unsupported::TooFewWindows)) };
        scored_windows.push(ScoredWindow { weighing: weighing_of(window, request.end_step), loss: score.value });
        items.extend(score.items.clone());
    }
    let stable: Vec<TrajectoryCheckpoint> = trajectory
        .finished()
        .filter(|one| one.step.0 <= request.end_step && one.phase == Some(Phase::Stable))
        .cloned()
        .collect();
    let choices = Choices::new(&stable, request.anneal_steps)?;
    let resampled = resampled_values(&items, &like.measure, N_RESAMPLES);
    Ok(propose(&choices, &scored_windows, &resampled))
}

fn weighing_of(window: &[TrajectoryCheckpoint], end_step: u64) -> Weighing {
    let steps_before_end = window.iter().map(|one| end_step.saturating_sub(one.step.0) as f64).collect();
    Weighing { steps_before_end, coefficients: vec![1.0 / window.len().max(1) as f64; window.len()] }
}

#[cfg(test)]
mod tests;
