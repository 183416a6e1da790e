//! Many windows of one run: each source byte read once, each merge scored beside the raw checkpoints.
//!
//! A [`SweepRequest`] is resolved into a [`Sweep`]; [`run_sweep`] scores it and gives the record. Raw checkpoints are
//! scored beside the merges, as windows of one, in the same readings of the sources.

mod findings;
mod request;
mod run;
mod score;

pub(crate) use findings::deciding;
pub use findings::{Ingredients, ScoredTrial, SweepFindings, SweepTrial, WindowInterval};
pub(crate) use request::{End, EndedWindow, EndedWindows, WindowShape, ends};
pub use request::{RawChoice, SkippedEnds, Sweep, SweepRequest};
pub use run::{Keep, SweepOptions, SweepOutcome, check_sweep_places, run_sweep};
pub(crate) use score::score_sweep;
pub use score::score_trials;
