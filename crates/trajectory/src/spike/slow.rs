//! Finds rises so slow that from one entry to the next they are lost in the noise.
//!
//! A running median that exceeds the lowest one before it by a share of the loss has risen, whatever the noise. A fit
//! finds where the rise began.

use std::collections::VecDeque;

use super::detector::Found;
use super::history::{MAD_TO_SIGMA, SortedWindow};
use super::onset::{Rise, find_top, has_level_before, refine_onset, without_curve};
use super::{LEVEL_ENTRIES, SpikeSignal};
use crate::numbers::median;

/// The lowest level is looked for among this many entries.
const REACH_ENTRIES: usize = 160;
/// The first pass averages this many entries into one: in logs of every step, a rise may take hundreds of entries.
const BLOCK_ENTRIES: usize = 8;
/// The least height of a slow rise, as a share of the loss: a curve that bends is not a spike.
const LEAST_SHARE: f64 = 0.04;
/// The least height in standard deviations of the noise. The noise of the median of nine is less than half of one.
const LEAST_HEIGHT: f64 = 5.0;
/// The least height in standard deviations of the level itself.
const LEAST_SWING: f64 = 7.0;
/// Those are taken over this many blocks.
const SWING_ENTRIES: usize = 256;
/// A level is as low as the lowest one if it is above it by at most this share of the rise.
const NEAR_SHARE: f64 = 0.2;
/// A loss is back once it is above the old level by at most this share of the rise.
const BACK_SHARE: f64 = 0.25;

/// Slow rises outside the known spikes, oldest first.
pub(super) fn detect_slow(losses: &[f64], known: &[Found]) -> Vec<Found> {
    let mut found = Vec::new();
    for n_block in [BLOCK_ENTRIES, 1] {
        let blocks: Vec<f64> = match n_block {
            1 => losses.to_vec(),
            _ => losses.chunks_exact(n_block).map(|block| block.iter().sum::<f64>() / n_block as f64).collect(),
        };
        let mut rises = Rises { losses, blocks: &blocks, n_block, known, found: std::mem::take(&mut found) };
        rises.run();
        found = rises.found;
    }
    found.sort_by_key(|one| one.onset);
    found
}

#[derive(Debug)]
struct Rises<'a> {
    losses: &'a [f64],
    blocks: &'a [f64],
    n_block: usize,
    known: &'a [Found],
    found: Vec<Found>,
}

impl Rises<'_> {
    fn run(&mut self) {
        let mut level = SortedWindow::default();
        // Levels that may become the lowest one in reach, ascending from front to back.
        let mut lowest: VecDeque<(usize, f64)> = VecDeque::new();
        let mut least_height: Option<(usize, f64)> = None;
        let mut n_level = 0;
        let mut idx = 0;
        while let Some(value) = self.blocks.get(idx).copied() {
            if !value.is_finite() || self.is_known(idx) {
                (level, n_level) = (SortedWindow::default(), 0);
                lowest.clear();
                idx += 1;
                continue;
            }
            level.insert(value);
            n_level += 1;
            if n_level > LEVEL_ENTRIES
                && let Some(oldest) = self.blocks.get(idx - LEVEL_ENTRIES)
            {
                level.remove(*oldest);
            }
            idx += 1;
            let Some(now) = level.median().filter(|_| n_level >= LEVEL_ENTRIES) else { continue };
            while lowest.back().is_some_and(|(_, low)| *low >= now) {
                lowest.pop_back();
            }
            lowest.push_back((idx - 1, now));
            while lowest.front().is_some_and(|(at, _)| at + REACH_ENTRIES < idx) {
                lowest.pop_front();
            }
            let Some((at, low)) = lowest.front().copied() else { continue };
            if now - low < LEAST_SHARE * low.abs() {
                continue;
            }
            // It costs a fit, and the lowest level lasts.
            let (_, least) = match least_height.filter(|(old, _)| *old == at) {
                Some(known) => known,
                None => *least_height.insert((at, self.least_height(at))),
            };
            if now - low < least {
                continue;
            }
            let is_near = |(_, level): &&(usize, f64)| level - low <= NEAR_SHARE * (now - low);
            let last_low = lowest.iter().rev().find(is_near).map_or(at, |(last, _)| *last);
            idx = self.take((at, last_low), idx - 1, low);
            (level, n_level) = (SortedWindow::default(), 0);
            lowest.clear();
        }
    }

    /// Whether a block overlaps a known spike.
    fn is_known(&self, idx: usize) -> bool {
        let (first, last) = (idx * self.n_block, (idx + 1) * self.n_block);
        let lies_in = |one: &Found| one.onset < last && one.end.unwrap_or(one.last + 1) > first;
        let near = |some: &[Found]| {
            let n = some.partition_point(|one| one.onset < last);
            some.get(n.saturating_sub(1)..n).is_some_and(|one| one.iter().any(lies_in))
        };
        near(self.known) || self.found.iter().any(lies_in)
    }

    /// The height above the level at a block that noise does not explain.
    fn least_height(&self, idx: usize) -> f64 {
        (LEAST_HEIGHT * self.noise(idx)).max(LEAST_SWING * self.swing(idx))
    }

    /// The standard deviation of the noise before a block, from the differences of neighbours.
    fn noise(&self, idx: usize) -> f64 {
        let some = self.blocks.get(idx.saturating_sub(64)..=idx).unwrap_or_default();
        let steps = some.windows(2).filter_map(|pair| Some((pair.last()? - pair.first()?).abs()));
        let steps: Vec<f64> = steps.filter(|step| step.is_finite()).collect();
        MAD_TO_SIGMA / std::f64::consts::SQRT_2 * median(steps).unwrap_or(0.0)
    }

    /// The entry at which a rise that was found among blocks begins.
    fn refine_within(&self, rise: Rise) -> usize {
        let [onset, noticed, top, least] =
            [rise.onset, rise.noticed, rise.top, rise.least].map(|block| block * self.n_block);
        let fine = Rise { onset, noticed, top, least };
        if self.n_block == 1 { onset } else { refine_onset(self.losses, fine).unwrap_or(onset) }
    }

    /// The standard deviation of the means of nine blocks before a block, around the curve that they follow: how far
    /// noise with a memory moves the level.
    fn swing(&self, idx: usize) -> f64 {
        let some = self.blocks.get(idx.saturating_sub(SWING_ENTRIES)..=idx).unwrap_or_default();
        let finite: Vec<f64> = some.iter().copied().filter(|value| value.is_finite()).collect();
        let left = without_curve(&finite);
        let squares = left.chunks_exact(LEVEL_ENTRIES).map(|nine| nine.iter().sum::<f64>() / LEVEL_ENTRIES as f64);
        let squares: Vec<f64> = squares.map(|mean| mean * mean).collect();
        // The curve took three of them.
        (squares.iter().sum::<f64>() / squares.len().saturating_sub(3).max(1) as f64).sqrt()
    }

    /// Records a rise from the lowest level to where it was noticed, if a ramp fits. Returns the block to continue at.
    ///
    /// On a flat stretch the lowest level may be far before the foot of the rise, so far that no level is left before
    /// it. Then the rise begins after the last level that is nearly as low.
    fn take(&mut self, (lowest, last_low): (usize, usize), noticed: usize, low: f64) -> usize {
        let n_block = self.n_block;
        let ends = self.known.iter().chain(&self.found).map(|one| one.end.unwrap_or(one.last + 1).div_ceil(n_block));
        let least = ends.filter(|end| *end <= lowest).max().unwrap_or(0);
        let top = find_top(self.blocks, noticed);
        let from = |onset: usize| Rise { onset, noticed, top, least };
        let rise = if has_level_before(from(lowest)) { from(lowest) } else { from(last_low) };
        let Some(onset) = refine_onset(self.blocks, rise) else { return noticed + 1 };
        let onset = self.refine_within(Rise { onset, ..rise });
        let (mut peak, mut highest) = (noticed, f64::NEG_INFINITY);
        let mut end = None;
        let mut level = SortedWindow::of(self.blocks.get(noticed + 1 - LEVEL_ENTRIES..=noticed).unwrap_or_default());
        let mut last = noticed;
        for (idx, value) in self.blocks.iter().enumerate().skip(noticed + 1) {
            if !value.is_finite() || self.is_known(idx) {
                break;
            }
            level.insert(*value);
            level.remove(self.blocks.get(idx - LEVEL_ENTRIES).copied().unwrap_or(*value));
            let Some(now) = level.median() else { break };
            if now > highest {
                (peak, highest) = (idx, now);
            }
            last = idx;
            if now - low <= BACK_SHARE * (highest - low) {
                end = Some((idx + 1 - LEVEL_ENTRIES / 2) * n_block);
                break;
            }
            if idx - peak > 2 * REACH_ENTRIES {
                break;
            }
        }
        let (peak, last) = ((peak * n_block).max(onset), (last + 1) * n_block - 1);
        self.found.push(Found { onset, peak, end, signal: SpikeSignal::Loss, last });
        last / n_block + 1
    }
}
