//! A quadratic over the simplex by ridge regression, its strength chosen by leaving out one point at a time.
//!
//! The features are a_i and a_i a_j for i < j (Scheffe 1958): every quadratic on the simplex, also a constant, is such
//! a sum. Values are centred first, so that shrinking pulls towards their mean.

use nalgebra::{DMatrix, DVector};

use super::rank::spearman;

/// Strengths that are tried, as shares of the mean of the features' own products.
const STRENGTHS: [f64; 9] = [1e-10, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

/// A fitted quadratic.
#[derive(Debug, Clone, PartialEq)]
pub struct QuadraticFit {
    mean: f64,
    coefficients: Vec<f64>,
    /// The strength that was chosen.
    pub strength: f64,
    /// Root of the mean square of what is left of each point if it is predicted from the others.
    pub left_out_error: f64,
    /// Correlation of ranks of the points with their predictions from the others.
    pub left_out_spearman: Option<f64>,
    /// The predictions of the points, each from the others.
    pub left_out: Vec<f64>,
}

impl QuadraticFit {
    /// The value at a mixture.
    pub fn predict(&self, mixture: &[f64]) -> f64 {
        self.mean + features(mixture).iter().zip(&self.coefficients).map(|(x, c)| x * c).sum::<f64>()
    }
}

fn features(mixture: &[f64]) -> Vec<f64> {
    let pairs = (0..mixture.len()).flat_map(|i| (i + 1..mixture.len()).map(move |j| (i, j)));
    mixture.iter().copied().chain(pairs.map(|(i, j)| mixture[i] * mixture[j])).collect()
}

/// Fits values at mixtures; `None` with fewer than three points, and where numbers are not finite.
///
/// # Example
/// ```
/// let points = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.25, 0.75]].map(|one| one.to_vec());
/// let values: Vec<f64> = points.iter().map(|one| 3.0 - one[0] + 2.0 * one[0] * one[1]).collect();
/// let fit = thalweg_study::mix::fit_quadratic(&points, &values).unwrap();
/// assert!((fit.predict(&[0.9, 0.1]) - 2.28).abs() < 1e-6);
/// ```
pub fn fit_quadratic(mixtures: &[Vec<f64>], values: &[f64]) -> Option<QuadraticFit> {
    let n = values.len();
    if n < 3 || mixtures.len() != n || !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let rows: Vec<Vec<f64>> = mixtures.iter().map(|one| features(one)).collect();
    let n_features = rows.first().map_or(0, Vec::len);
    let x = DMatrix::from_fn(n, n_features, |i, j| rows[i][j]);
    let y = DVector::from_iterator(n, values.iter().map(|value| value - mean));
    let gram = x.tr_mul(&x);
    let scale = gram.trace() / (n_features as f64);
    let fits = STRENGTHS.iter().filter_map(|share| {
        let strength = share * scale;
        let inverse = (&gram + DMatrix::identity(n_features, n_features) * strength).cholesky()?.inverse();
        let coefficients = &inverse * x.tr_mul(&y);
        let fitted = &x * &coefficients;
        // What a point leaves if it is not fitted: its residual over one less its influence on its own prediction, by
        // the fit and by the mean that was taken out.
        let hat = &x * &inverse * x.transpose();
        let left = (0..n).map(|i| {
            let own = hat[(i, i)] + (1.0 - hat.row(i).sum()) / n as f64;
            (y[i] - fitted[i]) / (1.0 - own).max(1e-9)
        });
        let left: Vec<f64> = left.collect();
        let error = (left.iter().map(|one| one * one).sum::<f64>() / n as f64).sqrt();
        error.is_finite().then_some((error, strength, coefficients, left))
    });
    let (left_out_error, strength, coefficients, left) = fits.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let predicted: Vec<f64> = values.iter().zip(&left).map(|(value, left)| value - left).collect();
    Some(QuadraticFit {
        mean,
        coefficients: coefficients.iter().copied().collect(),
        strength,
        left_out_error,
        left_out_spearman: spearman(values, &predicted),
        left_out: predicted,
    })
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::SplitMix;

    use super::*;
    use crate::mix::space::fractions;

    fn points(n: usize, names: &[&str], seed: u64) -> Vec<Vec<f64>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let space = crate::mix::MixSpace::new(&names, &names[0], 0.5).unwrap();
        space.draw(n, &mut SplitMix::new(seed)).iter().map(|one| fractions(one)).collect()
    }

    #[test]
    fn an_exact_quadratic_is_recovered() {
        let value = |a: &[f64]| 2.0 + 0.3 * a[0] - 0.7 * a[1] * a[1] + 1.1 * a[2] * a[3] + 0.2 * a[3];
        let drawn = points(40, &["a", "b", "c", "d"], 1);
        let values: Vec<f64> = drawn.iter().map(|one| value(one)).collect();
        let fit = fit_quadratic(&drawn, &values).unwrap();
        for other in points(50, &["a", "b", "c", "d"], 2) {
            assert!((fit.predict(&other) - value(&other)).abs() < 1e-6, "{} at {other:?}", fit.predict(&other));
        }
        assert!(fit.left_out_error < 1e-6 && fit.left_out_spearman.unwrap() > 0.9999, "{fit:?}");
        assert!(fit.left_out.iter().zip(&values).all(|(predicted, value)| (predicted - value).abs() < 1e-5));
    }

    #[test]
    fn a_constant_and_noise_are_not_mistaken_for_a_shape() {
        let drawn = points(30, &["a", "b", "c"], 3);
        let fit = fit_quadratic(&drawn, &[1.5; 30]).unwrap();
        assert!((fit.predict(&[0.2, 0.3, 0.5]) - 1.5).abs() < 1e-9);
        let mut random = SplitMix::new(5);
        let noise: Vec<f64> = drawn.iter().map(|_| random.below(1000) as f64 / 1000.0).collect();
        let fit = fit_quadratic(&drawn, &noise).unwrap();
        let mean = noise.iter().sum::<f64>() / 30.0;
        let spread = (noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 30.0).sqrt();
        assert!(fit.left_out_error > 0.8 * spread, "{} of {spread}", fit.left_out_error);
        assert!(fit.left_out_spearman.is_none_or(|rho| rho < 0.6), "{fit:?}");
    }

    #[test]
    fn what_cannot_be_fitted_is_not() {
        let drawn = points(4, &["a", "b"], 1);
        assert!(fit_quadratic(&drawn[..2], &[1.0, 2.0]).is_none());
        assert!(fit_quadratic(&drawn, &[1.0, 2.0]).is_none());
        assert!(fit_quadratic(&drawn, &[1.0, 2.0, f64::NAN, 3.0]).is_none());
    }
}
