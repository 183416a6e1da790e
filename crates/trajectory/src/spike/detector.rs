//! One pass over the losses: which entries rise above their baseline, and where each rise begins and ends.

use super::history::{Baseline, FAST, History, Recent, SCALE_ENTRIES, SLOW};
use super::onset::{Rise, find_top, refine_onset};
use super::{Dead, SpikeSignal};

/// Entries in a row that must be back at the old level before a spike is over.
pub(super) const BACK_ENTRIES: usize = 3;
/// A rise may begin at most this many entries before the entry at which it was noticed.
const WALK_ENTRIES: usize = 40;
/// A rise within this many entries after a spike was left on a new level belongs to that spike.
const SAME_EVENT_ENTRIES: usize = 40;
/// Only this many onsets are refined, to bound the time for a log with thousands of spikes.
const MAX_REFINED: usize = 500;

/// A spike, by indices of entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) onset: usize,
    pub(super) peak: usize,
    pub(super) end: Option<usize>,
    pub(super) signal: SpikeSignal,
    /// The last entry that was examined for it.
    pub(super) last: usize,
}

impl Found {
    /// Whether the loss did not recover and settled on a new level shortly before an entry.
    pub(super) fn is_left_before(&self, idx: usize) -> bool {
        self.end.is_none() && idx <= self.last + SAME_EVENT_ENTRIES
    }
}

/// The losses to judge, and how strictly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) losses: &'a [f64],
    /// The height of the gradient norm at each entry; empty if it is not evidence.
    pub(super) witnesses: &'a [f64],
    pub(super) strictness: [Strictness; 2],
    pub(super) patience: usize,
}

/// How high an entry must be above its baseline to be off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Strictness {
    /// In standard deviations of the noise.
    pub(super) threshold: f64,
    /// The share of the threshold that each of two entries in a row must reach, and each of three.
    ///
    /// Two high entries in a row are rarer than one only where the noise of neighbours is independent.
    pub(super) in_a_row: [f64; 2],
}

impl Strictness {
    /// For noise without memory.
    pub(super) fn of(threshold: f64) -> Self {
        Self { threshold, in_a_row: [0.8, 0.65] }
    }

    /// For noise whose neighbours are correlated by so much.
    fn with_correlation(threshold: f64, correlation: f64) -> Self {
        let memory = ((correlation - 0.5) / 0.3).clamp(0.0, 1.0);
        Self { threshold, in_a_row: Self::of(threshold).in_a_row.map(|share| share + memory * (1.0 - share)) }
    }

    /// Whether it finds no more than another one.
    pub(super) fn is_at_most(self, other: Self) -> bool {
        self.threshold <= other.threshold && self.in_a_row.iter().zip(other.in_a_row).all(|(a, b)| *a <= b)
    }
}

/// What a threshold needs to know of the heights of ordinary entries.
#[derive(Debug, Default)]
struct Tails {
    last: [Option<f64>; 2],
    n: usize,
    squares: f64,
    products: f64,
    farthest: f64,
}

impl Tails {
    fn push(&mut self, height: f64) {
        let [a, b] = self.last;
        // After a drop of the learning rate many entries are low, which says nothing about the noise.
        if let (Some(a), Some(b)) = (a, b)
            && (b.abs() < 3.0 || (a / b < 0.5 && height / b < 0.5))
        {
            self.n += 1;
            self.squares += b * b;
            self.products += a * b;
            self.farthest = self.farthest.max(b.abs());
        }
        self.last = [b, Some(height)];
    }

    /// What this log's noise calls for: a threshold by its tails, at most 9 standard deviations, and no allowance for
    /// entries in a row by its memory.
    ///
    /// The farthest single entry shows how far the noise reaches: below the baseline, where there are no spikes, and
    /// above it among the entries that were not taken for spikes.
    fn adapt(&self, least: f64) -> Strictness {
        // The spread in units of the robust scale: 1 for normal noise, more for heavy tails.
        let spread = (self.squares / self.n.max(1) as f64).sqrt().max(1.0);
        let threshold = (1.5 * self.farthest).min(9.0 * spread).max(least);
        let correlation = if self.squares > 0.0 { self.products / self.squares } else { 0.0 };
        Strictness::with_correlation(threshold, correlation)
    }
}

/// One pace at which the losses are judged.
#[derive(Debug)]
struct Judge {
    history: History,
    strictness: Strictness,
    /// Heights of the entries that were accepted.
    tails: Tails,
    /// Height of each entry so far above its own baseline; 0 without a baseline and within spikes.
    own_heights: Recent,
}

#[derive(Debug)]
struct Detector<'a> {
    request: Request<'a>,
    judges: [Judge; 2],
    spikes: Vec<Found>,
}

/// Returns the spikes, and how strict this log's noise calls to be.
pub(super) fn detect(request: Request<'_>) -> (Vec<Found>, [Strictness; 2]) {
    let [slow, fast] = request.strictness;
    let judge = |pace, strictness| Judge {
        history: History::new(pace),
        strictness,
        tails: Tails::default(),
        own_heights: Recent::default(),
    };
    let detector = Detector { request, judges: [judge(SLOW, slow), judge(FAST, fast)], spikes: Vec::new() };
    detector.run()
}

impl Detector<'_> {
    fn run(mut self) -> (Vec<Found>, [Strictness; 2]) {
        let mut idx = 0;
        while let Some(loss) = self.loss(idx) {
            let baselines = self.judges.each_ref().map(|judge| judge.history.baseline());
            let dead = self.dead(idx);
            let seen = self
                .judges
                .iter()
                .zip(baselines)
                .find_map(|(judge, baseline)| baseline.filter(|baseline| self.is_spike(idx, *baseline, judge)));
            if dead.is_some() || seen.is_some() {
                idx = self.follow(idx, seen.or(baselines[0]), dead);
                continue;
            }
            for (judge, baseline) in self.judges.iter_mut().zip(baselines) {
                // With few residuals, and just after a spike, the baseline itself is uncertain.
                let after_spike = self.spikes.last().and_then(|spike| spike.end).map_or(0, |end| end + SLOW.n_level);
                let is_steady = judge.history.n_residuals() >= SCALE_ENTRIES && idx >= after_spike;
                let height = baseline.map(|baseline| baseline.height(loss));
                if let Some(height) = height.filter(|_| is_steady) {
                    judge.tails.push(height);
                }
                judge.own_heights.push(height.unwrap_or(0.0));
                judge.history.accept(loss);
            }
            idx += 1;
        }
        let strictness = self.judges.each_ref().map(|judge| judge.tails.adapt(judge.strictness.threshold));
        (self.spikes, strictness)
    }

    fn loss(&self, idx: usize) -> Option<f64> {
        self.request.losses.get(idx).copied()
    }

    /// How the loss is dead at this entry, if it is: not finite, or the first of several zeros in a row.
    fn dead(&self, idx: usize) -> Option<Dead> {
        let loss = self.loss(idx)?;
        if !loss.is_finite() {
            return Some(Dead::NonFinite);
        }
        if loss != 0.0 {
            return None;
        }
        let level = self.judges.iter().find_map(|judge| judge.history.level)?;
        let rest = self.request.losses.get(idx..)?;
        let n_zeros = rest.iter().take(BACK_ENTRIES).take_while(|loss| **loss == 0.0).count();
        let stays = n_zeros == BACK_ENTRIES || (n_zeros > 1 && n_zeros == rest.len());
        (stays && level >= Dead::LEAST_LEVEL).then_some(Dead::Zero)
    }

    fn has_witness(&self, idx: usize) -> bool {
        let witnesses = self.request.witnesses;
        let around = idx.saturating_sub(1)..(idx + 2).min(witnesses.len());
        witnesses.get(around).is_some_and(|some| some.iter().any(|height| *height >= 6.0))
    }

    /// Whether a loss is above the level of the newest ones, wherever the curve was heading.
    fn rises(&self, idx: usize, scale: f64) -> bool {
        let level = self.judges.iter().find_map(|judge| judge.history.level.filter(|_| judge.history.pace.n_gap == 0));
        self.loss(idx).zip(level).is_some_and(|(loss, level)| loss > level + 3.0 * scale)
    }

    /// Whether one entry is far off, two or three in a row are off, or one is off and the gradient norm jumps with it.
    fn is_spike(&self, idx: usize, baseline: Baseline, judge: &Judge) -> bool {
        let height = |idx: usize| self.loss(idx).map_or(0.0, |loss| baseline.height(loss));
        let caution = match judge.history.n_fine_residuals() {
            0..24 => 2.0,
            24..64 => 1.5,
            _ => 1.0,
        };
        let threshold = judge.strictness.threshold * caution;
        let [in_two, in_three] = judge.strictness.in_a_row;
        let here = height(idx);
        // Most entries are ordinary and end here. A loss that only falls more slowly than expected does not rise.
        if here < 0.65 * threshold || !self.rises(idx, baseline.scale) {
            return false;
        }
        let two = here.min(height(idx + 1));
        let is_seen = here >= 0.75 * threshold && self.has_witness(idx);
        here >= threshold || two >= in_two * threshold || two.min(height(idx + 2)) >= in_three * threshold || is_seen
    }

    /// Follows a spike from where it was noticed to its end, and returns the entry to continue at.
    fn follow(&mut self, noticed: usize, baseline: Option<Baseline>, dead: Option<Dead>) -> usize {
        let onset = if baseline.is_some() && dead.is_none() { self.find_onset(noticed) } else { noticed };
        for judge in &mut self.judges {
            judge.history.forget_last(noticed - onset);
        }
        let mut end = None;
        let mut last = noticed;
        for idx in noticed..self.request.losses.len() {
            if self.is_back(idx, baseline) {
                end = Some(idx);
                break;
            }
            last = idx;
            // A dead loss does not become the new level.
            if idx - noticed >= self.request.patience
                && self.loss(idx).is_some_and(|loss| !is_dead_value(loss, baseline))
            {
                break;
            }
        }
        let body = self.request.losses.get(onset..=last).unwrap_or_default();
        let first_odd = body.iter().position(|loss| !loss.is_finite());
        let highest = body.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(offset, _)| offset);
        let (peak, signal) = match (dead, first_odd) {
            (Some(Dead::Zero), _) => (onset, SpikeSignal::ZeroLoss),
            (_, Some(odd)) => (onset + odd, SpikeSignal::NonFinite),
            (_, None) => {
                let peak = onset + highest.unwrap_or(0);
                let with_norm = (onset..=peak).any(|idx| self.has_witness(idx));
                (peak, if with_norm { SpikeSignal::LossAndGradNorm } else { SpikeSignal::Loss })
            }
        };
        self.record(Found { onset, peak, end, signal, last });
        let next = end.unwrap_or(last + 1);
        for judge in &mut self.judges {
            judge.own_heights.pad(next, 0.0);
        }
        if end.is_none() {
            self.settle(onset, last);
        }
        next
    }

    /// Takes a level that persists as the new normal: later losses are compared with it.
    fn settle(&mut self, onset: usize, last: usize) {
        let settled = self.request.losses.get(onset..=last).unwrap_or_default().iter().filter(|loss| loss.is_finite());
        let settled: Vec<f64> = settled.rev().take(SCALE_ENTRIES + SLOW.n_level).copied().collect();
        for judge in &mut self.judges {
            judge.history.restart(settled.iter().rev());
        }
    }

    fn find_onset(&self, noticed: usize) -> usize {
        // Entries before the end of the last spike do not belong to this one.
        let least = self.spikes.last().map_or(0, |spike| spike.end.unwrap_or(spike.last + 1).min(noticed));
        let onset = self.walk_back(noticed, least.max(noticed.saturating_sub(WALK_ENTRIES)));
        if self.spikes.len() >= MAX_REFINED {
            return onset;
        }
        let losses = self.request.losses;
        refine_onset(losses, Rise { onset, noticed, top: find_top(losses, noticed), least }).unwrap_or(onset)
    }

    /// The first entry of the rise: the one from which the heights, less the expected noise, have the largest sum (the
    /// start of a cumulative sum test). Each entry counts above its own baseline: a falling curve was higher further
    /// back, which is not a rise.
    fn walk_back(&self, noticed: usize, least: usize) -> usize {
        let (mut onset, mut sum, mut most) = (noticed, 0.0, 0.0);
        for idx in (least..noticed).rev() {
            let heights = self.judges.iter().filter_map(|judge| judge.own_heights.get(idx));
            sum += heights.fold(-3.0, f64::max).min(6.0) - 2.0;
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
        let losses = self.request.losses;
        let some = losses.get(idx..(idx + BACK_ENTRIES).min(losses.len())).unwrap_or_default();
        // Without a baseline, only a loss that is not finite is off.
        let is_low = |loss: &f64| {
            !is_dead_value(*loss, baseline) && baseline.is_none_or(|baseline| baseline.height(*loss) <= 3.0)
        };
        some.iter().all(is_low)
    }

    /// Adds a spike, or joins it to the last one if that one ended just before or was left on a level that still moves.
    fn record(&mut self, new: Found) {
        let joins =
            |old: &Found| old.end.is_some_and(|end| new.onset < end + BACK_ENTRIES) || old.is_left_before(new.onset);
        let losses = self.request.losses;
        let height = |idx: usize| losses.get(idx).copied().unwrap_or(f64::NEG_INFINITY);
        match self.spikes.last_mut().filter(|old| joins(old)) {
            Some(old) => {
                if !old.signal.is_dead() && (new.signal.is_dead() || height(new.peak) > height(old.peak)) {
                    (old.peak, old.signal) = (new.peak, new.signal);
                }
                // A return to the level of a new plateau is not a recovery.
                if old.end.is_some() {
                    old.end = new.end;
                }
                old.last = new.last;
            }
            None => self.spikes.push(new),
        }
    }
}

fn is_dead_value(loss: f64, baseline: Option<Baseline>) -> bool {
    !loss.is_finite() || (loss == 0.0 && baseline.is_some_and(|baseline| baseline.level >= Dead::LEAST_LEVEL))
}
