//! A merge that is kept current.

use std::path::PathBuf;

use serde::Serialize;

use crate::text::file_name;

/// A merge that is current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WatchedOutput {
    /// Its folder.
    pub path: PathBuf,
    /// Step of its newest source.
    pub end_step: u64,
    /// Its scheme.
    pub scheme: String,
    /// Checkpoints in its window.
    pub n_checkpoints: usize,
    /// Its share of the bytes that were read now; 0 if it was there already.
    pub bytes_read: u64,
    /// Whether it was there already.
    pub was_done: bool,
    /// Digest of its tensors, where digests are taken.
    pub digest: Option<String>,
}

impl WatchedOutput {
    /// The name of its folder.
    pub fn name(&self) -> String {
        file_name(&self.path)
    }
}
