//! Progress of a counted task and its rate: one text for bars and lines, in the units of the summary.

use crate::options::{show_bytes, show_count};

/// The unit in which a task is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PaceUnit {
    Bytes,
    /// Bytes over a network.
    Network,
    Tokens,
}

/// The progress of a task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) unit: PaceUnit,
    pub(crate) total: u64,
    /// Done by an earlier run. It does not count towards the rate.
    pub(crate) resumed: u64,
    /// Done in all, including `resumed`.
    pub(crate) done: u64,
    /// Time since this run began the task.
    pub(crate) seconds: f64,
}

impl Pace {
    /// Such as `12.00 GB of 40.00 GB, 1.50 GB/s, 19 s left`.
    pub(crate) fn text(&self) -> String {
        let rate = self.done.saturating_sub(self.resumed) as f64 / self.seconds.max(1e-9);
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        // Before the first byte the rate is 0, and the time left is unknown.
        let left = if left.is_finite() { format!(", {left:.0} s left") } else { String::new() };
        let (show, noun, rate): (fn(u64) -> String, &str, String) = match self.unit {
            PaceUnit::Bytes => (show_bytes, "", show_pace(rate)),
            PaceUnit::Network => (show_bytes, "", show_network_rate(rate)),
            PaceUnit::Tokens => (show_count, " tokens", format!("{rate:.0} tokens/s")),
        };
        format!("{} of {}{noun}, {rate}{left}", show(self.done), show(self.total))
    }
}

/// A rate while the work is under way: that of an upload may be small.
fn show_pace(bytes_per_second: f64) -> String {
    const SMALL: f64 = 1e8;
    let is_small = bytes_per_second > 0.0 && bytes_per_second < SMALL;
    if is_small { format!("{:.2} MB/s", bytes_per_second / 1e6) } else { show_rate(bytes_per_second) }
}

/// A rate in bytes per second, as bars and summaries show it.
pub(crate) fn show_rate(bytes_per_second: f64) -> String {
    format!("{:.2} GB/s", bytes_per_second / 1e9)
}

/// The same for a network, which is slower.
pub(crate) fn show_network_rate(bytes_per_second: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates for people")]
    let whole = bytes_per_second.max(0.0) as u64;
    format!("{}/s", show_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(resumed: u64, done: u64, seconds: f64) -> String {
        Pace { unit: PaceUnit::Bytes, total: 40_000_000_000, resumed, done, seconds }.text()
    }

    #[test]
    fn what_an_earlier_run_did_is_not_speed() {
        assert_eq!(text(0, 10_000_000_000, 5.0), "10.00 GB of 40.00 GB, 2.00 GB/s, 15 s left");
        assert_eq!(text(30_000_000_000, 31_000_000_000, 2.0), "31.00 GB of 40.00 GB, 0.50 GB/s, 18 s left");
        assert_eq!(text(30_000_000_000, 30_000_000_000, 0.1), "30.00 GB of 40.00 GB, 0.00 GB/s");
        assert_eq!(text(0, 0, 0.0), "0 B of 40.00 GB, 0.00 GB/s");
        assert_eq!(text(0, 5_000_000, 2.0), "5.00 MB of 40.00 GB, 2.50 MB/s, 15998 s left");
    }

    #[test]
    fn the_rate_of_a_network_has_a_smaller_unit() {
        let (done, total) = (24_000_000, 240_000_000);
        let pace = Pace { unit: PaceUnit::Network, total, resumed: 0, done, seconds: 2.0 };
        assert_eq!(pace.text(), "24.00 MB of 240.00 MB, 12.00 MB/s, 18 s left");
    }

    #[test]
    fn tokens_are_counted_as_tokens() {
        let pace = Pace { unit: PaceUnit::Tokens, total: 4_000_000, resumed: 0, done: 1_000_000, seconds: 10.0 };
        assert_eq!(pace.text(), "1M of 4M tokens, 100000 tokens/s, 30 s left");
    }
}
