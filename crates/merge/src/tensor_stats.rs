//! What a merge counts of each tensor while it sums: distance, norm, values that are not finite.

/// Statistics of one output tensor, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TensorStats {
    /// Sum of squared differences from the newest source's tensor; `None` when that was not read.
    pub sum_squared_distance: Option<f64>,
    /// Largest difference of an element from the newest source's.
    pub max_abs_change: Option<f64>,
    /// Sum of the squares of the newest source's tensor.
    pub newest_squares: Option<f64>,
    /// Elements that are NaN or infinite.
    pub n_non_finite: u64,
    /// Elements that needed the exact slow path.
    pub n_slow_path: u64,
}

impl TensorStats {
    /// Adds the statistics of the next part.
    pub(crate) fn add(&mut self, next: &Self) {
        let both = |a: Option<f64>, b: Option<f64>, join: fn(f64, f64) -> f64| Some(join(a?, b?));
        self.sum_squared_distance = both(self.sum_squared_distance, next.sum_squared_distance, |a, b| a + b);
        self.max_abs_change = both(self.max_abs_change, next.max_abs_change, f64::max);
        self.newest_squares = both(self.newest_squares, next.newest_squares, |a, b| a + b);
        self.n_non_finite += next.n_non_finite;
        self.n_slow_path += next.n_slow_path;
    }

    /// The neutral start of a sum over parts.
    pub(crate) fn start() -> Self {
        let zero = Some(0.0);
        Self { sum_squared_distance: zero, max_abs_change: zero, newest_squares: zero, n_non_finite: 0, n_slow_path: 0 }
    }
}
