//! Finds where a slow rise begins.
//!
//! A rise that takes many entries to emerge from the noise began long before it was noticed. A decaying curve and a
//! ramp are fitted together by least squares, and the foot of the ramp is the onset.

use std::ops::RangeInclusive;

/// Entries before the rise that the curve is fitted to.
const TREND_ENTRIES: usize = 128;
/// The top of the rise is looked for among this many entries after the one that was noticed.
const AHEAD_ENTRIES: usize = 64;
/// A rise over fewer entries is a jump, whose onset its height shows.
const MIN_RAMP_ENTRIES: usize = 8;
/// The onset may be moved at least this many entries.
const MIN_REACH: usize = 24;
/// Places that the coarse search tries for each end of the ramp.
const N_PLACES: usize = 48;
/// A slow ramp must explain more than a jump does by this many variances of the noise.
const LEAST_GAIN: f64 = 16.0;
/// A curve must explain more than a level does by this many variances: noise alone would often show one.
const LEAST_CURVE_GAIN: f64 = 6.0;
/// Time constants of the decaying curves that are tried, in entries. The last one is as good as a line.
const TIME_CONSTANTS: [f64; 15] =
    [32.0, 45.0, 64.0, 91.0, 128.0, 181.0, 256.0, 362.0, 512.0, 724.0, 1024.0, 1448.0, 2048.0, 2896.0, 4096.0];
/// Parameters of a fit: level, height of the curve, height of the ramp, and where the ramp begins.
const N_PARAMETERS: usize = 4;

/// A rise, by indices of entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rise {
    /// Where it seems to begin.
    pub(super) onset: usize,
    /// Where it was noticed.
    pub(super) noticed: usize,
    /// Up to where the loss keeps rising.
    pub(super) top: usize,
    /// The onset is not before this entry.
    pub(super) least: usize,
}

/// The onset of a slow rise; `None` if it is not a slow rise.
pub(super) fn refine_onset(losses: &[f64], rise: Rise) -> Option<usize> {
    let Rise { onset, noticed, top, .. } = rise;
    if top < onset + MIN_RAMP_ENTRIES || !has_level_before(rise) {
        return None;
    }
    let (start, first) = reach_of(rise);
    let some = losses.get(start..=top)?;
    if some.iter().any(|loss| !loss.is_finite()) {
        return None;
    }
    Fit::new(some).find_foot(first - start, noticed - start).map(|foot| start + foot)
}

/// Where the losses begin that a rise is fitted to, and the first entry at which it may begin.
fn reach_of(rise: Rise) -> (usize, usize) {
    let Rise { onset, top, least, .. } = rise;
    let n_rise = top.saturating_sub(onset);
    let first = onset.saturating_sub(n_rise.max(MIN_REACH)).max(least);
    (first.saturating_sub(TREND_ENTRIES.max(n_rise)).max(least), first)
}

/// Whether there are losses before the first entry at which a rise may begin: without a level its foot cannot be found.
pub(super) fn has_level_before(rise: Rise) -> bool {
    let (start, first) = reach_of(rise);
    first >= start + MIN_RAMP_ENTRIES
}

/// The entry up to which the mean of five entries keeps rising.
pub(super) fn find_top(losses: &[f64], noticed: usize) -> usize {
    let mean = |idx: usize| {
        let some = losses.get(idx.saturating_sub(4)..=idx).unwrap_or_default();
        some.iter().sum::<f64>() / some.len().max(1) as f64
    };
    let last = (noticed + AHEAD_ENTRIES).min(losses.len().saturating_sub(1));
    let (mut top, mut highest) = (noticed, mean(noticed));
    for idx in noticed..=last {
        let here = mean(idx);
        if here > highest {
            (top, highest) = (idx, here);
        } else if idx > top + 8 {
            break;
        }
    }
    top
}

/// A ramp: 0 before `foot`, 1 from `head` on.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    foot: usize,
    head: usize,
}

impl Ramp {
    fn n_steps(self) -> f64 {
        (self.head.saturating_sub(self.foot) + 1) as f64
    }

    /// The sum of the squares of its `n` values.
    fn squares(self, n: usize) -> f64 {
        let m = self.head.saturating_sub(self.foot) as f64;
        m * (m + 1.0) * (2.0 * m + 1.0) / 6.0 / self.n_steps().powi(2) + (n - self.head) as f64
    }
}

/// A sequence whose inner product with any ramp costs the same, by the sums of its beginnings.
#[derive(Debug)]
struct Sums {
    /// Sums of the first values.
    plain: Vec<f64>,
    /// The same of the values times their indices.
    moment: Vec<f64>,
}

impl Sums {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut plain, mut moment) = (vec![0.0], vec![0.0]);
        let (mut sum, mut sum_moment) = (0.0, 0.0);
        for (i, value) in values.enumerate() {
            sum += value;
            sum_moment += i as f64 * value;
            plain.push(sum);
            moment.push(sum_moment);
        }
        Self { plain, moment }
    }

    /// A value.
    fn at(&self, idx: usize) -> f64 {
        sum_at(&self.plain, idx + 1) - sum_at(&self.plain, idx)
    }

    fn dot(&self, ramp: Ramp) -> f64 {
        let between = |sums: &[f64]| sum_at(sums, ramp.head) - sum_at(sums, ramp.foot);
        let slope = between(&self.moment) - (ramp.foot as f64 - 1.0) * between(&self.plain);
        slope / ramp.n_steps() + self.plain.last().copied().unwrap_or(0.0) - sum_at(&self.plain, ramp.head)
    }
}

/// The sum of the first `n` values.
fn sum_at(sums: &[f64], n: usize) -> f64 {
    sums.get(n).copied().unwrap_or(0.0)
}

/// An exponential decay of mean 0 and length 1.
#[derive(Debug)]
struct Curve {
    values: Sums,
    /// Its inner product with the losses.
    with_losses: f64,
}

impl Curve {
    fn new(time_constant: f64, losses: &[f64]) -> Option<Self> {
        let n = losses.len();
        let decay = |i: usize| (-(i as f64) / time_constant).exp();
        let mean = (0..n).map(decay).sum::<f64>() / n as f64;
        let length = (0..n).map(|i| (decay(i) - mean).powi(2)).sum::<f64>().sqrt();
        let value = |i: usize| (decay(i) - mean) / length;
        let with_losses = losses.iter().enumerate().map(|(i, loss)| value(i) * loss).sum();
        (length > 0.0).then(|| Self { values: Sums::of((0..n).map(value)), with_losses })
    }
}

/// Losses minus their mean and the decaying curve that fits them best.
pub(super) fn without_curve(losses: &[f64]) -> Vec<f64> {
    let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let losses: Vec<f64> = losses.iter().map(|loss| loss - mean).collect();
    let best_of = |constants: &[f64]| {
        let curves = constants.iter().filter_map(|constant| Some((*constant, Curve::new(*constant, &losses)?)));
        curves.max_by(|a, b| a.1.with_losses.abs().total_cmp(&b.1.with_losses.abs()))
    };
    let Some((mut constant, mut best)) = best_of(&TIME_CONSTANTS) else { return losses };
    // A curve beside the true one would leave a wave that looks like noise with a memory.
    for factor in [1.19, 1.09, 1.04] {
        if let Some(better) = best_of(&[constant / factor, constant, constant * factor]) {
            (constant, best) = better;
        }
    }
    losses.iter().enumerate().map(|(i, loss)| loss - best.values.at(i) * best.with_losses).collect()
}

/// Losses around a rise, and the curves that they may have followed.
#[derive(Debug)]
struct Fit {
    n: usize,
    losses: Sums,
    /// Ones, for the sum of a ramp.
    ones: Sums,
    /// The sum of the squares of the losses, less their mean.
    total: f64,
    curves: Vec<Curve>,
}

impl Fit {
    fn new(losses: &[f64]) -> Self {
        let n = losses.len();
        let mean = losses.iter().sum::<f64>() / n.max(1) as f64;
        let losses: Vec<f64> = losses.iter().map(|loss| loss - mean).collect();
        Self {
            n,
            ones: Sums::of((0..n).map(|_| 1.0)),
            total: losses.iter().map(|loss| loss * loss).sum(),
            curves: TIME_CONSTANTS.iter().filter_map(|constant| Curve::new(*constant, &losses)).collect(),
            losses: Sums::of(losses.into_iter()),
        }
    }

    /// The variance that a sum of squares leaves.
    fn noise(&self, rest: f64) -> f64 {
        rest / self.n.saturating_sub(N_PARAMETERS).max(1) as f64
    }

    /// The foot of the best ramp from `first` on, if it explains clearly more than any jump does.
    fn find_foot(&self, first: usize, noticed: usize) -> Option<usize> {
        let top = self.n - 1;
        let slow_heads = |foot: usize| foot + MIN_RAMP_ENTRIES..=top;
        let step = (top - first).div_ceil(N_PLACES).max(1);
        let (slow, _) = self.search((first..=noticed).step_by(step), step, slow_heads)?;
        // Search again around the best one, at every entry.
        let around = |at: usize, least: usize, most: usize| at.saturating_sub(step).max(least)..=(at + step).min(most);
        let near_heads = |foot: usize| around(slow.head, foot + MIN_RAMP_ENTRIES, top);
        let (slow, rest) = self.search(around(slow.foot, first, noticed), 1, near_heads)?;
        let jumps = [0, MIN_RAMP_ENTRIES / 2 - 1, MIN_RAMP_ENTRIES - 1].into_iter();
        let jump = jumps.filter_map(|n| self.search(first..=noticed, 1, |foot| foot + n..=(foot + n).min(top)));
        let jump = jump.map(|(_, rest)| rest).fold(self.total, f64::min);
        (jump - rest > LEAST_GAIN * self.noise(rest)).then_some(slow.foot)
    }

    /// The best of these ramps and the sum of squares that it leaves.
    fn search(
        &self,
        feet: impl Iterator<Item = usize>,
        step: usize,
        heads: impl Fn(usize) -> RangeInclusive<usize>,
    ) -> Option<(Ramp, f64)> {
        let ramps = feet.flat_map(|foot| heads(foot).step_by(step).map(move |head| Ramp { foot, head }));
        ramps.map(|ramp| (ramp, self.rest(ramp))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The sum of squares that a ramp and the best curve leave.
    fn rest(&self, ramp: Ramp) -> f64 {
        let (sum, squares) = (self.ones.dot(ramp), ramp.squares(self.n));
        let spread = squares - sum * sum / self.n as f64;
        let shared = self.losses.dot(ramp);
        let flat = self.total - explained(shared, spread);
        let with_curve = self.curves.iter().map(|curve| {
            let along = curve.values.dot(ramp);
            let shared = shared - along * curve.with_losses;
            self.total - curve.with_losses.powi(2) - explained(shared, spread - along * along)
        });
        let curved = with_curve.fold(f64::INFINITY, f64::min);
        if flat - curved > LEAST_CURVE_GAIN * self.noise(curved) { curved } else { flat }
    }
}

/// The sum of squares that a ramp explains; 0 if it would fall.
fn explained(shared: f64, spread: f64) -> f64 {
    if spread > 1e-9 && shared > 0.0 { shared * shared / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_products_with_ramps_are_those_of_the_definition() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i * i % 17) - 5.0).collect();
        let sums = Sums::of(values.iter().copied());
        for foot in 0..30 {
            for head in foot..40 {
                let ramp = Ramp { foot, head };
                let at = |i: usize| match i {
                    _ if i >= head => 1.0,
                    _ if i >= foot => (i - foot + 1) as f64 / ramp.n_steps(),
                    _ => 0.0,
                };
                let dot: f64 = values.iter().enumerate().map(|(i, value)| at(i) * value).sum();
                let squares: f64 = (0..40).map(|i| at(i) * at(i)).sum();
                assert!((sums.dot(ramp) - dot).abs() < 1e-9, "{ramp:?}");
                assert!((ramp.squares(40) - squares).abs() < 1e-9, "{ramp:?}");
            }
        }
    }

    #[test]
    fn the_foot_of_a_ramp_on_a_decaying_curve_is_found_exactly_without_noise() {
        for (foot, n_rise) in [(300, 50), (350, 200), (400, 90)] {
            let loss = |i: usize| {
                let rise = (i as f64 + 1.0 - foot as f64).clamp(0.0, n_rise as f64) / n_rise as f64;
                2.0 + 3.0 * (-(i as f64) / 256.0).exp() + 0.3 * rise
            };
            let losses: Vec<f64> = (0..700).map(loss).collect();
            let rise = Rise { onset: foot + 9, noticed: foot + n_rise / 2, top: foot + n_rise, least: 0 };
            assert_eq!(refine_onset(&losses, rise), Some(foot));
        }
    }
}
