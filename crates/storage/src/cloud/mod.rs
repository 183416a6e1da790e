//! Object stores behind the `Storage` trait: S3 and compatible services, Google Cloud Storage, Azure, and files over
//! HTTPS.
//!
//! Everything async is in here, on a runtime that starts with the first address. What a storage cannot do here, such as
//! a rename, is said by `commit_style`; what may be replaced is not decided here.

mod block_cache;
mod fault;
mod hub;
mod key;
mod listing;
mod open_store;
mod patient;
mod pending_file;
mod remote;
mod remote_file;
mod router;
mod stop;
mod upload;
mod wait_notes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use hub::{HubClient, HubSettings};
pub use key::UPLOAD_MARKER;
pub use router::RoutedStorage;
pub use upload::LeftoverUpload;
pub use wait_notes::WaitNotes;

/// What object stores are opened with. A face reads it from the environment.
#[derive(Clone)]
pub struct CloudSettings {
    /// Variables of the environment by name, such as `AWS_ENDPOINT_URL`. Those that no store uses are ignored.
    pub variables: Vec<(String, String)>,
    /// The local folder where outputs are written before they are uploaded.
    pub staging: PathBuf,
    /// How long a failing request is retried.
    pub give_up_after: Duration,
    /// Set from outside to stop: requests are then neither repeated nor waited for longer than a moment.
    pub interrupt: Arc<AtomicBool>,
    /// Told when a store is waited for.
    pub waits: WaitNotes,
}

impl CloudSettings {
    /// What the variables of a process say. Stages are in `THALWEG_STAGING`, or else in a folder of this user in the
    /// folder `temporary`: the same command finds them again after a kill.
    pub fn from_variables(variables: impl Iterator<Item = (OsString, OsString)>, temporary: &Path) -> Self {
        /// Prefixes of the variables that hold addresses of stores and credentials.
        const PREFIXES: [&str; 4] = ["AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST"];

        let mut staging = temporary.join(format!("thalweg-staging-{}", rustix::process::getuid().as_raw()));
        let mut retry_seconds = None;
        let mut of_stores = Vec::new();
        for (name, value) in variables.filter(|(_, value)| !value.is_empty()) {
            let Some(name) = name.to_str() else { continue };
            match (name, value.to_str()) {
                ("THALWEG_STAGING", _) => staging = std::path::absolute(&value).unwrap_or_else(|_| value.into()),
                ("THALWEG_RETRY_SECONDS", Some(text)) => retry_seconds = Some(text.to_owned()),
                (name, Some(text)) if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
                    of_stores.push((name.to_owned(), text.to_owned()));
                }
                _ => {}
            }
        }
        let give_up_after = give_up_after(retry_seconds.as_deref());
        Self { variables: of_stores, staging, give_up_after, interrupt: Arc::default(), waits: WaitNotes::default() }
    }
}

/// How long a failing request is retried, by the variable `THALWEG_RETRY_SECONDS`.
fn give_up_after(variable: Option<&str>) -> Duration {
    const DEFAULT_SECONDS: u64 = 120;
    Duration::from_secs(variable.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_SECONDS))
}

/// Without the values: they hold secrets.
impl std::fmt::Debug for CloudSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("CloudSettings")
            .field("variables", &names)
            .field("staging", &self.staging)
            .finish_non_exhaustive()
    }
}
