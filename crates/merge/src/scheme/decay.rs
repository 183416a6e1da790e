//! Decay schemes: merging a stable phase so that it imitates a learning-rate decay that was never run.
//!
//! Tian et al. 2025, WSM (arXiv 2507.17634), theorem 3.1. Of n checkpoints 0..n-1, the update between checkpoint i-1
//! and i (i = 1..n-1) is to be scaled by w_i = w(t_i), the decay curve. The coefficients that do it are unique:
//!
//! c_0 = 1 - w_1, c_j = w_j - w_(j+1), c_(n-1) = w_(n-1).
//!
//! The grid is t_i = i/n, with n and not n-1 below (checked against the paper's figure 2). On it, with f the curve
//! that falls from 1 to 0 and `floor` (r) the share of the peak learning rate at which the decay ends,
//! w = r + (1-r) f(t), so c = r (newest only) + (1-r) c_f.
//!
//! | curve | f(t) |
//! |---|---|
//! | `linear` | 1 - t: exactly the simple moving average |
//! | `cosine` | (1 + cos(pi t)) / 2 |
//! | `1-sqrt` | 1 - sqrt(t), the paper's "inverse square root"; the oldest checkpoint gets the most |
//!
//! Checkpoints that are not evenly spaced use their own positions, see [`decay_grid`].
//!
//! Use it to imitate an annealed model, over checkpoints of a stable phase: the paper reports 64.06 overall
//! for `1-sqrt`, 63.95 for the mean, 63.01 for an EMA and 62.67 for the real decay (one model).

use astro_float_num::BigFloat;
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::One;

use super::SchemeError;
use super::real::{Approximation, RealMath, round_correctly};
use crate::{Coefficients, Ratio};

/// Form of the imitated learning-rate decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayCurve {
    /// f(t) = 1 - t.
    Linear,
    /// f(t) = (1 + cos(pi t)) / 2.
    Cosine,
    /// f(t) = 1 - sqrt(t).
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// The even grid t_i = i/n, i = 1..n-1, of n checkpoints.
pub fn even_decay_grid(n: usize) -> Vec<Ratio> {
    (1..n).filter_map(|i| Ratio::new(BigInt::from(i), BigInt::from(n))).collect()
}

/// The grid of checkpoints at `positions` (steps or tokens, oldest first), evenly spaced or not.
///
/// t_i = (T_i - T_0) (n-1) / ((T_(n-1) - T_0) n): the real shares of the way, scaled so that even spacing gives i/n.
///
/// # Errors
/// `PositionsNotIncreasing`.
pub fn decay_grid(positions: &[u64]) -> Result<Vec<Ratio>, SchemeError> {
    super::check_positions(positions)?;
    let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return Ok(Vec::new()) };
    let n = positions.len();
    let whole = BigInt::from(last - first) * n;
    Ok(positions
        .iter()
        .skip(1)
        .filter_map(|position| Ratio::new(BigInt::from(position - first) * (n - 1), whole.clone()))
        .collect())
}

/// Coefficients that imitate a learning-rate decay, oldest first, one more than `grid` has points.
///
/// `grid` holds t_i of all checkpoints but the oldest, 0 < t_1 < ... <= 1; `floor` is a share of the peak from 0 to 1.
/// `linear` is exact; for the other curves each coefficient is the double nearest to the real one, and the divisor
/// is the exact sum of these doubles. Tian et al. 2025 (arXiv 2507.17634), theorem 3.1.
///
/// # Errors
/// `FloorOutOfRange`, `PositionsNotIncreasing` if the grid does not increase within (0, 1], `DivisorTooLarge`.
///
/// # Example
/// ```
/// use thalweg_merge::scheme::{DecayCurve, decay_coefficients, even_decay_grid};
///
/// let coefficients = decay_coefficients(DecayCurve::OneMinusSqrt, &"0".parse()?, &even_decay_grid(4))?;
/// assert_eq!(coefficients.as_f64()[0], 0.5);
/// assert!(coefficients.is_affine());
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn decay_coefficients(curve: DecayCurve, floor: &Ratio, grid: &[Ratio]) -> Result<Coefficients, SchemeError> {
    if floor.is_negative() || floor.numerator() > floor.denominator() {
        return Err(SchemeError::FloorOutOfRange { floor: floor.clone() });
    }
    check_grid(grid)?;
    let is_newest_only = floor.is_one() || grid.is_empty();
    if is_newest_only || curve == DecayCurve::Linear {
        return linear_coefficients(floor, grid);
    }
    let doubles = round_correctly(|math| evaluate(math, curve, floor, grid))?;
    Coefficients::from_f64_normalized(&doubles)
}

fn check_grid(grid: &[Ratio]) -> Result<(), SchemeError> {
    let mut previous = Ratio::from_integer(0);
    for (i, t) in grid.iter().enumerate() {
        if *t <= previous || *t > Ratio::from_integer(1) {
            let (position, previous) = (Box::new(t.clone()), Box::new(previous));
            return Err(SchemeError::PositionsNotIncreasing { idx: i + 1, position, previous });
        }
        previous = t.clone();
    }
    Ok(())
}

fn linear_coefficients(floor: &Ratio, grid: &[Ratio]) -> Result<Coefficients, SchemeError> {
    let one = BigRational::one();
    let curve: Vec<BigRational> =
        grid.iter().map(|t| floor.as_rational() + (&one - floor.as_rational()) * (&one - t.as_rational())).collect();
    let left = std::iter::once(&one).chain(&curve);
    let mut ratios: Vec<Ratio> = left.zip(&curve).map(|(before, after)| Ratio::from(before - after)).collect();
    ratios.push(Ratio::from(curve.last().unwrap_or(&one).clone()));
    Coefficients::from_ratios(&ratios)
}

/// All coefficients as real numbers. Each comes from about ten roundings of numbers at most 4, so that 8 bits cover
/// the errors; 32 are granted.
fn evaluate(
    math: &mut RealMath,
    curve: DecayCurve,
    floor: &Ratio,
    grid: &[Ratio],
) -> Result<Approximation, SchemeError> {
    let one = math.integer(&BigInt::one());
    let two = math.integer(&BigInt::from(2));
    let pi = math.pi();
    let floor = math.ratio(floor);
    let above_floor = math.sub(&one, &floor);
    let mut points: Vec<BigFloat> = vec![one.clone()];
    for t in grid {
        let t = math.ratio(t);
        let fallen = match curve {
            DecayCurve::Linear => math.sub(&one, &t),
            DecayCurve::OneMinusSqrt => math.sub(&one, &math.sqrt(&t)),
            DecayCurve::Cosine => {
                let cosine = math.cos(&math.mul(&pi, &t));
                math.div(&math.add(&one, &cosine), &two)
            }
        };
        points.push(math.add(&floor, &math.mul(&above_floor, &fallen)));
    }
    let mut values: Vec<BigFloat> = points.windows(2).map(|pair| math.sub(&pair[0], &pair[1])).collect();
    values.push(points[points.len() - 1].clone());
    Ok(Approximation { values, error_exponent: math.error_exponent(32) })
}
