//! What a sweep found: which window is best by the selection suite, and what it gains where nothing was chosen.

use thalweg_merge::plan::OutputPlan;

use crate::Error;
use crate::evaluator::{Evaluator, ModelScores, TaskScore};
use crate::record::{ChoiceRow, MergeSource, RawRow, TrialRow};

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

/// Scores raw checkpoints and merges together, so that each reading of the sources serves both.
///
/// # Errors
/// What the evaluator gives.
pub(crate) fn score_sweep(
    raws: Vec<SweepTrial>,
    trials: Vec<SweepTrial>,
    evaluator: &mut dyn Evaluator,
    on_score: &mut dyn FnMut(usize, &str),
) -> Result<SweepFindings, Error> {
    let n_raws = raws.len();
    let all: Vec<SweepTrial> = raws.into_iter().chain(trials).collect();
    let outputs: Vec<OutputPlan> = all.iter().map(|trial| trial.output.clone()).collect();
    let mut n_done = 0;
    let scores = evaluator.score_merges(&outputs, &mut |i, _| {
        n_done += 1;
        on_score(n_done, &all[i].name);
    })?;
    let mut scored = all.into_iter().zip(scores).map(|(trial, scores)| ScoredTrial { trial, scores });
    let raws = scored.by_ref().take(n_raws).collect();
    Ok(SweepFindings { raws, trials: scored.collect() })
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
    found.cloned().ok_or_else(|| {
        let mut names: Vec<String> = known().map(TaskScore::name).collect();
        names.sort();
        names.dedup();
        Error::request_with_hint(
            format!("there is no score `{}`", by.unwrap_or("of any task")),
            format!("there are {}", names.join(", ")),
        )
    })
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
        let value = |scored: &ScoredTrial| scored.scores.find(by).map(|score| score.value);
        let better = |a: f64, b: f64| if by.higher_is_better { a > b } else { a < b };
        let mut best: Option<(&ScoredTrial, f64)> = None;
        for trial in &self.trials {
            let Some(value) = value(trial) else { continue };
            if best.is_none_or(|(_, known)| better(value, known)) {
                best = Some((trial, value));
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
        let value = |raw: &ScoredTrial, like: &TaskScore| raw.scores.find(like).map(|score| score.value);
        let shown_values: Vec<f64> = raws.iter().map(|raw| value(raw, shown)).collect::<Option<_>>()?;
        let sign = if deciding.higher_is_better { -1.0 } else { 1.0 };
        let costs: Vec<f64> = raws.iter().map(|raw| Some(sign * value(raw, deciding)?)).collect::<Option<_>>()?;
        let best = (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b]))?;
        let mean = shown_values.iter().sum::<f64>() / shown_values.len() as f64;
        Some(Ingredients { mean, best_step: steps[best], best: shown_values[best] })
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
