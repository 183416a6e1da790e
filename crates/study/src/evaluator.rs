//! Scores of checkpoints and of merges, wherever they come from: this program's engine, or another program.
//!
//! A study asks an [`Evaluator`]; [`crate::engine_evaluator`] scores in memory, a face may bring one that runs a
//! command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_eval::external::{ExternalScore, unpaired_gain};
use thalweg_eval::uncertainty::Bootstrap;
use thalweg_eval::{TaskScores, compare_scores};
use thalweg_merge::Coefficients;
use thalweg_merge::compose::compose_outputs;
use thalweg_merge::plan::OutputPlan;

use crate::Error;
use crate::record::{CostRow, GainRow, ScoreRow, SuiteRow};

/// One score with what it takes to pair it with another.
#[derive(Debug, Clone)]
pub struct TaskScore {
    /// Suite by name.
    pub suite: String,
    /// The task.
    pub task: String,
    /// What was measured.
    pub measure: String,
    /// The value.
    pub value: f64,
    /// Its standard error, if known.
    pub standard_error: Option<f64>,
    /// Items; 0 where they are not known.
    pub n: u64,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Values of each item; nothing where another program scored.
    pub items: Option<Arc<TaskScores>>,
}

/// What one model scored.
#[derive(Debug, Clone, Default)]
pub struct ModelScores {
    /// Digest of its parameters, where one was taken.
    pub params_digest: Option<String>,
    /// Suites in order, tasks in order, measures in order.
    pub tasks: Vec<TaskScore>,
}

/// A model on disk to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelToScore {
    /// Its folder or file.
    pub path: PathBuf,
    /// The scheme of a merge, or `raw`.
    pub scheme: String,
    /// The newest step in it.
    pub end_step: u64,
    /// Steps of its sources, oldest first.
    pub steps: Vec<u64>,
    /// Digest of its tensors, where known.
    pub digest: Option<String>,
}

/// Told the place and the scores of each model once it is scored.
pub type OnScore<'a> = &'a mut dyn FnMut(usize, &ModelScores);

/// Gives scores and counts what they cost.
pub trait Evaluator {
    /// What is scored on.
    fn suites(&self) -> Vec<SuiteRow>;

    /// Tokens that one model takes; `None` where that is not known.
    fn tokens_per_model(&self) -> Option<u64> {
        None
    }

    /// Hears which checkpoints will be scored one after the other, so that others can begin with all of them.
    ///
    /// # Errors
    /// `Storage` where a request cannot be written.
    fn announce(&mut self, _models: &[ModelToScore]) -> Result<(), Error> {
        Ok(())
    }

    /// Scores a checkpoint on disk.
    ///
    /// # Errors
    /// What opening, loading and scoring give.
    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, Error>;

    /// Scores merges of checkpoints, in the order of `outputs`; `on_score` is called after each.
    ///
    /// # Errors
    /// What merging and scoring give; what was scored is kept by the evaluator's cache.
    fn score_merges(&mut self, outputs: &[OutputPlan], on_score: OnScore<'_>) -> Result<Vec<ModelScores>, Error>;

    /// Scores combinations of points, which are weighted sums themselves, in the order of `combinations`.
    ///
    /// An evaluator that can hold the points in memory reads each source once, and not again while it is asked about
    /// the same points; their values are then rounded to F32 first.
    ///
    /// # Errors
    /// As [`score_merges`](Self::score_merges); `Merge` for points that are not weighted sums.
    fn score_combinations(
        &mut self,
        points: &[OutputPlan],
        combinations: &[Coefficients],
        on_score: OnScore<'_>,
    ) -> Result<Vec<ModelScores>, Error> {
        self.score_merges(&combined(points, combinations)?, on_score)
    }

    /// What it took so far. Seconds are the caller's to fill in.
    fn cost(&self) -> CostRow;
}

/// The merges that combinations of points are.
///
/// # Errors
/// `Merge` for points that are not weighted sums, and for a combination that is nothing.
pub fn combined(points: &[OutputPlan], combinations: &[Coefficients]) -> Result<Vec<OutputPlan>, Error> {
    let compose = |(i, coefficients): (usize, &Coefficients)| {
        let name = format!("combination-{i}");
        Ok(compose_outputs(Path::new(&name), "custom", points, coefficients)?)
    };
    combinations.iter().enumerate().map(compose).collect()
}

impl ModelScores {
    /// The scores of tasks that the engine gave, for one suite.
    pub(crate) fn from_tasks(suite: &str, tasks: Vec<TaskScores>, params_digest: Option<String>) -> Self {
        let tasks = tasks.into_iter().flat_map(|task| {
            let task = Arc::new(task);
            task.scores().into_iter().map(move |score| TaskScore {
                suite: suite.to_owned(),
                task: score.task,
                measure: score.measure.name().to_owned(),
                value: score.value,
                standard_error: score.standard_error,
                n: score.n as u64,
                higher_is_better: score.higher_is_better,
                items: Some(Arc::clone(&task)),
            })
        });
        Self { params_digest, tasks: tasks.collect() }
    }

    /// The scores that another program gave.
    pub fn from_external(suite: &str, scores: Vec<ExternalScore>) -> Self {
        let tasks = scores.into_iter().map(|score| {
            let (task, measure) = score.task.split_once('/').unwrap_or((&score.task, "value"));
            TaskScore {
                suite: suite.to_owned(),
                task: task.to_owned(),
                measure: measure.to_owned(),
                value: score.value,
                standard_error: score.standard_error,
                n: score.n.unwrap_or(0),
                higher_is_better: score.higher_is_better,
                items: None,
            }
        });
        Self { params_digest: None, tasks: tasks.collect() }
    }

    /// The first score of each task among those that are meant.
    pub(crate) fn first_of_tasks(&self, is_meant: impl Fn(&TaskScore) -> bool) -> Vec<TaskScore> {
        let mut known = BTreeSet::new();
        self.tasks.iter().filter(|score| is_meant(score) && known.insert(&score.task)).cloned().collect()
    }

    /// The score of one task by one measure.
    pub fn find(&self, like: &TaskScore) -> Option<&TaskScore> {
        self.tasks.iter().find(|task| task.is_like(like))
    }

    /// Rows of a record, with the gain over `baseline` where one is given.
    pub fn rows(&self, baseline: Option<&Self>) -> Vec<ScoreRow> {
        let row = |task: &TaskScore| ScoreRow {
            suite: task.suite.clone(),
            task: task.task.clone(),
            measure: task.measure.clone(),
            value: task.value,
            standard_error: task.standard_error,
            n: task.n,
            higher_is_better: task.higher_is_better,
            gain: baseline.and_then(|baseline| baseline.find(task)).and_then(|over| task.gain_over(over)),
            gain_over_chosen: None,
        };
        self.tasks.iter().map(row).collect()
    }
}

impl TaskScore {
    /// Whether two scores are of the same suite, task and measure.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.suite == other.suite && self.task == other.task && self.measure == other.measure
    }

    /// `task/measure`, as options and documents name it.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.task, self.measure)
    }

    /// Whether `by` names it: a task, or `task/measure`.
    pub(crate) fn is_called(&self, by: &str) -> bool {
        names_score(by, (&self.task, &self.measure))
    }

    /// The value if less is better, its negative if more is.
    pub(crate) fn cost(&self) -> f64 {
        if self.higher_is_better { -self.value } else { self.value }
    }

    /// `task measure`, as people read it.
    pub fn label(&self) -> String {
        format!("{} {}", self.task, self.measure)
    }

    /// How much better it is than `over`, positive is better: item by item where both have items, else as if the two
    /// were independent. `None` where the items are not the same.
    pub fn gain_over(&self, over: &Self) -> Option<GainRow> {
        self.paired_gain(over).map(PairedGain::row)
    }

    /// As [`gain_over`](Self::gain_over), with the standard error.
    pub(crate) fn paired_gain(&self, over: &Self) -> Option<PairedGain> {
        let Some((a, b)) = over.items.as_ref().zip(self.items.as_ref()) else {
            let (value, interval_95) = unpaired_gain(&external(over), &external(self));
            let standard_error = over.standard_error.zip(self.standard_error).map(|(a, b)| a.hypot(b));
            return Some(PairedGain { value, standard_error, interval_95 });
        };
        // The percentile bootstrap is not shown, and its resamples would be most of the time.
        let bootstrap = Bootstrap { seed: 0, n_resamples: 1 };
        let all = compare_scores(std::slice::from_ref(&**a), std::slice::from_ref(&**b), bootstrap).ok()?;
        let found = all.into_iter().find(|one| one.measure.name() == self.measure)?;
        let (value, standard_error) = (found.gain, found.standard_error);
        Some(PairedGain { value, standard_error, interval_95: found.interval_95 })
    }
}

/// Refuses `by` where it names none of the scores that there will be, given by task and measure.
///
/// # Errors
/// `Request` with the scores that there are.
pub fn check_by<'a>(by: &str, mut scores: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<(), Error> {
    let there_are = scores.clone().map(|(task, measure)| format!("{task}/{measure}"));
    if scores.any(|score| names_score(by, score)) { Ok(()) } else { Err(no_such_score(Some(by), there_are)) }
}

/// Whether `by` is a task or `TASK/MEASURE`.
fn names_score(by: &str, (task, measure): (&str, &str)) -> bool {
    by.strip_prefix(task).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/') == Some(measure))
}

pub(crate) fn no_such_score(by: Option<&str>, names: impl Iterator<Item = String>) -> Error {
    let names: BTreeSet<String> = names.collect();
    Error::request_with_hint(
        format!("there is no score `{}`", by.unwrap_or("of any task")),
        format!("there are {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    )
}

/// A gain with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PairedGain {
    /// Positive is better.
    pub value: f64,
    /// Over the same items, where both have items; as if independent otherwise.
    pub standard_error: Option<f64>,
    /// 95 % interval.
    pub interval_95: Option<[f64; 2]>,
}

impl PairedGain {
    /// As records have it.
    pub(crate) fn row(self) -> GainRow {
        GainRow { value: self.value, interval_95: self.interval_95 }
    }
}

fn external(score: &TaskScore) -> ExternalScore {
    ExternalScore {
        task: score.task.clone(),
        value: score.value,
        standard_error: score.standard_error,
        n: Some(score.n),
        higher_is_better: score.higher_is_better,
    }
}
