//! What is asked for: a merge.

use std::path::PathBuf;

use super::sources::GivenModel;
use super::{OutputOptions, RuleOptions, RunOptions, SchemeOptions, Selection};

/// A request for a merge: a run with a selection, or checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeRequest {
    /// A run, or checkpoints.
    pub inputs: Vec<PathBuf>,
    /// Checkpoints with their coefficients, instead of `inputs`.
    pub models: Vec<GivenModel>,
    /// Which checkpoints of the run.
    pub selection: Selection,
    /// Options about the run.
    pub run: RunOptions,
    /// How the checkpoints are weighed.
    pub scheme: SchemeOptions,
    /// How experts are merged, if not by a weighted sum.
    pub rule: RuleOptions,
    /// What the output is like.
    pub output: OutputOptions,
}
