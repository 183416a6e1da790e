//! Scores that another program gave for the trials of a sweep, one by one: a study of them is made like any other.

use std::collections::BTreeMap;
use std::path::Path;

use thalweg_eval::external::ExternalScore;
use thalweg_merge::plan::OutputPlan;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, OnScore};
use crate::record::{ChoiceRow, CostRow, SuiteRow};
use crate::sweep::{Sweep, SweepTrial, score_sweep};

/// What the suite of such scores is called.
pub(crate) const RECORDED_SUITE: &str = "recorded";

/// Scores by the name of the trial.
#[derive(Debug, Clone, Default)]
pub struct RecordedScores {
    by_trial: BTreeMap<String, ModelScores>,
}

impl RecordedScores {
    /// Records what a trial scored, instead of what was recorded for it before.
    pub fn record(&mut self, trial: &str, scores: Vec<ExternalScore>) {
        self.by_trial.insert(trial.to_owned(), ModelScores::from_external(RECORDED_SUITE, scores));
    }

    /// What a trial scored, if it was recorded.
    pub fn find(&self, trial: &str) -> Option<&ModelScores> {
        self.by_trial.get(trial)
    }

    /// The sweep without the trials that were not scored.
    ///
    /// # Errors
    /// `Request` if no merge was.
    pub fn scored_part(&self, sweep: &Sweep) -> Result<Sweep, Error> {
        let scored = |trials: &[SweepTrial]| -> Vec<SweepTrial> {
            trials.iter().filter(|trial| self.by_trial.contains_key(&trial.name)).cloned().collect()
        };
        let part = Sweep { trials: scored(&sweep.trials), raws: scored(&sweep.raws) };
        if part.trials.is_empty() {
            return Err(Error::request_with_hint(
                "no merge of the sweep has scores",
                "call `trial.record(scores)` for each trial",
            ));
        }
        Ok(part)
    }

    /// The best merge by one score, as a study chooses it; `by` is a task or `task/measure`, the first one if left out.
    ///
    /// # Errors
    /// `Request` where nothing was scored, or not by that.
    pub fn choose(&self, sweep: &Sweep, by: Option<&str>) -> Result<ChoiceRow, Error> {
        let part = self.scored_part(sweep)?;
        let findings = score_sweep(&part, &mut self.clone(), &mut |_, _| {})?;
        let choice = findings.choose(&findings.deciding(by)?);
        choice.ok_or_else(|| Error::request("no merge has the score that the choice is made by"))
    }

    fn scores_of(&self, path: &Path) -> Result<ModelScores, Error> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.find(&name).cloned().ok_or_else(|| {
            Error::request_with_hint(
                format!("trial `{name}` has no scores"),
                "call `trial.record(scores)` for each trial",
            )
        })
    }
}

/// The suite that scores of models stand for.
pub(crate) fn suite_of<'a>(models: impl Iterator<Item = &'a ModelScores>) -> SuiteRow {
    let mut labels: Vec<String> = models.flat_map(|scores| scores.tasks.iter().map(|task| task.label())).collect();
    labels.sort();
    labels.dedup();
    // Nothing is known of the items but what the scores are called.
    let digest = bytes_digest(DigestKind::Blake3, labels.join("\n").as_bytes()).to_string();
    SuiteRow { name: RECORDED_SUITE.to_owned(), role: None, digest }
}

impl Evaluator for RecordedScores {
    fn suites(&self) -> Vec<SuiteRow> {
        vec![suite_of(self.by_trial.values())]
    }

    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, Error> {
        self.scores_of(path)
    }

    fn score_merges(&mut self, outputs: &[OutputPlan], on_score: OnScore<'_>) -> Result<Vec<ModelScores>, Error> {
        let score = |(i, output): (usize, &OutputPlan)| {
            let scores = self.scores_of(&output.path)?;
            on_score(i, &scores);
            Ok(scores)
        };
        outputs.iter().enumerate().map(score).collect()
    }

    fn cost(&self) -> CostRow {
        CostRow { n_evaluations: self.by_trial.len() as u64, ..CostRow::default() }
    }
}
