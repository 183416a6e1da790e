//! Losses that are `null` or empty to the end of a log: JSON has no NaN, so writers store a diverged loss this way.

use super::columns::ColumnMatch;
use super::{LogEntry, LogNote, MAX_LOG_RECORDS};
use crate::Step;

/// A last record without a loss is usual: evaluations and summaries have none.
const LEAST_NULLS: usize = 2;

/// Records whose loss is null, since the last number.
#[derive(Debug, Default)]
pub(super) struct NullLosses {
    /// The column of the current record whose loss is null.
    pub(super) current: Option<u16>,
    steps: Vec<u64>,
    /// Whether a number followed a null: then null means that nothing was logged.
    means_unlogged: bool,
}

impl NullLosses {
    /// Ends a record at `step` that has a number for the loss in column `found`, if any; `best` is the loss's column.
    pub(super) fn end_record(&mut self, step: Option<u64>, best: Option<ColumnMatch>, found: Option<u16>) {
        let Some(best) = best else { return };
        if found == Some(best.id) {
            self.means_unlogged |= !self.steps.is_empty();
            self.steps.clear();
        } else if self.current == Some(best.id) && self.steps.len() < MAX_LOG_RECORDS {
            self.steps.extend(step);
        }
    }

    /// Makes the losses NaN that are null to the end of the log, in `entries` in the order of their steps.
    pub(super) fn take_as_nan(&mut self, entries: &mut Vec<LogEntry>) -> Option<LogNote> {
        let last = entries.iter().rev().find(|entry| entry.loss.is_some())?.step;
        let mut steps = std::mem::take(&mut self.steps);
        steps.retain(|step| *step > last.0);
        steps.sort_unstable();
        steps.dedup();
        let from = Step(*steps.first()?);
        if self.means_unlogged || steps.len() < LEAST_NULLS {
            return None;
        }
        let mut missing = Vec::new();
        for step in steps.iter().map(|step| Step(*step)) {
            match entries.binary_search_by_key(&step, |entry| entry.step) {
                Ok(at) => entries[at].loss = Some(f64::NAN),
                Err(_) => {
                    let loss = Some(f64::NAN);
                    missing.push(LogEntry { step, tokens: None, loss, learning_rate: None, grad_norm: None });
                }
            }
        }
        entries.extend(missing);
        entries.sort_by_key(|entry| entry.step);
        Some(LogNote::NullLosses { from, n_records: steps.len() })
    }
}
