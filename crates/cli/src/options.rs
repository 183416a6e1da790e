//! Numbers as people type and read them: counts with k, M, B, T; sizes in GB and GiB.

use std::str::FromStr;

use thalweg_tensor::{parse_count, parse_size};

/// A whole number in the forms that people write: `500`, `2K`, `1.5M`, `4e9`, `8B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Count(pub(crate) u64);

/// A size in bytes: `5GB` (decimal), `5GiB` (binary), `5000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_count(text).map(Self).map_err(|reason| format!("`{text}`: {reason}, such as 2000, 2K, 4e9 or 8B"))
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_size(text) {
            Ok(0) | Err(_) => Err(format!("`{text}` is not a size; write 5GB, 5GiB or a number of bytes above zero")),
            Ok(n_bytes) => Ok(Self(n_bytes)),
        }
    }
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
