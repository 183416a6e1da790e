//! Numbers as people type and read them: counts with k, M, B, T; sizes in GB and GiB; gains with their intervals.

use std::path::PathBuf;
use std::str::FromStr;

use thalweg_study::record::{CostRow, GainRow};
pub(crate) use thalweg_tensor::show_size as show_bytes;

use crate::error::Error;

/// A length of time: `30s`, `5m`, `2h`, or seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seconds(pub(crate) f64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
        let unit = units.into_iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        let (number, seconds) = unit.unwrap_or((text, 1.0));
        let parsed = number.trim().parse::<f64>().ok().map(|number| number * seconds);
        let parsed = parsed.filter(|seconds| *seconds > 0.0 && *seconds <= 1e9);
        parsed.map(Self).ok_or_else(|| format!("`{text}` is not a length of time; write 30s, 5m or 2h"))
    }
}

/// A number for people, with three figures: `44.6`, `0.00123`; very large and very small ones as `1.2e-9`.
pub(crate) fn show_figures(value: f64) -> String {
    const PLAIN: std::ops::Range<f64> = 1e-5..1e7;
    if value == 0.0 {
        return "0".to_owned();
    }
    if !PLAIN.contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    // Digits after the point, by the exponent of the value as it is rounded.
    let rounded = format!("{value:.2e}");
    let exponent: i32 = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let decimals = usize::try_from(2 - exponent).unwrap_or(0);
    format!("{value:.decimals$}")
}

/// A range of signed numbers: `+0.0100 to +0.0146`.
pub(crate) fn show_signed_range([low, high]: [f64; 2]) -> String {
    format!("{low:+.4} to {high:+.4}")
}

/// A gain with its 95 % interval, if it has one: `+0.0123 (+0.0100 to +0.0146)`.
pub(crate) fn show_gain(gain: GainRow) -> String {
    let interval = gain.interval_95.map_or_else(String::new, |range| format!(" ({})", show_signed_range(range)));
    format!("{:+.4}{interval}", gain.value)
}

/// What it cost to score what was counted: `3 models (1.2M tokens, read 4.50 GB) in 1.2 s`.
pub(crate) fn show_cost(models: &str, cost: &CostRow) -> String {
    // Another program does not say how many tokens it took.
    let tokens = if cost.n_tokens == 0 { String::new() } else { format!("{} tokens, ", show_count(cost.n_tokens)) };
    format!("{models} ({tokens}read {}) in {:.1} s", show_bytes(cost.bytes_read), cost.seconds)
}

/// A path with a name, as `web=CKPT`.
pub(crate) fn named_path(option: &str, text: &str, example: &str) -> Result<(String, PathBuf), Error> {
    let parts = text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let (name, path) = parts.ok_or_else(|| {
        let what = format!("`{option} {text}` is not a name and a path");
        Error::usage_with_hint(what, format!("write it as `{option} {example}`"))
    })?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

/// Counts for people: `1.10B`, `248k`.
pub(crate) fn show_count(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| count >= *unit) else { return count.to_string() };
    let scaled = count as f64 / *unit as f64;
    let text = format!("{scaled:.2}");
    format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_figures() {
        let shown = [44.587_984, 0.999_6, 1.0, 1234.5, 0.001_234, 0.0, 1e-9, 2.5e9].map(show_figures);
        assert_eq!(shown, ["44.6", "1.00", "1.00", "1234", "0.00123", "0", "1.0e-9", "2.5e9"]);
    }

    #[test]
    fn gains_have_intervals_where_they_have_items_and_costs_are_counted() {
        let gain = GainRow { value: 0.0123, interval_95: Some([-0.01, 0.0346]) };
        assert_eq!(show_gain(gain), "+0.0123 (-0.0100 to +0.0346)");
        assert_eq!(show_gain(GainRow { interval_95: None, ..gain }), "+0.0123");
        let cost = CostRow { bytes_read: 4_500_000_000, n_evaluations: 3, n_tokens: 1_200_000, seconds: 1.23 };
        assert_eq!(show_cost("3 models", &cost), "3 models (1.2M tokens, read 4.50 GB) in 1.2 s");
        let by_command = CostRow { n_tokens: 0, ..cost };
        assert_eq!(show_cost("3 models", &by_command), "3 models (read 4.50 GB) in 1.2 s");
    }
}
