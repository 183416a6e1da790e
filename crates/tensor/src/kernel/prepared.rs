//! Coefficients made ready for the kernels: exact whole numbers, and doubles with what is known about them.

use num_bigint::{BigInt, BigUint, Sign};
use num_traits::{Signed, ToPrimitive};

use crate::Dtype;
use crate::kernel::format::FloatFormat;

/// Sums of coefficients beyond 2^+-this leave the range of the error bounds; such sums take the slow path throughout.
const MAX_LOG2: f64 = 400.0;

/// Whole numbers that machine words hold.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    /// c_i.
    pub(crate) numerators: Vec<i64>,
    /// D.
    pub(crate) divisor: u64,
    /// ceil(log2(sum of |c_i|)).
    pub(crate) log2_sum_abs: i32,
}

/// One affine combination, prepared.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// c_i, exact.
    pub(crate) numerators: Vec<BigInt>,
    /// D, exact, positive.
    pub(crate) divisor: BigUint,
    /// All of them, where each fits a word: for the slow path in 128 bits.
    pub(crate) words: Option<Words>,
    /// Whether each has at most 53 bits, so that the doubles below are exact, and sums of them may be.
    pub(crate) is_small: bool,
    /// ceil(log2(sum of |c_i|)) of small ones.
    pub(crate) log2_sum_abs: i32,
    /// c_i, or c_i/D to the nearest double where these are too long.
    pub(crate) coefficients: Vec<f64>,
    /// What c_i/D is more than that, to the nearest double; 0 for small ones.
    pub(crate) coefficient_rests: Vec<f64>,
    /// D, or 1.
    pub(crate) d: f64,
    /// The double nearest to 1/d.
    pub(crate) reciprocal: f64,
    /// At least the sum of |coefficients|.
    pub(crate) sum_abs: f64,
    /// Bound of the error of a sum of doubles, not divided yet, as a share of the largest |x|.
    pub(crate) error_share: f64,
    /// The same for what pairs of coefficient and rest leave out; these are divided already.
    pub(crate) pair_error_share: f64,
    /// Whether no bound holds, so that every element goes the slow path.
    pub(crate) is_extreme: bool,
}

impl Prepared {
    /// `divisor` is not zero.
    pub(crate) fn new(numerators: &[BigInt], divisor: &BigInt) -> Self {
        let flip = divisor.is_negative();
        let numerators: Vec<BigInt> = numerators.iter().map(|c| if flip { -c } else { c.clone() }).collect();
        let divisor = divisor.magnitude().clone();
        let words = Words::new(&numerators, &divisor);
        let fits = |n: &BigUint| n.bits() <= 53;
        let is_small = fits(&divisor) && numerators.iter().all(|c| fits(c.magnitude()));
        let doubles = words.as_ref().filter(|_| is_small);
        let (coefficients, coefficient_rests, d) = match doubles {
            Some(words) => {
                let coefficients: Vec<f64> =
                    words.numerators.iter().map(|&c| exact_f64(c.unsigned_abs(), c < 0)).collect();
                (coefficients, vec![0.0; numerators.len()], exact_f64(words.divisor, false))
            }
            None => {
                let (coefficients, rests) = numerators.iter().map(|c| nearest_pair(c, &divisor)).unzip();
                (coefficients, rests, 1.0)
            }
        };
        // Rounding the sum and its logarithm must not make them too small.
        let sum_abs = coefficients.iter().map(|c| c.abs()).sum::<f64>() * (1.0 + 1e-12);
        // A single coefficient may be as small as it likes: its error is one beside the sum's.
        let is_extreme = (sum_abs / d).log2().abs() >= MAX_LOG2;
        #[expect(clippy::cast_precision_loss, reason = "a count of sources")]
        let n_sources = coefficients.len() as f64;
        // At most two roundings a term, one of the coefficient, and those of the comparison with a midpoint.
        let error_share = (2.0 * n_sources + 8.0) * 2f64.powi(-53) * sum_abs;
        let pair_error_share = if is_small { 0.0 } else { 2f64.powi(-103) * sum_abs };
        Self {
            log2_sum_abs: words.as_ref().map_or(0, |words| words.log2_sum_abs),
            is_small,
            words,
            numerators,
            divisor,
            coefficients,
            coefficient_rests,
            d,
            reciprocal: 1.0 / d,
            sum_abs,
            error_share,
            pair_error_share,
            is_extreme,
        }
    }

    /// Whether this is the single coefficient 1.
    pub(crate) fn is_identity(&self) -> bool {
        self.words.as_ref().is_some_and(|words| words.divisor == 1 && words.numerators == [1])
    }

    /// How far apart the exponents of one element's inputs may be for their sum to be exact in an accumulator of
    /// this many bits; below 0 if never. `precision` is that of the inputs.
    pub(crate) fn exact_spread(&self, accumulator_bits: i32, precision: i32) -> i32 {
        if self.is_small { accumulator_bits - precision - self.log2_sum_abs } else { -1 }
    }
}

impl Words {
    fn new(numerators: &[BigInt], divisor: &BigUint) -> Option<Self> {
        let numerators = numerators.iter().map(ToPrimitive::to_i64).collect::<Option<Vec<i64>>>()?;
        let sum: u128 = numerators.iter().map(|c| u128::from(c.unsigned_abs())).sum();
        let log2_sum_abs = (128 - sum.saturating_sub(1).leading_zeros()).cast_signed();
        Some(Self { numerators, divisor: divisor.to_u64()?, log2_sum_abs })
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most 53 bits")]
fn exact_f64(magnitude: u64, is_negative: bool) -> f64 {
    if is_negative { -(magnitude as f64) } else { magnitude as f64 }
}

/// c/D as the nearest double and the double nearest to the rest; beyond the doubles infinity, which `is_extreme`
/// catches.
fn nearest_pair(numerator: &BigInt, divisor: &BigUint) -> (f64, f64) {
    let Some(format) = FloatFormat::of(Dtype::F64) else { return (f64::NAN, f64::NAN) };
    let nearest = |numerator: &BigInt, exponent: i32| {
        let bits = format.round_ratio(numerator.magnitude(), i64::from(exponent), divisor);
        let size = f64::from_bits(bits.unwrap_or(format.infinity()));
        if numerator.sign() == Sign::Minus { -size } else { size }
    };
    let high = nearest(numerator, 0);
    let Some(parts) = format.decode(high.to_bits()) else { return (high, 0.0) };
    let product = BigInt::from(parts.significand) * BigInt::from(divisor.clone());
    let product = if parts.is_negative { -product } else { product };
    let shift = parts.exponent.unsigned_abs();
    let low = if parts.exponent < 0 {
        nearest(&((numerator << shift) - product), parts.exponent)
    } else {
        nearest(&(numerator - (product << shift)), 0)
    };
    (high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_is_held_to_106_bits() {
        let (high, low) = nearest_pair(&BigInt::from(1), &BigUint::from(3u32));
        // 1/3 - high = 2^-54 / 3 exactly, since high = (2^54 - 1) / 3 / 2^54.
        assert_eq!((high.to_bits(), low.to_bits()), ((1.0f64 / 3.0).to_bits(), (2f64.powi(-54) / 3.0).to_bits()));
        let (high, low) = nearest_pair(&(BigInt::from(-3) << 200u32), &BigUint::from(1u32));
        assert_eq!((high.to_bits(), low.to_bits()), ((-3.0 * 2f64.powi(200)).to_bits(), 0));
    }
}
