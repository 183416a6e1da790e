//! Predicts the next value from recent ones: levels, drifts and scales as running medians.
//!
//! Each value costs a few insertions into short sorted lists, whatever the length of the log.

/// A scale is taken over this many residuals.
pub(super) const SCALE_ENTRIES: usize = 128;
/// With fewer residuals there is no scale: the first entries of a log are not judged.
const MIN_RESIDUALS: usize = 10;
/// Residuals below this share of the loss come from rounding when it was printed.
const MIN_SCALE_SHARE: f64 = 2e-4;
/// Turns the median of the absolute values of normal noise into its standard deviation.
pub(super) const MAD_TO_SIGMA: f64 = 1.4826;
/// Values that are kept: the longest window, and those that may have to be forgotten again.
const MIN_KEPT: usize = 512;

/// What the losses before an entry predict for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Baseline {
    pub(super) level: f64,
    pub(super) scale: f64,
}

impl Baseline {
    pub(super) fn height(self, loss: f64) -> f64 {
        (loss - self.level) / self.scale
    }
}

/// The newest numbers of a sequence, indexed by their places in the whole sequence.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: Vec<f64>,
    n_dropped: usize,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.n_dropped + self.kept.len()
    }

    pub(super) fn push(&mut self, value: f64) {
        if self.kept.len() >= 2 * MIN_KEPT {
            self.n_dropped += self.kept.len() - MIN_KEPT;
            self.kept.drain(..self.kept.len() - MIN_KEPT);
        }
        self.kept.push(value);
    }

    pub(super) fn get(&self, idx: usize) -> Option<f64> {
        self.kept.get(idx.checked_sub(self.n_dropped)?).copied()
    }

    /// The values of a range, as far as they are kept.
    fn range(&self, start: usize, end: usize) -> &[f64] {
        let start = start.saturating_sub(self.n_dropped);
        self.kept.get(start..end.saturating_sub(self.n_dropped)).unwrap_or_default()
    }

    fn last(&self, n: usize) -> &[f64] {
        self.range(self.len().saturating_sub(n), self.len())
    }

    fn forget_last(&mut self, n: usize) {
        self.kept.truncate(self.kept.len().saturating_sub(n));
    }

    /// Extends the sequence to this length.
    pub(super) fn pad(&mut self, len: usize, value: f64) {
        if len > self.len() + MIN_KEPT {
            self.n_dropped = len - MIN_KEPT;
            self.kept = vec![value; MIN_KEPT];
        }
        while self.len() < len {
            self.push(value);
        }
    }
}

/// Sorted numbers and their median.
#[derive(Debug, Default)]
pub(super) struct SortedWindow {
    sorted: Vec<f64>,
}

impl SortedWindow {
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Self { sorted }
    }

    pub(super) fn insert(&mut self, value: f64) {
        let at = self.sorted.partition_point(|one| one.total_cmp(&value).is_lt());
        self.sorted.insert(at, value);
    }

    pub(super) fn remove(&mut self, value: f64) {
        let at = self.sorted.partition_point(|one| one.total_cmp(&value).is_lt());
        if at < self.sorted.len() {
            self.sorted.remove(at);
        }
    }

    fn len(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn median(&self) -> Option<f64> {
        let middle = self.sorted.len() / 2;
        let upper = *self.sorted.get(middle)?;
        if !self.sorted.len().is_multiple_of(2) {
            return Some(upper);
        }
        let lower = *self.sorted.get(middle.checked_sub(1)?)?;
        Some(lower + (upper - lower) / 2.0)
    }

    /// Replaces a value by another one, moving only the numbers between them.
    fn replace(&mut self, old: f64, new: f64) {
        let from = self.sorted.partition_point(|one| one.total_cmp(&old).is_lt());
        let to = self.sorted.partition_point(|one| one.total_cmp(&new).is_lt());
        if from >= self.sorted.len() {
            return self.insert(new);
        }
        if from < to {
            self.sorted.copy_within(from + 1..to, from);
        } else {
            self.sorted.copy_within(to..from, to + 1);
        }
        if let Some(slot) = self.sorted.get_mut(if from < to { to - 1 } else { to }) {
            *slot = new;
        }
    }

    /// The median of the distances from `centre`. Both sides are sorted already, so a binary search finds how many of
    /// the nearest numbers are on each side.
    fn median_distance(&self, centre: f64) -> Option<f64> {
        let split = self.sorted.partition_point(|value| *value < centre);
        let n_below =
            |i: usize| split.checked_sub(i + 1).and_then(|at| self.sorted.get(at)).map(|value| (value - centre).abs());
        let n_above = |i: usize| self.sorted.get(split + i).map(|value| (value - centre).abs());
        let n = self.sorted.len();
        // How many of the `n_near` nearest are below: at least `least`, at most `most`.
        let n_near = n / 2 + 1;
        let (mut least, mut most) = (n_near.saturating_sub(n - split), n_near.min(split));
        while least < most {
            let middle = least.midpoint(most);
            let is_too_few = match (n_below(middle), n_near.checked_sub(middle + 1).and_then(n_above)) {
                (Some(next), Some(last)) => next < last,
                _ => false,
            };
            if is_too_few { least = middle + 1 } else { most = middle }
        }
        let last = |side: &dyn Fn(usize) -> Option<f64>, n: usize| n.checked_sub(1).and_then(side);
        let (below, above) = (last(&n_below, least), last(&n_above, n_near - least));
        let (upper, lower) = match (below, above) {
            (Some(below), Some(above)) if below > above => {
                (below, last(&n_below, least - 1).map_or(above, |one| one.max(above)))
            }
            (below, Some(above)) => {
                let next = last(&n_above, n_near - least - 1);
                (above, below.into_iter().chain(next).fold(f64::NEG_INFINITY, f64::max))
            }
            (Some(below), None) => (below, last(&n_below, least.checked_sub(1)?).unwrap_or(below)),
            (None, None) => return None,
        };
        if !n.is_multiple_of(2) {
            return Some(upper);
        }
        Some(lower + (upper - lower) / 2.0)
    }

    fn mean_distance(&self, centre: f64) -> f64 {
        self.sorted.iter().map(|value| (value - centre).abs()).sum::<f64>() / self.sorted.len() as f64
    }
}

/// The newest numbers of a sequence, sorted.
#[derive(Debug)]
struct Trailing {
    capacity: usize,
    window: SortedWindow,
}

impl Trailing {
    fn new(capacity: usize) -> Self {
        Self { capacity, window: SortedWindow::default() }
    }

    /// Takes in the newest number of the sequence, which was just added to it.
    fn push(&mut self, row: &Recent, value: f64) {
        let oldest = row.len().checked_sub(self.capacity + 1).and_then(|idx| row.get(idx));
        match oldest.filter(|_| self.window.len() >= self.capacity) {
            Some(oldest) => self.window.replace(oldest, value),
            None => self.window.insert(value),
        }
    }

    fn rebuild(&mut self, row: &Recent) {
        self.window = SortedWindow::of(row.last(self.capacity));
    }
}

/// How a history forms its level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A level is the median of this many values.
    pub(super) n_level: usize,
    /// Values that are skipped before the one that is judged.
    pub(super) n_gap: usize,
    /// Residuals that show how far a falling loss is from its past at every entry.
    pub(super) n_drift: usize,
}

/// For rises over a few entries: a steady median, with a gap so that a rise does not lift its own baseline.
pub(super) const SLOW: Pace = Pace { n_level: 32, n_gap: 8, n_drift: 32 };
/// For jumps, also where the loss falls so fast that a median further back is of little use.
pub(super) const FAST: Pace = Pace { n_level: 9, n_gap: 0, n_drift: 16 };

/// Accepted values, and how far each was from its own baseline.
#[derive(Debug)]
pub(super) struct History {
    pub(super) pace: Pace,
    values: Recent,
    /// The distance of each value from its level.
    residuals: Recent,
    /// The same without the drift.
    fine_residuals: Recent,
    level_range: (usize, usize),
    level_window: SortedWindow,
    drift: Trailing,
    scale: Trailing,
    above: Trailing,
    /// The level to compare the next value with; `None` at the beginning.
    pub(super) level: Option<f64>,
}

impl History {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            values: Recent::default(),
            residuals: Recent::default(),
            fine_residuals: Recent::default(),
            level_range: (0, 0),
            level_window: SortedWindow::default(),
            drift: Trailing::new(pace.n_drift),
            scale: Trailing::new(SCALE_ENTRIES),
            above: Trailing::new(pace.n_drift),
            level: None,
        }
    }

    pub(super) fn n_residuals(&self) -> usize {
        self.residuals.len()
    }

    pub(super) fn n_fine_residuals(&self) -> usize {
        self.fine_residuals.len()
    }

    /// The median of a stretch of past values. `drift` accounts for how the loss moved since. A line through the
    /// stretch would run below a curve that flattens, and the flattening would look like a rise.
    fn find_level(&mut self) -> Option<f64> {
        let n = self.values.len();
        let end = n - self.pace.n_gap.min(n / 4);
        let length = self.pace.n_level.min((n / 2).max(6));
        let start = end.checked_sub(length)?;
        let (old_start, old_end) = self.level_range;
        if (start, end) == (old_start + 1, old_end + 1) {
            self.level_window.replace(self.values.get(old_start)?, self.values.get(old_end)?);
        } else if (start, end) != (old_start, old_end) {
            self.level_window = SortedWindow::of(self.values.range(start, end));
        }
        self.level_range = (start, end);
        self.level_window.median()
    }

    pub(super) fn baseline(&self) -> Option<Baseline> {
        let level = self.level? + self.drift.window.median()?;
        if self.scale.window.len() < MIN_RESIDUALS {
            return None;
        }
        let middle = self.scale.window.median()?;
        let spread = self.scale.window.median_distance(middle)?;
        // If most values are equal, as with losses printed with few digits, the median distance is 0. For normal noise
        // sqrt(pi / 2) = 1.2533 turns the mean distance into the standard deviation.
        let scale = if spread > 0.0 { MAD_TO_SIGMA * spread } else { 1.2533 * self.scale.window.mean_distance(middle) };
        let scale = scale.max(MIN_SCALE_SHARE * level.abs()).max(f64::MIN_POSITIVE);
        // A curve that flattens is a little above its prediction at every entry.
        let above = self.above.window.median()?.max(middle).max(0.0);
        Some(Baseline { level: level + above, scale })
    }

    pub(super) fn accept(&mut self, value: f64) {
        if let Some(level) = self.level {
            if let Some(drift) = self.drift.window.median() {
                let fine = value - level - drift;
                self.fine_residuals.push(fine);
                self.scale.push(&self.fine_residuals, fine);
                self.above.push(&self.fine_residuals, fine);
            }
            self.residuals.push(value - level);
            self.drift.push(&self.residuals, value - level);
        }
        self.values.push(value);
        self.level = self.find_level();
    }

    /// Starts over with these values, which are known to be ordinary, and keeps only the scale.
    pub(super) fn restart<'a>(&mut self, values: impl Iterator<Item = &'a f64>) {
        let scale = std::mem::take(&mut self.fine_residuals);
        *self = Self { fine_residuals: scale, ..Self::new(self.pace) };
        self.scale.rebuild(&self.fine_residuals);
        self.above.rebuild(&self.fine_residuals);
        values.for_each(|value| self.accept(*value));
    }

    pub(super) fn forget_last(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        self.values.forget_last(n);
        self.residuals.forget_last(n);
        self.fine_residuals.forget_last(n);
        self.drift.rebuild(&self.residuals);
        self.scale.rebuild(&self.fine_residuals);
        self.above.rebuild(&self.fine_residuals);
        self.level_range = (0, 0);
        self.level = self.find_level();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::median;

    #[test]
    fn running_medians_are_medians() {
        let mut state = 7u32;
        let values: Vec<f64> = (0..3000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 20) - 2000.0
            })
            .collect();
        let mut row = Recent::default();
        let mut windows = [1, 2, 32, 33].map(Trailing::new);
        for (i, value) in values.iter().enumerate() {
            row.push(*value);
            for trailing in &mut windows {
                trailing.push(&row, *value);
                let last = &values[(i + 1).saturating_sub(trailing.capacity)..=i];
                let middle = median(last.to_vec()).unwrap();
                assert_eq!(trailing.window.median(), Some(middle));
                for centre in [middle, middle + 100.0, -3000.0, 5000.0, last[0]] {
                    let off = last.iter().map(|value| (value - centre).abs()).collect();
                    assert_eq!(trailing.window.median_distance(centre), median(off));
                }
            }
        }
        assert_eq!(row.len(), values.len());
        assert_eq!((row.get(2999), row.get(0)), (values.last().copied(), None));
    }
}
