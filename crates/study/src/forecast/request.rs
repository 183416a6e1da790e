//! Which anneal is asked about, whether the run can answer, and the four windows that are scored for it.

use thalweg_merge::scheme::DecayCurve;
use thalweg_tensor::{counted, counted_are};
use thalweg_trajectory::{Extent, Phase, Tokens, Trajectory, TrajectoryCheckpoint};

use crate::Error;

/// An anneal that was never run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForecastRequest {
    /// Step at which it would end: a checkpoint of the run.
    pub end_step: u64,
    /// Its length: it would have left the run this many steps before its end.
    pub anneal_steps: u64,
    /// Its shape.
    pub curve: DecayCurve,
    /// Learning rate at the end, as a share of the peak.
    pub floor: f64,
}

/// An anneal as a user asks about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnnealQuestion {
    /// Step at which it would end; the newest finished checkpoint's, if left out.
    pub end_step: Option<u64>,
    /// Its length; a tenth of the end step, if left out.
    pub length: Option<Extent>,
    /// Its shape.
    pub curve: DecayCurve,
    /// Learning rate at the end, as a share of the peak, 0 to 1.
    pub floor: f64,
}

impl AnnealQuestion {
    /// The anneal in steps.
    ///
    /// # Errors
    /// `Request` where the run has no checkpoint at the end step, where its tokens are not known, and for a floor
    /// outside 0 to 1.
    pub fn in_steps(&self, trajectory: &Trajectory) -> Result<ForecastRequest, Error> {
        /// The share of a run's end step that an anneal takes by default.
        const DEFAULT_SHARE: u64 = 10;
        if !(0.0..=1.0).contains(&self.floor) {
            return Err(Error::request(format!("`--anneal-floor {}` is not between 0 and 1", self.floor)));
        }
        let newest = trajectory.finished().next_back().map_or(0, |newest| newest.step.0);
        let end_step = self.end_step.unwrap_or(newest);
        if !trajectory.finished().any(|one| one.step.0 == end_step) {
            let steps: Vec<String> = trajectory.finished().map(|one| one.step.0.to_string()).collect();
            let shown = if steps.len() > 8 { &steps[steps.len() - 8..] } else { &steps };
            return Err(Error::request_with_hint(
                format!("there is no finished checkpoint at step {end_step}"),
                format!("the newest are at {}", shown.join(", ")),
            ));
        }
        let anneal_steps = match self.length {
            Some(Extent::Steps(steps)) => steps.0,
            Some(Extent::Tokens(tokens)) => tokens_to_steps(tokens, end_step, trajectory)?,
            None => end_step / DEFAULT_SHARE,
        };
        Ok(ForecastRequest { end_step, anneal_steps, curve: self.curve, floor: self.floor })
    }
}

fn tokens_to_steps(tokens: Tokens, end_step: u64, trajectory: &Trajectory) -> Result<u64, Error> {
    let end = trajectory.finished().find(|one| one.step.0 == end_step).and_then(|one| one.tokens);
    let per_step = end.map(|tokens| tokens.0 / end_step.max(1)).filter(|tokens| *tokens > 0);
    let per_step = per_step.ok_or_else(|| {
        Error::request_with_hint(
            "the run's token counts are unknown",
            "give the length with `--anneal-steps`, or add `--tokens-per-step`",
        )
    })?;
    Ok(tokens.0.div_ceil(per_step))
}

/// Why there is no forecast. Not an error: the answer is no.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing says where the stable phase is.
    #[error("cannot tell where the learning rate is constant: the log has no learning rate")]
    NoPhases,
    /// The windows would end in an anneal that was really run.
    #[error("step {end_step} is after the stable phase, which ends at step {stable_end}: the run is already annealed")]
    AlreadyAnnealed {
        /// What was asked.
        end_step: u64,
        /// Last stable step.
        stable_end: u64,
    },
    /// The anneal would begin before the learning rate was constant.
    #[error(
        "an anneal of {} to step {end_step} would begin before the stable phase, which begins at step {stable_start}",
        counted(*anneal_steps, "step")
    )]
    BeginsTooEarly {
        /// What was asked.
        end_step: u64,
        /// What was asked.
        anneal_steps: u64,
        /// First stable step.
        stable_start: u64,
    },
    /// Too few checkpoints to average.
    #[error(
        "{} in the last {} to step {end_step}, but a forecast needs {needed}{}",
        counted_are(*found, "checkpoint"),
        counted(*anneal_steps, "step"),
        shortest.map_or_else(String::new, |steps| format!(", which the last {} have", counted(steps, "step")))
    )]
    TooFewCheckpoints {
        /// What was asked.
        end_step: u64,
        /// What was asked.
        anneal_steps: u64,
        /// Finished checkpoints within.
        found: usize,
        /// The least.
        needed: usize,
        /// Steps of the shortest anneal that has as many; `None` if the run has fewer.
        shortest: Option<u64>,
    },
    /// Averaging gains nothing, so there is nothing to measure an anneal by.
    #[error(
        "the mean of {n_checkpoints} checkpoints does not beat the newest one on `{task}` beyond noise ({gain:+.4})"
    )]
    NoGain {
        /// The task.
        task: String,
        /// Checkpoints of the mean.
        n_checkpoints: usize,
        /// What it gains.
        gain: f64,
    },
    /// The run still moves so fast that the mean over the span is more lag than anything else.
    #[error(
        "the run moves too fast on `{task}` for an anneal of this length: the first half of its span costs the mean \
         {cost:.4}, and the mean gains {gain:.4}"
    )]
    TooFast {
        /// The task.
        task: String,
        /// What the first half costs the mean.
        cost: f64,
        /// What the mean gains over the newest checkpoint.
        gain: f64,
    },
    /// Nothing like it was seen.
    #[error("{what} is {value:.3}, but the anneals that the forecast learned from have {low:.3} to {high:.3}")]
    OutsideDomain {
        /// What is too far off.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The least that is accepted.
        low: f64,
        /// The most that is accepted.
        high: f64,
    },
    /// There are no cases at all.
    #[error("there is no anneal to learn from")]
    NothingLearned,
    /// A shape that no anneal that was learned from has.
    #[error("none of the anneals that the forecast learned from has the shape `{curve}`")]
    UnknownCurve {
        /// The shape.
        curve: String,
    },
}

impl Refusal {
    /// What would help.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPhases => "state it with `--stable FROM..TO`, or give the log with `--log FILE`",
            Self::AlreadyAnnealed { .. } => {
                "choose an earlier end with `--end-step`, or score the annealed checkpoint directly"
            }
            Self::BeginsTooEarly { .. } => "choose a shorter anneal or a later end",
            Self::TooFast { .. } => {
                "choose a later end, where the run is slower, or a shorter anneal, if at least 6 checkpoints are in it"
            }
            Self::TooFewCheckpoints { .. } => "choose a longer anneal, or save checkpoints more often",
            Self::NoGain { .. } => {
                "a larger suite may show a difference; otherwise the run has no noise for an anneal to remove"
            }
            Self::OutsideDomain { .. } | Self::UnknownCurve { .. } | Self::NothingLearned => {
                "give cases of your own anneals with `--calibrate FILE` (`--save-cases` writes them)"
            }
        }
    }
}

/// Fewest checkpoints within the anneal's span.
pub(crate) const MIN_CHECKPOINTS: usize = 6;
/// Most that are averaged: more would be read without adding much.
const MAX_CHECKPOINTS: usize = 48;
/// Checkpoints of the window that shows what fewer cost.
const THIN_CHECKPOINTS: usize = 5;

/// The windows that are scored, oldest first each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probes {
    /// The newest checkpoint alone.
    pub raw: Vec<TrajectoryCheckpoint>,
    /// Those within the anneal's span.
    pub full: Vec<TrajectoryCheckpoint>,
    /// Those of its second half.
    pub half: Vec<TrajectoryCheckpoint>,
    /// A few over its span.
    pub thin: Vec<TrajectoryCheckpoint>,
}

/// Finds the windows, or says why the run cannot answer.
///
/// # Errors
/// A [`Refusal`] by phases or number of checkpoints.
pub(crate) fn find_probes(trajectory: &Trajectory, request: &ForecastRequest) -> Result<Probes, Refusal> {
    let ForecastRequest { end_step, anneal_steps, .. } = *request;
    check_phases(trajectory, request)?;
    let first = end_step.saturating_sub(anneal_steps);
    let within: Vec<&TrajectoryCheckpoint> =
        trajectory.finished().filter(|one| one.step.0 > first && one.step.0 <= end_step).collect();
    let too_few = || {
        let mut newest_first = trajectory.finished().rev().map(|one| one.step.0).filter(|step| *step <= end_step);
        let first = newest_first.nth(MIN_CHECKPOINTS - 1);
        let shortest = first.map(|step| end_step - step + 1);
        Refusal::TooFewCheckpoints { end_step, anneal_steps, found: within.len(), needed: MIN_CHECKPOINTS, shortest }
    };
    let (Some(newest), true) = (within.last(), within.len() >= MIN_CHECKPOINTS) else { return Err(too_few()) };
    let full = spread(&within, MAX_CHECKPOINTS);
    let middle = end_step - anneal_steps / 2;
    let half: Vec<TrajectoryCheckpoint> = full.iter().filter(|one| one.step.0 > middle).cloned().collect();
    let thin = spread(&within, THIN_CHECKPOINTS);
    Ok(Probes { raw: vec![(*newest).clone()], full, half, thin })
}

fn check_phases(trajectory: &Trajectory, request: &ForecastRequest) -> Result<(), Refusal> {
    let ForecastRequest { end_step, anneal_steps, .. } = *request;
    let phases = trajectory.phases().ok_or(Refusal::NoPhases)?;
    let stable = phases.segments().iter().rfind(|segment| segment.phase == Phase::Stable);
    let stable = stable.ok_or(Refusal::NoPhases)?;
    if end_step > stable.to.0 {
        return Err(Refusal::AlreadyAnnealed { end_step, stable_end: stable.to.0 });
    }
    let first = end_step.saturating_sub(anneal_steps);
    if first < stable.from.0 || anneal_steps > end_step {
        return Err(Refusal::BeginsTooEarly { end_step, anneal_steps, stable_start: stable.from.0 });
    }
    Ok(())
}

/// At most `n` of them, evenly spread, the newest among them.
fn spread(all: &[&TrajectoryCheckpoint], n: usize) -> Vec<TrajectoryCheckpoint> {
    let n = n.min(all.len());
    let last = all.len() - 1;
    // Each of n equal parts gives its newest.
    (1..=n).map(|i| (*all[(i * all.len() / n - 1).min(last)]).clone()).collect()
}
