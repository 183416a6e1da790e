//! Finds where a slow rise begins.
//!
//! A rise that takes many entries to emerge from the noise began long before it was noticed. The curve that the loss
//! followed is subtracted, a ramp is fitted to the rest by least squares, and the foot of the ramp is the onset.

/// Entries before the rise that the curve is fitted to.
const TREND_ENTRIES: usize = 128;
/// Entries before the rise that the ramp is fitted to.
const BEFORE_ENTRIES: usize = 64;
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
/// Time constants of the decaying curves that are tried, in entries. The last one is as good as a line.
const TIME_CONSTANTS: [f64; 9] = [32.0, 45.0, 64.0, 91.0, 128.0, 181.0, 256.0, 512.0, 4096.0];

/// The onset of a slow rise that was noticed at entry `noticed`, searched for around `onset` but not before `least`;
/// `None` if it is not a slow rise.
pub(super) fn refine_onset(losses: &[f64], onset: usize, noticed: usize, least: usize) -> Option<usize> {
    let top = find_top(losses, noticed);
    if top < onset + MIN_RAMP_ENTRIES {
        return None;
    }
    let first = onset.saturating_sub((top - onset).max(MIN_REACH)).max(least);
    let start = first.saturating_sub(BEFORE_ENTRIES.max(top - onset)).max(least);
    // Without a level before the rise its foot cannot be found.
    if first < start + MIN_RAMP_ENTRIES {
        return None;
    }
    let trend_start = first.saturating_sub(TREND_ENTRIES.max(top - onset)).max(least);
    let trend = Trend::fit(losses.get(trend_start..first)?);
    let left = losses.get(start..=top)?.iter().enumerate();
    let left: Vec<f64> = left.map(|(i, loss)| loss - trend.at((start - trend_start + i) as f64)).collect();
    if left.iter().any(|loss| !loss.is_finite()) {
        return None;
    }
    Fit { losses: &left }.find_foot(first - start, noticed - start).map(|foot| start + foot)
}

/// The entry up to which the mean of five entries keeps rising.
fn find_top(losses: &[f64], noticed: usize) -> usize {
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

/// The curve that a loss follows: an exponential decay towards a level.
#[derive(Debug, Clone, Copy)]
struct Trend {
    level: f64,
    height: f64,
    time_constant: f64,
}

impl Trend {
    fn fit(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let total: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let flat = Self { level: mean, height: 0.0, time_constant: 1.0 };
        let mut best = (0.0, flat);
        for time_constant in TIME_CONSTANTS {
            let decay = |i: usize| (-(i as f64) / time_constant).exp();
            let middle = (0..values.len()).map(decay).sum::<f64>() / n.max(1.0);
            let (mut spread, mut shared) = (0.0, 0.0);
            for (i, value) in values.iter().enumerate() {
                let x = decay(i) - middle;
                spread += x * x;
                shared += x * (value - mean);
            }
            let gain = shared * shared / spread;
            if spread > 0.0 && gain > best.0 {
                let height = shared / spread;
                best = (gain, Self { level: mean - height * middle, height, time_constant });
            }
        }
        let (gain, trend) = best;
        // Noise alone would often show a curve that explains less.
        if gain > 6.0 * (total - gain) / (n - 3.0).max(1.0) { trend } else { flat }
    }

    fn at(self, i: f64) -> f64 {
        self.level + self.height * (-i / self.time_constant).exp()
    }
}

/// Losses minus the curve that they followed.
#[derive(Debug)]
struct Fit<'a> {
    losses: &'a [f64],
}

/// A ramp, and how much of the sum of squares it explains.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    foot: usize,
    head: usize,
    gain: f64,
}

impl Fit<'_> {
    /// The foot of the best ramp from `first` on, if it explains clearly more than any jump does.
    fn find_foot(&self, first: usize, noticed: usize) -> Option<usize> {
        let top = self.losses.len() - 1;
        let is_slow = |foot: usize, head: usize| head >= foot + MIN_RAMP_ENTRIES;
        let slow = self.search((first, noticed), (first, top), N_PLACES, is_slow)?;
        // Search again around the best one, at every entry.
        let step = (top - first).div_ceil(N_PLACES);
        let around = |at: usize, most: usize| (at.saturating_sub(step), (at + step).min(most));
        let slow = self.search(around(slow.foot, noticed), around(slow.head, top), 2 * step + 1, is_slow)?;
        let jump = self.search((first, noticed), (first, noticed + MIN_RAMP_ENTRIES), usize::MAX, |foot, head| {
            head == foot || head + 1 == foot + MIN_RAMP_ENTRIES / 2 || head + 1 == foot + MIN_RAMP_ENTRIES
        });
        let n = self.losses.len() as f64;
        let mean = self.losses.iter().sum::<f64>() / n;
        let total: f64 = self.losses.iter().map(|loss| (loss - mean).powi(2)).sum();
        let noise = (total - slow.gain) / (n - 3.0).max(1.0);
        let is_better = slow.gain - jump.map_or(0.0, |jump| jump.gain) > LEAST_GAIN * noise;
        is_better.then_some(slow.foot)
    }

    /// The best ramp, with at most `n_places` places tried for each end.
    fn search(
        &self,
        feet: (usize, usize),
        heads: (usize, usize),
        n_places: usize,
        fits: impl Fn(usize, usize) -> bool,
    ) -> Option<Ramp> {
        let places = |(from, to): (usize, usize)| (from..=to).step_by((to - from.min(to)).div_ceil(n_places).max(1));
        let mut best: Option<Ramp> = None;
        for foot in places(feet) {
            for head in places(heads).filter(|head| fits(foot, *head)) {
                let gain = self.gain(foot, head);
                if best.is_none_or(|best| gain > best.gain) {
                    best = Some(Ramp { foot, head, gain });
                }
            }
        }
        best
    }

    /// How much of the sum of squares a ramp from just before `foot` to `head` explains; 0 if it would fall.
    fn gain(&self, foot: usize, head: usize) -> f64 {
        let length = (head.saturating_sub(foot) + 1) as f64;
        let (mut sum_y, mut sum_r, mut sum_rr, mut sum_ry) = (0.0, 0.0, 0.0, 0.0);
        for (i, y) in self.losses.iter().enumerate() {
            sum_y += y;
            if i >= foot {
                let r = if i >= head { 1.0 } else { (i - foot + 1) as f64 / length };
                sum_r += r;
                sum_rr += r * r;
                sum_ry += r * y;
            }
        }
        let n = self.losses.len() as f64;
        let spread = sum_rr - sum_r * sum_r / n;
        let shared = sum_ry - sum_r * sum_y / n;
        if spread > 0.0 && shared > 0.0 { shared * shared / spread } else { 0.0 }
    }
}
