//! The results of one model.

use std::collections::BTreeMap;
use std::path::Path;

use thalweg_tensor::counted;

use super::items::{TaskItems, sums};
use super::score::{ExternalScore, RefusedScore, Row, TaskDataset, known_direction};
use crate::Error;

/// The scores of a file of results. One bad number does not invalidate the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExternalResults {
    /// The scores that can be used, at least one.
    pub scores: Vec<ExternalScore>,
    /// The scores that cannot be used.
    pub refused: Vec<RefusedScore>,
    /// What each item scored, by the task, for the scores whose items are known.
    pub items: BTreeMap<String, TaskItems>,
    /// The data set of each task that names one.
    pub datasets: Vec<TaskDataset>,
    /// Notes about the items.
    pub notes: Vec<String>,
}

/// Sorts usable scores from others. A score that is given twice is usable if both times are equal.
pub(super) fn sorted(rows: Vec<Row>) -> ExternalResults {
    let mut results = ExternalResults::default();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut contradicted: BTreeMap<String, f64> = BTreeMap::new();
    for row in rows {
        match row.and_then(check_error) {
            Err(refused) => results.refused.push(refused),
            Ok(score) => match places.get(&score.task).map(|place| &results.scores[*place]) {
                None => {
                    places.insert(score.task.clone(), results.scores.len());
                    results.scores.push(score);
                }
                Some(first) if *first == score => {}
                Some(_) => {
                    contradicted.entry(score.task).or_insert(score.value);
                }
            },
        }
    }
    results.scores.retain(|score| {
        let other = contradicted.get(&score.task);
        let why = other.map(|other| format!("it is given twice, as {} and as {other}", score.value));
        results.refused.extend(why.map(|why| RefusedScore { task: score.task.clone(), why }));
        other.is_none()
    });
    results
}

/// Refuses a score whose standard error is negative.
fn check_error(score: ExternalScore) -> Row {
    match score.standard_error {
        Some(error) if error < 0.0 => {
            Err(RefusedScore { task: score.task, why: format!("its standard error is {error}, which is negative") })
        }
        _ => Ok(score),
    }
}

/// # Errors
/// `ResultsInvalid` without a usable score.
pub(super) fn check_usable(results: &ExternalResults, path: &Path) -> Result<(), Error> {
    if !results.scores.is_empty() {
        return Ok(());
    }
    let why = results.refused.iter().map(|refused| format!("; `{}`: {}", refused.task, refused.why));
    let what = format!("it has no usable score{}", why.take(MAX_REASONS).collect::<String>());
    Err(Error::ResultsInvalid { path: path.to_owned(), what })
}

/// The most refused scores that an error lists.
const MAX_REASONS: usize = 8;

/// Adds items to the scores that they explain. Scores that are not the mean of their items stay without.
pub(super) fn attach(results: &mut ExternalResults, mut found: BTreeMap<String, TaskItems>) {
    if results.scores.is_empty() {
        results.scores = found.iter().filter_map(score_of).collect();
    }
    for score in &mut results.scores {
        let Some(items) = found.remove(&score.task) else { continue };
        let columns = items.columns(|_| true);
        let sums = sums(&columns, items.is_exponential);
        let value = sums.value();
        if (value - score.value).abs() > 1e-6 * score.value.abs().max(1.0) {
            results.notes.push(format!(
                "`{}` is {}, and its items give {value}: it is compared without them",
                score.task, score.value
            ));
            continue;
        }
        let n_items = items.values.len() as u64;
        if let Some(n) = score.n.filter(|n| *n != n_items) {
            let (items, known) = (counted(n, "item"), counted(n_items, "item"));
            results.notes.push(format!(
                "`{}` is of {items}, but there are values of {known}: it is compared without them",
                score.task
            ));
            continue;
        }
        score.n = Some(n_items);
        score.standard_error = score.standard_error.or_else(|| sums.standard_error());
        results.items.insert(score.task.clone(), items);
    }
}

/// The score of items alone, if it is known whether more is better.
fn score_of((task, items): (&String, &TaskItems)) -> Option<ExternalScore> {
    let metric = task.rsplit('/').next().unwrap_or_default();
    let higher_is_better = known_direction(metric.split(',').next().unwrap_or_default())?;
    let columns = items.columns(|_| true);
    let value = sums(&columns, items.is_exponential).value();
    value.is_finite().then(|| ExternalScore {
        task: task.clone(),
        value,
        standard_error: None,
        n: None,
        higher_is_better,
    })
}
