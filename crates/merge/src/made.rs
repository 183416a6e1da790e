//! Whether an output was made already, from its receipt and the lengths of its files alone: for a caller that asks
//! about thousands of outputs every minute.
//!
//! No tensor is read. `pending` asks the same before a merge and compares every byte.

use std::path::PathBuf;

use thalweg_storage::guard::{Place, look_at};
use thalweg_storage::{FileKind, Storage};

use crate::error::Error;
use crate::output::MAX_RECEIPT_BYTES;
use crate::plan::{OutputPlan, PlanSource};
use crate::receipt::{MergeReceipt, RECEIPT_NAME};

/// What is at the path of an output.
#[derive(Debug)]
pub enum Made {
    /// Nothing with a receipt.
    Nothing,
    /// This merge. Whether its sources are still the same is for the caller to compare.
    Same(Box<MergeReceipt>),
    /// This merge, but a file is missing or has another length.
    Incomplete,
    /// Another merge.
    Other,
}

/// Looks at the path of an output.
///
/// # Errors
/// `Storage`; `ReceiptInvalid` for a receipt that cannot be parsed.
pub fn find_made(output: &OutputPlan, storage: &dyn Storage) -> Result<Made, Error> {
    let path = output.path.join(RECEIPT_NAME);
    if look_at(storage, &path)? != Place::File {
        return Ok(Made::Nothing);
    }
    let receipt = MergeReceipt::from_json(&storage.read_file(&path, MAX_RECEIPT_BYTES)?, &path)?;
    if !is_same_merge(&receipt.plan, output) {
        return Ok(Made::Other);
    }
    for file in &receipt.files {
        match storage.file_info(&output.path.join(&file.name)) {
            Ok(info) if info.kind == FileKind::File && info.len_bytes == file.len_bytes => {}
            Ok(_) => return Ok(Made::Incomplete),
            Err(error) if error.is_not_found() => return Ok(Made::Incomplete),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Made::Same(Box::new(receipt)))
}

/// Whether two plans give equal bytes: they differ at most in the outputs' paths, and in tokens, which a log may tell
/// only later.
fn is_same_merge(a: &OutputPlan, b: &OutputPlan) -> bool {
    let without_tokens = |plan: &OutputPlan| OutputPlan {
        path: PathBuf::new(),
        sources: plan.sources.iter().map(|source| PlanSource { tokens: None, ..source.clone() }).collect(),
        ..plan.clone()
    };
    without_tokens(a) == without_tokens(b)
}
