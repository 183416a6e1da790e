//! Fewer points than a curve has, with its extremes kept: thousands of steps do not need thousands of pixels.

/// At most about two points a column, the lowest and the highest of each, in their order.
pub(crate) fn thin_curve(points: &[(f64, f64)], n_columns: usize) -> Vec<(f64, f64)> {
    if points.len() <= 2 * n_columns || n_columns == 0 {
        return points.to_vec();
    }
    let per_column = points.len().div_ceil(n_columns);
    let mut kept = Vec::with_capacity(2 * n_columns + 2);
    for column in points.chunks(per_column) {
        let by_height = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1.1.total_cmp(&b.1.1);
        let low = column.iter().enumerate().min_by(by_height).map(|(i, _)| i);
        let high = column.iter().enumerate().max_by(by_height).map(|(i, _)| i);
        let mut both: Vec<usize> = low.into_iter().chain(high).collect();
        both.sort_unstable();
        both.dedup();
        kept.extend(both.into_iter().map(|i| column[i]));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_stay_and_order_stays() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[5_000].1 = 1e3;
        points[7_777].1 = -1e3;
        let thin = thin_curve(&points, 100);
        assert!(thin.len() <= 200);
        assert!(thin.contains(&(5_000.0, 1e3)) && thin.contains(&(7_777.0, -1e3)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn short_curves_are_kept_whole() {
        let points = [(0.0, 1.0), (1.0, 2.0)];
        assert_eq!(thin_curve(&points, 10), points);
    }
}
