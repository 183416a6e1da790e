//! Whether two columns of a log count different things under names that both mean the step: micro-batches, or the
//! steps of an epoch, beside the optimizer's steps.

use super::columns::ColumnMatch;

/// Names that do not say whose steps they count. `_step` of Weights & Biases counts its own calls and never decides;
/// `iter` beside `step` has a rule that knows how Lightning writes it.
const UNCLEAR: [&str; 5] = ["step", "global_step", "iteration", "num_updates", "steps"];

/// A column and its value.
type StepValue = (u16, u64);

/// How such columns of the same records compare.
#[derive(Debug, Default)]
pub(super) struct StepRivals {
    /// The lowest and the highest step of the current record.
    current: Option<[StepValue; 2]>,
    n_both: usize,
    n_apart: usize,
    first: Option<[StepValue; 2]>,
}

impl StepRivals {
    /// Whether the name of a step's column leaves open what it counts.
    pub(super) fn is_unclear(column: ColumnMatch) -> bool {
        column.known_name().is_some_and(|name| UNCLEAR.contains(&name))
    }

    /// Takes a step of the current record.
    pub(super) fn push(&mut self, column: ColumnMatch, step: u64) {
        if !Self::is_unclear(column) {
            return;
        }
        let value = (column.id, step);
        let [low, high] = self.current.get_or_insert([value; 2]);
        if step < low.1 {
            *low = value;
        } else if step > high.1 || high.0 == low.0 {
            *high = value;
        }
    }

    /// Compares the steps of the current record. Counting from 0 and from 1 is not a difference.
    pub(super) fn end_record(&mut self) {
        let Some([low, high]) = self.current.take().filter(|[low, high]| low.0 != high.0) else { return };
        self.n_both += 1;
        if high.1 - low.1 > 1 {
            self.n_apart += 1;
            self.first.get_or_insert([low, high]);
        }
    }

    /// The first record with two steps, if most of such records have two that differ.
    pub(super) fn disagreement(&self) -> Option<[StepValue; 2]> {
        self.first.filter(|_| 2 * self.n_apart > self.n_both)
    }
}
