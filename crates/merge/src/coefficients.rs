//! The N numbers that multiply the sources of a merge, exactly: whole numbers over one divisor.
//!
//! Does not say where they come from (see `scheme`) and does not multiply anything (see `combine`).

use std::fmt;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};
use serde::{Deserialize, Serialize};

use crate::rational::{NumberError, Ratio, decode_f64, nearest_f64};
use crate::scheme::SchemeError;

/// Largest exact divisor that a scheme may have, in bits: EMA with alpha 0.2 over 28,000 checkpoints.
const MAX_DIVISOR_BITS: u64 = 1 << 16;
/// Longest whole number that is read from text, in digits: more than the largest divisor has.
const MAX_INTEGER_DIGITS: usize = 20_000;

/// Coefficients of a weighted sum, oldest checkpoint first: `numerators[i] / divisor`.
///
/// In lowest terms, with a positive divisor and at least one numerator that is not zero, so that equal
/// coefficients are equal values.
///
/// # Example
/// ```
/// use thalweg_merge::Coefficients;
///
/// let coefficients = Coefficients::new([2, 2, 4], -8)?;
/// assert_eq!(coefficients, Coefficients::new([-1, -1, -2], 4)?);
/// assert_eq!(coefficients.as_f64(), [-0.25, -0.25, -0.5]);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "CoefficientsText", into = "CoefficientsText")]
pub struct Coefficients {
    numerators: Vec<BigInt>,
    divisor: BigInt,
}

/// The form in files: decimal digits, because no number type of JSON holds these values.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CoefficientsText {
    numerators: Vec<String>,
    divisor: String,
}

impl Coefficients {
    /// `numerators[i] / divisor`, oldest first, brought to lowest terms.
    ///
    /// # Errors
    /// `EmptyWindow` without numerators, `ZeroDivisor` if the divisor is 0, `AllZero` if every numerator is.
    pub fn new<N: Into<BigInt>>(
        numerators: impl IntoIterator<Item = N>,
        divisor: impl Into<BigInt>,
    ) -> Result<Self, SchemeError> {
        let mut numerators: Vec<BigInt> = numerators.into_iter().map(Into::into).collect();
        let mut divisor = divisor.into();
        if numerators.is_empty() {
            return Err(SchemeError::EmptyWindow);
        }
        if divisor.is_zero() {
            return Err(SchemeError::ZeroDivisor);
        }
        if numerators.iter().all(Zero::is_zero) {
            return Err(SchemeError::AllZero);
        }
        let mut common = numerators.iter().fold(divisor.clone(), |gcd, numerator| match gcd.is_one() {
            true => gcd,
            false => gcd.gcd(numerator),
        });
        if divisor.is_negative() {
            common = -common.abs();
        }
        if !common.is_one() {
            numerators.iter_mut().for_each(|numerator| *numerator /= &common);
            divisor /= &common;
        }
        Ok(Self { numerators, divisor })
    }

    /// Exact ratios as they are, oldest first, over their least common denominator.
    ///
    /// # Errors
    /// `DivisorTooLarge` if the denominators have too little in common, and those of [`new`](Self::new).
    pub fn from_ratios(ratios: &[Ratio]) -> Result<Self, SchemeError> {
        let mut divisor = BigInt::one();
        for ratio in ratios {
            divisor = divisor.lcm(ratio.denominator());
            check_divisor_bits(ratios.len(), divisor.bits())?;
        }
        Self::new(ratios.iter().map(|ratio| ratio.numerator() * (&divisor / ratio.denominator())), divisor.clone())
    }

    /// Doubles taken exactly and divided by their exact sum, so that the coefficients sum to 1.
    ///
    /// # Errors
    /// `Number` for NaN and infinities, `SumZero` if the sum is 0, and those of [`new`](Self::new).
    pub fn from_f64_normalized(values: &[f64]) -> Result<Self, SchemeError> {
        let decoded = values
            .iter()
            .map(|&value| decode_f64(value).ok_or_else(|| NumberError::NotANumber { text: value.to_string() }))
            .collect::<Result<Vec<_>, _>>()?;
        let lowest = decoded.iter().map(|(_, exponent)| *exponent).min().unwrap_or(0);
        let numerators = decoded.into_iter().map(|(mantissa, exponent)| mantissa << exponent.abs_diff(lowest));
        Self::new(numerators, BigInt::one())?.normalized()
    }

    /// Reads the decimal strings that [`to_decimal_strings`](Self::to_decimal_strings) gives.
    ///
    /// # Errors
    /// `Number` for a text that is not a whole number, and those of [`new`](Self::new).
    pub fn from_decimal_strings<S: AsRef<str>>(numerators: &[S], divisor: &str) -> Result<Self, SchemeError> {
        let numerators = numerators.iter().map(|text| parse_integer(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        Self::new(numerators, parse_integer(divisor)?)
    }

    /// Numerators and divisor in decimal digits.
    pub fn to_decimal_strings(&self) -> (Vec<String>, String) {
        (self.numerators.iter().map(BigInt::to_string).collect(), self.divisor.to_string())
    }

    /// What the sources are multiplied by, oldest first.
    pub fn numerators(&self) -> &[BigInt] {
        &self.numerators
    }

    /// What the weighted sum is divided by; positive.
    pub fn divisor(&self) -> &BigInt {
        &self.divisor
    }

    /// Number of checkpoints, those with coefficient zero included; at least 1.
    pub fn n_checkpoints(&self) -> usize {
        self.numerators.len()
    }

    /// The coefficients one by one, exactly.
    pub fn ratios(&self) -> impl Iterator<Item = Ratio> {
        self.numerators.iter().map(|numerator| BigRational::new(numerator.clone(), self.divisor.clone()).into())
    }

    /// The exact sum of the coefficients.
    pub fn sum(&self) -> Ratio {
        BigRational::new(self.numerator_sum(), self.divisor.clone()).into()
    }

    /// Whether the coefficients sum to 1 exactly.
    pub fn is_affine(&self) -> bool {
        self.numerator_sum() == self.divisor
    }

    /// The coefficients as the nearest doubles, for display; sums use the exact ones.
    pub fn as_f64(&self) -> Vec<f64> {
        self.numerators.iter().map(|numerator| nearest_f64(numerator, &self.divisor)).collect()
    }

    /// The coefficients divided by their exact sum.
    ///
    /// # Errors
    /// `SumZero` if they sum to 0.
    pub(crate) fn normalized(&self) -> Result<Self, SchemeError> {
        let sum = self.numerator_sum();
        if sum.is_zero() {
            return Err(SchemeError::SumZero);
        }
        Self::new(self.numerators.iter().cloned(), sum)
    }

    /// The checkpoints that count: their positions and their coefficients. A source with coefficient zero is
    /// not read, since 0 x infinity is not 0.
    pub fn without_zeros(&self) -> (Vec<usize>, Self) {
        let kept: Vec<usize> = (0..self.numerators.len()).filter(|&i| !self.numerators[i].is_zero()).collect();
        let numerators = kept.iter().map(|&i| self.numerators[i].clone()).collect();
        (kept, Self { numerators, divisor: self.divisor.clone() })
    }

    /// The same coefficients given to other checkpoints: position i of the result holds coefficient `from[i]`.
    pub(crate) fn permuted(&self, from: &[usize]) -> Self {
        debug_assert_eq!(from.len(), self.numerators.len(), "a permutation of all positions");
        let numerators = from.iter().map(|&i| self.numerators[i].clone()).collect();
        Self { numerators, divisor: self.divisor.clone() }
    }

    fn numerator_sum(&self) -> BigInt {
        self.numerators.iter().sum()
    }
}

impl fmt::Display for Coefficients {
    /// `(1, 1, 2) / 4`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, numerator) in self.numerators.iter().enumerate() {
            write!(f, "{}{numerator}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, ") / {}", self.divisor)
    }
}

impl TryFrom<CoefficientsText> for Coefficients {
    type Error = SchemeError;

    fn try_from(text: CoefficientsText) -> Result<Self, SchemeError> {
        Self::from_decimal_strings(&text.numerators, &text.divisor)
    }
}

impl From<Coefficients> for CoefficientsText {
    fn from(coefficients: Coefficients) -> Self {
        let (numerators, divisor) = coefficients.to_decimal_strings();
        Self { numerators, divisor }
    }
}

/// `DivisorTooLarge` where exactness would cost more than it is worth.
pub(crate) fn check_divisor_bits(n_checkpoints: usize, n_bits: u64) -> Result<(), SchemeError> {
    match n_bits > MAX_DIVISOR_BITS {
        true => Err(SchemeError::DivisorTooLarge { n_checkpoints, n_bits, max_bits: MAX_DIVISOR_BITS }),
        false => Ok(()),
    }
}

fn parse_integer(text: &str) -> Result<BigInt, SchemeError> {
    if text.len() > MAX_INTEGER_DIGITS + 1 {
        return Err(NumberError::NumberTooLong { text: text.chars().take(20).collect() }.into());
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = is_number.then(|| BigInt::parse_bytes(text.as_bytes(), 10)).flatten();
    parsed.ok_or_else(|| {
        let text = text.chars().take(20).flat_map(char::escape_default).collect();
        NumberError::NotANumber { text }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_equal_coefficients() {
        let plain = Coefficients::new([1, 1, 2], 4).unwrap();
        assert_eq!(Coefficients::new([-3, -3, -6], -12).unwrap(), plain);
        assert_eq!(Coefficients::new([3, 3, 6], 12).unwrap().divisor(), &BigInt::from(4));
        assert!(plain.is_affine());
        assert_eq!(plain.to_string(), "(1, 1, 2) / 4");
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Coefficients::new([0; 0], 1), Err(SchemeError::EmptyWindow));
        assert_eq!(Coefficients::new([1], 0), Err(SchemeError::ZeroDivisor));
        assert_eq!(Coefficients::new([0, 0], 3), Err(SchemeError::AllZero));
        assert_eq!(Coefficients::new([1, -1], 1).unwrap().normalized(), Err(SchemeError::SumZero));
        assert!(matches!(Coefficients::from_f64_normalized(&[f64::NAN]), Err(SchemeError::Number(_))));
    }

    #[test]
    fn doubles_divided_by_their_exact_sum_are_affine() {
        let values = [0.1, 0.2, 0.7, 1e-17, 5e-324];
        let coefficients = Coefficients::from_f64_normalized(&values).unwrap();
        assert!(coefficients.is_affine());
        let first = &coefficients.numerators()[0];
        let last = &coefficients.numerators()[4];
        assert!(nearest_f64(first, last).is_infinite());
        assert_eq!(last, &BigInt::one());
    }

    #[test]
    fn files_hold_decimal_strings_that_read_back() {
        let big = Coefficients::new([BigInt::from(3).pow(200), BigInt::from(-7)], BigInt::from(2).pow(300)).unwrap();
        let text = serde_json::to_string(&big).unwrap();
        assert_eq!(serde_json::from_str::<Coefficients>(&text).unwrap(), big);
        for text in [
            r#"{"numerators":["1","x"],"divisor":"2"}"#,
            r#"{"numerators":["1"],"divisor":"0"}"#,
            r#"{"numerators":[],"divisor":"1"}"#,
            r#"{"numerators":["1"],"divisor":"1","extra":1}"#,
            r#"{"numerators":["+1"],"divisor":"1"}"#,
            r#"{"numerators":["1_0"],"divisor":"1"}"#,
        ] {
            assert!(serde_json::from_str::<Coefficients>(text).is_err(), "{text}");
        }
        assert!(Coefficients::from_decimal_strings(&["1".repeat(30_000)], "1").is_err());
    }

    #[test]
    fn zeros_leave_with_their_positions() {
        let (kept, rest) = Coefficients::new([0, 3, 0, 1], 4).unwrap().without_zeros();
        assert_eq!(kept, [1, 3]);
        assert_eq!(rest, Coefficients::new([3, 1], 4).unwrap());
    }
}
