//! Recognizes the folders that thalweg wrote into a run: a merge by its receipt, a stage by its journal.
//!
//! Whatever its name, such a folder is not a raw checkpoint of the run.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use thalweg_checkpoint::{JOURNAL_NAME, RECEIPT_NAME};
use thalweg_storage::Storage;

use crate::state::{CheckpointState, Fault};

/// Receipts list every tensor; a larger file is not read just to count its sources.
const MAX_RECEIPT_BYTES: u64 = 64 << 20;

/// The part of a receipt that says what was merged.
#[derive(Deserialize)]
struct Receipt {
    plan: Plan,
}

#[derive(Deserialize)]
struct Plan {
    sources: Vec<IgnoredAny>,
}

/// What a folder is that thalweg wrote, in a few words; `None` for any other path.
pub fn describe_own_output(storage: &dyn Storage, path: &Path) -> Option<String> {
    let receipt = path.join(RECEIPT_NAME);
    if storage.file_info(&receipt).is_ok() {
        let bytes = storage.read_file(&receipt, MAX_RECEIPT_BYTES).ok();
        let parsed = bytes.and_then(|bytes| serde_json::from_slice::<Receipt>(&bytes).ok());
        let n_sources = parsed.map(|receipt| receipt.plan.sources.len());
        let what = n_sources.map_or_else(|| "merge".to_owned(), |n| format!("merge of {n}"));
        Some(format!("{what}, not part of the run (it has a receipt, `{RECEIPT_NAME}`)"))
    } else {
        let is_stage = storage.file_info(&path.join(JOURNAL_NAME)).is_ok();
        is_stage.then(|| "interrupted merge, not part of the run".to_owned())
    }
}

/// The state of a folder that thalweg wrote; `None` for any other path.
pub(crate) fn own_output(storage: &Arc<dyn Storage>, path: &Path) -> Option<CheckpointState> {
    let reason = describe_own_output(&**storage, path)?;
    Some(CheckpointState::Unusable { fault: Fault::Merge, reason, hint: None })
}
