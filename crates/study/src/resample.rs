//! Scores over resampled items: how a figure that is derived from several scores spreads with the items.

use std::sync::Arc;

use thalweg_eval::TaskScores;

/// The value of one measure for each of several models, over `n_resamples` drawings of the same items; the drawings are
/// the same for all models, so that differences stay paired. Empty unless all models have the same items.
pub(crate) fn resampled_values(models: &[Arc<TaskScores>], measure: &str, n_resamples: usize) -> Vec<Vec<f64>> {
    let Some(first) = models.first() else { return Vec::new() };
    let n_items = first.items.len();
    let found: Option<Vec<(&[f64], &[f64])>> = models
        .iter()
        .map(|scores| {
            let values = scores.measures.iter().find(|values| values.measure.name() == measure)?;
            (scores.items == first.items).then_some((values.numerators.as_slice(), values.denominators.as_slice()))
        })
        .collect();
    let (Some(found), true) = (found, n_items > 1) else { return Vec::new() };
    let mut random = SplitMix::new(0x7468_616c_7765_6721);
    (0..n_resamples)
        .map(|_| {
            let drawn: Vec<usize> = (0..n_items).map(|_| random.below(n_items)).collect();
            found
                .iter()
                .map(|(numerators, denominators)| {
                    let sum = |values: &[f64]| drawn.iter().map(|&item| values[item]).sum::<f64>();
                    sum(numerators) / sum(denominators)
                })
                .collect()
        })
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough to draw items, and the same everywhere.
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[expect(clippy::cast_possible_truncation, reason = "below n, which is a usize")]
    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Puts the items into any order, each as likely as the others.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        (1..items.len()).rev().for_each(|i| items.swap(i, self.below(i + 1)));
    }
}
