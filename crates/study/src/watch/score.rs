//! Scores of what a watcher merged: the newest end first, each merge beside the raw checkpoint at its end.

use std::path::PathBuf;

use super::WatchedOutput;
use super::record::{RAW_SCHEME, WatchEvent, WatchRow};
use crate::Error;
use crate::evaluator::{Evaluator, ModelScores};

/// The models of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScoreJob {
    pub(super) end_step: u64,
    /// The raw checkpoint, if it still exists, with its name and the digest of its tensors.
    pub(super) raw: Option<(PathBuf, String, Option<String>)>,
    /// Merges that were not scored yet.
    pub(super) outputs: Vec<(WatchedOutput, Vec<u64>)>,
}

/// Scores the models of one end, and makes their lines. The raw checkpoint goes first: the others' gains are over it.
///
/// # Errors
/// What the evaluator gives for a merge. A raw checkpoint that vanished is left out.
pub(super) fn score_end(
    job: &ScoreJob,
    evaluator: &mut dyn Evaluator,
    unix_seconds: &dyn Fn() -> u64,
) -> Result<Vec<WatchRow>, Error> {
    let mut rows = Vec::new();
    let suites = evaluator.suites();
    let mut baseline: Option<ModelScores> = None;
    if let Some((path, name, digest)) = &job.raw {
        match evaluator.score_checkpoint(path) {
            Ok(scores) => {
                rows.push(WatchRow {
                    name: name.clone(),
                    scheme: RAW_SCHEME.to_owned(),
                    n_checkpoints: 1,
                    steps: vec![job.end_step],
                    digest: digest.clone(),
                    suites: suites.clone(),
                    scores: scores.rows(None),
                    ..WatchRow::scored(job.end_step, unix_seconds())
                });
                baseline = Some(scores);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    for (output, steps) in &job.outputs {
        let scores = evaluator.score_checkpoint(&output.path)?;
        rows.push(WatchRow {
            event: WatchEvent::Scored,
            name: output.name(),
            scheme: output.scheme.clone(),
            n_checkpoints: output.n_checkpoints,
            steps: steps.clone(),
            digest: output.digest.clone(),
            suites: suites.clone(),
            scores: scores.rows(baseline.as_ref()),
            ..WatchRow::scored(job.end_step, unix_seconds())
        });
    }
    Ok(rows)
}

fn is_gone(error: &Error) -> bool {
    let of_checkpoint = |error: &thalweg_checkpoint::Error| matches!(error, thalweg_checkpoint::Error::Storage(error) if error.is_not_found());
    match error {
        Error::Checkpoint(error) | Error::Merge(thalweg_merge::Error::Checkpoint(error)) => of_checkpoint(error),
        Error::Storage(error) => error.is_not_found(),
        _ => false,
    }
}
