//! Real numbers in arbitrary precision, and their one correct rounding to f64.
//!
//! Irrational schemes compute here and never with libm, whose results differ between systems. A value is computed
//! with a bound of its error; if the whole interval rounds to one double, that double is the answer, if not, the
//! work is repeated with twice the bits (Ziv's strategy).

use astro_float_num::{BigFloat, Consts, Radix, RoundingMode, Sign, Word};
use num_bigint::BigInt;
use num_traits::{One, Signed, Zero};

use super::SchemeError;
use crate::rational::{Ratio, nearest_f64};

/// Bits of the first attempt.
const START_BITS: usize = 256;
/// Bits of the last attempt. A value that agrees with the midpoint of two doubles this far is taken to be it.
const MAX_BITS: usize = 1 << 15;

/// Arithmetic at one precision; every operation is rounded to nearest, ties to even.
pub(crate) struct RealMath {
    n_bits: usize,
    consts: Consts,
}

/// Values with a bound of their errors: each is within 2^`error_exponent` of the real number.
pub(crate) struct Approximation {
    pub(crate) values: Vec<BigFloat>,
    pub(crate) error_exponent: i64,
}

const MODE: RoundingMode = RoundingMode::ToEven;

impl RealMath {
    pub(crate) fn new(n_bits: usize) -> Result<Self, SchemeError> {
        Ok(Self { n_bits, consts: Consts::new().map_err(|_| SchemeError::ArithmeticFailed)? })
    }

    pub(crate) fn n_bits(&self) -> usize {
        self.n_bits
    }

    /// An error bound that leaves `n_lost` bits of this precision to the roundings of a computation.
    pub(crate) fn error_exponent(&self, n_lost: i64) -> i64 {
        n_lost - i64::try_from(self.n_bits).unwrap_or(0)
    }

    /// A whole number, exactly.
    pub(crate) fn integer(&mut self, value: &BigInt) -> BigFloat {
        let digits = value.magnitude().to_radix_be(2);
        let sign = if value.is_negative() { Sign::Neg } else { Sign::Pos };
        let n_bits = digits.len().max(self.n_bits);
        let exponent = i32::try_from(digits.len()).unwrap_or(i32::MAX);
        match value.is_zero() {
            true => BigFloat::new(self.n_bits),
            false => BigFloat::convert_from_radix(sign, &digits, exponent, Radix::Bin, n_bits, MODE, &mut self.consts),
        }
    }

    pub(crate) fn ratio(&mut self, value: &Ratio) -> BigFloat {
        let (numerator, denominator) = (self.integer(value.numerator()), self.integer(value.denominator()));
        self.div(&numerator, &denominator)
    }

    pub(crate) fn add(&self, a: &BigFloat, b: &BigFloat) -> BigFloat {
        a.add(b, self.n_bits, MODE)
    }

    pub(crate) fn sub(&self, a: &BigFloat, b: &BigFloat) -> BigFloat {
        a.sub(b, self.n_bits, MODE)
    }

    pub(crate) fn mul(&self, a: &BigFloat, b: &BigFloat) -> BigFloat {
        a.mul(b, self.n_bits, MODE)
    }

    pub(crate) fn div(&self, a: &BigFloat, b: &BigFloat) -> BigFloat {
        a.div(b, self.n_bits, MODE)
    }

    pub(crate) fn sqrt(&self, a: &BigFloat) -> BigFloat {
        a.sqrt(self.n_bits, MODE)
    }

    pub(crate) fn cos(&mut self, a: &BigFloat) -> BigFloat {
        a.cos(self.n_bits, MODE, &mut self.consts)
    }

    pub(crate) fn pi(&mut self) -> BigFloat {
        self.consts.pi(self.n_bits, MODE)
    }

    pub(crate) fn ln(&mut self, a: &BigFloat) -> BigFloat {
        a.ln(self.n_bits, MODE, &mut self.consts)
    }

    pub(crate) fn exp(&mut self, a: &BigFloat) -> BigFloat {
        a.exp(self.n_bits, MODE, &mut self.consts)
    }
}

/// The exact value of a big float: mantissa x 2^exponent.
pub(crate) fn decode(value: &BigFloat) -> Result<(BigInt, i64), SchemeError> {
    let (words, _, sign, exponent, _) = value.as_raw_parts().ok_or(SchemeError::ArithmeticFailed)?;
    let mantissa = words.iter().rev().fold(BigInt::zero(), |sum, &word| (sum << Word::BITS) | BigInt::from(word));
    // The mantissa is read as a fraction below 1.
    let n_bits = i64::from(Word::BITS) * i64::try_from(words.len()).unwrap_or(0);
    Ok((if sign == Sign::Neg { -mantissa } else { mantissa }, i64::from(exponent) - n_bits))
}

/// `mantissa x 2^exponent` as the nearest double.
fn round_dyadic(mantissa: &BigInt, exponent: i64) -> f64 {
    match exponent < 0 {
        true => nearest_f64(mantissa, &(BigInt::one() << exponent.unsigned_abs())),
        false => nearest_f64(&(mantissa << exponent.unsigned_abs()), &BigInt::one()),
    }
}

/// The doubles to which both ends of the interval round.
fn round_ends(value: &BigFloat, error_exponent: i64) -> Result<(f64, f64), SchemeError> {
    let (mantissa, exponent) = decode(value)?;
    let lowest = exponent.min(error_exponent);
    let centre = mantissa << exponent.abs_diff(lowest);
    let error = BigInt::one() << error_exponent.abs_diff(lowest);
    Ok((round_dyadic(&(&centre - &error), lowest), round_dyadic(&(centre + error), lowest)))
}

/// Rounds every value that `evaluate` computes correctly to f64, with as many bits as that takes.
pub(crate) fn round_correctly(
    evaluate: impl Fn(&mut RealMath) -> Result<Approximation, SchemeError>,
) -> Result<Vec<f64>, SchemeError> {
    let mut n_bits = START_BITS;
    loop {
        let approximation = evaluate(&mut RealMath::new(n_bits)?)?;
        let ends = approximation
            .values
            .iter()
            .map(|value| round_ends(value, approximation.error_exponent))
            .collect::<Result<Vec<_>, _>>()?;
        let is_decided = ends.iter().all(|(low, high)| low.total_cmp(high).is_eq() || is_zero(*low) && is_zero(*high));
        if is_decided || n_bits >= MAX_BITS {
            return Ok(ends.into_iter().map(|(low, high)| settle(low, high)).collect());
        }
        n_bits *= 2;
    }
}

fn is_zero(value: f64) -> bool {
    value.abs().to_bits() == 0
}

/// Both ends agree; or a tie remains, which goes to the even neighbour.
fn settle(low: f64, high: f64) -> f64 {
    let value = if low.to_bits() & 1 == 0 { low } else { high };
    if is_zero(value) { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out_exactly() {
        let mut math = RealMath::new(256).unwrap();
        for value in [0i64, 1, -1, 3, 10, -1_234_567_890_123, i64::MAX, i64::MIN] {
            let (mantissa, exponent) = decode(&math.integer(&BigInt::from(value))).unwrap();
            let exact = Ratio::from_integer(mantissa).as_rational()
                * num_rational::BigRational::from_integer(BigInt::from(2)).pow(i32::try_from(exponent).unwrap());
            assert_eq!(exact, num_rational::BigRational::from_integer(BigInt::from(value)));
        }
        let big = BigInt::from(7).pow(300);
        let (mantissa, exponent) = decode(&math.integer(&big)).unwrap();
        assert_eq!(mantissa >> exponent.unsigned_abs(), big);
    }

    #[test]
    fn a_value_near_a_midpoint_gets_more_bits() {
        // 1 + 2^-53 + 2^-1000 is just above the midpoint of 1 and its successor.
        let text_bits = 1001;
        let numerator = (BigInt::one() << 1000u32) + (BigInt::one() << 947u32) + BigInt::one();
        let above = Ratio::new(numerator, BigInt::one() << (text_bits - 1)).unwrap();
        let rounded = round_correctly(|math| {
            let value = math.ratio(&above);
            Ok(Approximation { values: vec![value], error_exponent: math.error_exponent(2) })
        });
        assert_eq!(rounded.unwrap(), [1.0 + f64::EPSILON]);
    }

    #[test]
    fn an_exact_midpoint_goes_to_the_even_double() {
        let midpoint = Ratio::new((BigInt::one() << 53u32) + BigInt::from(3), BigInt::one() << 53u32).unwrap();
        let rounded = round_correctly(|math| {
            let value = math.ratio(&midpoint);
            Ok(Approximation { values: vec![value], error_exponent: math.error_exponent(2) })
        });
        assert_eq!(rounded.unwrap(), [1.0 + 2.0 * f64::EPSILON]);
    }
}
