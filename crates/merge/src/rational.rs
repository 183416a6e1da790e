//! Exact ratios: how a person's `0.2` or `1/5` becomes a number without any rounding.
//!
//! Also the one exact rounding of a quotient to f64. Does not compute irrational functions; see `scheme::real`.

use std::fmt;
use std::str::FromStr;

use num_bigint::{BigInt, Sign};
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

/// Longest text of a number that is read, in bytes.
const MAX_NUMBER_BYTES: usize = 1000;
/// Largest decimal exponent that is read: enough for every f64, and a thousand digits are cheap.
const MAX_DECIMAL_EXPONENT: i32 = 400;
/// Decimals that a printed ratio may have before it is printed as a fraction.
const MAX_SHOWN_DECIMALS: u32 = 40;

/// Why text is not a number that is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NumberError {
    /// Text that is not a finite number.
    #[error("`{text}` is not a finite decimal number or fraction")]
    NotANumber {
        /// The text, its beginning if it is long.
        text: String,
    },
    /// More digits or a larger exponent than is read.
    #[error("the number `{text}` has too many digits or too large an exponent")]
    NumberTooLong {
        /// The beginning of the text.
        text: String,
    },
}

/// An exact ratio of two whole numbers, in lowest terms.
///
/// Reads decimal numbers (`0.2`, `-1.5`, `1e-3`) and fractions (`1/5`), exactly.
///
/// # Example
/// ```
/// use thalweg_merge::Ratio;
///
/// let fifth: Ratio = "0.2".parse()?;
/// assert_eq!(fifth, "1/5".parse()?);
/// assert_eq!(fifth.to_string(), "0.2");
/// # Ok::<(), thalweg_merge::NumberError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(BigRational);

impl Ratio {
    /// `numerator / denominator`; none if the denominator is zero.
    pub fn new(numerator: impl Into<BigInt>, denominator: impl Into<BigInt>) -> Option<Self> {
        let (numerator, denominator) = (numerator.into(), denominator.into());
        (!denominator.is_zero()).then(|| Self(BigRational::new(numerator, denominator)))
    }

    /// A whole number.
    pub fn from_integer(value: impl Into<BigInt>) -> Self {
        Self(BigRational::from_integer(value.into()))
    }

    /// The exact value of a double; none if it is not finite.
    pub fn from_f64(value: f64) -> Option<Self> {
        let (mantissa, exponent) = decode_f64(value)?;
        let power = BigInt::one() << exponent.unsigned_abs();
        Some(Self(match exponent < 0 {
            true => BigRational::new(mantissa, power),
            false => BigRational::from_integer(mantissa * power),
        }))
    }

    /// Numerator in lowest terms; carries the sign.
    pub fn numerator(&self) -> &BigInt {
        self.0.numer()
    }

    /// Denominator in lowest terms, positive.
    pub fn denominator(&self) -> &BigInt {
        self.0.denom()
    }

    /// The nearest double, ties to even.
    pub fn to_f64(&self) -> f64 {
        nearest_f64(self.numerator(), self.denominator())
    }

    /// Whether the ratio is 0.
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    /// Whether the ratio is 1.
    pub(crate) fn is_one(&self) -> bool {
        self.0.is_one()
    }

    /// Whether the ratio is below 0.
    pub fn is_negative(&self) -> bool {
        self.0.is_negative()
    }

    /// The exact ratio as the arithmetic crate's type.
    pub(crate) fn as_rational(&self) -> &BigRational {
        &self.0
    }
}

impl From<BigRational> for Ratio {
    fn from(value: BigRational) -> Self {
        Self(value)
    }
}

impl FromStr for Ratio {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, NumberError> {
        if text.len() > MAX_NUMBER_BYTES {
            return Err(NumberError::NumberTooLong { text: excerpt(text) });
        }
        let parsed = match text.split_once('/') {
            Some((numerator, denominator)) => parse_fraction(numerator, denominator),
            None => parse_decimal(text)?,
        };
        let ratio = parsed.map(Self).ok_or_else(|| NumberError::NotANumber { text: excerpt(text) })?;
        // As a fraction it may have twice the digits; what is accepted must read back as it is printed.
        let is_short = text.len() <= MAX_NUMBER_BYTES / 4 || ratio.to_string().len() <= MAX_NUMBER_BYTES;
        if is_short { Ok(ratio) } else { Err(NumberError::NumberTooLong { text: excerpt(text) }) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match exact_decimal(&self.0) {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}/{}", self.numerator(), self.denominator()),
        }
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ratio({}/{})", self.numerator(), self.denominator())
    }
}

fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    let mut short: String = text.chars().take(MAX_CHARS).flat_map(char::escape_default).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push_str("...");
    }
    short
}

fn split_sign(text: &str) -> (Sign, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (Sign::Minus, &text[1..]),
        Some(b'+') => (Sign::Plus, &text[1..]),
        _ => (Sign::Plus, text),
    }
}

fn with_sign(sign: Sign, magnitude: BigInt) -> BigInt {
    if sign == Sign::Minus { -magnitude } else { magnitude }
}

/// One or more decimal digits and nothing else.
fn parse_digits(text: &str) -> Option<BigInt> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| BigInt::parse_bytes(text.as_bytes(), 10)).flatten()
}

fn parse_fraction(numerator: &str, denominator: &str) -> Option<BigRational> {
    let (sign, digits) = split_sign(numerator);
    let denominator = parse_digits(denominator).filter(|value| !value.is_zero())?;
    Some(BigRational::new(with_sign(sign, parse_digits(digits)?), denominator))
}

fn parse_decimal(text: &str) -> Result<Option<BigRational>, NumberError> {
    let (mantissa, exponent_text) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (sign, mantissa) = split_sign(mantissa);
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Some(magnitude) = parse_digits(&format!("{whole}{decimals}")) else { return Ok(None) };
    let exponent = match exponent_text.map(split_sign) {
        None => 0,
        Some((_, digits)) if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => return Ok(None),
        // The bound comes before any power is taken: `1e999999999` must cost nothing.
        Some((sign, digits)) => match digits.parse::<i32>() {
            Ok(value) if value <= MAX_DECIMAL_EXPONENT => {
                if sign == Sign::Minus {
                    -value
                } else {
                    value
                }
            }
            _ => return Err(NumberError::NumberTooLong { text: excerpt(text) }),
        },
    };
    let n_decimals = i32::try_from(decimals.len()).map_err(|_| NumberError::NumberTooLong { text: excerpt(text) })?;
    let shift = exponent - n_decimals;
    let power = BigInt::from(10).pow(shift.unsigned_abs());
    let signed = with_sign(sign, magnitude);
    Ok(Some(if shift < 0 { BigRational::new(signed, power) } else { BigRational::from_integer(signed * power) }))
}

/// The decimal digits of a ratio whose decimal expansion ends soon.
fn exact_decimal(value: &BigRational) -> Option<String> {
    let mut rest = value.denom().clone();
    let mut n_decimals = 0;
    for factor in [2u32, 5] {
        let mut count = 0;
        while (&rest % factor).is_zero() && count <= MAX_SHOWN_DECIMALS {
            rest /= factor;
            count += 1;
        }
        n_decimals = n_decimals.max(count);
    }
    if !rest.is_one() || n_decimals > MAX_SHOWN_DECIMALS {
        return None;
    }
    let scaled = (value.numer() * BigInt::from(10).pow(n_decimals)) / value.denom();
    let sign = if scaled.is_negative() { "-" } else { "" };
    let width = usize::try_from(n_decimals).ok()? + 1;
    let digits = format!("{:0>width$}", scaled.abs().to_string());
    let (whole, decimals) = digits.split_at(digits.len() - (width - 1));
    let point = if decimals.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{decimals}"))
}

/// Significant bits of a double.
const F64_BITS: i64 = 53;
/// Exponent of the smallest positive double, 2^-1074.
const F64_MIN_EXPONENT: i64 = -1074;
/// What is added to the exponent of the last bit in the stored form.
const F64_BIAS: i64 = 1075;

/// Mantissa and exponent of a finite double: value = mantissa x 2^exponent, exactly.
pub(crate) fn decode_f64(value: f64) -> Option<(BigInt, i32)> {
    if !value.is_finite() {
        return None;
    }
    let bits = value.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let biased = i32::try_from((bits >> 52) & 0x7ff).ok()?;
    let (magnitude, exponent) = if biased == 0 { (fraction, -1074) } else { (fraction | (1 << 52), biased - 1075) };
    let sign = if value.is_sign_negative() { Sign::Minus } else { Sign::Plus };
    Some((with_sign(sign, BigInt::from(magnitude)), exponent))
}

/// The double nearest to `numerator / denominator` (`denominator` positive), ties to even; infinite where that
/// is too large. Works on bits alone, so that no rounding mode of the processor can matter.
pub(crate) fn nearest_f64(numerator: &BigInt, denominator: &BigInt) -> f64 {
    let magnitude = numerator.magnitude();
    if magnitude.is_zero() {
        return 0.0;
    }
    let sign_bit = if numerator.is_negative() { 1 << 63 } else { 0 };
    let signed_bits = |bits: u64| f64::from_bits(bits | sign_bit);
    let to_i64 = |n_bits: u64| i64::try_from(n_bits).unwrap_or(i64::MAX / 4);
    // quotient = floor(|n| x 2^shift / d) has 64 or 65 bits.
    let shift = 64 - (to_i64(magnitude.bits()) - to_i64(denominator.bits()));
    let (mut scaled, mut divisor) = (magnitude.clone(), denominator.magnitude().clone());
    if shift >= 0 {
        scaled <<= shift.unsigned_abs();
    } else {
        divisor <<= shift.unsigned_abs();
    }
    let (quotient, remainder) = scaled.div_rem(&divisor);
    let quotient = quotient.iter_u64_digits().rev().fold(0u128, |sum, digit| (sum << 64) | u128::from(digit));
    let n_quotient_bits = i64::from(128 - quotient.leading_zeros());
    // The last bit that the double can hold has the weight 2^exponent.
    let exponent = (n_quotient_bits - shift - F64_BITS).max(F64_MIN_EXPONENT);
    let n_dropped = u32::try_from(exponent + shift).unwrap_or(u32::MAX);
    if n_dropped > 66 {
        return signed_bits(0);
    }
    let kept = quotient >> n_dropped;
    let half = 1u128 << (n_dropped - 1);
    let rest = quotient & ((1u128 << n_dropped) - 1);
    let is_above_half = rest > half || (rest == half && !remainder.is_zero());
    let rounds_up = is_above_half || (rest == half && kept & 1 == 1);
    let kept = u64::try_from(kept + u128::from(rounds_up)).unwrap_or(u64::MAX);
    // Adding the fraction, hidden bit included, to the exponent field carries a rounding up to a power of two.
    let field = u64::try_from(exponent + F64_BIAS - 1).unwrap_or(0).min(0x7ff);
    signed_bits(((field << 52) + kept).min(f64::INFINITY.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(text: &str) -> Ratio {
        text.parse().unwrap()
    }

    #[test]
    fn decimals_and_fractions_are_exact() {
        for (text, numerator, denominator) in [
            ("0.2", 1, 5),
            ("1e-3", 1, 1000),
            ("1/5", 1, 5),
            ("-2/4", -1, 2),
            ("+.5", 1, 2),
            ("3.", 3, 1),
            ("12.50E+1", 125, 1),
            ("-0", 0, 1),
        ] {
            assert_eq!(ratio(text), Ratio::new(numerator, denominator).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_finite_number_is_refused() {
        for text in [
            "",
            ".",
            "-",
            "e5",
            "1e",
            "1e+",
            "nan",
            "NaN",
            "inf",
            "-Infinity",
            "1/0",
            "1/",
            "/2",
            "1/-2",
            "0x10",
            "1_0",
            " 1",
            "1 ",
            "--1",
            "1.2.3",
            "1.5/2",
            "١",
        ] {
            assert!(matches!(text.parse::<Ratio>(), Err(NumberError::NotANumber { .. })), "{text}");
        }
    }

    #[test]
    fn hostile_sizes_are_refused_before_any_work() {
        let zeros = "0".repeat(MAX_NUMBER_BYTES + 1);
        for text in ["1e999999999", "1e-999999999", "1e99999999999999999999", "1e401", "0.1e-401", zeros.as_str()] {
            assert!(matches!(text.parse::<Ratio>(), Err(NumberError::NumberTooLong { .. })), "{text}");
        }
        assert!("1e400".parse::<Ratio>().is_ok());
    }

    #[test]
    fn printing_reads_back() {
        for text in ["0.2", "-0.075", "1/3", "-22/7", "1500", "0", "0.0001", "-3"] {
            assert_eq!(ratio(text).to_string(), text);
        }
        let long = format!("1.{}7", "0".repeat(900));
        assert!(
            matches!(long.parse::<Ratio>(), Err(NumberError::NumberTooLong { .. })),
            "its fraction has 1804 digits"
        );
        let exact = format!("1.{}7e-400", "0".repeat(230));
        assert!(exact.parse::<Ratio>().is_ok_and(|exact| exact.to_string().parse() == Ok(exact)));
        let tiny = ratio("1e-300");
        assert_eq!(ratio(&tiny.to_string()), tiny);
    }

    #[test]
    fn doubles_go_round_through_ratios() {
        let values = [
            0.1,
            1.0,
            -2.5,
            1e300,
            5e-324,
            -5e-324,
            2.2250738585072014e-308,
            2.225073858507201e-308,
            f64::MAX,
            1e-310,
            0.49999999999999994,
            9007199254740993.0,
        ];
        for value in values {
            assert_eq!(Ratio::from_f64(value).unwrap().to_f64().to_bits(), value.to_bits(), "{value:e}");
        }
        assert_eq!(Ratio::from_f64(f64::NAN), None);
        assert_eq!(Ratio::from_f64(f64::INFINITY), None);
    }

    #[test]
    fn decimal_texts_round_as_the_standard_library_rounds_them() {
        for text in [
            "0.1",
            "0.3",
            "2.2250738585072011e-308",
            "4.9e-324",
            "2.4703282292062327e-324",
            "2.4703282292062328e-324",
            "1.7976931348623157e308",
            "1.7976931348623158e308",
            "1.7976931348623159e308",
            "1e309",
            "9007199254740993",
            "9007199254740992.5",
            "1e-330",
            "-7.2057594037927933e16",
            "123456789012345678901234567890e-20",
            "1e23",
        ] {
            let expected: f64 = text.parse().unwrap();
            let found = ratio(text).to_f64();
            assert!(found.to_bits() == expected.to_bits() || (found == 0.0 && expected == 0.0), "{text}: {found:e}");
        }
        let mut state = 1u64;
        for _ in 0..2000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let text = format!("{}e{}", state >> 3, (state >> 40) % 640);
            let text = text.replace('e', if state & 4 == 0 { "e-" } else { "e" });
            let exponent_fits = (state >> 40) % 640 <= 400;
            if exponent_fits {
                let expected: f64 = text.parse().unwrap();
                assert_eq!(ratio(&text).to_f64().to_bits(), expected.to_bits(), "{text}");
            }
        }
    }
}
