//! Scores that were handed over one by one, each under the name of its merge: a study of them is made like any other,
//! and one whose merges are not known beforehand says which scores are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use thalweg_eval::external::ExternalScore;
use thalweg_merge::plan::OutputPlan;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, OnScore, TaskScore};
use crate::record::{ChoiceRow, CostRow, SuiteRow};
use crate::sweep::{Sweep, SweepTrial, score_sweep};
use crate::text::file_name;

/// What the suite of such scores is called.
const RECORDED_SUITE: &str = "recorded";

/// Scores by the name of the trial.
#[derive(Debug, Clone, Default)]
pub struct RecordedScores {
    by_trial: BTreeMap<String, ModelScores>,
    missing: Vec<(String, OutputPlan)>,
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

    /// The merges without scores of the study that was last tried, with their names.
    pub fn take_missing(&mut self) -> Vec<(String, OutputPlan)> {
        std::mem::take(&mut self.missing)
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
}

fn no_scores(name: &str) -> Error {
    Error::request_with_hint(
        format!("`{name}` has no scores"),
        "give it scores: `trial.record(scores)` in a sweep, what `evaluate` returns in a forecast",
    )
}

impl Evaluator for RecordedScores {
    /// The suite that the scores stand for. Nothing is known of its items but what the scores are called.
    fn suites(&self) -> Vec<SuiteRow> {
        let tasks = self.by_trial.values().flat_map(|scores| &scores.tasks);
        let labels: BTreeSet<String> = tasks.map(TaskScore::label).collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join("\n");
        let digest = bytes_digest(DigestKind::Blake3, labels.as_bytes()).to_string();
        vec![SuiteRow { name: RECORDED_SUITE.to_owned(), role: None, digest }]
    }

    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, Error> {
        let name = file_name(path);
        self.find(&name).cloned().ok_or_else(|| no_scores(&name))
    }

    fn score_merges(&mut self, outputs: &[OutputPlan], on_score: OnScore<'_>) -> Result<Vec<ModelScores>, Error> {
        let mut found = Vec::new();
        self.missing.clear();
        for (i, output) in outputs.iter().enumerate() {
            let name = file_name(&output.path);
            match self.by_trial.get(&name) {
                None => self.missing.push((name, output.clone())),
                Some(scores) => {
                    on_score(i, scores);
                    found.push(scores.clone());
                }
            }
        }
        self.missing.first().map_or(Ok(found), |(name, _)| Err(no_scores(name)))
    }

    fn cost(&self) -> CostRow {
        CostRow { n_evaluations: self.by_trial.len() as u64, ..CostRow::default() }
    }
}
