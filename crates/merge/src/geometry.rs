//! What a Gram matrix says about a trajectory: distances, cosines, principal components beside their null values,
//! drift, lag.
//!
//! Pure arithmetic on [`Gram`]; needs no model. Background: averages of a pure random walk already put most of their
//! variance on one component, so a share means something only beside that of a walk of the same shape.

use nalgebra::{DMatrix, SymmetricEigen};
use serde::Serialize;

use crate::gram::{Gram, not_negative};

/// How many principal components are reported.
pub(crate) const N_COMPONENTS: usize = 3;

/// Geometry of n checkpoints, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Geometry {
    /// Euclidean norm of each checkpoint, n values.
    pub norms: Vec<f64>,
    /// Distances between all pairs of checkpoints, n x n.
    pub distances: Vec<Vec<f64>>,
    /// Length of the displacement from each checkpoint to the next, n - 1 values.
    pub displacements: Vec<f64>,
    /// Cosine of each displacement with the next, n - 2 values; `None` where one is zero.
    pub displacement_cosines: Vec<Option<f64>>,
    /// Coordinates of the checkpoints on the first two components, from oldest to newest along the first.
    pub plane: Vec<[f64; 2]>,
    /// Share of the variance about the mean that each leading principal component explains.
    pub component_shares: Vec<f64>,
    /// The same for a random walk of n steps in high dimension.
    pub random_walk_shares: Vec<f64>,
    /// The same for white noise about a fixed point.
    pub white_noise_shares: Vec<f64>,
    /// Progress along the first component, oriented from oldest to newest, per interval.
    pub drift_per_interval: f64,
    /// Intervals by which the plain mean trails the newest checkpoint: (n - 1) / 2.
    pub averaging_lag: f64,
    /// Distance of the plain mean to the newest checkpoint.
    pub mean_to_newest: f64,
}

impl Geometry {
    /// Positions of checkpoints whose norm is not finite: their parameters hold NaN or infinity.
    pub fn not_finite(&self) -> Vec<usize> {
        (0..self.norms.len()).filter(|&i| !self.norms[i].is_finite()).collect()
    }
}

/// Derives the geometry of the checkpoints that `gram` was taken over.
///
/// # Example
/// ```
/// use thalweg_merge::{geometry::describe_geometry, gram::Gram};
/// let geometry = describe_geometry(&Gram::zero(3));
/// assert_eq!(geometry.averaging_lag, 1.0);
/// assert_eq!(geometry.displacement_cosines, [None]);
/// ```
pub fn describe_geometry(gram: &Gram) -> Geometry {
    let n = gram.n_checkpoints();
    let distance = |i, j| root(gram.distance_squared(i, j));
    let components = principal_components(n, |i, j| gram.relative(i, j));
    Geometry {
        norms: (0..n).map(|i| root(gram.inner(i, i))).collect(),
        distances: (0..n).map(|i| (0..n).map(|j| distance(i, j)).collect()).collect(),
        displacements: (1..n).map(|i| distance(i - 1, i)).collect(),
        displacement_cosines: (2..n).map(|i| cosine_of_steps(gram, i)).collect(),
        // A random walk x_i = sum of i unit steps has <x_i, x_j> = min(i, j); the dimension makes it exact.
        random_walk_shares: principal_components(n, |i, j| (i.min(j) + 1) as f64).shares,
        white_noise_shares: principal_components(n, |i, j| f64::from(u8::from(i == j))).shares,
        drift_per_interval: components.drift_per_interval(),
        plane: components.plane,
        component_shares: components.shares,
        averaging_lag: n.saturating_sub(1) as f64 / 2.0,
        mean_to_newest: mean_to_newest(gram),
    }
}

/// The root of a sum of squares; NaN stays NaN.
pub(crate) fn root(square: f64) -> f64 {
    not_negative(square).sqrt()
}

fn cosine_of_steps(gram: &Gram, i: usize) -> Option<f64> {
    let (before, after) = ((i - 2, i - 1), (i - 1, i));
    let lengths = gram.displacement_product(before, before) * gram.displacement_product(after, after);
    (lengths > 0.0).then(|| gram.displacement_product(before, after) / lengths.sqrt())
}

fn mean_to_newest(gram: &Gram) -> f64 {
    let n = gram.n_checkpoints();
    let sum: f64 = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| gram.relative(i, j)).sum();
    root(sum) / n.max(1) as f64
}

pub(crate) struct Components {
    /// Share of the variance that each leading one takes.
    pub(crate) shares: Vec<f64>,
    /// Coordinates of the checkpoints on the first two components.
    pub(crate) plane: Vec<[f64; 2]>,
    /// The first one as weights of the centred checkpoints, of unit length, from oldest to newest.
    pub(crate) leading: Vec<f64>,
}

impl Components {
    fn drift_per_interval(&self) -> f64 {
        match self.plane.as_slice() {
            [first, .., last] => (last[0] - first[0]) / (self.plane.len() - 1) as f64,
            _ => 0.0,
        }
    }
}

/// Principal components about the mean, from inner products about any point.
pub(crate) fn principal_components(n: usize, product: impl Fn(usize, usize) -> f64) -> Components {
    let raw = DMatrix::from_fn(n, n, product);
    let centring = DMatrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)) - 1.0 / n.max(1) as f64);
    let centred = &centring * raw * &centring;
    let total = centred.trace();
    if n >= 2 && centred.iter().any(|product| !product.is_finite()) {
        let shares = vec![f64::NAN; N_COMPONENTS.min(n - 1)];
        return Components { shares, plane: vec![[f64::NAN; 2]; n], leading: vec![f64::NAN; n] };
    }
    if n < 2 || total <= 0.0 {
        let shares = vec![0.0; N_COMPONENTS.min(n.saturating_sub(1))];
        return Components { shares, plane: vec![[0.0; 2]; n], leading: vec![0.0; n] };
    }
    let eigen = SymmetricEigen::new(centred);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let shares = order.iter().take(N_COMPONENTS.min(n - 1)).map(|&k| eigen.eigenvalues[k].max(0.0) / total).collect();
    let coordinate =
        |i: usize, k: usize| eigen.eigenvectors[(i, order[k])] * eigen.eigenvalues[order[k]].max(0.0).sqrt();
    // The sign of an eigenvector is arbitrary: draw the run from left to right, with its middle above.
    let flip_x = (coordinate(n - 1, 0) - coordinate(0, 0)).signum();
    let flip_y = coordinate(n / 2, 1).signum();
    let plane = (0..n).map(|i| [flip_x * coordinate(i, 0), flip_y * coordinate(i, 1)]).collect();
    let leading = (0..n).map(|i| flip_x * eigen.eigenvectors[(i, order[0])]).collect();
    Components { shares, plane, leading }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_shares_are_those_of_a_walk_and_of_noise() {
        let geometry = describe_geometry(&Gram::zero(12));
        // In high dimension the first component of a walk of 12 points takes 0.62 of its variance.
        assert!((geometry.random_walk_shares[0] - 0.62).abs() < 0.005, "{:?}", geometry.random_walk_shares);
        assert!((geometry.white_noise_shares[0] - 1.0 / 11.0).abs() < 1e-9);
    }
}
