//! Recognises the folders that thalweg wrote into a run: a merge by its receipt, a stage by its journal or lock.
//!
//! Whatever its name, such a folder is not a raw checkpoint of the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use thalweg_checkpoint::{RECEIPT_NAME, is_unfinished_output};
use thalweg_storage::Storage;
use thalweg_tensor::display_name;

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
    sources: Vec<Source>,
    #[serde(default)]
    divisor: String,
    #[serde(default)]
    rule: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Source {
    #[serde(default)]
    path: PathBuf,
    #[serde(default)]
    numerator: String,
}

impl Plan {
    /// The few words for it: a copy of one checkpoint, such as a conversion, is not a merge.
    fn describe(&self) -> String {
        match &*self.sources {
            [one] if self.rule.is_none() && !one.numerator.is_empty() && one.numerator == self.divisor => {
                let name =
                    one.path.file_name().map_or_else(|| one.path.to_string_lossy(), |name| name.to_string_lossy());
                format!("copy of `{}`", display_name(&name))
            }
            sources => format!("merge of {}", sources.len()),
        }
    }
}

/// What a folder is that thalweg wrote, in a few words; `None` for any other path.
pub fn describe_own_output(storage: &dyn Storage, path: &Path) -> Option<String> {
    let receipt = path.join(RECEIPT_NAME);
    if storage.file_info(&receipt).is_ok() {
        let bytes = storage.read_file(&receipt, MAX_RECEIPT_BYTES).ok();
        let parsed = bytes.and_then(|bytes| serde_json::from_slice::<Receipt>(&bytes).ok());
        let what = parsed.map_or_else(|| "merge".to_owned(), |receipt| receipt.plan.describe());
        Some(format!("{what}, not part of the run (it has a receipt, `{RECEIPT_NAME}`)"))
    } else {
        is_unfinished_output(storage, path).then(|| "interrupted merge, not part of the run".to_owned())
    }
}

/// The state of a folder that thalweg wrote; `None` for any other path.
pub(crate) fn own_output(storage: &Arc<dyn Storage>, path: &Path) -> Option<CheckpointState> {
    let reason = describe_own_output(&**storage, path)?;
    Some(CheckpointState::Unusable { fault: Fault::Merge, reason, hint: None })
}
