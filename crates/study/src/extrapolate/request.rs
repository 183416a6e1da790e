//! Which checkpoints are averaged into which points.

use std::collections::BTreeSet;
use std::ops::Range;

use thalweg_merge::plan::SourceRef;
use thalweg_merge::points::disjoint_windows;
use thalweg_tensor::counted;
use thalweg_trajectory::{Phase, Trajectory, TrajectoryCheckpoint};

use super::line::{Direction, MAX_ALPHA};
use crate::Error;
use crate::request::{Resolver, Selection};
use crate::select::source_ref;

/// Points for a line: fewer have no shape.
pub(crate) const LEAST_POINTS: usize = 3;
/// Points that are made where the length of windows is not given.
const USUAL_POINTS: usize = 6;
/// Checkpoints that are taken where none are selected.
const MOST_BY_DEFAULT: usize = 48;

/// A request for an extrapolation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExtrapolationRequest {
    /// Which checkpoints; the newest of the stable phase, at most 48, if empty.
    pub selection: Selection,
    /// Checkpoints in a point; a sixth of them all, if left out.
    pub window: Option<usize>,
    /// Points; as many as the checkpoints make, if left out.
    pub n_points: Option<usize>,
    /// Along which line.
    pub direction: Direction,
    /// How far, in lags; found by scores, if left out.
    pub alpha: Option<f64>,
}

/// Checkpoints with their windows, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedPoints {
    /// All checkpoints that are read.
    pub sources: Vec<SourceRef>,
    /// The places of each point in `sources`, of equal length.
    pub windows: Vec<Range<usize>>,
    /// Checkpoints in each.
    pub window: usize,
    /// Steps from checkpoint to checkpoint.
    pub interval_steps: u64,
}

/// Checkpoints in a point where that is left open: a sixth of them all, two at least.
pub(crate) fn default_window(n_checkpoints: usize) -> usize {
    (n_checkpoints / USUAL_POINTS).max(2)
}

impl Resolver<'_> {
    /// The points of an extrapolation.
    ///
    /// # Errors
    /// `Request` for a step beyond the cap, too few checkpoints, and checkpoints that are not evenly spaced;
    /// `Trajectory` where the run does not have the selection.
    pub fn merged_points(
        &self,
        request: &ExtrapolationRequest,
        trajectory: &Trajectory,
    ) -> Result<MergedPoints, Error> {
        if let Some(alpha) = request.alpha.filter(|alpha| !(0.0..=MAX_ALPHA).contains(alpha)) {
            return Err(Error::request_with_hint(
                format!("`--alpha {alpha}` is not between 0 and {MAX_ALPHA}"),
                "1 undoes the lag of averaging; beyond 2 the loss rises steeply",
            ));
        }
        let chosen = if request.selection.is_empty() {
            let newest = newest_of_stable(trajectory);
            self.note(format!("taking the newest {} evenly spaced checkpoints of the stable phase", newest.len()));
            newest
        } else {
            self.select(trajectory, &request.selection)?
        };
        let window = request.window.unwrap_or_else(|| default_window(chosen.len()));
        if window < 2 {
            return Err(Error::request("`--window` is at least 2: a single checkpoint is not an average"));
        }
        let possible = chosen.len() / window;
        let n_points = request.n_points.unwrap_or(possible);
        if n_points < LEAST_POINTS || n_points > possible {
            let needed = window * n_points.max(LEAST_POINTS);
            return Err(Error::request_with_hint(
                format!(
                    "{} of {} need {}, but there are {}",
                    counted(n_points.max(LEAST_POINTS), "point"),
                    counted(window, "checkpoint"),
                    counted(needed, "checkpoint"),
                    chosen.len()
                ),
                "a line needs three points: select more checkpoints, or shorten `--window`",
            ));
        }
        let sources = chosen[chosen.len() - n_points * window..].to_vec();
        let interval_steps = even_interval(&sources).map_err(|gaps| uneven(gaps, sources.len(), trajectory))?;
        let windows = disjoint_windows(sources.len(), window);
        Ok(MergedPoints { sources, windows, window, interval_steps })
    }
}

/// The newest finished checkpoints of the stable phase, as far back as they are evenly spaced.
fn newest_of_stable(trajectory: &Trajectory) -> Vec<SourceRef> {
    let is_stable = |one: &&TrajectoryCheckpoint| one.phase.is_none_or(|phase| phase == Phase::Stable);
    let stable: Vec<&TrajectoryCheckpoint> = trajectory.finished().filter(is_stable).collect();
    let gap = |i: usize| stable[i].step.0 - stable[i - 1].step.0;
    let last = stable.len().saturating_sub(1);
    let mut first = last;
    while first > 0 && last - first + 1 < MOST_BY_DEFAULT && gap(first) == gap(last) {
        first -= 1;
    }
    stable[first.min(stable.len())..].iter().map(|one| source_ref(one)).collect()
}

/// The steps from checkpoint to checkpoint, which must be equal: drift and lag are counted in them.
fn even_interval(sources: &[SourceRef]) -> Result<u64, [u64; 2]> {
    let steps: Vec<u64> = sources.iter().filter_map(|source| source.step).collect();
    let gaps: Vec<u64> = steps.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let (least, most) = (gaps.iter().min().copied().unwrap_or(0), gaps.iter().max().copied().unwrap_or(0));
    if steps.len() == sources.len() && least == most && least > 0 {
        return Ok(least);
    }
    Err([least, most])
}

/// The refusal of uneven checkpoints, with an interval at which the run has as many, if theirs will do.
fn uneven([least, most]: [u64; 2], n_sources: usize, trajectory: &Trajectory) -> Error {
    let steps: BTreeSet<u64> = trajectory.finished().map(|one| one.step.0).collect();
    let newest = steps.last().copied().unwrap_or(0);
    let is_there = |interval: u64| {
        let back = |i: u64| interval.checked_mul(i).and_then(|back| newest.checked_sub(back));
        (0..n_sources as u64).all(|i| back(i).is_some_and(|step| steps.contains(&step)))
    };
    let hint = match [most, least].into_iter().find(|interval| *interval > 0 && is_there(*interval)) {
        Some(interval) => format!("choose evenly spaced ones: `--count {n_sources} --interval-steps {interval}`"),
        None => "choose evenly spaced ones with `--count N --interval-steps STEPS`; `thalweg inspect RUN` lists them"
            .to_owned(),
    };
    Error::request_with_hint(format!("the checkpoints are not evenly spaced: {least} to {most} steps apart"), hint)
}
