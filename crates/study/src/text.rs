//! Numbers and choices as people read them.

use std::path::Path;

use serde::Serialize;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

/// A count with a suffix and no more figures than it has: `1.5M`, `200k`.
pub(crate) fn show_count(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| value.abs() >= *unit) else {
        return format!("{value:.0}");
    };
    let scaled = value / unit;
    let decimals = if scaled.abs() >= 100.0 { 0 } else { 2 - usize::from(scaled.abs() >= 10.0) };
    let text = format!("{scaled:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{name}")
}

/// The same for whole numbers.
pub(crate) fn show_whole(value: u64) -> String {
    show_count(value as f64)
}

/// The name of a file or folder.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The first `n` digits of the digest of a text, for the name of a file.
pub fn digest_digits(text: &str, n: usize) -> String {
    first_digits(&bytes_digest(DigestKind::Blake3, text.as_bytes()).to_string(), n)
}

/// The first `n` digits of a digest, without its kind.
pub(crate) fn first_digits(digest: &str, n: usize) -> String {
    digest.rsplit(':').next().unwrap_or(digest).chars().take(n).collect()
}

/// The word for one of several choices, as documents and options have it.
pub fn name_of(choice: impl Serialize) -> String {
    let word = serde_json::to_value(choice).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

/// What `show` says of a value, or `-` where nothing was measured.
pub fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_the_figures_that_they_need() {
        assert_eq!(show_count(0.0), "0");
        assert_eq!(show_count(999.0), "999");
        assert_eq!(show_count(1_500_000.0), "1.5M");
        assert_eq!(show_whole(4_096_000), "4.1M");
        assert_eq!(show_whole(16_000_000_000), "16B");
        assert_eq!([show_whole(491_520), show_whole(200_000), show_whole(12_345)], ["492k", "200k", "12.3k"]);
    }
}
