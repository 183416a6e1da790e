//! Scores that a caller gives for merges once they are asked for: a question is put, what is missing is scored, and the
//! question is put again.
//!
//! So the caller scores where it wants, on its own thread, and no question has to wait in the middle.

use std::collections::BTreeMap;
use std::path::Path;

use thalweg_eval::external::ExternalScore;
use thalweg_merge::plan::OutputPlan;
use thalweg_tensor::counted;

use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, OnScore};
use crate::record::{CostRow, SuiteRow};
use crate::recorded::{RECORDED_SUITE, suite_of};

/// Scores by the merge that they are of, and the merges that a question lacked.
#[derive(Debug, Clone, Default)]
pub struct AskedScores {
    known: BTreeMap<String, ModelScores>,
    missing: Vec<OutputPlan>,
}

impl AskedScores {
    /// The merges whose scores the last question lacked; none if it was answered.
    pub fn take_missing(&mut self) -> Vec<OutputPlan> {
        std::mem::take(&mut self.missing)
    }

    /// Records what a merge scored.
    ///
    /// # Errors
    /// `Merge` for a plan that cannot be written down.
    pub fn record(&mut self, output: &OutputPlan, scores: Vec<ExternalScore>) -> Result<(), Error> {
        self.known.insert(output.digest()?, ModelScores::from_external(RECORDED_SUITE, scores));
        Ok(())
    }
}

impl Evaluator for AskedScores {
    fn suites(&self) -> Vec<SuiteRow> {
        vec![suite_of(self.known.values())]
    }

    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, Error> {
        Err(Error::request(format!("`{}` has no scores: only merges are asked for", path.display())))
    }

    fn score_merges(&mut self, outputs: &[OutputPlan], on_score: OnScore<'_>) -> Result<Vec<ModelScores>, Error> {
        let mut found = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            match self.known.get(&output.digest()?) {
                Some(scores) => {
                    on_score(i, scores);
                    found.push(scores.clone());
                }
                None => self.missing.push(output.clone()),
            }
        }
        match self.missing.is_empty() {
            true => Ok(found),
            false => Err(Error::request(format!("scores are missing: {}", counted(self.missing.len(), "merge")))),
        }
    }

    fn cost(&self) -> CostRow {
        CostRow { n_evaluations: self.known.len() as u64, ..CostRow::default() }
    }
}
