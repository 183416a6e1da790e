//! Numbers as people read them.

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
