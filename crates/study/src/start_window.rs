//! Which checkpoints make a start point for continued training or fine-tuning, by default.
//!
//! Decides only the default; what a user selects is taken as it is.

use thalweg_trajectory::{Step, Trajectory, TrajectoryCheckpoint};

use crate::Error;

/// Most checkpoints of the default window: the paper's N (arXiv 2505.12082, section 4.3).
pub(crate) const MAX_START_CHECKPOINTS: usize = 10;
/// The default window reaches back at most this share of the run, as one part in so many. The paper's windows gain from
/// 1.5 to 20 % of the run and harm from 39 % on (its figure 5).
const WINDOW_PART: u64 = 5;

/// The newest ten checkpoints at most, of the newest one's phase and none from before the last fifth of the run.
///
/// # Errors
/// `NoCheckpoint`; `StartTooShort` where the newest is alone.
pub fn default_start_window(trajectory: &Trajectory) -> Result<Vec<TrajectoryCheckpoint>, Error> {
    let newest = trajectory.finished().next_back().ok_or(Error::NoCheckpoint)?;
    let least = Step(newest.step.0 - newest.step.0 / WINDOW_PART);
    let is_like = |one: &&TrajectoryCheckpoint| one.step >= least && one.phase == newest.phase;
    let mut window: Vec<TrajectoryCheckpoint> =
        trajectory.finished().rev().take_while(is_like).take(MAX_START_CHECKPOINTS).cloned().collect();
    window.reverse();
    if window.len() < 2 { Err(Error::StartTooShort { newest: newest.step }) } else { Ok(window) }
}
