//! From values to places, and round numbers for the ticks between.

use crate::values::range_of;

/// Takes a range of values to a range of places, straight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// `low` goes to `from`, `high` to `to`. A range without extent is widened, so that nothing is divided by zero.
    pub(crate) fn new([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        // Nothing that is measured comes near this; what does is not worth a tick.
        let is_sane = |value: f64| value.abs() < 1e30;
        let [low, high] = if is_sane(low) && is_sane(high) && high - low > low.abs() * 1e-12 {
            [low, high]
        } else {
            let middle = if is_sane(low) { low } else { 0.0 };
            let reach = (middle.abs() * 0.1).max(0.5);
            [middle - reach, middle + reach]
        };
        Self { low, high, from, to }
    }

    pub(crate) fn place(self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    pub(crate) fn holds(self, value: f64) -> bool {
        value >= self.low && value <= self.high
    }

    /// Round values within the range, at most `most` of them, with the decimals that tell them apart.
    pub(crate) fn ticks(self, most: usize) -> (Vec<f64>, usize) {
        let span = self.high - self.low;
        let rough = span / f64::from(u32::try_from(most.max(1)).unwrap_or(1));
        let power = rough.log10().floor();
        let fits = |step: f64| (self.high / step).floor() - (self.low / step).ceil() + 1.0 <= most as f64;
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0].map(|digit| digit * 10f64.powf(power));
        let step = steps.into_iter().find(|&step| fits(step)).unwrap_or(span);
        let decimals = (0u8..9).find(|&d| is_whole(step * 10f64.powi(i32::from(d)))).unwrap_or(9);
        let first = (self.low / step).ceil();
        let values = (0..=most).map(|i| (first + i as f64) * step).filter(|&value| self.holds(value));
        // -0 would be printed with its sign.
        (values.map(|value| if value == 0.0 { 0.0 } else { value }).collect(), usize::from(decimals))
    }
}

fn is_whole(value: f64) -> bool {
    (value - value.round()).abs() < 1e-6 * value.abs().max(1e-3)
}

/// Lowest and highest of some values, widened on both sides by a share of the span.
pub(crate) fn span_of(values: impl Iterator<Item = f64>, share: f64) -> [f64; 2] {
    let [low, high] = range_of(values);
    let reach = (high - low) * share;
    [low - reach, high + reach]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |range: [f64; 2]| {
            let (values, decimals) = Scale::new(range, [0.0, 1.0]).ticks(5);
            values.iter().map(|value| format!("{value:.decimals$}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ticks([0.0, 1000.0]), "0 500 1000");
        assert_eq!(ticks([1.93, 2.11]), "1.95 2.00 2.05 2.10");
        assert_eq!(ticks([-0.01, 0.02]), "-0.01 0.00 0.01 0.02");
    }

    #[test]
    fn ranges_without_extent_still_have_places() {
        for range in [[2.0, 2.0], [f64::NAN, 1.0], [f64::INFINITY, f64::NEG_INFINITY], [-f64::MAX, f64::MAX]] {
            let scale = Scale::new(range, [0.0, 100.0]);
            assert!(scale.place(2.0).is_finite(), "{range:?}");
            assert!(scale.ticks(5).0.len() <= 6, "{range:?}");
        }
    }

    #[test]
    fn ends_go_to_ends() {
        let scale = Scale::new([2.0, 4.0], [100.0, 0.0]);
        assert!((scale.place(2.0) - 100.0).abs() < 1e-12 && scale.place(4.0).abs() < 1e-12);
        assert!(scale.holds(3.0) && !scale.holds(4.5));
    }
}
