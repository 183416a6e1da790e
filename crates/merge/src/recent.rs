//! The last saves of a run in training, kept in memory: the sources of a merge over a window of saves.
//!
//! Does not know what a save holds. Its coefficients are those of a merge of the same checkpoints.

use std::collections::VecDeque;

use crate::Coefficients;
use crate::scheme::{Scheme, SchemeError};

/// The last saves with their steps, oldest first.
#[derive(Debug, Clone)]
pub struct RecentSaves<T> {
    kept: VecDeque<(u64, T)>,
    n_kept: usize,
}

impl<T> RecentSaves<T> {
    /// Keeps `n_kept` saves at most.
    pub fn new(n_kept: usize) -> Self {
        Self { kept: VecDeque::new(), n_kept }
    }

    /// The oldest save if there is no room for another: its memory serves the next.
    pub fn make_room(&mut self) -> Option<T> {
        let is_full = self.kept.len() >= self.n_kept;
        is_full.then(|| self.kept.pop_front()).flatten().map(|(_, save)| save)
    }

    /// Adds the newest; the oldest falls out if there is no room.
    pub fn push(&mut self, step: u64, save: T) {
        if self.n_kept > 0 {
            self.make_room();
            self.kept.push_back((step, save));
        }
    }

    /// Forgets all saves.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// How many saves are kept at most.
    pub fn n_kept(&self) -> usize {
        self.n_kept
    }

    /// Whether `count` saves are there.
    pub fn has(&self, count: usize) -> bool {
        self.kept.len() >= count
    }

    /// All that are there, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &(u64, T)> {
        self.kept.iter()
    }

    /// The last `count`, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &(u64, T)> {
        self.kept.iter().skip(self.kept.len().saturating_sub(count))
    }
}

/// The coefficients of checkpoints at these steps, by the same function as for every merge.
///
/// # Errors
/// As [`Scheme::coefficients_for`].
pub fn coefficients_at_steps(scheme: &Scheme, steps: &[u64]) -> Result<Coefficients, SchemeError> {
    scheme.coefficients_for(&steps.iter().copied().map(Some).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::SchemeParameters;

    #[test]
    fn the_oldest_falls_out() {
        let mut recent = RecentSaves::new(3);
        for step in [10, 20, 30, 40, 50] {
            recent.push(step, step * 2);
        }
        assert!(recent.has(3) && !recent.has(4));
        assert_eq!(recent.iter().copied().collect::<Vec<_>>(), [(30, 60), (40, 80), (50, 100)]);
        assert_eq!(recent.last(2).map(|(step, _)| *step).collect::<Vec<_>>(), [40, 50]);
        assert_eq!(recent.last(9).count(), 3);
        assert_eq!(recent.make_room(), Some(60));
        assert_eq!(recent.make_room(), None);
        let mut nothing = RecentSaves::new(0);
        nothing.push(1, ());
        assert!(nothing.has(0) && !nothing.has(1));
    }

    #[test]
    fn coefficients_follow_uneven_steps() {
        let linear = Scheme::parse("decay:linear", SchemeParameters::default()).unwrap();
        let found = coefficients_at_steps(&linear, &[2000, 4000, 10_000]).unwrap();
        assert_eq!(found, Coefficients::new([1, 3, 2], 6).unwrap());
    }
}
