//! What a sweep found: which window is best by the selection suite, and what it gains where nothing was chosen.

use thalweg_merge::plan::OutputPlan;

use crate::Error;
use crate::evaluator::{ModelScores, TaskScore, no_such_score};
use crate::record::{ChoiceRow, MergeSource, RawRow, TrialRow};
use crate::values::mean;

/// How a window was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowInterval {
    /// Steps between neighbours, where they are equal.
    pub interval_steps: Option<u64>,
    /// Tokens between neighbours, where asked for in tokens.
    pub interval_tokens: Option<u64>,
}

/// One merge of a sweep, or one raw checkpoint.
#[derive(Debug, Clone)]
pub struct SweepTrial {
    /// Unique name.
    pub name: String,
    /// The merge; a window of one is a raw checkpoint.
    pub output: OutputPlan,
    /// How the window was asked for.
    pub interval: WindowInterval,
}

/// A trial with its scores.
#[derive(Debug, Clone)]
pub struct ScoredTrial {
    /// What it is.
    pub trial: SweepTrial,
    /// What it scored.
    pub scores: ModelScores,
}

/// What a sweep found.
#[derive(Debug, Clone, Default)]
pub struct SweepFindings {
    /// Raw checkpoints by step.
    pub raws: Vec<ScoredTrial>,
    /// Merges in the order asked for.
    pub trials: Vec<ScoredTrial>,
}

/// Raw checkpoints that went into one window, summed up.
#[derive(Debug, Clone, PartialEq)]
pub struct Ingredients {
    /// Mean score of the window's checkpoints.
    pub mean: f64,
    /// Step of the checkpoint that is best by the deciding score.
    pub best_step: u64,
    /// What that checkpoint scored.
    pub best: f64,
}

/// The score that decides: `by` is a task or `task/measure`; else the first one that every model has.
///
/// # Errors
/// `Request` where there is no such score.
pub(crate) fn deciding<'a>(
    models: impl Iterator<Item = &'a ModelScores> + Clone,
    by: Option<&str>,
) -> Result<TaskScore, Error> {
    let known = || models.clone().flat_map(|scores| &scores.tasks);
    let found = match by {
        None => known().find(|score| models.clone().all(|model| model.find(score).is_some())).or(known().next()),
        Some(by) => known().find(|one| one.is_called(by)),
    };
    found.cloned().ok_or_else(|| no_such_score(by, known().map(TaskScore::name)))
}

impl SweepTrial {
    /// Step of the newest source.
    pub fn end_step(&self) -> u64 {
        self.output.sources.iter().filter_map(|source| source.step).max().unwrap_or(0)
    }
}

impl SweepFindings {
    /// The raw checkpoint of a step.
    pub(crate) fn raw_at(&self, step: u64) -> Option<&ScoredTrial> {
        self.raws.iter().find(|raw| raw.trial.end_step() == step)
    }

    /// The score that decides, as [`deciding`] finds it among the merges.
    pub(crate) fn deciding(&self, by: Option<&str>) -> Result<TaskScore, Error> {
        deciding(self.trials.iter().map(|one| &one.scores), by)
    }

    /// The best trial by one score; the earlier of two that are equal.
    pub fn choose(&self, by: &TaskScore) -> Option<ChoiceRow> {
        let mut best: Option<(&ScoredTrial, &TaskScore)> = None;
        for trial in &self.trials {
            let Some(score) = trial.scores.find(by) else { continue };
            if best.is_none_or(|(_, known)| score.cost() < known.cost()) {
                best = Some((trial, score));
            }
        }
        best.map(|(trial, _)| ChoiceRow {
            trial: trial.trial.name.clone(),
            suite: by.suite.clone(),
            task: by.task.clone(),
            measure: by.measure.clone(),
            n_candidates: self.trials.len(),
        })
    }

    /// The checkpoints of a window by the score `shown`; which is best is decided by `deciding`. `None` unless all were
    /// scored.
    pub fn ingredients(&self, trial: &ScoredTrial, deciding: &TaskScore, shown: &TaskScore) -> Option<Ingredients> {
        let steps: Vec<u64> = trial.trial.output.sources.iter().filter_map(|source| source.step).collect();
        let raws: Vec<&ScoredTrial> = steps.iter().map(|&step| self.raw_at(step)).collect::<Option<_>>()?;
        let shown_values: Vec<f64> =
            raws.iter().map(|raw| Some(raw.scores.find(shown)?.value)).collect::<Option<_>>()?;
        let costs: Vec<f64> = raws.iter().map(|raw| Some(raw.scores.find(deciding)?.cost())).collect::<Option<_>>()?;
        let best = (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b]))?;
        Some(Ingredients { mean: mean(&shown_values), best_step: steps[best], best: shown_values[best] })
    }

    /// Rows of a record: gains are over the raw checkpoint at the end of each window.
    pub fn rows(&self) -> Result<(Vec<RawRow>, Vec<TrialRow>), Error> {
        let raws = self.raws.iter().map(|raw| RawRow {
            step: raw.trial.end_step(),
            path: raw.trial.output.sources.first().map_or_else(String::new, |source| source.path.display().to_string()),
            params_digest: raw.scores.params_digest.clone(),
            scores: raw.scores.rows(None),
        });
        let trials = self.trials.iter().map(|scored| {
            let ScoredTrial { trial, scores } = scored;
            let end_step = trial.end_step();
            let sources = trial.output.sources.iter();
            Ok(TrialRow {
                name: trial.name.clone(),
                plan_digest: trial.output.digest()?,
                end_step,
                n_checkpoints: trial.output.sources.len(),
                interval_steps: trial.interval.interval_steps,
                interval_tokens: trial.interval.interval_tokens,
                scheme: trial.output.scheme.clone(),
                path: None,
                params_digest: scores.params_digest.clone(),
                sources: sources
                    .map(|source| MergeSource { step: source.step.unwrap_or(0), coefficient: source.coefficient })
                    .collect(),
                scores: scores.rows(self.raw_at(end_step).map(|raw| &raw.scores)),
            })
        });
        Ok((raws.collect(), trials.collect::<Result<_, Error>>()?))
    }
}
