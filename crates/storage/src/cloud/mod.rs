//! Object stores behind the `Storage` trait: S3 and its like, Google Cloud Storage, Azure, and files over HTTPS.
//!
//! Everything async is in here, on a runtime that starts with the first address. What a storage cannot do here, such as
//! a rename, is said by `commit_style`; what may be replaced is not decided here.

mod block_cache;
mod fault;
mod key;
mod listing;
mod open_store;
mod patient;
mod pending_file;
mod remote;
mod remote_file;
mod router;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

pub use router::RoutedStorage;
pub use upload::{LeftoverUpload, UPLOAD_MARKER};

/// What object stores are opened with. A face reads it from the environment.
#[derive(Clone)]
pub struct CloudSettings {
    /// Variables of the environment by name, such as `AWS_ENDPOINT_URL`. Others than those of stores are ignored.
    pub variables: Vec<(String, String)>,
    /// The local folder where outputs are written before they are uploaded.
    pub staging: PathBuf,
    /// How long a failing request is tried again.
    pub give_up_after: Duration,
}

/// Without the values: they hold secrets.
impl std::fmt::Debug for CloudSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("CloudSettings").field("variables", &names).field("staging", &self.staging).finish_non_exhaustive()
    }
}
