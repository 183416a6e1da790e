//! Numbers as people type and read them: counts with k, M, B, T; sizes in GB and GiB.

use std::str::FromStr;

/// A whole number with a decimal suffix: `500`, `2k`, `1.5M`, `4B`, `2T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Count(pub(crate) u64);

/// A size in bytes: `5GB` (decimal), `5GiB` (binary), `5000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SUFFIXES: [(&str, u64); 4] =
            [("k", 1_000), ("M", 1_000_000), ("B", 1_000_000_000), ("T", 1_000_000_000_000)];
        parse_scaled(text, &SUFFIXES).map(Self).ok_or_else(|| {
            format!(
                "`{text}` is not a whole number; write digits, with k, M, B or T for thousands to millions of millions"
            )
        })
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SUFFIXES: [(&str, u64); 12] = [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("kB", 1_000),
            ("KB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("B", 1),
        ];
        match parse_scaled(text, &SUFFIXES) {
            Some(0) | None => Err(format!("`{text}` is not a size; write 5GB, 5GiB or a number of bytes above zero")),
            Some(n_bytes) => Ok(Self(n_bytes)),
        }
    }
}

/// Exact: `1.5M` is 1,500,000, and `1.0000001k` is nothing.
fn parse_scaled(text: &str, suffixes: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let suffix = suffixes.iter().find(|(suffix, _)| text.ends_with(suffix));
    let (digits, scale) = suffix.map_or((text, 1), |(suffix, scale)| (&text[..text.len() - suffix.len()], *scale));
    let digits: String = digits.chars().filter(|c| !matches!(c, '_' | ' ')).collect();
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let is_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let shift = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let parse = |part: &str| if part.is_empty() { Some(0) } else { part.parse::<u64>().ok() };
    let whole = parse(whole)?.checked_mul(scale)?;
    let part = parse(fraction)?.checked_mul(scale)?;
    (part % shift == 0).then(|| whole.checked_add(part / shift)).flatten()
}

/// Bytes for people: `8.80 GB`.
pub(crate) fn show_bytes(n_bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let scaled = |unit: u64| n_bytes as f64 / unit as f64;
    let unit = UNITS.iter().find(|(unit, _)| n_bytes >= *unit);
    unit.map_or_else(|| format!("{n_bytes} B"), |(unit, name)| format!("{:.2} {name}", scaled(*unit)))
}

/// Counts for people: `1.10B`, `248k`.
pub(crate) fn show_count(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| count >= *unit) else { return count.to_string() };
    #[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
    let scaled = count as f64 / *unit as f64;
    let text = format!("{scaled:.2}");
    format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_decimal_suffixes_exactly() {
        let count = |text: &str| text.parse::<Count>().ok().map(|count| count.0);
        assert_eq!(count("1000"), Some(1000));
        assert_eq!(count("1.5M"), Some(1_500_000));
        assert_eq!(count("4B"), Some(4_000_000_000));
        assert_eq!(count("2T"), Some(2_000_000_000_000));
        assert_eq!(count("0.0005k"), None);
        assert_eq!(count("-1"), None);
        assert_eq!(count("99999999999T"), None);
        assert_eq!(count("k"), None);
    }

    #[test]
    fn sizes_are_decimal_or_binary_as_written() {
        let size = |text: &str| text.parse::<ByteSize>().ok().map(|size| size.0);
        assert_eq!(size("5GB"), Some(5_000_000_000));
        assert_eq!(size("5GiB"), Some(5 << 30));
        assert_eq!(size("1.5 MiB"), Some(3 << 19));
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("0"), None);
        assert_eq!(size("5 apples"), None);
    }
}
