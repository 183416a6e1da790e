//! What became of an output.

use std::path::PathBuf;

use crate::receipt::MergeReceipt;

/// What became of one output.
#[derive(Debug)]
pub struct MergeOutcome {
    /// The output's folder.
    pub path: PathBuf,
    /// Its receipt.
    pub receipt: MergeReceipt,
    /// Whether it was there already, from this very plan over unchanged sources.
    pub was_done: bool,
    /// Of the receipt's `bytes_read`, those of units that an interrupted run had finished: this run did not merge them.
    pub bytes_resumed: u64,
    /// What was compared to find that; `None` if the output was not there.
    pub compared: Option<Compared>,
}

/// How an existing output was found to be what the plan makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// How the output's files were compared with its receipt.
    pub output: ComparedBy,
    /// How the sources were compared with those that were merged.
    pub sources: ComparedBy,
}

/// What a comparison is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparedBy {
    /// Every byte was read and hashed.
    Digests,
    /// Lengths and headers, because there are no digests.
    Headers,
    /// Lengths and times of files.
    Times,
}
