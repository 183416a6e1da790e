//! Which merges a watcher keeps current.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_merge::plan::OutputPlan;
use thalweg_trajectory::{Extent, Trajectory};

use super::WatchForecast;
use crate::Error;
use crate::record::SuiteRow;
use crate::request::{OutputOptions, Resolver, RunOptions, SchemeWindow, parse_scheme_window};
use crate::sweep::{End, EndedWindow, EndedWindows, SkippedEnds, SweepTrial, WindowShape, ends};
use crate::values::unique;

/// What a watcher is asked for.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// The run's folder.
    pub run: PathBuf,
    /// The command that watches, to type again.
    pub command: String,
    /// What the user says about it.
    pub run_options: RunOptions,
    /// Windows as `SCHEME:N`, such as `sma:10` or `ema:0.2:10`.
    pub windows: Vec<String>,
    /// Steps between neighbours; consecutive checkpoints, if this and `interval_tokens` are left out.
    pub interval_steps: Option<u64>,
    /// Tokens between neighbours.
    pub interval_tokens: Option<u64>,
    /// Where windows end.
    pub ends: WatchEnds,
    /// Windows that end earlier are not made.
    pub from_step: Option<u64>,
    /// What the outputs are like.
    pub output: OutputOptions,
    /// What merges are scored on; nothing, if they are not scored.
    pub scored_on: Vec<SuiteRow>,
    /// Anneals that are forecast at each end that is scored.
    pub forecast: Option<Arc<WatchForecast>>,
    /// Whether checkpoints that later windows need are held by hard links.
    pub holds: bool,
    /// Whether the sums that the next windows need are prepared.
    pub prepares: bool,
    /// The folder of the merges and the record.
    pub folder: PathBuf,
}

/// Where windows end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WatchEnds {
    /// At every finished checkpoint.
    #[default]
    All,
    /// At steps that are multiples of this number.
    Multiples(u64),
    /// As a sweep names them.
    Named(Vec<String>),
}

/// The merges of a run as it is now.
#[derive(Debug, Default)]
pub(super) struct WatchedMerges {
    /// By end, then in the order asked for.
    pub(super) trials: Vec<SweepTrial>,
    pub(super) skipped: Vec<SkippedEnds>,
}

impl WatchRequest {
    pub(super) fn parse_windows(&self) -> Result<Vec<SchemeWindow>, Error> {
        if self.windows.is_empty() {
            return Err(Error::request_with_hint("no windows to keep current", "for example `--windows sma:10`"));
        }
        if let Some((_, twice)) = self.windows.iter().enumerate().find(|(i, text)| self.windows[..*i].contains(text)) {
            return Err(Error::request_with_hint(format!("window `{twice}` is given twice"), "name each window once"));
        }
        self.windows.iter().map(|text| parse_scheme_window(text)).collect()
    }

    fn interval(&self) -> Option<Extent> {
        Extent::given(self.interval_steps, self.interval_tokens)
    }

    /// Steps of the finished checkpoints that windows of later ends still need, and so many older ones.
    pub(super) fn needed_steps(&self, trajectory: &Trajectory, n_more: usize) -> Result<Vec<u64>, Error> {
        let steps: Vec<u64> = trajectory.finished().map(|one| one.step.0).collect();
        let n_longest = self.parse_windows()?.iter().map(|window| window.n_checkpoints).max().unwrap_or(1);
        let n_intervals = n_longest.saturating_sub(1).saturating_add(n_more);
        let n_needed = match self.interval() {
            None => n_intervals.min(steps.len()),
            Some(Extent::Steps(interval)) => {
                let span = interval.0.saturating_mul(u64::try_from(n_intervals).unwrap_or(u64::MAX));
                let newest = steps.last().copied().unwrap_or(0);
                // The next end is at least one step later.
                steps.iter().filter(|&&step| newest - step < span).count()
            }
            // How far apart the next ones are in tokens is not known.
            Some(Extent::Tokens(_)) => steps.len(),
        };
        Ok(steps[steps.len() - n_needed..].to_vec())
    }

    /// The windows of consecutive checkpoints that end at the newest one, if the next checkpoint probably ends windows.
    pub(super) fn next_windows(&self, plans: &[OutputPlan], trajectory: &Trajectory) -> Vec<OutputPlan> {
        let steps: Vec<u64> = trajectory.finished().map(|one| one.step.0).collect();
        let [.., before, newest] = steps.as_slice() else { return Vec::new() };
        let next = newest.saturating_add(newest - before.min(newest));
        if matches!(self.ends, WatchEnds::Multiples(interval) if !next.is_multiple_of(interval)) {
            return Vec::new();
        }
        let is_of_last = |plan: &&OutputPlan| {
            let own: Vec<u64> = plan.sources.iter().filter_map(|source| source.step).collect();
            own.len() == plan.sources.len() && steps.ends_with(&own)
        };
        plans.iter().filter(is_of_last).cloned().collect()
    }

    fn ends(&self, trajectory: &Trajectory) -> Result<Vec<End>, Error> {
        let finished = || trajectory.finished().map(|one| one.step.0);
        let mut found: Vec<End> = match &self.ends {
            WatchEnds::All => finished().map(End::of_grid).collect(),
            WatchEnds::Multiples(interval) => {
                finished().filter(|step| step.is_multiple_of(*interval)).map(End::of_grid).collect()
            }
            WatchEnds::Named(texts) => ends(texts, trajectory)?,
        };
        if let Some(from) = self.from_step {
            found.retain(|end| end.step().is_none_or(|step| step >= from));
        }
        // Two checkpoints of one step are a fault of the window that holds them, not two ends.
        found.dedup_by_key(|end| end.step());
        Ok(found)
    }
}

impl Resolver<'_> {
    /// The merges that a watcher keeps current, of the run as it is now.
    pub(super) fn watched(&self, request: &WatchRequest, trajectory: &Trajectory) -> Result<WatchedMerges, Error> {
        let windows = request.parse_windows()?;
        let interval = request.interval();
        let shape = |window: &SchemeWindow| WindowShape { n_checkpoints: window.n_checkpoints, interval };
        let shapes = unique(windows.iter().map(shape));
        if trajectory.finished().next().is_none() {
            return Ok(WatchedMerges::default());
        }
        let ends = request.ends(trajectory)?;
        let EndedWindows { windows: found, skipped, .. } = self.ended_windows(&ends, &shapes, trajectory)?;
        skipped.iter().for_each(|skipped| self.note(skipped));
        let mut trials = Vec::new();
        for EndedWindow { shape, sources } in found {
            for window in windows.iter().filter(|window| window.n_checkpoints == shape.n_checkpoints) {
                let place = &request.folder;
                trials.push(self.window_trial((&sources, interval), &window.scheme, &request.output, place)?);
            }
        }
        Ok(WatchedMerges { trials, skipped })
    }
}
