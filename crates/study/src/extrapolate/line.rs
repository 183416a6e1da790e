//! The line through merged points, and how far to go along it.

use serde::{Deserialize, Serialize};
use thalweg_merge::points::PointGeometry;

/// The largest step, in lags: beyond it lies nothing that was averaged away.
pub(crate) const MAX_ALPHA: f64 = 2.0;

/// The direction of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The leading principal component of the merged points.
    #[default]
    Pc1,
    /// From the oldest point to the newest.
    Secant,
}

/// What the m merged points are multiplied by, oldest first: the newest point and `alpha` lags along the line. They add
/// up to 1.
///
/// With v the drift along the unit direction d for each interval of checkpoints, the point is M_m + alpha lag v d. The
/// direction of the leading component is a sum of points, so nothing of the model's size is needed.
pub(crate) fn window_coefficients(geometry: &PointGeometry, direction: Direction, alpha: f64) -> Vec<f64> {
    let m = geometry.leading.len();
    let (Some(first), Some(last)) = (geometry.leading.first(), geometry.leading.last()) else { return Vec::new() };
    // Intervals from the oldest point to the newest.
    let span = (m.saturating_sub(1) * geometry.window).max(1) as f64;
    let share = alpha * geometry.averaging_lag / span;
    let mut coefficients = match direction {
        // d = sum of w_j M_j / sqrt(lambda), and the drift has the same root in it: it cancels.
        Direction::Pc1 => geometry.leading.iter().map(|w| share * (last - first) * w).collect(),
        Direction::Secant => {
            let mut ends = vec![0.0; m];
            ends[0] -= share;
            ends[m - 1] += share;
            ends
        }
    };
    coefficients[m - 1] += 1.0;
    coefficients
}

/// Three costs at 0, 1/2 and 1 lag as a parabola.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parabola {
    /// Where it is least; nothing where it has no least point.
    pub vertex: Option<f64>,
    /// Half of its second derivative: positive where it is bent upwards.
    pub curvature: f64,
    /// Its slope at 0: the cost at a step is that at 0, and slope step + curvature step^2.
    pub slope: f64,
    /// The step to take: the vertex between 0 and the largest step, an end where the costs only fall or rise.
    pub alpha: f64,
}

impl Parabola {
    /// The parabola through three costs; less is better.
    ///
    /// # Example
    /// ```
    /// use thalweg_study::extrapolate::Parabola;
    ///
    /// let cost = |alpha: f64| 2.0 + 0.25 * (alpha - 0.75).powi(2);
    /// let parabola = Parabola::through([cost(0.0), cost(0.5), cost(1.0)]);
    /// assert!((parabola.alpha - 0.75).abs() < 1e-12 && (parabola.curvature - 0.25).abs() < 1e-12);
    /// ```
    pub fn through([at_0, at_half, at_1]: [f64; 3]) -> Self {
        let curvature = 2.0 * (at_0 - 2.0 * at_half + at_1);
        let slope = -3.0 * at_0 + 4.0 * at_half - at_1;
        let vertex = (curvature > 0.0).then(|| -slope / (2.0 * curvature));
        let falls = at_1 < at_0;
        let alpha = vertex.unwrap_or(if falls { MAX_ALPHA } else { 0.0 }).clamp(0.0, MAX_ALPHA);
        Self { vertex, curvature, slope, alpha }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(leading: &[f64], window: usize) -> PointGeometry {
        PointGeometry {
            window,
            component_shares: vec![1.0],
            random_walk_shares: vec![0.6],
            displacement_cosines: Vec::new(),
            random_walk_cosine: 0.25,
            leading: leading.to_vec(),
            drift_per_point: 1.0,
            averaging_lag: (window as f64 - 1.0) / 2.0,
        }
    }

    #[test]
    fn on_a_straight_line_both_directions_go_the_lag_that_averaging_costs() {
        // Points at 1, 2, 3, 4 times u: the weights of the leading component are (-3, -1, 1, 3) / sqrt(20).
        let leading = [-3.0, -1.0, 1.0, 3.0].map(|w: f64| w / 20.0_f64.sqrt());
        let geometry = geometry(&leading, 5);
        for direction in [Direction::Pc1, Direction::Secant] {
            for alpha in [0.0, 0.5, 1.0, 2.0] {
                let coefficients = window_coefficients(&geometry, direction, alpha);
                let place: f64 = coefficients.iter().zip(1..).map(|(c, j)| c * f64::from(j)).sum();
                // Windows of 5 trail by 2 intervals, each a fifth of the way from point to point.
                assert!((place - (4.0 + alpha * 2.0 / 5.0)).abs() < 1e-12, "{direction:?} {alpha} {place}");
                assert!((coefficients.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_vertex_is_capped_and_needs_a_bend() {
        let through = |cost: &dyn Fn(f64) -> f64| Parabola::through([cost(0.0), cost(0.5), cost(1.0)]);
        for vertex in [-0.7, 0.3, 1.16, 5.0] {
            let cost = |alpha: f64| 1.0 + 0.01 * (alpha - vertex).powi(2);
            let parabola = through(&cost);
            let at = |step: f64| cost(0.0) + parabola.slope * step + parabola.curvature * step * step;
            assert!((at(1.7) - cost(1.7)).abs() < 1e-9);
            assert!((parabola.vertex.unwrap() - vertex).abs() < 1e-9);
            assert!((parabola.alpha - vertex.clamp(0.0, 2.0)).abs() < 1e-9);
        }
        // Where the costs have no least point, the step is an end of its range.
        let check_end = |cost: &dyn Fn(f64) -> f64, end: f64| assert!((through(cost).alpha - end).abs() < 1e-12);
        check_end(&|alpha| 1.0 - alpha, 2.0);
        check_end(&|alpha| 1.0 + alpha, 0.0);
        check_end(&|_| 1.0, 0.0);
        assert_eq!(through(&|alpha| 1.0 - alpha * alpha).vertex, None);
    }
}
