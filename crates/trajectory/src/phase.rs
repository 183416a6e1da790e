//! Warmup, stable phase and anneal: read off the learning rate of a log, or taken from the user's word.
//!
//! The curve decides by its shape alone; no schedule is fitted and no name of one is known.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::numbers::median;
use crate::text_error::TextError;
use crate::{Step, StepLog};

/// A phase of a warmup, stable, decay schedule. A cosine schedule has no stable phase: it anneals from its peak on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The learning rate rises.
    Warmup,
    /// The learning rate stays at its level.
    Stable,
    /// The learning rate falls.
    Anneal,
}

impl Phase {
    /// `warmup`, `stable` or `anneal`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warmup => "warmup",
            Self::Stable => "stable",
            Self::Anneal => "anneal",
        }
    }
}

/// A stable phase in a user's words, `FROM..TO`: first and last step at the full learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableRange {
    /// First step.
    pub from: Step,
    /// Last step.
    pub to: Step,
}

impl FromStr for StableRange {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let refuse = || TextError::BadStable { text: text.to_owned() };
        let (from, to) = text.split_once("..").ok_or_else(refuse)?;
        let range = Self { from: from.parse().map_err(|_| refuse())?, to: to.parse().map_err(|_| refuse())? };
        if range.from <= range.to { Ok(range) } else { Err(refuse()) }
    }
}

/// Where the phases come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseSource {
    /// The learning rate of the log.
    LearningRate,
    /// The user, or the run's `thalweg.toml`.
    Given,
}

/// One stretch of a run, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseSegment {
    /// Its phase.
    pub phase: Phase,
    /// First step.
    pub from: Step,
    /// Last step.
    pub to: Step,
}

/// The phases of a run, in order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phases {
    segments: Vec<PhaseSegment>,
    source: PhaseSource,
}

impl Phases {
    /// Phases around a stable phase that is given.
    pub fn from_stable(stable: StableRange) -> Self {
        let mut segments = Vec::with_capacity(3);
        if let Some(last) = stable.from.0.checked_sub(1) {
            segments.push(PhaseSegment { phase: Phase::Warmup, from: Step(0), to: Step(last) });
        }
        segments.push(PhaseSegment { phase: Phase::Stable, from: stable.from, to: stable.to });
        if let Some(first) = stable.to.0.checked_add(1) {
            segments.push(PhaseSegment { phase: Phase::Anneal, from: Step(first), to: Step(u64::MAX) });
        }
        Self { segments, source: PhaseSource::Given }
    }

    /// The stretches, by step.
    pub fn segments(&self) -> &[PhaseSegment] {
        &self.segments
    }

    /// Where they come from.
    pub fn source(&self) -> PhaseSource {
        self.source
    }

    /// The phase at a step; `None` beyond the end of the log.
    pub fn phase_at(&self, step: Step) -> Option<Phase> {
        self.segments.iter().find(|segment| segment.from <= step && step <= segment.to).map(|segment| segment.phase)
    }

    /// The last step of the last stable phase, if an anneal follows it.
    pub fn stable_end(&self) -> Option<Step> {
        self.segments.windows(2).rev().find_map(|pair| match pair {
            [a, b] if a.phase == Phase::Stable && b.phase == Phase::Anneal => Some(a.to),
            _ => None,
        })
    }

    /// The first step of the first stable phase.
    pub fn stable_start(&self) -> Option<Step> {
        self.segments.iter().find(|segment| segment.phase == Phase::Stable).map(|segment| segment.from)
    }
}

/// A plateau shorter than this share of the log is the rounded top of a curve. Found by trial on cosine and WSD curves.
const MIN_STABLE_SHARE: f64 = 0.15;
/// Two values this close, relative to the peak, are one value that was printed or computed in another way.
const PRINT_NOISE: f64 = 1e-5;

/// Finds the phases in the learning rates of a log; `None` if it has fewer than three.
///
/// A stable phase is the longest stretch at one level of at least half the peak. Single wrong values and noise are
/// tolerated: the scale of the noise is measured on the curve itself. The last step of the stable phase is the last one
/// logged at its level; steps between two entries belong to the phase that is not stable.
///
/// # Example
/// ```
/// use thalweg_trajectory::{ColumnMap, Phase, Step, detect_phases, parse_csv};
///
/// let mut text = "step,loss,lr\n".to_owned();
/// for step in (0..=200u32).step_by(10) {
///     let lr = f64::from(step.min(20)) / 20.0 * f64::from(200 - step.max(150)) / 50.0;
///     text += &format!("{step},3.0,{lr}\n");
/// }
/// let phases = detect_phases(&parse_csv(text.as_bytes(), &ColumnMap::default())?).expect("there are learning rates");
/// assert_eq!(phases.stable_end(), Some(Step(150)));
/// assert_eq!(phases.phase_at(Step(10)), Some(Phase::Warmup));
/// # Ok::<(), thalweg_trajectory::LogError>(())
/// ```
pub fn detect_phases(log: &StepLog) -> Option<Phases> {
    let points: Vec<Point> = log
        .learning_rates()
        .filter(|(_, rate)| rate.is_finite() && *rate >= 0.0)
        .map(|(step, rate)| Point { step: step.0, rate, smooth: rate })
        .collect();
    let curve = Curve::new(points)?;
    let labels = match curve.find_plateau() {
        Some(plateau) => curve.label_around(&plateau),
        None => curve.label_by_peak(),
    };
    Some(Phases { segments: curve.join(&labels), source: PhaseSource::LearningRate })
}

#[derive(Debug, Clone, Copy)]
struct Point {
    step: u64,
    rate: f64,
    smooth: f64,
}

#[derive(Debug)]
struct Curve {
    points: Vec<Point>,
    peak: f64,
    noise: f64,
    /// Values this far apart are one level.
    tolerance: f64,
}

/// Entries `first..=last`, and their level.
#[derive(Debug, Clone, Copy)]
struct Plateau {
    first: usize,
    last: usize,
    level: f64,
}

impl Curve {
    fn new(mut points: Vec<Point>) -> Option<Self> {
        if points.len() < 3 {
            return None;
        }
        let rates: Vec<f64> = points.iter().map(|point| point.rate).collect();
        for (idx, point) in points.iter_mut().enumerate() {
            // Symmetric windows keep a kink where it is, also near the ends.
            let half = idx.min(rates.len() - 1 - idx).min(2);
            point.smooth =
                rates.get(idx - half..=idx + half).and_then(|some| median(some.to_vec())).unwrap_or(point.rate);
        }
        let peak = points.iter().map(|point| point.smooth).fold(0.0, f64::max);
        // What a point is off the line between its neighbours: zero on ramps and levels, whatever their slope.
        let bends = points.windows(3).filter_map(|three| match three {
            [a, b, c] => Some((b.rate - interpolate(a, c, b.step)).abs()),
            _ => None,
        });
        // The variance of a bend of independent noise is 1.5 times that of the noise; 1.4826 makes a median of absolute
        // values a standard deviation.
        let noise = 1.4826 * median(bends.collect()).unwrap_or(0.0) / 1.5f64.sqrt();
        let tolerance = (3.0 * noise).max(PRINT_NOISE * peak);
        (peak > 0.0).then_some(Self { points, peak, noise, tolerance })
    }

    fn is_level(&self, idx: usize, level: f64) -> bool {
        self.points.get(idx).is_some_and(|point| (point.smooth - level).abs() <= self.tolerance)
    }

    fn span(&self, first: usize, last: usize) -> u64 {
        match (self.points.get(first), self.points.get(last)) {
            (Some(a), Some(b)) => b.step.saturating_sub(a.step),
            _ => 0,
        }
    }

    /// The longest stretch of one level, if it is long and flat enough to be a phase.
    fn find_plateau(&self) -> Option<Plateau> {
        let n = self.points.len();
        let mut longest: Option<(usize, usize)> = None;
        let mut first = 0;
        while first < n {
            let level = self.points.get(first)?.smooth;
            let mut last = first;
            while self.is_level(last + 1, level) {
                last += 1;
            }
            let is_high = level >= 0.5 * self.peak;
            if is_high && last >= first + 2 && longest.is_none_or(|(a, b)| self.span(first, last) > self.span(a, b)) {
                longest = Some((first, last));
            }
            first = last + 1;
        }
        let (first, mut last) = longest?;
        while !self.is_flat(first, last) {
            // The top of a curve, or a stable phase with the beginning of the decay: the rest may be flat.
            last -= (last - first).div_ceil(4);
            if last < first + 2 {
                return None;
            }
        }
        let level = median(self.points.get(first..=last)?.iter().map(|point| point.rate).collect())?;
        while self.is_level(last + 1, level) || self.is_level(last + 2, level) {
            last += 1;
        }
        while last > first && !self.is_level(last, level) {
            last -= 1;
        }
        let reaches_end = last + 1 >= n;
        let share = self.span(first, last) as f64 / self.span(0, n - 1).max(1) as f64;
        (share >= MIN_STABLE_SHARE || reaches_end).then_some(Plateau { first, last, level })
    }

    /// Whether the first and the last third have the same mean, as far as the noise lets one see.
    fn is_flat(&self, first: usize, last: usize) -> bool {
        let n_third = (last + 1 - first) / 3;
        let mean = |from: usize| {
            let some = self.points.get(from..from + n_third).unwrap_or_default();
            let n = some.len().max(1) as f64;
            (some.iter().map(|point| point.rate).sum::<f64>() / n, n)
        };
        let ((a, n), (b, _)) = (mean(first), mean(last + 1 - n_third));
        (a - b).abs() <= 4.0 * self.noise * (2.0 / n).sqrt() + PRINT_NOISE * self.peak
    }

    /// Labels everything around a plateau; the level may be reached again, as in runs with several decays.
    fn label_around(&self, plateau: &Plateau) -> Vec<Phase> {
        let n = self.points.len();
        let mut is_stable: Vec<bool> = (0..n).map(|idx| self.is_level(idx, plateau.level)).collect();
        if let Some(inside) = is_stable.get_mut(plateau.first..=plateau.last) {
            inside.fill(true);
        }
        fill_short_runs(&mut is_stable);
        let mut labels = vec![Phase::Stable; n];
        let mut start = 0;
        while start < n {
            let stable = is_stable.get(start).copied().unwrap_or_default();
            let length = is_stable.iter().skip(start).take_while(|label| **label == stable).count().max(1);
            let end = start + length;
            if !stable {
                let some = self.points.get(start..end).unwrap_or_default();
                let lowest = some.iter().enumerate().min_by(|a, b| a.1.smooth.total_cmp(&b.1.smooth));
                let n_falling = match (start, end == n, lowest) {
                    (0, false, _) => 0,
                    (_, false, Some((lowest, _))) => lowest + 1,
                    _ => length,
                };
                for (idx, label) in labels.iter_mut().skip(start).take(length).enumerate() {
                    *label = if idx < n_falling { Phase::Anneal } else { Phase::Warmup };
                }
            }
            start = end;
        }
        labels
    }

    /// Labels a curve without a plateau: up to its peak, and down from there.
    fn label_by_peak(&self) -> Vec<Phase> {
        let is_top = |point: &Point| point.smooth >= self.peak - self.tolerance;
        let n = self.points.len();
        let first_top = self.points.iter().position(is_top).unwrap_or(0);
        let last_top = self.points.iter().rposition(is_top).unwrap_or(n);
        let label = |idx: usize| match idx {
            _ if idx < first_top => Phase::Warmup,
            // The rate is not falling yet where the log ends.
            _ if last_top + 1 == n && first_top < last_top => Phase::Stable,
            _ if last_top + 1 == n => Phase::Warmup,
            _ => Phase::Anneal,
        };
        (0..n).map(label).collect()
    }

    fn join(&self, labels: &[Phase]) -> Vec<PhaseSegment> {
        let mut segments: Vec<PhaseSegment> = Vec::new();
        for (point, phase) in self.points.iter().zip(labels) {
            let step = Step(point.step);
            match segments.last_mut() {
                None => segments.push(PhaseSegment { phase: *phase, from: Step(0), to: step }),
                Some(last) if last.phase == *phase => last.to = step,
                Some(last) => {
                    // What is between two entries is not known to be stable.
                    let is_end = last.phase == Phase::Stable;
                    let from = if is_end { Step(last.to.0 + 1) } else { step };
                    last.to = if is_end { last.to } else { Step(step.0.saturating_sub(1)) };
                    segments.push(PhaseSegment { phase: *phase, from, to: step });
                }
            }
        }
        let gaps = self.points.windows(2).filter_map(|pair| match pair {
            [a, b] => Some(b.step.saturating_sub(a.step)),
            _ => None,
        });
        let mut gaps: Vec<u64> = gaps.collect();
        gaps.sort_unstable();
        // The checkpoint that is saved right after the last entry belongs to the last phase still.
        if let (Some(last), Some(gap)) = (segments.last_mut(), gaps.get(gaps.len() / 2)) {
            last.to = Step(last.to.0.saturating_add(*gap));
        }
        segments
    }
}

/// Makes runs of one or two labels equal to what is around them.
fn fill_short_runs(labels: &mut [bool]) {
    for wanted in [true, false] {
        let mut start = 0;
        while start < labels.len() {
            let length = labels.iter().skip(start).take_while(|label| **label != wanted).count();
            let is_inside = start > 0 && start + length < labels.len();
            if (1..=2).contains(&length) && is_inside {
                labels.iter_mut().skip(start).take(length).for_each(|label| *label = wanted);
            }
            start += length.max(1);
        }
    }
}

fn interpolate(a: &Point, c: &Point, step: u64) -> f64 {
    let share = (step.saturating_sub(a.step)) as f64 / c.step.saturating_sub(a.step).max(1) as f64;
    a.rate + share * (c.rate - a.rate)
}
