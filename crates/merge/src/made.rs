//! Whether an output was made already, from its receipt and the lengths of its files alone: for a caller that asks
//! about thousands of outputs every minute.
//!
//! No tensor is read. `pending` asks the same before a merge and compares every byte.

use std::path::PathBuf;

use thalweg_storage::guard::{Place, look_at};
use thalweg_storage::{FileKind, Storage};

use crate::error::Error;
use crate::plan::{OutputPlan, PlanSource};
use crate::receipt::MAX_RECEIPT_BYTES;
use crate::receipt::{MergeReceipt, RECEIPT_NAME};

/// What is at the path of an output.
#[derive(Debug)]
pub enum Made {
    /// Nothing with a receipt.
    Nothing,
    /// A merge of which a file is missing or has another length.
    Incomplete,
    /// A whole merge, by its receipt.
    Whole(Box<MergeReceipt>, Likeness),
}

/// How much a merge is like the one that is wanted. Whether the sources still hold the same is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// The same merge of the same steps.
    Same,
    /// The same but for its steps or coefficients.
    OtherWindow,
    /// Made with other options.
    OtherOptions,
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
    for file in &receipt.files {
        match storage.file_info(&output.path.join(&file.name)) {
            Ok(info) if info.kind == FileKind::File && info.len_bytes == file.len_bytes => {}
            Ok(_) => return Ok(Made::Incomplete),
            Err(error) if error.is_not_found() => return Ok(Made::Incomplete),
            Err(error) => return Err(error.into()),
        }
    }
    let likeness = likeness(&receipt.plan, output);
    Ok(Made::Whole(Box::new(receipt), likeness))
}

/// Compares what two plans do. Paths are left out: outputs and runs are moved, and a checkpoint that is held by a link
/// has another path. So are tokens, which a log may tell only later.
fn likeness(made: &OutputPlan, wanted: &OutputPlan) -> Likeness {
    let without_window = |plan: &OutputPlan| {
        let mut plan = OutputPlan { path: PathBuf::new(), sources: Vec::new(), ..plan.clone() };
        (plan.divisor, plan.sum) = (String::new(), String::new());
        // Positions in the window.
        (plan.policy.newest, plan.policy.side_files_from) = (0, 0);
        plan
    };
    if without_window(made) != without_window(wanted) {
        return Likeness::OtherOptions;
    }
    // Without a step, the path is all that tells one source from another.
    let place = |source: &PlanSource| (source.step, source.step.is_none().then(|| source.path.clone()));
    let window = |plan: &OutputPlan| {
        let sources = plan.sources.iter().map(|source| (place(source), source.numerator.clone()));
        (sources.collect::<Vec<_>>(), plan.divisor.clone(), plan.sum.clone(), plan.policy.newest)
    };
    if window(made) == window(wanted) { Likeness::Same } else { Likeness::OtherWindow }
}
