//! Evidence in the other columns: a gradient norm that jumps or turns NaN, a loss that is no longer logged.

use super::history::{Baseline, FAST, History};
use super::{Spike, SpikeSignal};
use crate::LogEntry;

/// Up to this many norms in a row that are not finite may be steps that a loss scaler skipped. At the end of a log this
/// many are enough for a spike.
const NAN_ENTRIES: usize = 2;
/// After this many entries without a loss it is no longer logged.
const STOP_ENTRIES: usize = 10;
/// So many times its longest usual gap must have passed without a loss.
const STOP_GAPS: usize = 3;

/// The height of each gradient norm above those before it, on a logarithmic scale. One per entry; 0 without a norm.
pub(super) fn grad_norm_heights(entries: &[&LogEntry]) -> Vec<f64> {
    let mut history = History::new(FAST);
    let mut heights = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(value) = entry.grad_norm.filter(|norm| *norm > 0.0 && norm.is_finite()).map(f64::ln) else {
            heights.push(0.0);
            continue;
        };
        // A scale of less than 2 % is as good as constant.
        let baseline = history.baseline().map(|baseline| Baseline { scale: baseline.scale.max(0.02), ..baseline });
        let height = baseline.map_or(0.0, |baseline| baseline.height(value));
        heights.push(height);
        if height < 8.0 {
            history.accept(value);
        }
    }
    heights
}

/// Stretches in which the gradient norm is not finite although it was before.
pub(super) fn find_dead_norms(entries: &[LogEntry]) -> Vec<Spike> {
    let mut found = Vec::new();
    let mut was_finite = false;
    let mut stretch: Option<(usize, Spike)> = None;
    for entry in entries {
        let Some(norm) = entry.grad_norm else { continue };
        match (&mut stretch, norm.is_finite()) {
            (Some((n, _)), false) => *n += 1,
            (None, false) if was_finite => {
                let spike =
                    Spike { onset: entry.step, peak: entry.step, end: None, signal: SpikeSignal::GradNormNonFinite };
                stretch = Some((1, spike));
            }
            (None, false) => {}
            (_, true) => {
                was_finite = true;
                let ended = stretch.take().filter(|(n, _)| *n > NAN_ENTRIES);
                found.extend(ended.map(|(_, spike)| Spike { end: Some(entry.step), ..spike }));
            }
        }
    }
    found.extend(stretch.filter(|(n, _)| *n >= NAN_ENTRIES).map(|(_, spike)| spike));
    found
}

/// A loss that is no longer logged while other columns are.
pub(super) fn find_stop(entries: &[LogEntry]) -> Option<Spike> {
    let last = entries.iter().rposition(|entry| entry.loss.is_some())?;
    let n_without = entries.len() - 1 - last;
    if n_without < STOP_ENTRIES {
        return None;
    }
    let (mut longest, mut gap) = (0, 0);
    for entry in entries.get(..=last)?.iter().rev().skip(1).take(100 * STOP_ENTRIES) {
        gap = if entry.loss.is_some() { 0 } else { gap + 1 };
        longest = longest.max(gap);
    }
    let step = entries.get(last + 1)?.step;
    let spike = Spike { onset: step, peak: step, end: None, signal: SpikeSignal::LossStops };
    (n_without >= STOP_GAPS * (longest + 1)).then_some(spike)
}

/// Joins the spikes of the loss with those of other columns: spikes that overlap are one event.
pub(super) fn join_witnesses(spikes: Vec<Spike>, witnesses: Vec<Spike>) -> Vec<Spike> {
    let mut all: Vec<Spike> = spikes.into_iter().chain(witnesses).collect();
    all.sort_by_key(|spike| spike.onset);
    let mut joined: Vec<Spike> = Vec::new();
    for new in all {
        match joined.last_mut().filter(|old| is_one_event(old, &new)) {
            Some(old) => {
                // That a loss is dead says more than that it is high.
                if !old.signal.is_dead() && new.signal.is_dead() {
                    (old.signal, old.peak) = (new.signal, new.peak);
                }
                old.end = old.end.zip(new.end).map(|(a, b)| a.max(b));
            }
            None => joined.push(new),
        }
    }
    joined
}

/// Whether the later of two spikes begins within the earlier one. Once a loss has settled on a new level, further rises
/// are separate events; a dead loss cannot die again.
fn is_one_event(old: &Spike, new: &Spike) -> bool {
    match old.end {
        Some(end) => new.onset <= end,
        None => old.signal.is_dead() || (new.signal.is_dead() && new.onset <= old.peak),
    }
}
