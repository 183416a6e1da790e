//! Finds spikes and where they began, from the loss, with the other columns as witnesses.
//!
//! Each loss is compared with a baseline of the accepted losses before it, in units of a robust scale of recent
//! residuals. The threshold depends on the tails of the log's own noise, so that heavy-tailed noise is not taken for
//! spikes. A second pass over running medians finds slow rises. What to do about a spike is not decided here.

mod detector;
mod history;
mod onset;
mod slow;
mod witness;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LogEntry, Step, StepLog};
use detector::{Found, Request, Strictness};
use slow::detect_slow;
use witness::{find_dead_norms, find_stop, grad_norm_heights, join_witnesses};

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
    /// A loss that is exactly 0 and stays so, which is how some trainers log a loss that is NaN.
    ZeroLoss,
    /// A gradient norm that is NaN or infinite.
    GradNormNonFinite,
    /// A loss that is no longer logged while other columns are.
    LossStops,
}

impl SpikeSignal {
    /// Whether the run can no longer learn anything, however high the loss is.
    fn is_dead(self) -> bool {
        !matches!(self, Self::Loss | Self::LossAndGradNorm)
    }
}

impl fmt::Display for SpikeSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss => "loss",
            Self::LossAndGradNorm => "loss and gradient norm",
            Self::NonFinite => "loss that is not finite",
            Self::ZeroLoss => "loss of exactly 0",
            Self::GradNormNonFinite => "gradient norm that is not finite",
            Self::LossStops => "loss that is no longer logged",
        })
    }
}

/// A sudden rise of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spike {
    /// The first step that is off.
    pub onset: Step,
    /// The step with the highest loss, or the first whose loss is not finite or 0.
    pub peak: Step,
    /// The first step that is back at the level before; `None` if the loss did not recover.
    pub end: Option<Step>,
    /// What showed it.
    pub signal: SpikeSignal,
}

/// Whether the gradient norm is evidence of a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GradNormUse {
    /// A jump of the gradient norm at the same place lets a smaller rise of the loss count.
    #[default]
    Witness,
    /// Only the loss counts.
    Ignore,
}

/// How spikes are distinguished from noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpikeOptions {
    /// The least height of a spike, in standard deviations of the log's own noise. Raised for noise with heavy tails,
    /// to at most 9 of its standard deviations.
    pub threshold: f64,
    /// Entries after which a level that did not recover is the new level.
    pub patience_entries: usize,
    /// Whether the gradient norm is evidence.
    pub grad_norm: GradNormUse,
}

impl Default for SpikeOptions {
    fn default() -> Self {
        Self { threshold: 6.5, patience_entries: 200, grad_norm: GradNormUse::Witness }
    }
}

/// How a loss is dead: it will not recover by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dead {
    NonFinite,
    Zero,
}

impl Dead {
    /// A loss that was below this level, in nats, may have reached 0 by learning.
    const LEAST_LEVEL: f64 = 0.05;
}

/// The level at a step is the median of this many losses.
const LEVEL_ENTRIES: usize = 9;

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
        GradNormUse::Witness if entries.iter().any(|entry| entry.grad_norm.is_some()) => grad_norm_heights(&entries),
        _ => Vec::new(),
    };
    let found = detect_adapted(&losses, &witnesses, options);
    let step = |idx: usize| entries.get(idx).map(|entry| entry.step);
    let to_spike = |found: Found| {
        let end = found.end.and_then(step);
        Some(Spike { onset: step(found.onset)?, peak: step(found.peak)?, end, signal: found.signal })
    };
    let slow = detect_slow(&losses, &found);
    let spikes: Vec<Spike> = join_events(found, slow).into_iter().filter_map(to_spike).collect();
    let mut others = Vec::from_iter(find_stop(log.entries()));
    if options.grad_norm == GradNormUse::Witness {
        others.extend(find_dead_norms(log.entries()));
    }
    join_witnesses(spikes, others)
}

/// Spikes at the strictness that the log's own noise calls for.
fn detect_adapted(losses: &[f64], witnesses: &[f64], options: &SpikeOptions) -> Vec<Found> {
    let least = Strictness::of(options.threshold);
    let request = Request { losses, witnesses, strictness: [least; 2], patience: options.patience_entries };
    let (found, strictness) = detector::detect(request);
    // Higher thresholds find no more.
    if found.is_empty() || strictness.iter().all(|one| one.is_at_most(least)) {
        return found;
    }
    detector::detect(Request { strictness, ..request }).0
}

/// Merges both lists. A slow rise that begins where a spike was left, on a level that still moves, is the same event.
fn join_events(found: Vec<Found>, slow: Vec<Found>) -> Vec<Found> {
    let mut all: Vec<(Found, bool)> = found.into_iter().map(|one| (one, false)).collect();
    all.extend(slow.into_iter().map(|one| (one, true)));
    all.sort_by_key(|(one, _)| one.onset);
    let mut joined: Vec<Found> = Vec::new();
    for (one, is_slow) in all {
        match joined.last_mut().filter(|old| is_slow && old.is_left_before(one.onset)) {
            Some(old) => old.last = one.last,
            None => joined.push(one),
        }
    }
    joined
}

/// The earliest spike from which the run has not recovered at a step.
///
/// A loss that settled on a new level and later fell below the old one has recovered.
pub fn lasting_spike<'a>(log: &StepLog, spikes: &'a [Spike], at: Step) -> Option<&'a Spike> {
    let level_now = level_before(log, Step(at.0.saturating_add(1)));
    let lasts = |spike: &&Spike| {
        let has_ended = spike.end.is_some_and(|end| end <= at);
        let is_above = level_now.zip(level_before(log, spike.onset)).is_none_or(|(now, then)| now > then);
        spike.onset <= at && !has_ended && (spike.signal.is_dead() || spike.end.is_some() || is_above)
    };
    spikes.iter().find(lasts)
}

/// The first step at which a spike is over; `None` if it is not over.
///
/// It is over where the loss came back, or where a loss that had settled on a new level fell below the old one.
pub fn back_at(log: &StepLog, spike: &Spike) -> Option<Step> {
    if spike.end.is_some() || spike.signal.is_dead() {
        return spike.end;
    }
    let level = level_before(log, spike.onset)?;
    let entries = log.entries().get(log.entries().partition_point(|entry| entry.step <= spike.peak)..)?;
    let losses: Vec<(Step, f64)> = entries.iter().filter_map(|entry| Some((entry.step, entry.loss?))).collect();
    let is_low = |nine: &&[(Step, f64)]| {
        let n_low = nine.iter().filter(|(_, loss)| *loss <= level).count();
        2 * n_low > nine.len()
    };
    losses.windows(LEVEL_ENTRIES).find(is_low).and_then(|nine| nine.last()).map(|(step, _)| *step)
}

/// The level of the loss before a step: the median, in nats, of the finite ones among the last 9 losses.
fn level_before(log: &StepLog, step: Step) -> Option<f64> {
    let entries = log.entries();
    let before = entries.get(..entries.partition_point(|entry| entry.step < step))?.iter().rev();
    let last = before.filter_map(|entry| entry.loss).take(LEVEL_ENTRIES).filter(|loss| loss.is_finite());
    let mut last: Vec<f64> = last.collect();
    last.sort_by(f64::total_cmp);
    last.get(last.len() / 2).copied()
}
