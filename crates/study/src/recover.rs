//! From a spike to the checkpoints to resume from: the merge that the paper calls PMA-init (arXiv 2505.12082, section
//! 4.6).
//!
//! Plans and reads nothing. Whether a merge rescues more runs than the newest checkpoint alone is measured in
//! `docs/results/recovery.md`; the paper has no such control.

use std::fmt;

use serde::Serialize;
use thalweg_trajectory::{
    LogEntry, Spike, SpikeOptions, Step, StepLog, Trajectory, TrajectoryCheckpoint, detect_spikes, lasting_spike,
};

use crate::Error;
use crate::record::SpikeRow;

/// Checkpoints of a proposal: the paper's three.
pub(crate) const MAX_SOURCES: usize = 3;
/// Entries of a log by which an onset may be off: what the detector is tested for.
const ONSET_ENTRIES: usize = 3;
/// A learning rate this many times higher at the onset than at the newest source is a cause to name.
const RAISED_RATE: f64 = 1.2;

/// The spikes of a log, and what was looked at for them.
#[derive(Debug, Clone, PartialEq)]
pub struct SpikeSearch {
    /// Oldest first.
    pub spikes: Vec<Spike>,
    /// Entries with a loss.
    pub n_losses: usize,
    /// First and last step with a loss; `None` where there is no loss.
    pub range: Option<(Step, Step)>,
    /// Least height of a spike, in standard deviations of the log's own noise.
    pub threshold: f64,
}

/// Looks for spikes.
///
/// # Example
/// ```
/// use thalweg_study::recover::search_spikes;
/// use thalweg_trajectory::{SpikeOptions, Step, parse_csv};
///
/// // A quiet log whose loss is lifted for good at step 61.
/// let mut log = "step,loss\n".to_owned();
/// for step in 1..=100 {
///     let lift = if step > 60 { 1.0 } else { 0.0 };
///     log += &format!("{step},{}\n", 3.0 + 0.01 * f64::from(step * 7 % 5) + lift);
/// }
/// let log = parse_csv(log.as_bytes(), &Default::default())?;
/// let found = search_spikes(&log, &SpikeOptions::default());
/// assert_eq!((found.spikes[0].onset, found.spikes[0].end), (Step(61), None));
/// assert_eq!((found.n_losses, found.range), (100, Some((Step(1), Step(100)))));
/// # Ok::<(), thalweg_trajectory::LogError>(())
/// ```
pub fn search_spikes(log: &StepLog, options: &SpikeOptions) -> SpikeSearch {
    describe_search(log, detect_spikes(log, options), options.threshold)
}

/// The spikes of a run under the default options, and which losses were searched; `None` without a log.
pub(crate) fn spikes_of_run(trajectory: &Trajectory) -> Option<SpikeSearch> {
    let threshold = SpikeOptions::default().threshold;
    Some(describe_search(trajectory.log()?, trajectory.spikes().to_vec(), threshold))
}

fn describe_search(log: &StepLog, spikes: Vec<Spike>, threshold: f64) -> SpikeSearch {
    let steps = || log.losses().map(|(step, _)| step);
    SpikeSearch { spikes, n_losses: steps().count(), range: steps().next().zip(steps().last()), threshold }
}

/// Something to know about a proposal.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RecoveryNote {
    /// The loss came back by itself.
    CameBack {
        /// First step that is back.
        end: Step,
    },
    /// The latest spike starts from a level that an earlier one left behind: that one counts.
    EarlierSpikeLasts {
        /// Onset of the earlier one.
        onset: Step,
        /// Onset of the latest one.
        latest_onset: Step,
    },
    /// The newest source is within three log entries of the onset, as far as an onset may be off.
    NewestMayBeDamaged {
        /// Its step.
        step: Step,
        /// The third entry with a loss before the onset.
        quiet_until: Step,
    },
    /// Checkpoints within an earlier spike are skipped.
    WithinSpike {
        /// Their steps.
        steps: Vec<Step>,
    },
    /// The checkpoint one step before the onset is skipped: the loss of the onset is that of its parameters.
    AtOnset {
        /// Its step.
        step: Step,
    },
    /// There are fewer than three.
    Fewer {
        /// How many.
        n: usize,
    },
    /// The learning rate was higher at the onset than at the newest source.
    RateWasRaised {
        /// At the newest source.
        before: f64,
        /// At the onset.
        at_onset: f64,
    },
}

impl fmt::Display for RecoveryNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CameBack { end } => {
                write!(f, "the loss recovered by itself at step {end}: resuming may not be necessary")
            }
            Self::EarlierSpikeLasts { onset, latest_onset } => write!(
                f,
                "the spike at step {latest_onset} starts from the level at which the one at step {onset} left the loss: \
                 checkpoints are taken from before step {onset}"
            ),
            Self::NewestMayBeDamaged { step, quiet_until } => write!(
                f,
                "step {step} may be damaged already: the onset of a sudden spike is known to within three log entries, and \
                 the third before it is step {quiet_until}"
            ),
            Self::WithinSpike { steps } => {
                let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
                write!(f, "skipped, because they are within an earlier spike: step {}", steps.join(", "))
            }
            Self::AtOnset { step } => {
                write!(f, "skipped: step {step}, whose parameters may have caused the loss at the onset")
            }
            Self::Fewer { n: 1 } => f.write_str(
                "there is only one usable checkpoint before the onset: resume from it; there is nothing to merge",
            ),
            Self::Fewer { n } => write!(f, "there are only {n} usable checkpoints before the onset"),
            Self::RateWasRaised { before, at_onset } => write!(
                f,
                "the learning rate was {at_onset} at the onset and {before} at the newest source: look for the cause there"
            ),
        }
    }
}

/// What to resume from.
#[derive(Debug, Clone, PartialEq)]
pub struct RecoveryPlan {
    /// The spike to recover from.
    pub spike: Spike,
    /// Checkpoints before its onset, consecutive ones, oldest first: one to three.
    pub sources: Vec<TrajectoryCheckpoint>,
    /// The learning rate at the newest source, where the log has one.
    pub learning_rate: Option<f64>,
    /// What to know.
    pub notes: Vec<RecoveryNote>,
}

/// Proposes up to three checkpoints before the latest onset.
///
/// The latest spike counts, unless it starts from a level that an earlier one left behind: a run that has diverged has
/// spikes on its plateau, and checkpoints from there do not help. Skips checkpoints within earlier spikes, and the one
/// a single step before the onset, unless it is the only one: a loss is computed before the update of its step, so the
/// loss of the onset is that of these parameters, and an update that went wrong is in them.
///
/// # Errors
/// `NoSpike` where none was found; `NothingBeforeSpike` where no finished checkpoint is older than the onset;
/// `AllWithinSpikes` where each older one is within an earlier spike.
pub fn plan_recovery(trajectory: &Trajectory, search: &SpikeSearch) -> Result<RecoveryPlan, Error> {
    let latest = search.spikes.last().ok_or(Error::NoSpike)?;
    let entries: Vec<&LogEntry> = trajectory.log().map_or(&[][..], StepLog::entries).iter().collect();
    let losses: Vec<(Step, f64)> = entries.iter().filter_map(|entry| Some((entry.step, entry.loss?))).collect();
    let spike = trajectory.log().and_then(|log| spike_that_lasts(log, &search.spikes)).unwrap_or(latest);
    let mut notes = Vec::new();
    if spike.onset != latest.onset {
        notes.push(RecoveryNote::EarlierSpikeLasts { onset: spike.onset, latest_onset: latest.onset });
    }
    let is_within = |step: Step| {
        let earlier = search.spikes.iter().filter(|other| other.onset < spike.onset);
        earlier.clone().any(|other| other.onset <= step && other.end.is_some_and(|end| step < end))
    };
    let before = || trajectory.finished().filter(|checkpoint| checkpoint.step < spike.onset);
    let mut sound: Vec<&TrajectoryCheckpoint> = before().filter(|checkpoint| !is_within(checkpoint.step)).collect();
    if let Some(last) = sound.pop_if(|last| last.step.0 + 1 == spike.onset.0) {
        if sound.is_empty() {
            sound.push(last);
        } else {
            notes.push(RecoveryNote::AtOnset { step: last.step });
        }
    }
    let n_older = sound.len().saturating_sub(MAX_SOURCES);
    let sources: Vec<TrajectoryCheckpoint> = sound.into_iter().skip(n_older).cloned().collect();
    let (Some(oldest), Some(newest)) = (sources.first(), sources.last()) else {
        let n_checkpoints = before().count();
        if n_checkpoints > 0 {
            return Err(Error::AllWithinSpikes { onset: spike.onset, n_checkpoints });
        }
        let oldest = trajectory.finished().next().map(|checkpoint| checkpoint.step);
        return Err(Error::NothingBeforeSpike { onset: spike.onset, oldest });
    };
    let passed: Vec<Step> =
        before().map(|one| one.step).filter(|step| *step > oldest.step && is_within(*step)).collect();
    if !passed.is_empty() {
        notes.push(RecoveryNote::WithinSpike { steps: passed });
    }
    if let Some(end) = spike.end {
        notes.push(RecoveryNote::CameBack { end });
    }
    let quiet_until = quiet_until(&losses, spike.onset);
    if let Some(quiet_until) = quiet_until.filter(|quiet_until| newest.step > *quiet_until) {
        notes.push(RecoveryNote::NewestMayBeDamaged { step: newest.step, quiet_until });
    }
    if sources.len() < MAX_SOURCES {
        notes.push(RecoveryNote::Fewer { n: sources.len() });
    }
    let learning_rate = rate_at(&entries, newest.step);
    if let Some((before, at_onset)) = learning_rate.zip(rate_at(&entries, spike.onset))
        && at_onset > RAISED_RATE * before
    {
        notes.push(RecoveryNote::RateWasRaised { before, at_onset });
    }
    Ok(RecoveryPlan { spike: *spike, sources, learning_rate, notes })
}

/// The earliest spike that still lasts at the onset of the latest one.
fn spike_that_lasts<'a>(log: &StepLog, spikes: &'a [Spike]) -> Option<&'a Spike> {
    let (latest, earlier) = spikes.split_last()?;
    // A level that the loss had not come back to by the latest onset, it had not come back to at all.
    lasting_spike(log, earlier, Step(latest.onset.0.checked_sub(1)?))
}

/// The third entry before the onset, or the first of the log.
fn quiet_until(losses: &[(Step, f64)], onset: Step) -> Option<Step> {
    let before = losses.iter().rev().map(|(step, _)| *step).filter(|step| *step < onset);
    before.take(ONSET_ENTRIES).last()
}

/// The learning rate of the last entry at or before a step that has one.
fn rate_at(entries: &[&LogEntry], step: Step) -> Option<f64> {
    entries.iter().rev().filter(|entry| entry.step <= step).find_map(|entry| entry.learning_rate)
}

/// The earliest spike from which the run has not recovered at the end of its log.
pub(crate) fn unhealed_spike(trajectory: &Trajectory) -> Option<&Spike> {
    let log = trajectory.log()?;
    lasting_spike(log, trajectory.spikes(), log.last_step()?)
}

/// A spike as records and JSON have it.
pub fn spike_row(spike: &Spike) -> SpikeRow {
    SpikeRow {
        onset: spike.onset.0,
        peak: spike.peak.0,
        end: spike.end.map(|end| end.0),
        signal: spike.signal.to_string(),
    }
}
