//! The least value of a function of a few numbers, each on its range (Nelder and Mead 1965).

/// Rounds: a fit of three numbers takes about 200.
const MAX_ROUNDS: usize = 2000;
/// The corners are this close together, as a share of the ranges, when the search ends.
const TOLERANCE: f64 = 1e-10;

/// A place with its cost.
type Corner<const N: usize> = ([f64; N], f64);

/// Searches from `start`, within `ranges`, whose ends belong to them.
pub(super) fn minimize_from<const N: usize>(
    start: [f64; N],
    ranges: [[f64; 2]; N],
    cost: &dyn Fn([f64; N]) -> f64,
) -> Corner<N> {
    let clamp = |mut place: [f64; N]| {
        place.iter_mut().zip(ranges).for_each(|(x, [low, high])| *x = x.clamp(low, high));
        place
    };
    let at = |place: [f64; N]| {
        let place = clamp(place);
        let value = cost(place);
        (place, if value.is_nan() { f64::INFINITY } else { value })
    };
    let mut corners: Vec<Corner<N>> = vec![at(start)];
    for i in 0..N {
        let mut place = start;
        let step = 0.1 * (ranges[i][1] - ranges[i][0]);
        place[i] += if place[i] + step <= ranges[i][1] { step } else { -step };
        corners.push(at(place));
    }
    for _ in 0..MAX_ROUNDS {
        corners.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (best, worst) = (corners[0], corners[N]);
        let width = (0..N).map(|i| {
            let values = corners.iter().map(|corner| corner.0[i]);
            let spread = values.clone().fold(f64::MIN, f64::max) - values.fold(f64::MAX, f64::min);
            spread / (ranges[i][1] - ranges[i][0])
        });
        if width.fold(0.0, f64::max) < TOLERANCE {
            break;
        }
        let middle: [f64; N] =
            std::array::from_fn(|i| corners[..N].iter().map(|corner| corner.0[i]).sum::<f64>() / N as f64);
        let along = |share: f64| at(std::array::from_fn(|i| middle[i] + share * (worst.0[i] - middle[i])));
        let reflected = along(-1.0);
        let better = if reflected.1 < best.1 {
            let expanded = along(-2.0);
            Some(if expanded.1 < reflected.1 { expanded } else { reflected })
        } else if reflected.1 < corners[N - 1].1 {
            Some(reflected)
        } else {
            let contracted = along(if reflected.1 < worst.1 { -0.5 } else { 0.5 });
            (contracted.1 < worst.1.min(reflected.1)).then_some(contracted)
        };
        match better {
            Some(corner) => corners[N] = corner,
            None => {
                for corner in &mut corners[1..] {
                    *corner = at(std::array::from_fn(|i| f64::midpoint(corner.0[i], best.0[i])));
                }
            }
        }
    }
    corners.sort_by(|a, b| a.1.total_cmp(&b.1));
    corners[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        let rosenbrock = |[x, y]: [f64; 2]| (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2);
        let (place, cost) = minimize_from([-1.2, 1.0], [[-3.0, 3.0]; 2], &rosenbrock);
        assert!((place[0] - 1.0).abs() < 1e-6 && (place[1] - 1.0).abs() < 1e-6 && cost < 1e-12, "{place:?}");
    }

    #[test]
    fn the_ends_of_the_ranges_hold() {
        let (place, _) = minimize_from([0.5, 0.5], [[0.0, 1.0]; 2], &|[x, y]| x - y);
        assert!(place[0] < 1e-6 && place[1] > 1.0 - 1e-6, "{place:?}");
    }
}
