//! Scores over resampled items: how a figure that is derived from several scores spreads with the items.

use std::sync::Arc;

use thalweg_eval::TaskScores;
use thalweg_tensor::SplitMix;

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
