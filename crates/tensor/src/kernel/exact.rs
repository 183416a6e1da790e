//! The slow path: one element, in whole numbers. It answers what no bound can settle.

use num_bigint::{BigInt, Sign};
use num_traits::{Signed, Zero};

use crate::Dtype;
use crate::kernel::format::{FloatFormat, Parts};
use crate::kernel::prepared::Prepared;

/// The correctly rounded sum of finite terms, as bits of `output`; `None` when it is too large.
///
/// A zero sum is +0 unless every term is -0.
pub(crate) fn round_exactly(prepared: &Prepared, inputs: &[Parts], output: FloatFormat) -> Option<u64> {
    let terms = || inputs.iter().zip(&prepared.numerators);
    let Some(unit) = inputs.iter().filter(|x| x.significand != 0).map(lowest_bit).min() else {
        let all_negative = terms().all(|(x, c)| x.is_negative != c.is_negative());
        return Some(if all_negative { output.sign_bit() } else { 0 });
    };
    if let Some(answer) = round_in_i128(prepared, inputs, unit, output) {
        return answer;
    }
    let mut sum = BigInt::zero();
    for (x, c) in terms().filter(|(x, _)| x.significand != 0) {
        let product = c * scaled(x, unit);
        if x.is_negative { sum -= product } else { sum += product }
    }
    let bits = output.round_ratio(sum.magnitude(), i64::from(unit), &prepared.divisor)?;
    Some(if sum.sign() == Sign::Minus { bits | output.sign_bit() } else { bits })
}

fn lowest_bit(x: &Parts) -> i32 {
    x.exponent + x.significand.trailing_zeros().cast_signed()
}

fn scaled(x: &Parts, unit: i32) -> BigInt {
    let shift = x.exponent - unit;
    if shift >= 0 { BigInt::from(x.significand) << shift } else { BigInt::from(x.significand >> -shift) }
}

/// `None` when 128 bits are too few; else the answer.
fn round_in_i128(prepared: &Prepared, inputs: &[Parts], unit: i32, output: FloatFormat) -> Option<Option<u64>> {
    let words = prepared.words.as_ref()?;
    let top = |x: &Parts| x.exponent + 64 - x.significand.leading_zeros().cast_signed();
    let highest = inputs.iter().filter(|x| x.significand != 0).map(top).max()?;
    if highest - unit + words.log2_sum_abs > 126 {
        return None;
    }
    let mut sum = 0i128;
    for (x, &c) in inputs.iter().zip(&words.numerators).filter(|(x, _)| x.significand != 0) {
        let shift = x.exponent - unit;
        let value = if shift >= 0 { i128::from(x.significand) << shift } else { i128::from(x.significand >> -shift) };
        sum += if x.is_negative { -value } else { value } * i128::from(c);
    }
    let bits = output.round_ratio_i128(sum.unsigned_abs(), unit, words.divisor).ok()?;
    Some(bits.map(|bits| if sum < 0 { bits | output.sign_bit() } else { bits }))
}

/// About the value of a sum that is too large for the output, for a message.
pub(crate) fn approximate(prepared: &Prepared, input: Dtype, bits: &[u64]) -> f64 {
    let Some(format) = FloatFormat::of(input) else { return f64::INFINITY };
    let value = |bits: u64| {
        format.decode(bits).map_or(f64::NAN, |x| {
            #[expect(clippy::cast_precision_loss, reason = "an approximation")]
            let size = x.significand as f64 * 2f64.powi(x.exponent);
            if x.is_negative { -size } else { size }
        })
    };
    // Scaled down, so that terms of both signs do not meet as infinities.
    const SCALE: f64 = 1.0 / (1u64 << 63) as f64;
    let terms = bits.iter().zip(&prepared.coefficients).map(|(&bits, c)| value(bits) * SCALE * (c / prepared.d));
    terms.sum::<f64>() / SCALE
}
