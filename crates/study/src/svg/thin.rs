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

/// The moving mean of a curve, over a thirtieth of its points; the curve itself where it has few.
pub(crate) fn smooth_curve(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 60;
    if reach == 0 {
        return points.to_vec();
    }
    let mean = |i: usize| {
        // As far to both sides as there are points, so that the ends do not lag.
        let reach = reach.min(i).min(points.len() - 1 - i);
        let around = &points[i - reach..=i + reach];
        let n = around.len() as f64;
        (points[i].0, around.iter().map(|point| point.1).sum::<f64>() / n)
    };
    (0..points.len()).map(mean).collect()
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
    fn a_smooth_curve_keeps_lines_and_averages_noise_away() {
        let line: Vec<(f64, f64)> = (0..600).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        let smooth = smooth_curve(&line);
        assert!(smooth.iter().zip(&line).all(|(a, b)| (a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9));
        let noisy: Vec<(f64, f64)> = (0..600).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smooth_curve(&noisy)[30..570].iter().all(|point| (point.1 - 0.5).abs() < 0.05));
        assert_eq!(smooth_curve(&line[..50]), line[..50]);
    }

    #[test]
    fn short_curves_are_kept_whole() {
        let points = [(0.0, 1.0), (1.0, 2.0)];
        assert_eq!(thin_curve(&points, 10), points);
    }
}
