//! How people write whole numbers: `2000`, `2K`, `1.5B`, `4e9`, `17_000`, and sizes such as `5GB` and `5GiB`.
//!
//! One grammar for the command line, recipes, configs and names of files. Exact, or refused.

use std::fmt::Display;

/// Longest text that is read as a number.
const MAX_BYTES: usize = 64;

/// Why a text is not a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CountError {
    /// Something other than digits, a decimal point, a suffix or an exponent.
    #[error("a number is digits, with one of the suffixes `k`, `M`, `B`, `T` or none")]
    NotDigits,
    /// Not a valid exponent.
    #[error("the exponent must be a whole number below 20")]
    BadExponent,
    /// A fraction is left.
    #[error("it is not a whole number")]
    NotWhole,
    /// More than 64 bits.
    #[error("it does not fit into 64 bits")]
    TooLarge,
}

/// A number of things in words: `1 tensor`, `3 tensors`, `2 entities`.
///
/// # Example
/// ```
/// assert_eq!([1, 3].map(|n| thalweg_tensor::counted(n, "tensor")), ["1 tensor", "3 tensors"]);
/// let two = ["key", "entity", "loss"].map(|noun| thalweg_tensor::counted(2, noun));
/// assert_eq!(two, ["2 keys", "2 entities", "2 losses"]);
/// ```
pub fn counted<N: Display + PartialEq + From<u8>>(n: N, noun: &str) -> String {
    let is_vowel = |letter: char| "aeiou".contains(letter);
    match noun.strip_suffix('y') {
        _ if n == N::from(1) => format!("1 {noun}"),
        Some(stem) if !stem.ends_with(is_vowel) => format!("{n} {stem}ies"),
        None if noun.ends_with('s') => format!("{n} {noun}es"),
        _ => format!("{n} {noun}s"),
    }
}

/// The beginning of a sentence about a number of things: `1 tensor is`, `3 tensors are`.
pub fn counted_are<N: Copy + Display + PartialEq + From<u8>>(n: N, noun: &str) -> String {
    let verb = if n == N::from(1) { "is" } else { "are" };
    format!("{} {verb}", counted(n, noun))
}

/// Some of a number of things: `1 of 3 tensors`, `1 of 1 tensor`.
pub fn part_of(n: usize, all: usize, noun: &str) -> String {
    format!("{n} of {}", counted(all, noun))
}

/// The beginning of a sentence about some of a number of things: `1 of 3 tensors is`, `2 of 3 tensors are`.
///
/// # Example
/// ```
/// use thalweg_tensor::part_of_are;
/// assert_eq!([1, 2].map(|n| part_of_are(n, 3, "tensor")), ["1 of 3 tensors is", "2 of 3 tensors are"]);
/// assert_eq!(part_of_are(1, 1, "tensor"), "1 of 1 tensor is");
/// ```
pub fn part_of_are(n: usize, all: usize, noun: &str) -> String {
    format!("{} {}", part_of(n, all, noun), if n == 1 { "is" } else { "are" })
}

/// Bytes for people: `8.80 GB`.
pub fn show_size(n_bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let scaled = |unit: u64| n_bytes as f64 / unit as f64;
    let unit = UNITS.iter().find(|(unit, _)| n_bytes >= *unit);
    unit.map_or_else(|| format!("{n_bytes} B"), |(unit, name)| format!("{:.2} {name}", scaled(*unit)))
}

/// A whole number with a decimal suffix (`k`, `K`, `M`, `B`, `T`) or an exponent, or neither.
///
/// # Errors
/// [`CountError`] for everything that is not exactly a whole number of 64 bits.
///
/// # Example
/// ```
/// use thalweg_tensor::parse_count;
///
/// assert_eq!(parse_count("1.5B"), Ok(1_500_000_000));
/// assert_eq!(parse_count("4e9"), Ok(4_000_000_000));
/// assert!(parse_count("1.5").is_err());
/// ```
pub fn parse_count(text: &str) -> Result<u64, CountError> {
    const SUFFIXES: [(&str, u32); 5] = [("k", 3), ("K", 3), ("M", 6), ("B", 9), ("T", 12)];
    let text = text.trim();
    if text.len() > MAX_BYTES {
        return Err(CountError::TooLarge);
    }
    for (suffix, power) in SUFFIXES {
        if let Some(number) = text.strip_suffix(suffix) {
            return shift_decimals(number, power);
        }
    }
    let Some((number, exponent)) = text.split_once(['e', 'E']) else { return shift_decimals(text, 0) };
    let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
    let is_plain = !exponent.is_empty() && exponent.bytes().all(|byte| byte.is_ascii_digit());
    let power = exponent.parse().ok().filter(|power: &u32| is_plain && *power < 20);
    shift_decimals(number, power.ok_or(CountError::BadExponent)?)
}

/// A size in bytes: `5GB` and `5G` are decimal, `5GiB` is binary, `5000000` is bytes.
///
/// # Errors
/// As [`parse_count`].
///
/// # Example
/// ```
/// use thalweg_tensor::parse_size;
///
/// assert_eq!([parse_size("1.5GB"), parse_size("1.5 MiB")], [Ok(1_500_000_000), Ok(3 << 19)]);
/// assert!(parse_size("5 apples").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, CountError> {
    const BINARY: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    const DECIMAL: [(&str, u32); 11] = [
        ("kB", 3),
        ("KB", 3),
        ("MB", 6),
        ("GB", 9),
        ("TB", 12),
        ("k", 3),
        ("K", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("B", 0),
    ];
    let text = text.trim();
    if text.len() > MAX_BYTES {
        return Err(CountError::TooLarge);
    }
    for (suffix, bits) in BINARY {
        let Some(number) = text.strip_suffix(suffix).map(str::trim_end) else { continue };
        return scale_binary(number, bits);
    }
    let found = DECIMAL.iter().find_map(|(suffix, power)| Some((text.strip_suffix(suffix)?.trim_end(), *power)));
    found.map_or_else(|| parse_count(text), |(number, power)| shift_decimals(number, power))
}

/// The digits before and after the point, without underscores.
fn split_number(number: &str) -> Result<(String, String), CountError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let plain = |part: &str| part.chars().filter(|c| *c != '_').collect::<String>();
    let (whole, fraction) = (plain(whole), plain(fraction));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match (whole.is_empty() && fraction.is_empty()) || !is_number(&whole) || !is_number(&fraction) {
        true => Err(CountError::NotDigits),
        false => Ok((whole, fraction)),
    }
}

/// The number times ten to the `power`.
fn shift_decimals(number: &str, power: u32) -> Result<u64, CountError> {
    let (whole, fraction) = split_number(number)?;
    let fraction = fraction.trim_end_matches('0');
    let n_zeros =
        usize::try_from(power).unwrap_or(usize::MAX).checked_sub(fraction.len()).ok_or(CountError::NotWhole)?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(n_zeros));
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() { Ok(0) } else { digits.parse().map_err(|_| CountError::TooLarge) }
}

/// The number times two to the `bits`.
fn scale_binary(number: &str, bits: u32) -> Result<u64, CountError> {
    let (whole, fraction) = split_number(number)?;
    let fraction = fraction.trim_end_matches('0');
    let parse = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse().map_err(|_| CountError::TooLarge) };
    let (whole, part): (u128, u128) = (parse(&whole)?, parse(fraction)?);
    let shift = u32::try_from(fraction.len()).ok().and_then(|n| 10u128.checked_pow(n)).ok_or(CountError::NotWhole)?;
    let scaled = part.checked_mul(1 << bits).ok_or(CountError::TooLarge)?;
    if !scaled.is_multiple_of(shift) {
        return Err(CountError::NotWhole);
    }
    let all = whole.checked_mul(1 << bits).and_then(|whole| whole.checked_add(scaled / shift));
    all.and_then(|all| u64::try_from(all).ok()).ok_or(CountError::TooLarge)
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
            ("2K", 2_000),
            ("8B", 8_000_000_000),
            ("1.5B", 1_500_000_000),
            ("4.194304B", 4_194_304_000),
            ("2098B", 2_098_000_000_000),
            ("0.5T", 500_000_000_000),
            (".5M", 500_000),
            ("4e9", 4_000_000_000),
            ("4E+9", 4_000_000_000),
            ("1.50e1", 15),
            ("18446744073709551615", u64::MAX),
            ("0.000", 0),
            (" 7 ", 7),
        ];
        for (text, count) in good {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for (text, error) in [
            ("", CountError::NotDigits),
            ("B", CountError::NotDigits),
            ("-1", CountError::NotDigits),
            ("1.2.3", CountError::NotDigits),
            ("4m", CountError::NotDigits),
            ("0x10", CountError::NotDigits),
            ("1 000", CountError::NotDigits),
            ("4e9B", CountError::NotDigits),
            ("１", CountError::NotDigits),
            ("1.5", CountError::NotWhole),
            ("1.0001k", CountError::NotWhole),
            ("1e20", CountError::BadExponent),
            ("1e-3", CountError::BadExponent),
            ("1e", CountError::BadExponent),
            ("18446744073709551616", CountError::TooLarge),
            ("99999999999T", CountError::TooLarge),
        ] {
            assert_eq!(parse_count(text), Err(error), "{text}");
        }
        assert_eq!(parse_count(&"9".repeat(100_000)), Err(CountError::TooLarge));
    }

    #[test]
    fn sizes_are_decimal_or_binary_as_written() {
        for (text, size) in [
            ("5GB", 5_000_000_000),
            ("5G", 5_000_000_000),
            ("2e9", 2_000_000_000),
            ("5GiB", 5 << 30),
            ("1.5 MiB", 3 << 19),
            ("0.5KiB", 512),
            ("4096", 4096),
            ("512B", 512),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "GB", "5 apples", "-5GB", "1.5B", "0.3KiB", "99999999999TiB", "5GBB", "0.00000000000000001TiB"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
