//! Scores of trials, in the order in which they were asked for.

use thalweg_merge::plan::OutputPlan;

use super::{ScoredTrial, Sweep, SweepFindings, SweepTrial};
use crate::Error;
use crate::evaluator::Evaluator;

/// Scores the raw checkpoints and the merges of a sweep together, so that each reading of the sources serves both.
///
/// # Errors
/// What the evaluator gives.
pub(crate) fn score_sweep(
    sweep: &Sweep,
    evaluator: &mut dyn Evaluator,
    on_score: &mut dyn FnMut(usize, &str),
) -> Result<SweepFindings, Error> {
    let all = sweep.raws.iter().chain(&sweep.trials).cloned().collect();
    let mut raws = score_trials(all, evaluator, on_score)?;
    let trials = raws.split_off(sweep.raws.len());
    Ok(SweepFindings { raws, trials })
}

/// Scores merges in as few readings of their sources as the evaluator can, and returns them in the same order.
///
/// `on_score` is called after each model with how many are done and its name, in the order in which they are scored.
///
/// # Errors
/// What the evaluator gives.
pub fn score_trials(
    trials: Vec<SweepTrial>,
    evaluator: &mut dyn Evaluator,
    on_score: &mut dyn FnMut(usize, &str),
) -> Result<Vec<ScoredTrial>, Error> {
    let outputs: Vec<OutputPlan> = trials.iter().map(|trial| trial.output.clone()).collect();
    let mut n_done = 0;
    let scores = evaluator.score_merges(&outputs, &mut |i, _| {
        n_done += 1;
        on_score(n_done, &trials[i].name);
    })?;
    Ok(trials.into_iter().zip(scores).map(|(trial, scores)| ScoredTrial { trial, scores }).collect())
}
