//! `Step` and `Tokens`: the two axes of a run, and how people write such numbers.
//!
//! Nothing here knows where a number came from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text_error::TextError;

/// Optimizer steps done.
///
/// Parses like [`Tokens`], displays as a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Step(pub u64);

/// Cumulative training tokens.
///
/// Parses decimal numbers with the suffixes `k`, `M`, `B`, `T` (powers of 1,000; fractions must come out whole);
/// displays with a suffix and at most three decimals.
///
/// # Example
/// ```
/// use thalweg_trajectory::Tokens;
///
/// assert_eq!("1.5B".parse::<Tokens>()?, Tokens(1_500_000_000));
/// assert_eq!(Tokens(4_194_304_000).to_string(), "4.194B");
/// assert!("1.5".parse::<Tokens>().is_err());
/// # Ok::<(), thalweg_trajectory::TextError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub u64);

/// Tokens in one optimizer step, where that is the same for the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokensPerStep(pub u64);

impl TokensPerStep {
    /// Tokens after `step` steps; `None` if they do not fit.
    pub fn tokens_at(self, step: Step) -> Option<Tokens> {
        self.0.checked_mul(step.0).map(Tokens)
    }
}

impl FromStr for Step {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        parse_count(text).map(Self)
    }
}

impl FromStr for Tokens {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        parse_count(text).map(Self)
    }
}

impl FromStr for TokensPerStep {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        match parse_count(text)? {
            0 => Err(bad(text, "a step has at least one token")),
            n => Ok(Self(n)),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TokensPerStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = u128::from(self.0);
        let units: [(u128, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
        // The unit is chosen after rounding, so that 999,999,999 is 1B and not 1000M.
        for (unit, suffix) in units {
            let thousandths = (n * 1000 + unit / 2) / unit;
            if thousandths >= 1000 {
                let (whole, part) = (thousandths / 1000, thousandths % 1000);
                if part == 0 {
                    return write!(f, "{whole}{suffix}");
                }
                let part = format!("{part:03}");
                return write!(f, "{whole}.{}{suffix}", part.trim_end_matches('0'));
            }
        }
        self.0.fmt(f)
    }
}

fn bad(text: &str, reason: impl Into<String>) -> TextError {
    TextError::BadNumber { text: text.to_owned(), reason: reason.into() }
}

fn parse_count(text: &str) -> Result<u64, TextError> {
    thalweg_tensor::parse_count(text).map_err(|reason| bad(text, reason.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_exactly_or_refused() {
        let good = [
            ("0", 0),
            ("17_000", 17_000),
            ("8k", 8_000),
            ("8K", 8_000),
            ("1.5B", 1_500_000_000),
            ("4.194304B", 4_194_304_000),
            ("2098B", 2_098_000_000_000),
            ("0.5T", 500_000_000_000),
            (".5M", 500_000),
            ("4e9", 4_000_000_000),
            ("1.50e1", 15),
            ("18446744073709551615", u64::MAX),
            ("0.000", 0),
        ];
        for (text, count) in good {
            assert_eq!(text.parse::<Tokens>().unwrap(), Tokens(count), "{text}");
            assert_eq!(text.parse::<Step>().unwrap(), Step(count), "{text}");
        }
        let refused = [
            "",
            "B",
            "-1",
            "+1",
            "1.5",
            "1.2.3",
            "1.0001k",
            "4m",
            "4G",
            "18446744073709551616",
            "18446745T",
            "99999999999T",
            "1e20",
            "1e-3",
            "1e",
            "0x10",
            "NaN",
            "1kk",
            "1 000",
            "1BB",
            ".",
            "4e9B",
            "１",
        ];
        for text in refused {
            assert!(text.parse::<Tokens>().is_err(), "{text}");
        }
        assert!("0".parse::<TokensPerStep>().is_err());
    }

    #[test]
    fn tokens_are_shown_with_a_suffix_and_three_decimals() {
        let shown = [
            (0, "0"),
            (999, "999"),
            (1_000, "1k"),
            (1_500, "1.5k"),
            (999_999, "1M"),
            (4_194_304_000, "4.194B"),
            (2_098_000_000_000, "2.098T"),
            (u64::MAX, "18446744.074T"),
        ];
        for (count, text) in shown {
            assert_eq!(Tokens(count).to_string(), text);
        }
    }
}
