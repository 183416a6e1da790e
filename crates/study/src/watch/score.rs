//! Scores of what a watcher merged: the newest end first, each merge beside the raw checkpoint at its end.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_eval::TaskScores;

use super::WatchedOutput;
use super::forecast::{ForecastJob, annealed_row, forecast_end, forecast_name};
use super::record::{ANNEALED_SCHEME, RAW_SCHEME, WatchRow};
use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, ModelToScore};

/// The models of one end.
#[derive(Debug, Clone)]
pub(super) struct ScoreJob {
    pub(super) end_step: u64,
    /// The raw checkpoint, if it still exists, with its name and the digest of its tensors.
    pub(super) raw: Option<(PathBuf, String, Option<String>)>,
    /// Merges that were not scored yet.
    pub(super) outputs: Vec<(WatchedOutput, Vec<u64>)>,
    /// Checkpoints that were annealed to this step.
    pub(super) annealed: Vec<PathBuf>,
    /// What an anneal would score is to be forecast.
    pub(super) forecast: Option<ForecastJob>,
}

/// What came of the models of one end.
#[derive(Debug, Default)]
pub(super) struct EndScores {
    pub(super) rows: Vec<WatchRow>,
    /// Values by item of the merge behind the forecast.
    pub(super) items: Vec<Arc<TaskScores>>,
    /// Models that could not be scored, by name, with the digest of a merge.
    pub(super) failed: Vec<UnscoredModel>,
}

/// A model that could not be scored.
#[derive(Debug)]
pub struct UnscoredModel {
    /// Name of its folder; of a raw checkpoint, its name.
    pub name: String,
    /// Digest of its tensors, where known.
    pub digest: Option<String>,
    /// The step at which it ends.
    pub end_step: u64,
    /// Why not.
    pub error: Error,
}

impl ScoreJob {
    /// Its models, the raw checkpoint first: the others' gains are over it.
    fn models(&self) -> Vec<(String, usize, ModelToScore)> {
        let end_step = self.end_step;
        let raw = self.raw.iter().map(|(path, name, digest)| {
            let (scheme, steps) = (RAW_SCHEME.to_owned(), vec![end_step]);
            let model = ModelToScore { path: path.clone(), scheme, end_step, steps, digest: digest.clone() };
            (name.clone(), 1, model)
        });
        let merges = self.outputs.iter().map(|(output, steps)| {
            let WatchedOutput { path, scheme, digest, .. } = output.clone();
            let model = ModelToScore { path, scheme, end_step, steps: steps.clone(), digest };
            (output.name(), output.n_checkpoints, model)
        });
        raw.chain(merges).collect()
    }
}

/// Scores the models of one end, and makes their lines. One that fails keeps no other from being scored.
///
/// # Errors
/// `Interrupted`; `EvaluatorLate` where answers are still to come: the end is then tried again as a whole.
pub(super) fn score_end(
    job: &ScoreJob,
    evaluator: &mut dyn Evaluator,
    unix_seconds: &dyn Fn() -> u64,
) -> Result<EndScores, Error> {
    let models = job.models();
    let mut announced: Vec<ModelToScore> = models.iter().map(|(.., model)| model.clone()).collect();
    announced.extend(job.annealed.iter().map(|path| {
        let (end_step, steps) = (job.end_step, vec![job.end_step]);
        ModelToScore { path: path.clone(), scheme: ANNEALED_SCHEME.to_owned(), end_step, steps, digest: None }
    }));
    evaluator.announce(&announced)?;
    let (mut found, mut baseline) = (EndScores::default(), None::<ModelScores>);
    for (name, n_checkpoints, ModelToScore { path, scheme, end_step, steps, digest }) in models {
        let is_raw = scheme == RAW_SCHEME;
        let scores = evaluator.score_checkpoint(&path);
        if is_raw && scores.as_ref().is_err_and(is_gone) {
            continue;
        }
        let Some(scores) = found.unless_failed(scores, (&name, digest.as_ref(), end_step))? else { continue };
        let rows = scores.rows(baseline.as_ref());
        let blank = WatchRow::scored(end_step, unix_seconds());
        found.rows.push(WatchRow { name, scheme, n_checkpoints, steps, digest, scores: rows, ..blank });
        if is_raw {
            baseline = Some(scores);
        }
    }
    look_ahead(job, evaluator, unix_seconds, &mut found)?;
    let suites = evaluator.suites();
    found.rows.iter_mut().for_each(|row| row.suites.clone_from(&suites));
    Ok(found)
}

/// What an anneal would score, and what real ones do.
fn look_ahead(
    job: &ScoreJob,
    evaluator: &mut dyn Evaluator,
    unix_seconds: &dyn Fn() -> u64,
    found: &mut EndScores,
) -> Result<(), Error> {
    let end_step = job.end_step;
    for path in &job.annealed {
        let name = path.display().to_string();
        if let Some(scores) = found.unless_failed(evaluator.score_checkpoint(path), (&name, None, end_step))? {
            found.rows.push(annealed_row(name, end_step, &scores, unix_seconds()));
        }
    }
    if let Some(forecast) = &job.forecast {
        let row = forecast_end(forecast, end_step, evaluator, unix_seconds());
        let of_forecast = (&*forecast_name(end_step), forecast.digest.as_ref(), end_step);
        if let Some((row, items)) = found.unless_failed(row, of_forecast)? {
            found.rows.push(row);
            found.items = items;
        }
    }
    Ok(())
}

impl EndScores {
    /// What was found; `None` where it failed; the failure is added to `failed`.
    fn unless_failed<T>(
        &mut self,
        found: Result<T, Error>,
        (name, digest, end_step): (&str, Option<&String>, u64),
    ) -> Result<Option<T>, Error> {
        match found {
            Err(error) if !error.is_interrupt() && !error.is_late() => {
                let (name, digest) = (name.to_owned(), digest.cloned());
                self.failed.push(UnscoredModel { name, digest, end_step, error });
                Ok(None)
            }
            found => found.map(Some),
        }
    }
}

fn is_gone(error: &Error) -> bool {
    let of_checkpoint = |error: &thalweg_checkpoint::Error| matches!(error, thalweg_checkpoint::Error::Storage(error) if error.is_not_found());
    match error {
        Error::Checkpoint(error) | Error::Merge(thalweg_merge::Error::Checkpoint(error)) => of_checkpoint(error),
        Error::Storage(error) => error.is_not_found(),
        _ => false,
    }
}
