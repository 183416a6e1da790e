//! The axis of model sizes: L* + B N^-beta + A0 N^-gamma / (k + b), six parameters, N in billions.

use serde::Serialize;

use super::forms::{B_RANGE, Form, Levels};
use super::simplex::minimize_from;
use crate::least_squares::{Observed, explained};

/// The ranges of beta, gamma and ln(b + 1).
const RANGES: [[f64; 2]; 3] = [[0.01, 3.0], [0.0, 3.0], [-std::f64::consts::LN_2, 3.433_987_204_485_146]];
/// The fewest sizes and k that determine six parameters.
const LEAST_SIZES: usize = 3;

/// Mean losses of one size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SizeLevels {
    /// Parameters in billions.
    pub(super) n_billions: f64,
    /// Mean losses by k.
    pub(super) levels: Levels,
}

/// The law of one size by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SizeRow {
    /// Parameters in billions.
    pub n_billions: f64,
    /// The floor.
    pub l_inf: f64,
    /// The amplitude.
    pub a: f64,
    /// The offset.
    pub b: f64,
    /// Share of the variance explained.
    pub r2: f64,
    /// Models that reach the target; nothing where there is none, or the floor is above it.
    pub k_for_target: Option<f64>,
    /// Sizes times models: what they take to train, in billions of parameters.
    pub billions_for_target: Option<f64>,
}

/// The law of all sizes together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct JointLaw {
    /// The floor of infinitely large models.
    pub l_star: f64,
    /// Factor of the floor's fall with size.
    pub b_size: f64,
    /// Its exponent.
    pub beta: f64,
    /// Factor of the amplitude.
    pub a0: f64,
    /// Its exponent.
    pub gamma: f64,
    /// The offset.
    pub b: f64,
    /// Share of the variance explained.
    pub r2: f64,
}

impl JointLaw {
    /// The loss of k merged models of `n_billions` parameters each.
    pub fn predict(&self, n_billions: f64, k: f64) -> f64 {
        self.l_star + self.b_size * n_billions.powf(-self.beta) + self.a0 * n_billions.powf(-self.gamma) / (k + self.b)
    }
}

/// Each size by itself, with the models that reach `target`.
pub(super) fn size_rows(sizes: &[SizeLevels], target: Option<f64>) -> Vec<SizeRow> {
    let row = |size: &SizeLevels| {
        let fit = Form::Reciprocal.fit(&size.levels)?;
        let (l_inf, a, b) = (fit.l_inf(), fit.a(), fit.b());
        let k_for_target = target.and_then(|target| super::outlook::models_for(l_inf, a, b, target));
        let billions_for_target = k_for_target.map(|k| k * size.n_billions);
        Some(SizeRow { n_billions: size.n_billions, l_inf, a, b, r2: fit.r2, k_for_target, billions_for_target })
    };
    sizes.iter().filter_map(row).collect()
}

/// Fits all sizes together, with weights in proportion to k; `None` with fewer than three sizes or three k.
pub(super) fn fit_joint(sizes: &[SizeLevels]) -> Option<JointLaw> {
    let n_levels = sizes.iter().map(|size| size.levels.k.len()).min()?;
    if sizes.len() < LEAST_SIZES || n_levels < LEAST_SIZES {
        return None;
    }
    let cells: Vec<(f64, f64, f64)> = sizes
        .iter()
        .flat_map(|size| size.levels.k.iter().zip(&size.levels.losses).map(|(k, loss)| (size.n_billions, *k, *loss)))
        .collect();
    let losses: Vec<f64> = cells.iter().map(|(_, _, loss)| *loss).collect();
    let weights: Vec<f64> = cells.iter().map(|(_, k, _)| *k).collect();
    let observed = Observed { values: &losses, weights: &weights };
    let fit = |[beta, gamma, place]: [f64; 3]| {
        let b = (place.exp() - 1.0).clamp(B_RANGE[0], B_RANGE[1]);
        let floor = cells.iter().map(|(n, _, _)| n.powf(-beta)).collect();
        let tail = cells.iter().map(|(n, k, _)| n.powf(-gamma) / (k + b)).collect();
        observed.fit(&[floor, tail]).map(|fit| (fit, b))
    };
    let cost = |place| fit(place).map_or(f64::INFINITY, |(fit, _)| fit.rss);
    let starts = [0.2, 0.8].into_iter().flat_map(|beta| [0.05, 0.4].map(|gamma| (beta, gamma)));
    let starts = starts.flat_map(|(beta, gamma)| [0.2, 1.5].map(|place| [beta, gamma, place]));
    let found = starts.map(|start| minimize_from(start, RANGES, &cost));
    let (first, _) = found.min_by(|a, b| a.1.total_cmp(&b.1))?;
    // A second search from where the first ended opens corners again that had collapsed.
    let (place, _) = minimize_from(first, RANGES, &cost);
    let (linear, b) = fit(place)?;
    let [l_star, b_size, a0] = <[f64; 3]>::try_from(linear.coefficients).ok()?;
    let mut law = JointLaw { l_star, b_size, beta: place[0], a0, gamma: place[1], b, r2: 0.0 };
    law.r2 = explained(&losses, cells.iter().map(|(n, k, _)| law.predict(*n, *k)));
    Some(law)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of Wang et al. 2025, in billions.
    const SIZES: [f64; 7] = [0.5, 1.5, 3.0, 7.0, 14.0, 32.0, 72.0];

    /// The levels that a law gives, for 1 to `n_levels` models.
    fn grid(law: &JointLaw, n_levels: u32) -> Vec<SizeLevels> {
        let k: Vec<f64> = (1..=n_levels).map(f64::from).collect();
        let losses = |n| k.iter().map(|k| law.predict(n, *k)).collect();
        SIZES.map(|n| SizeLevels { n_billions: n, levels: Levels { k: k.clone(), losses: losses(n) } }).to_vec()
    }

    #[test]
    fn the_six_parameters_of_published_fits_are_recovered() {
        // Algebra, analysis and code of Wang et al. 2025.
        let published = [
            [0.18092, 0.11453, 0.42335, 0.05233, 0.0086, 0.0964],
            [0.18784, 0.11445, 0.46899, 0.05488, 0.0274, 0.1375],
            [0.28292, 0.20851, 0.41186, 0.0821, 0.1368, 0.4345],
        ];
        for [l_star, b_size, beta, a0, gamma, b] in published {
            let planted = JointLaw { l_star, b_size, beta, a0, gamma, b, r2: 1.0 };
            let law = fit_joint(&grid(&planted, 9)).unwrap();
            for (found, expected) in [
                (law.l_star, l_star),
                (law.b_size, b_size),
                (law.beta, beta),
                (law.a0, a0),
                (law.gamma, gamma),
                (law.b, b),
            ] {
                assert!((found - expected).abs() < 1e-4 * expected.abs().max(0.1), "{law:?} {planted:?}");
            }
            assert!(law.r2 > 1.0 - 1e-9);
        }
    }

    #[test]
    fn two_sizes_do_not_determine_six_parameters() {
        let planted = JointLaw { l_star: 0.2, b_size: 0.1, beta: 0.4, a0: 0.05, gamma: 0.1, b: 0.3, r2: 1.0 };
        assert_eq!(fit_joint(&grid(&planted, 9)[..2]), None);
        assert_eq!(fit_joint(&grid(&planted, 2)), None);
    }
}
