//! Forecasts of a watched run: at each end, what an anneal that ended there would score, and what real ones reached.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_eval::TaskScores;
use thalweg_trajectory::Trajectory;

use super::record::{ANNEALED_SCHEME, FORECAST_SCHEME, WatchEvent, WatchRow};
use crate::Error;
use crate::evaluator::{Evaluator, ModelScores};
use crate::forecast::case::Case;
use crate::forecast::forecast_anneal;
use crate::forecast::request::AnnealQuestion;
use crate::forecast_items::items_of;
use crate::record::{Fact, ForecastRow, StudyRecord};

/// Forecasts that a page shows, the newest.
const MAX_FORECASTS: usize = 400;

/// Which anneals a watcher forecasts.
#[derive(Debug, Clone)]
pub struct WatchForecast {
    /// The anneal; it ends where each window ends.
    pub question: AnnealQuestion,
    /// Cases of past anneals to learn from.
    pub own_cases: Vec<Case>,
    /// Anneals that were run: the step at which each ended, and its checkpoint.
    pub truths: Vec<(u64, PathBuf)>,
}

/// The question about one end.
#[derive(Debug, Clone)]
pub(super) struct ForecastJob {
    pub(super) ask: Arc<WatchForecast>,
    pub(super) trajectory: Arc<Trajectory>,
    /// Digest of the checkpoint at the end, where known: a run that was rolled back has another one there later.
    pub(super) digest: Option<String>,
}

/// What the forecast of an end is called.
pub(super) fn forecast_name(end_step: u64) -> String {
    format!("forecast at step {end_step}")
}

/// The line of a forecast, or of why there is none, and the values by item of the merge behind it.
///
/// # Errors
/// `Request` where the run has no checkpoint at that step; what scoring gives.
pub(super) fn forecast_end(
    job: &ForecastJob,
    end_step: u64,
    evaluator: &mut dyn Evaluator,
    unix_seconds: u64,
) -> Result<(WatchRow, Vec<Arc<TaskScores>>), Error> {
    let question = AnnealQuestion { end_step: Some(end_step), ..job.ask.question };
    let request = question.in_steps(&job.trajectory)?;
    let mut row = WatchRow {
        event: WatchEvent::Forecast,
        name: forecast_name(end_step),
        scheme: FORECAST_SCHEME.to_owned(),
        digest: job.digest.clone(),
        ..WatchRow::scored(end_step, unix_seconds)
    };
    let mut items = Vec::new();
    match forecast_anneal(&job.trajectory, &request, &job.ask.own_cases, evaluator, &mut |_, _| {})? {
        Err(refusal) => row.refused.push(refusal.to_string()),
        Ok(outcome) => {
            items = outcome.imitation().map(|merge| items_of(&merge.scores)).unwrap_or_default();
            row.n_checkpoints = outcome.cases.first().map_or(0, |case| case.n_checkpoints);
            row.forecasts = outcome.forecasts;
            row.refused = outcome.refused.iter().map(|(score, why)| format!("{score}: {why}")).collect();
            row.proposal = outcome.proposal.ok();
        }
    }
    Ok((row, items))
}

/// The line of a checkpoint that was really annealed.
pub(super) fn annealed_row(path: String, end_step: u64, scores: &ModelScores, unix_seconds: u64) -> WatchRow {
    WatchRow {
        name: path,
        scheme: ANNEALED_SCHEME.to_owned(),
        n_checkpoints: 1,
        steps: vec![end_step],
        digest: scores.params_digest.clone(),
        scores: scores.rows(None),
        ..WatchRow::scored(end_step, unix_seconds)
    }
}

/// Puts the forecasts of a record into its study, the newest first, with what real anneals reached.
pub(super) fn add_forecasts(study: &mut StudyRecord, rows: &[WatchRow]) {
    study.annealed.extend(rows.iter().filter(|row| row.scheme == ANNEALED_SCHEME).map(WatchRow::raw));
    let mut latest: BTreeMap<u64, &WatchRow> = BTreeMap::new();
    latest.extend(rows.iter().filter(|row| row.event == WatchEvent::Forecast).map(|row| (row.end_step, row)));
    if let Some(newest) = latest.values().next_back() {
        study.proposal.clone_from(&newest.proposal);
        let reasons = newest.refused.iter();
        study.facts.extend(reasons.map(|why| Fact { name: format!("no {}", newest.name), value: why.clone() }));
    }
    let known = |forecast: &ForecastRow| {
        let of_step = study.annealed.iter().filter(|one| one.step == forecast.end_step);
        let mut scores = of_step.flat_map(|one| &one.scores);
        scores.find(|one| one.task == forecast.task && one.measure == forecast.measure).map(|one| one.value)
    };
    let newest_first = latest.values().rev().flat_map(|row| &row.forecasts);
    let mut forecasts: Vec<ForecastRow> =
        newest_first.map(|one| ForecastRow { truth: known(one), ..one.clone() }).collect();
    let mut n_open = 0;
    forecasts.retain(|one| {
        n_open += usize::from(one.truth.is_none());
        one.truth.is_some() || n_open <= MAX_FORECASTS
    });
    study.forecasts.splice(0..0, forecasts);
}
