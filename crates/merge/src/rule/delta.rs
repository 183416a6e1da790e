//! Element-wise rules: what is kept of each delta, and how kept elements become one.

pub(crate) use super::della::RowScratch;
use super::della::keep_probability;
use super::mask::uniform;
use super::rank::{RankKey, TieOrder};
use super::scan::{Scan, magnitude_bits};
use super::table::Convention;
use crate::error::Error;

/// Which elements of one delta are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Keep {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those whose key is in a range, its end excluded.
    Ranks { from: RankKey, to: RankKey, ties: TieOrder },
    /// Each with this probability.
    Random { key: u64, density: f64 },
    /// Each with a probability that follows its rank in its row.
    RandomByRank { key: u64, density: f64, epsilon: f64, convention: Convention },
}

/// What becomes of the elements of one delta.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Selector {
    pub(crate) keep: Keep,
    /// Whether kept elements are divided by their probability.
    pub(crate) divides_by_probability: bool,
    /// What kept elements are multiplied by.
    pub(crate) scale: f64,
}

impl Selector {
    /// Ranks the rows of some elements, where the selector needs that.
    pub(crate) fn prepare_rows(
        &self,
        scan: &Scan<'_>,
        place: (usize, usize),
        elements: (u64, usize),
        rows: &mut RowScratch,
    ) -> Result<(), Error> {
        match self.keep {
            Keep::RandomByRank { .. } => rows.rank(scan, place, elements),
            _ => Ok(()),
        }
    }

    /// Drops and scales elements; `first` is the number of the first one in its tensor.
    pub(crate) fn select(&self, first: u64, values: &mut [f64], rows: &RowScratch) {
        let elements = (first..).zip(values.iter_mut());
        match self.keep {
            Keep::All => {}
            Keep::Nothing => values.fill(0.0),
            Keep::Ranks { from, to, ties } => {
                for (element, d) in elements {
                    let key = (magnitude_bits(*d), ties.place(element));
                    if key < from || key >= to {
                        *d = 0.0;
                    }
                }
            }
            Keep::Random { key, density } => {
                let factor = if self.divides_by_probability { 1.0 / density } else { 1.0 };
                for (element, d) in elements {
                    *d = if uniform(key, element) < density { *d * factor } else { 0.0 };
                }
            }
            Keep::RandomByRank { key, density, epsilon, convention } => {
                for ((element, d), &rank) in elements.zip(&rows.ranks) {
                    let probability = keep_probability(convention, density, epsilon, rank);
                    let kept = if self.divides_by_probability { *d / probability } else { *d };
                    *d = if uniform(key, element) < probability { kept } else { 0.0 };
                }
            }
        }
        values.iter_mut().for_each(|d| *d *= self.scale);
    }
}

/// How kept elements of several deltas become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Consensus {
    /// Whether only elements that agree with the sign of the sum are added.
    pub(crate) elects_sign: bool,
    /// Whether a sum of zero counts as positive; else nothing agrees with it.
    pub(crate) zero_is_positive: bool,
    /// Whether the sum is divided by the coefficients that took part.
    pub(crate) divides: bool,
    pub(crate) lambda: f64,
}

/// Sums of coefficients below this are not divided by.
const SMALL_SUM: f64 = 1e-8;

impl Consensus {
    /// Adds the merged delta to `merged`, which holds the base. `deltas` are selected; `weights` are theirs.
    pub(crate) fn add_to(&self, merged: &mut [f64], deltas: &[Vec<f64>], weights: &[f64]) {
        let whole: f64 = weights.iter().sum();
        let whole = if self.divides && whole.abs() >= SMALL_SUM { whole } else { 1.0 };
        for (i, merged) in merged.iter_mut().enumerate() {
            let terms = || deltas.iter().zip(weights).map(|(delta, w)| (delta[i] * w, *w));
            let sum: f64 = terms().map(|(term, _)| term).sum();
            let share = if self.elects_sign { self.agreeing(sum, terms()) } else { sum / whole };
            *merged += share * self.lambda;
        }
    }

    /// The sum, or the mean, of the terms that have the sign of `sum`.
    fn agreeing(&self, sum: f64, terms: impl Iterator<Item = (f64, f64)>) -> f64 {
        // A sum of equal opposites is zero exactly, as the deltas of two opposite experts are.
        let is_positive = sum > 0.0 || (sum == 0.0 && self.zero_is_positive);
        if sum == 0.0 && !self.zero_is_positive {
            return 0.0;
        }
        let agrees = |term: f64| if is_positive { term > 0.0 } else { term < 0.0 };
        let (mut total, mut taken) = (0.0, 0.0);
        for (term, weight) in terms {
            // Not a number agrees with nothing, but must not vanish where it was allowed.
            if agrees(term) || term.is_nan() {
                total += term;
                taken += weight;
            }
        }
        if self.divides && taken != 0.0 { total / taken } else { total }
    }
}
