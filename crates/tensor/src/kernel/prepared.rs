//! Coefficients made ready for the kernels: exact whole numbers, and doubles with what is known about them.

use num_bigint::{BigInt, BigUint, Sign};
use num_traits::{Signed, ToPrimitive};

use crate::Dtype;
use crate::kernel::format::FloatFormat;

/// Coefficients beyond 2^+-this have doubles that no error bound covers; such sums take the slow path throughout.
const MAX_LOG2: f64 = 400.0;

/// One affine combination, prepared.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// c_i, exact.
    pub(crate) numerators: Vec<BigInt>,
    /// D, exact, positive.
    pub(crate) divisor: BigUint,
    /// All of them, where each has at most 53 bits: then the doubles below are exact.
    pub(crate) small: Option<(Vec<i64>, u64)>,
    /// c_i, or c_i/D to the nearest double where these are too long.
    pub(crate) coefficients: Vec<f64>,
    /// D, or 1.
    pub(crate) d: f64,
    /// The double nearest to 1/d.
    pub(crate) reciprocal: f64,
    /// At least the sum of |coefficients|.
    pub(crate) sum_abs: f64,
    /// ceil(log2(sum of |c_i|)) of small ones.
    pub(crate) log2_sum_abs: i32,
    /// Bound of the error of a sum of doubles, as a share of the largest |x|.
    pub(crate) error_share: f64,
    /// Whether no bound holds, so that every element goes the slow path.
    pub(crate) is_extreme: bool,
}

impl Prepared {
    /// `divisor` is not zero.
    pub(crate) fn new(numerators: &[BigInt], divisor: &BigInt) -> Self {
        let flip = divisor.is_negative();
        let numerators: Vec<BigInt> = numerators.iter().map(|c| if flip { -c } else { c.clone() }).collect();
        let divisor = divisor.magnitude().clone();
        let fits = |n: &BigUint| n.bits() <= 53;
        let is_small = fits(&divisor) && numerators.iter().all(|c| fits(c.magnitude()));
        let small = is_small
            .then(|| {
                Some((numerators.iter().map(ToPrimitive::to_i64).collect::<Option<Vec<i64>>>()?, divisor.to_u64()?))
            })
            .flatten();
        let (coefficients, d) = match &small {
            Some((c, d)) => (c.iter().map(|&c| exact_f64(c.unsigned_abs(), c < 0)).collect(), exact_f64(*d, false)),
            None => (numerators.iter().map(|c| nearest_quotient(c, &divisor)).collect::<Vec<f64>>(), 1.0),
        };
        // Rounding the sum and its logarithm must not make them too small.
        let sum_abs = coefficients.iter().map(|c: &f64| c.abs()).sum::<f64>() * (1.0 + 1e-12);
        let is_extreme = coefficients.iter().any(|c| c.abs().log2().abs() >= MAX_LOG2);
        #[expect(clippy::cast_precision_loss, reason = "a count of sources")]
        let n_sources = coefficients.len() as f64;
        // Two roundings a term, one of the coefficient, a few of the division: see numerics in DESIGN.md.
        let error_share = (3.0 * n_sources + 12.0) * 2f64.powi(-53) * sum_abs / d;
        let log2_sum_abs = small.as_ref().map_or(0, |(c, _)| ceil_log2(c));
        Self {
            numerators,
            divisor,
            small: small.filter(|_| !is_extreme),
            coefficients,
            d,
            reciprocal: 1.0 / d,
            sum_abs,
            log2_sum_abs,
            error_share,
            is_extreme,
        }
    }

    /// Whether this is the single coefficient 1.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(&self.small, Some((c, 1)) if c.as_slice() == [1])
    }
}

fn ceil_log2(numerators: &[i64]) -> i32 {
    let sum: u128 = numerators.iter().map(|c| u128::from(c.unsigned_abs())).sum();
    (128 - sum.saturating_sub(1).leading_zeros()).cast_signed()
}

#[expect(clippy::cast_precision_loss, reason = "at most 53 bits")]
fn exact_f64(magnitude: u64, is_negative: bool) -> f64 {
    if is_negative { -(magnitude as f64) } else { magnitude as f64 }
}

/// c/D to the nearest double; beyond the doubles, infinity or zero, which `is_extreme` catches.
fn nearest_quotient(numerator: &BigInt, divisor: &BigUint) -> f64 {
    let Some(format) = FloatFormat::of(Dtype::F64) else { return f64::NAN };
    let bits = format.round_ratio(numerator.magnitude(), 0, divisor).unwrap_or(format.infinity());
    let size = f64::from_bits(bits);
    if numerator.sign() == Sign::Minus { -size } else { size }
}
