//! One file for each command.

pub(crate) mod clean;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod extrapolate;
pub(crate) mod fetch;
pub(crate) mod forecast;
pub(crate) mod forget;
pub(crate) mod generate;
pub(crate) mod init;
pub(crate) mod inspect;
mod inspect_checkpoint;
mod inspect_run;
pub(crate) mod launch;
pub(crate) mod law;
mod law_curve;
pub(crate) mod merge;
mod merge_against;
pub(crate) mod mix;
pub(crate) mod plan;
pub(crate) mod recover;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod sweep;
mod sweep_scored;
pub(crate) mod train;
pub(crate) mod verify;
pub(crate) mod watch;

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, or the answer is yes: exit code 0.
    Done,
    /// The answer is no: exit code 1.
    No,
}

impl Outcome {
    /// Whether the answer is yes.
    pub(crate) fn when(is_yes: bool) -> Self {
        if is_yes { Self::Done } else { Self::No }
    }
}
