//! Weighted least squares with an intercept, and the search for one parameter that is not linear.
//!
//! Variable projection (Golub and Pereyra 1973): for each value of the nonlinear parameter the others have a closed
//! form, so that only one number is searched.

use nalgebra::{DMatrix, DVector};

use crate::values::mean;

/// What is left of a column beside the others, as a share of it, if it is to have a coefficient.
const LEAST_SHARE: f64 = 1e-12;

/// Golden sections: the bracket of a grid shrinks to a thousand-millionth.
const N_SECTIONS: usize = 44;

/// Values to fit, with their weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed<'a> {
    /// What is fitted.
    pub(crate) values: &'a [f64],
    /// How much each counts, positive.
    pub(crate) weights: &'a [f64],
}

/// A fit that is linear in its parameters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinearFit {
    /// The intercept, then one number for each column.
    pub(crate) coefficients: Vec<f64>,
    /// Weighted sum of squared residuals.
    pub(crate) rss: f64,
}

/// Share of the variance of some numbers that is explained; 0 where they are equal.
pub(crate) fn explained(values: &[f64], predicted: impl Iterator<Item = f64>) -> f64 {
    let mean = mean(values);
    let total: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let left: f64 = values.iter().zip(predicted).map(|(value, predicted)| (value - predicted).powi(2)).sum();
    if total > 0.0 { 1.0 - left / total } else { 0.0 }
}

impl Observed<'_> {
    fn mean_of(&self, values: &[f64]) -> f64 {
        let total: f64 = self.weights.iter().sum();
        values.iter().zip(self.weights).map(|(value, weight)| weight * value).sum::<f64>() / total
    }

    /// Weighted sum of squares about the mean.
    pub(crate) fn spread(&self) -> f64 {
        let mean = self.mean_of(self.values);
        self.values.iter().zip(self.weights).map(|(value, weight)| weight * (value - mean).powi(2)).sum()
    }

    /// The same for one column, in closed form: most of a search's time is here.
    fn fit_one(&self, column: &[f64]) -> Option<LinearFit> {
        let (mean_x, mean) = (self.mean_of(column), self.mean_of(self.values));
        let points = || column.iter().zip(self.values).zip(self.weights).map(|((x, y), w)| (x - mean_x, y - mean, w));
        let (square, product) = points().fold((0.0, 0.0), |(xx, xy), (x, y, w)| (xx + w * x * x, xy + w * x * y));
        let total: f64 = self.weights.iter().sum();
        if square.sqrt() <= LEAST_SHARE * (square.sqrt() + total.sqrt() * mean_x.abs()) {
            return None;
        }
        let slope = product / square;
        let rss: f64 = points().map(|(x, y, w)| w * (y - slope * x).powi(2)).sum();
        let intercept = mean - slope * mean_x;
        let is_finite = rss.is_finite() && slope.is_finite() && intercept.is_finite();
        is_finite.then(|| LinearFit { coefficients: vec![intercept, slope], rss })
    }

    /// Fits an intercept and the columns; `None` where the columns do not determine their coefficients.
    pub(crate) fn fit(&self, columns: &[Vec<f64>]) -> Option<LinearFit> {
        let n = self.values.len();
        if n <= columns.len() || columns.iter().any(|column| column.len() != n) {
            return None;
        }
        if let [column] = columns {
            return self.fit_one(column);
        }
        // About the weighted means, so that the intercept drops out and nearly constant columns keep their digits.
        let means: Vec<f64> = columns.iter().map(|column| self.mean_of(column)).collect();
        let mean = self.mean_of(self.values);
        let root = |i: usize| self.weights[i].sqrt();
        let root_weight = self.weights.iter().sum::<f64>().sqrt();
        let matrix = DMatrix::from_fn(n, columns.len(), |i, j| root(i) * (columns[j][i] - means[j]));
        let target = DVector::from_fn(n, |i, _| root(i) * (self.values[i] - mean));
        // A column of equal numbers is nothing beside the intercept, and two in one direction are one.
        let scale = |j: usize| matrix.column(j).norm() + root_weight * means[j].abs();
        let decomposed = matrix.clone().qr();
        let upper = decomposed.r();
        if (0..columns.len()).any(|j| upper[(j, j)].abs() <= LEAST_SHARE * scale(j)) {
            return None;
        }
        let mut slopes = decomposed.q().tr_mul(&target);
        if !upper.solve_upper_triangular_mut(&mut slopes) {
            return None;
        }
        let rss = (&matrix * &slopes - &target).norm_squared();
        let intercept = mean - slopes.iter().zip(&means).map(|(slope, mean)| slope * mean).sum::<f64>();
        let coefficients: Vec<f64> = std::iter::once(intercept).chain(slopes.iter().copied()).collect();
        (rss.is_finite() && coefficients.iter().all(|one| one.is_finite())).then_some(LinearFit { coefficients, rss })
    }
}

/// The least value of `cost` on a range, whose ends belong to it: a grid, then golden sections about its best point.
/// `None` where the cost is finite nowhere.
pub(crate) fn minimize(range: [f64; 2], n_grid: usize, cost: impl Fn(f64) -> f64) -> Option<f64> {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let [low, high] = range;
    let step = (high - low) / (n_grid - 1) as f64;
    let at = |i: usize| if i + 1 == n_grid { high } else { low + step * i as f64 };
    let costs: Vec<f64> = (0..n_grid).map(|i| cost(at(i))).collect();
    let best = (0..n_grid).filter(|&i| costs[i].is_finite()).min_by(|&i, &j| costs[i].total_cmp(&costs[j]))?;
    let (mut left, mut right) = (at(best.saturating_sub(1)), at((best + 1).min(n_grid - 1)));
    let ends = [left, at(best), right];
    let (mut a, mut b) = (right - GOLDEN * (right - left), left + GOLDEN * (right - left));
    let (mut cost_a, mut cost_b) = (cost(a), cost(b));
    for _ in 0..N_SECTIONS {
        if cost_a <= cost_b {
            right = b;
            (b, cost_b) = (a, cost_a);
            a = right - GOLDEN * (right - left);
            cost_a = cost(a);
        } else {
            left = a;
            (a, cost_a) = (b, cost_b);
            b = left + GOLDEN * (right - left);
            cost_b = cost(b);
        }
    }
    let middle = f64::midpoint(left, right);
    // An end of the range is found as such, not as a number beside it.
    let mut found = ends.to_vec();
    found.push(middle);
    found.into_iter().filter(|x| cost(*x).is_finite()).min_by(|a, b| cost(*a).total_cmp(&cost(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_weighted_points_is_its_closed_form() {
        // Weights 1, 1, 2 at x = 0, 1, 2 with y = 0, 2, 2: the mean of x is 5/4, that of y 3/2.
        let (values, weights, x) = ([0.0, 2.0, 2.0], [1.0, 1.0, 2.0], vec![0.0, 1.0, 2.0]);
        let fit = Observed { values: &values, weights: &weights }.fit(&[x]).unwrap();
        // Sxx = 25/16 + 1/16 + 2 * 9/16 = 44/16; Sxy = (5/4)(3/2) - (1/4)(1/2) + 2 (3/4)(1/2) = 40/16.
        let slope = 40.0 / 44.0;
        assert!((fit.coefficients[1] - slope).abs() < 1e-14);
        assert!((fit.coefficients[0] - (1.5 - 1.25 * slope)).abs() < 1e-14);
        // Syy = 9/4 + 1/4 + 1/2 = 3; what is left is Syy - slope Sxy.
        assert!((fit.rss - (3.0 - slope * 2.5)).abs() < 1e-14);
    }

    #[test]
    fn two_columns_are_recovered_and_equal_ones_refused() {
        let (a, b) = (vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![1.0, 4.0, 9.0, 16.0, 25.0]);
        let values: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 3.0 - 2.0 * a + 0.5 * b).collect();
        let observed = Observed { values: &values, weights: &[1.0; 5] };
        let fit = observed.fit(&[a.clone(), b]).unwrap();
        for (found, expected) in fit.coefficients.iter().zip([3.0, -2.0, 0.5]) {
            assert!((found - expected).abs() < 1e-12, "{fit:?}");
        }
        let twice: Vec<f64> = a.iter().map(|a| 2.0 * a).collect();
        assert_eq!(observed.fit(&[a.clone(), twice]), None);
        assert_eq!(observed.fit(&[vec![0.1; 5]]), None);
        assert_eq!(Observed { values: &values[..1], weights: &[1.0] }.fit(&[vec![1.0]]), None);
    }

    #[test]
    fn the_least_value_is_found_within_the_range_and_at_its_ends() {
        assert!((minimize([0.0, 10.0], 21, |x| (x - 3.3).powi(2)).unwrap() - 3.3).abs() < 1e-7);
        assert_eq!(minimize([0.0, 10.0], 21, |x| x), Some(0.0));
        assert_eq!(minimize([0.0, 10.0], 21, |x| -x), Some(10.0));
        assert_eq!(minimize([0.0, 1.0], 5, |_| f64::NAN), None);
    }
}
