//! Is this a spike, and where did it begin? Decided here, from the loss, with the gradient norm as second witness.
//!
//! Each loss is held against a baseline of accepted losses before it, in units of a robust scale of recent residuals. How
//! far is too far depends on the log's own tails, so that heavy-tailed noise is not taken for spikes. What to do about a
//! spike is decided elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::numbers::median;
use crate::{LogEntry, Step, StepLog};

/// What showed a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpikeSignal {
    /// The loss alone.
    Loss,
    /// The loss, and the gradient norm with it.
    LossAndGradNorm,
    /// A loss that is NaN or infinite.
    NonFinite,
}

impl fmt::Display for SpikeSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss => "loss",
            Self::LossAndGradNorm => "loss and gradient norm",
            Self::NonFinite => "loss that is not finite",
        })
    }
}

/// A sudden rise of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spike {
    /// The first step that is off.
    pub onset: Step,
    /// The step with the highest loss, or the first whose loss is not finite.
    pub peak: Step,
    /// The first step that is back at the level before; `None` if the loss did not come back.
    pub end: Option<Step>,
    /// What showed it.
    pub signal: SpikeSignal,
}

/// Whether the gradient norm may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GradNormUse {
    /// A jump of the gradient norm beside it lets a smaller rise of the loss count.
    #[default]
    Witness,
    /// Only the loss counts.
    Ignore,
}

/// How spikes are told from noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpikeOptions {
    /// The least height of a spike, in standard deviations of the log's own noise. Raised for noise with heavy tails, to
    /// at most 9 of its standard deviations.
    pub threshold: f64,
    /// Entries after which a level that did not come back is the new level.
    pub patience_entries: usize,
    /// Whether the gradient norm may speak.
    pub grad_norm: GradNormUse,
}

impl Default for SpikeOptions {
    fn default() -> Self {
        Self { threshold: 6.5, patience_entries: 200, grad_norm: GradNormUse::Witness }
    }
}

/// Residuals that make a scale.
const SCALE_ENTRIES: usize = 128;
/// Fewer residuals than this make no scale: nothing is judged at the very beginning.
const MIN_RESIDUALS: usize = 10;
/// Entries in a row that must be back at the old level before a spike is over.
const BACK_ENTRIES: usize = 3;
/// Residuals below this share of the loss are how it was printed.
const MIN_SCALE_SHARE: f64 = 2e-4;
/// Makes the median of absolute values of normal noise its standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Finds the spikes of a log, oldest first.
///
/// # Example
/// ```
/// use thalweg_trajectory::{LogEntry, SpikeOptions, Step, StepLog, detect_spikes};
///
/// // A quiet log with one jump at entry 60.
/// let entries = (0..100u32).map(|i| LogEntry {
///     step: Step(10 * u64::from(i)),
///     tokens: None,
///     loss: Some(3.0 + 0.01 * f64::from(i * 7 % 5) + if (60..64).contains(&i) { 1.0 } else { 0.0 }),
///     learning_rate: None,
///     grad_norm: None,
/// });
/// let spikes = detect_spikes(&StepLog::from_entries(entries), &SpikeOptions::default());
/// assert_eq!(spikes.len(), 1);
/// assert_eq!((spikes[0].onset, spikes[0].end), (Step(600), Some(Step(640))));
/// ```
pub fn detect_spikes(log: &StepLog, options: &SpikeOptions) -> Vec<Spike> {
    let entries: Vec<&LogEntry> = log.entries().iter().filter(|entry| entry.loss.is_some()).collect();
    let losses: Vec<f64> = entries.iter().filter_map(|entry| entry.loss).collect();
    let witnesses = match options.grad_norm {
        GradNormUse::Witness => grad_norm_heights(&entries),
        GradNormUse::Ignore => Vec::new(),
    };
    let least = [options.threshold; 2];
    let first = Detector::new(&losses, &witnesses, least, options.patience_entries).run();
    let thresholds = first.judges.each_ref().map(|judge| adapt_threshold(options.threshold, &judge.heights));
    let is_same = thresholds.iter().all(|threshold| *threshold <= options.threshold);
    let found =
        if is_same { first } else { Detector::new(&losses, &witnesses, thresholds, options.patience_entries).run() };
    let step = |idx: usize| entries.get(idx).map(|entry| entry.step);
    let spikes = found.spikes.iter().filter_map(|spike| {
        let end = spike.end.and_then(step);
        Some(Spike { onset: step(spike.onset)?, peak: step(spike.peak)?, end, signal: spike.signal })
    });
    spikes.collect()
}

/// A threshold for this log's tails, from the heights of its ordinary entries.
///
/// The farthest single entry says how far noise reaches, on the lower side, where there are no spikes, and among what was
/// not taken for one on the upper side. At most 9 standard deviations.
fn adapt_threshold(least: f64, heights: &[f64]) -> f64 {
    // A drop of the learning rate lies low for many entries; it says nothing about the noise.
    let alone = heights.windows(3).filter_map(|three| match three {
        [a, b, c] => (b.abs() < 3.0 || (a / b < 0.5 && c / b < 0.5)).then_some(*b),
        _ => None,
    });
    let alone: Vec<f64> = alone.collect();
    let farthest = alone.iter().map(|height| height.abs()).fold(0.0, f64::max);
    let squares: f64 = alone.iter().map(|height| height * height).sum();
    // The spread in units of the robust scale: 1 for normal noise, more for heavy tails.
    let spread = (squares / alone.len().max(1) as f64).sqrt().max(1.0);
    (1.5 * farthest).min(9.0 * spread).max(least)
}

/// A spike by indexes of entries.
#[derive(Debug, Clone, Copy)]
struct Found {
    onset: usize,
    peak: usize,
    end: Option<usize>,
    signal: SpikeSignal,
}

/// What the losses before an entry let one expect of it.
#[derive(Debug, Clone, Copy)]
struct Baseline {
    level: f64,
    scale: f64,
}

impl Baseline {
    fn height(self, loss: f64) -> f64 {
        (loss - self.level) / self.scale
    }
}

/// How a history forms its level.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Values that make a level.
    n_level: usize,
    /// Values left out before the one that is judged.
    n_gap: usize,
    /// Residuals that show how far the loss on its way lies off its past all the time.
    n_drift: usize,
}

/// For rises over a few entries: a steady median, with a gap so that a rise does not lift its own baseline.
const SLOW: Pace = Pace { n_level: 32, n_gap: 8, n_drift: 32 };
/// For jumps, also where the loss falls so fast that a median further back says little.
const FAST: Pace = Pace { n_level: 9, n_gap: 0, n_drift: 16 };

/// Accepted values, and how far each was off its own baseline.
#[derive(Debug)]
struct History {
    pace: Pace,
    values: Vec<f64>,
    /// What each was off its level.
    residuals: Vec<f64>,
    /// What of that was not drift.
    fine_residuals: Vec<f64>,
    /// The level that the next value is held against; `None` at the beginning.
    level: Option<f64>,
}

impl History {
    fn new(pace: Pace) -> Self {
        Self { pace, values: Vec::new(), residuals: Vec::new(), fine_residuals: Vec::new(), level: None }
    }

    /// The median of a stretch that lies behind. How the loss went on from there is for `drift` to say: a line through
    /// the stretch would run under a curve that flattens, and make the flattening a rise.
    fn find_level(&self) -> Option<f64> {
        let n = self.values.len();
        let end = n - self.pace.n_gap.min(n / 4);
        let length = self.pace.n_level.min((n / 2).max(6));
        median(self.values.get(end.checked_sub(length)?..end)?.to_vec())
    }

    fn baseline(&self) -> Option<Baseline> {
        let level = self.level? + self.drift()?;
        let recent = last_of(&self.fine_residuals, SCALE_ENTRIES);
        if recent.len() < MIN_RESIDUALS {
            return None;
        }
        let middle = median(recent.to_vec())?;
        let off: Vec<f64> = recent.iter().map(|residual| (residual - middle).abs()).collect();
        let mean = off.iter().sum::<f64>() / off.len() as f64;
        let spread = median(off)?;
        // Where most values are equal, as printed with few digits, the median of what they are off is 0.
        let scale = if spread > 0.0 { MAD_TO_SIGMA * spread } else { 1.2533 * mean };
        let scale = scale.max(MIN_SCALE_SHARE * level.abs()).max(f64::MIN_POSITIVE);
        // A curve that flattens stays a little above what its past lets one expect, all the time.
        let above = median(last_of(&self.fine_residuals, self.pace.n_drift).to_vec())?.max(middle).max(0.0);
        Some(Baseline { level: level + above, scale })
    }

    /// How far a loss on its way lies off its past all the time.
    fn drift(&self) -> Option<f64> {
        median(last_of(&self.residuals, self.pace.n_drift).to_vec())
    }

    fn accept(&mut self, value: f64) {
        if let Some(level) = self.level {
            if let Some(drift) = self.drift() {
                self.fine_residuals.push(value - level - drift);
            }
            self.residuals.push(value - level);
        }
        self.values.push(value);
        self.level = self.find_level();
    }

    /// Begins anew with these values, which are known to be ordinary; only the scale is kept.
    fn restart<'a>(&mut self, values: impl Iterator<Item = &'a f64>) {
        let scale = std::mem::take(&mut self.fine_residuals);
        *self = Self { fine_residuals: scale, ..Self::new(self.pace) };
        values.for_each(|value| self.accept(*value));
    }

    fn forget_last(&mut self, n: usize) {
        self.values.truncate(self.values.len().saturating_sub(n));
        self.residuals.truncate(self.residuals.len().saturating_sub(n));
        self.fine_residuals.truncate(self.fine_residuals.len().saturating_sub(n));
        self.level = self.find_level();
    }
}

fn last_of(values: &[f64], n: usize) -> &[f64] {
    values.get(values.len().saturating_sub(n)..).unwrap_or_default()
}

/// How high each gradient norm stands over those before it, on a logarithmic scale. As many as entries.
fn grad_norm_heights(entries: &[&LogEntry]) -> Vec<f64> {
    let mut history = History::new(FAST);
    let mut heights = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(value) = entry.grad_norm.filter(|norm| *norm > 0.0 && norm.is_finite()).map(f64::ln) else {
            heights.push(0.0);
            continue;
        };
        // A norm that varies less than a tenth is as good as constant.
        let baseline = history.baseline().map(|baseline| Baseline { scale: baseline.scale.max(0.02), ..baseline });
        let height = baseline.map_or(0.0, |baseline| baseline.height(value));
        heights.push(height);
        if height < 8.0 {
            history.accept(value);
        }
    }
    heights
}

#[derive(Debug)]
struct Detector<'a> {
    losses: &'a [f64],
    witnesses: &'a [f64],
    patience: usize,
    judges: [Judge; 2],
    spikes: Vec<Found>,
}

/// One pace at which the losses are judged.
#[derive(Debug)]
struct Judge {
    history: History,
    threshold: f64,
    /// Heights of the entries that were accepted.
    heights: Vec<f64>,
    /// Height of each entry so far over its own baseline; 0 where there is none, and within spikes.
    own_heights: Vec<f64>,
}

impl<'a> Detector<'a> {
    fn new(losses: &'a [f64], witnesses: &'a [f64], thresholds: [f64; 2], patience: usize) -> Self {
        let [slow, fast] = thresholds;
        let judge = |pace, threshold| Judge {
            history: History::new(pace),
            threshold,
            heights: Vec::new(),
            own_heights: Vec::new(),
        };
        let judges = [judge(SLOW, slow), judge(FAST, fast)];
        Self { losses, witnesses, patience, judges, spikes: Vec::new() }
    }

    fn run(mut self) -> Self {
        let mut idx = 0;
        while let Some(loss) = self.loss(idx) {
            let baselines = self.judges.each_ref().map(|judge| judge.history.baseline());
            let seen = self
                .judges
                .iter()
                .zip(baselines)
                .find_map(|(judge, baseline)| baseline.filter(|baseline| self.is_spike(idx, *baseline, judge)));
            if !loss.is_finite() || seen.is_some() {
                idx = self.follow(idx, seen.or(baselines[0]));
                continue;
            }
            for (judge, baseline) in self.judges.iter_mut().zip(baselines) {
                // At the beginning, with few residuals, and just after a spike the baseline itself is uncertain.
                let after_spike = self.spikes.last().and_then(|spike| spike.end).map_or(0, |end| end + SLOW.n_level);
                let is_steady = judge.history.residuals.len() >= SCALE_ENTRIES && idx >= after_spike;
                judge.heights.extend(baseline.filter(|_| is_steady).map(|baseline| baseline.height(loss)));
                judge.own_heights.push(baseline.map_or(0.0, |baseline| baseline.height(loss)));
                judge.history.accept(loss);
            }
            idx += 1;
        }
        self
    }

    fn loss(&self, idx: usize) -> Option<f64> {
        self.losses.get(idx).copied()
    }

    fn has_witness(&self, idx: usize) -> bool {
        let around = idx.saturating_sub(1)..(idx + 2).min(self.witnesses.len());
        self.witnesses.get(around).is_some_and(|some| some.iter().any(|height| *height >= 6.0))
    }

    /// Whether a loss stands over the newest ones as they are, wherever the curve was going.
    fn rises(&self, idx: usize, scale: f64) -> bool {
        let level = self.judges.iter().find_map(|judge| judge.history.level.filter(|_| judge.history.pace.n_gap == 0));
        self.loss(idx).zip(level).is_some_and(|(loss, level)| loss > level + 3.0 * scale)
    }

    /// One entry far off, or two or three in a row that are off, or one that is off with a witness.
    fn is_spike(&self, idx: usize, baseline: Baseline, judge: &Judge) -> bool {
        let height = |idx: usize| self.loss(idx).map_or(0.0, |loss| baseline.height(loss));
        let caution = match judge.history.fine_residuals.len() {
            0..24 => 2.0,
            24..64 => 1.5,
            _ => 1.0,
        };
        let threshold = judge.threshold * caution;
        let here = height(idx);
        // Most entries are ordinary and end here. What merely falls less fast than expected is not a rise.
        if here < 0.65 * threshold || !self.rises(idx, baseline.scale) {
            return false;
        }
        let two = here.min(height(idx + 1));
        let is_seen = here >= 0.75 * threshold && self.has_witness(idx);
        here >= threshold || two >= 0.8 * threshold || two.min(height(idx + 2)) >= 0.65 * threshold || is_seen
    }

    /// Follows a spike from where it was noticed to its end, and returns where to go on.
    fn follow(&mut self, noticed: usize, baseline: Option<Baseline>) -> usize {
        let onset = if baseline.is_some() { self.walk_back(noticed) } else { noticed };
        for judge in &mut self.judges {
            judge.history.forget_last(noticed - onset);
        }
        let mut end = None;
        let mut last = noticed;
        for idx in noticed..self.losses.len() {
            if self.is_back(idx, baseline) {
                end = Some(idx);
                break;
            }
            last = idx;
            if idx - noticed >= self.patience {
                break;
            }
        }
        let body = self.losses.get(onset..=last).unwrap_or_default();
        let first_odd = body.iter().position(|loss| !loss.is_finite());
        let highest = body.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(offset, _)| offset);
        let peak = onset + first_odd.or(highest).unwrap_or(0);
        let signal = match first_odd {
            Some(_) => SpikeSignal::NonFinite,
            None if (onset..=peak).any(|idx| self.has_witness(idx)) => SpikeSignal::LossAndGradNorm,
            None => SpikeSignal::Loss,
        };
        self.record(Found { onset, peak, end, signal });
        let next = end.unwrap_or(last + 1);
        for judge in &mut self.judges {
            judge.own_heights.resize(next, 0.0);
        }
        if end.is_some() {
            return next;
        }
        // A level that stays is where the run goes on from; what comes later is held against it.
        let settled = self.losses.get(onset..=last).unwrap_or_default().iter().filter(|loss| loss.is_finite());
        let settled: Vec<f64> = settled.rev().take(SCALE_ENTRIES / 2).copied().collect();
        for judge in &mut self.judges {
            judge.history.restart(settled.iter().rev());
        }
        next
    }

    /// The first entry that belongs to the rise: from where on the heights, less the noise that one expects, add up to
    /// most (the start of a cumulative sum test). Each entry counts over its own baseline: further back a falling curve
    /// stands higher than here, and is no rise.
    fn walk_back(&self, noticed: usize) -> usize {
        // Entries before the last spike's end are not this one's.
        let least = self.spikes.last().map_or(0, |spike| spike.end.unwrap_or(noticed)).max(noticed.saturating_sub(40));
        let (mut onset, mut sum, mut most) = (noticed, 0.0, 0.0);
        for idx in (least..noticed).rev() {
            let heights = self.judges.iter().filter_map(|judge| judge.own_heights.get(idx));
            sum += heights.copied().fold(-3.0, f64::max).min(6.0) - 2.0;
            if sum > most {
                (most, onset) = (sum, idx);
            }
            if sum < most - 1.5 {
                break;
            }
        }
        onset
    }

    /// Whether the loss is back at its old level at this entry and stays there for a few more.
    fn is_back(&self, idx: usize, baseline: Option<Baseline>) -> bool {
        let some = self.losses.get(idx..(idx + BACK_ENTRIES).min(self.losses.len())).unwrap_or_default();
        // Before there is a baseline, only what is not finite is off.
        let is_low = |loss: &f64| loss.is_finite() && baseline.is_none_or(|baseline| baseline.height(*loss) <= 3.0);
        some.iter().all(is_low)
    }

    /// Adds a spike, or joins it to the last one if that ended only just before.
    fn record(&mut self, new: Found) {
        let joins = |old: &Found| old.end.is_some_and(|end| new.onset < end + BACK_ENTRIES);
        match self.spikes.last_mut().filter(|old| joins(old)) {
            Some(old) => {
                let height = |idx: usize| self.losses.get(idx).copied().unwrap_or(f64::NEG_INFINITY);
                if old.signal != SpikeSignal::NonFinite
                    && (height(new.peak) > height(old.peak) || !height(new.peak).is_finite())
                {
                    (old.peak, old.signal) = (new.peak, new.signal);
                }
                old.end = new.end;
            }
            None => self.spikes.push(new),
        }
    }
}
