//! The geometry of merged points: means of disjoint windows of checkpoints, from the inner products of the checkpoints.
//!
//! Means of neighbours lie closer to a line than the checkpoints do, and those of a random walk do too, so each number
//! has its value for a walk beside it. Windows must not share checkpoints: means of overlapping windows of pure noise
//! lie on a line.

use std::ops::Range;

use serde::Serialize;

use crate::geometry::{Components, principal_components};
use crate::gram::Gram;

/// Geometry of m merged points, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointGeometry {
    /// Checkpoints in each point.
    pub window: usize,
    /// Share of the variance about the mean that each leading principal component explains.
    pub component_shares: Vec<f64>,
    /// The same for the merged points of a random walk.
    pub random_walk_shares: Vec<f64>,
    /// Cosine of each displacement with the next, m - 2 values; `None` where one has no length.
    pub displacement_cosines: Vec<Option<f64>>,
    /// Mean cosine for the merged points of a random walk.
    pub random_walk_cosine: f64,
    /// The leading component as weights of the centred points, m values of unit length that add up to 0, from oldest to
    /// newest.
    #[serde(skip)]
    pub leading: Vec<f64>,
    /// Progress along the leading component from each point to the next, on average.
    pub drift_per_point: f64,
    /// Intervals by which the mean of a window trails its newest checkpoint: (n - 1) / 2.
    pub averaging_lag: f64,
}

impl PointGeometry {
    /// Mean of the cosines that exist.
    pub fn mean_cosine(&self) -> Option<f64> {
        let known: Vec<f64> = self.displacement_cosines.iter().flatten().copied().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// Whether the points lie on a line by more than a random walk's would: by the share of the leading component, and
    /// by the cosines of successive displacements.
    pub fn is_line(&self) -> bool {
        /// Closer to a walk than this, a number shows nothing. Not measured.
        const MARGIN: f64 = 0.05;
        let ahead =
            |own: Option<&f64>, null: Option<&f64>| own.zip(null).is_some_and(|(own, null)| own - null > MARGIN);
        ahead(self.component_shares.first(), self.random_walk_shares.first())
            && ahead(self.mean_cosine().as_ref(), Some(&self.random_walk_cosine))
    }
}

/// Derives the geometry of the means of `windows`, ranges of equal length, oldest first.
pub fn describe_points(gram: &Gram, windows: &[Range<usize>]) -> PointGeometry {
    let own = products(windows, |i, j| gram.relative(i, j));
    // A random walk x_i = sum of i unit steps has <x_i, x_j> = min(i, j) in high dimension.
    let walk = products(windows, |i, j| (i.min(j) + 1) as f64);
    let m = windows.len();
    let Components { shares, plane, leading } = principal_components(m, |i, j| own[i][j]);
    let walk_cosines: Vec<f64> = cosines(&walk).into_iter().flatten().collect();
    let window = windows.first().map_or(0, ExactSizeIterator::len);
    let drift_per_point = match plane.as_slice() {
        [first, .., last] => (last[0] - first[0]) / (m - 1) as f64,
        _ => 0.0,
    };
    PointGeometry {
        window,
        component_shares: shares,
        random_walk_shares: principal_components(m, |i, j| walk[i][j]).shares,
        displacement_cosines: cosines(&own),
        random_walk_cosine: walk_cosines.iter().sum::<f64>() / walk_cosines.len().max(1) as f64,
        leading,
        drift_per_point,
        averaging_lag: window.saturating_sub(1) as f64 / 2.0,
    }
}

/// Disjoint windows of `window` that end at the last of `n` checkpoints, as many as there are, oldest first.
pub fn disjoint_windows(n: usize, window: usize) -> Vec<Range<usize>> {
    let n_windows = n.checked_div(window).unwrap_or(0);
    let first = n - n_windows * window;
    (0..n_windows).map(|j| first + j * window..first + (j + 1) * window).collect()
}

/// Inner products of the means of windows.
fn products(windows: &[Range<usize>], product: impl Fn(usize, usize) -> f64) -> Vec<Vec<f64>> {
    let mean = |a: &Range<usize>, b: &Range<usize>| {
        let sum: f64 = a.clone().flat_map(|i| b.clone().map(move |j| (i, j))).map(|(i, j)| product(i, j)).sum();
        sum / (a.len() * b.len()).max(1) as f64
    };
    windows.iter().map(|a| windows.iter().map(|b| mean(a, b)).collect()).collect()
}

fn cosines(products: &[Vec<f64>]) -> Vec<Option<f64>> {
    let step = |i: usize, j: usize| products[i + 1][j + 1] - products[i + 1][j] - products[i][j + 1] + products[i][j];
    let cosine = |i: usize| {
        let lengths = step(i, i) * step(i + 1, i + 1);
        (lengths > 0.0).then(|| step(i, i + 1) / lengths.sqrt())
    };
    (0..products.len().saturating_sub(2)).map(cosine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_have_the_shares_and_cosines_of_their_null() {
        // Twelve disjoint windows of a walk: 0.65 to 0.66 of the variance on one component, cosines near a quarter.
        for window in [4, 8, 16] {
            let geometry = describe_points(&Gram::zero(12 * window), &disjoint_windows(12 * window, window));
            let share = geometry.random_walk_shares[0];
            assert!((0.645..0.665).contains(&share), "{window}: {share}");
            // Displacements of means of n: -> 1/4 from below, (n^2 - 1) / (4 n^2 + 2).
            let n = window as f64;
            let cosine = (n * n - 1.0) / (4.0 * n * n + 2.0);
            assert!((geometry.random_walk_cosine - cosine).abs() < 1e-12, "{window}: {}", geometry.random_walk_cosine);
            assert_eq!((geometry.averaging_lag, geometry.is_line()), ((n - 1.0) / 2.0, false));
        }
    }

    #[test]
    fn windows_end_at_the_newest_and_share_nothing() {
        assert_eq!(disjoint_windows(11, 3), [2..5, 5..8, 8..11]);
        assert_eq!(disjoint_windows(2, 3), Vec::<Range<usize>>::new());
        assert_eq!(disjoint_windows(2, 0), Vec::<Range<usize>>::new());
    }
}
