//! An output that is complete in its stage: a stop came before it was published, or while it was uploaded.

use std::path::Path;

use thalweg_checkpoint::LOCK_NAME;
use thalweg_storage::Storage;
use thalweg_storage::guard::{Contents, Place, look_at};
use thalweg_storage::publish::{Replace, publish_folder};

use crate::context::RunContext;
use crate::error::Error;
use crate::journal::JOURNAL_NAME;
use crate::own::{MERGED_FOLDER, merged_contents};
use crate::plan::OutputPlan;
use crate::receipt::{MergeReceipt, RECEIPT_NAME, read_receipt_of};
use crate::share::is_share_name;

/// The receipt of an output that is complete in its stage: everything else was on the medium before it was written.
pub(crate) fn sealed_receipt(output: &OutputPlan, storage: &dyn Storage) -> Result<Option<MergeReceipt>, Error> {
    let stage = storage.stage_path(&output.path);
    if look_at(storage, &stage.join(RECEIPT_NAME))? != Place::File {
        return Ok(None);
    }
    let Ok(receipt) = read_receipt_of(storage, &stage) else { return Ok(None) };
    let is_ours = receipt.plan_digest == output.digest()? && receipt.is_as_sealed()? == Some(true);
    Ok(is_ours.then_some(receipt))
}

/// Publishes an output that is complete in its stage, after the files that it was resumed from are removed.
pub(crate) fn publish_sealed(output: &OutputPlan, replace: Replace, run: &RunContext<'_>) -> Result<(), Error> {
    let storage = &*run.storage;
    let stage = storage.stage_path(&output.path);
    let _lock = storage.lock(&stage.join(LOCK_NAME))?;
    if let Contents::Ours { foreign, .. } = merged_contents(storage, &stage)? {
        let known = foreign.iter().filter(|name| is_share_name(name) || [LOCK_NAME, JOURNAL_NAME].contains(&&***name));
        for name in known.cloned().collect::<Vec<_>>() {
            remove_if_there(storage, &stage.join(name))?;
        }
    }
    // The receipt is the last file that was written: the stop may have come before it was on the medium.
    storage.open_for_update(&stage.join(RECEIPT_NAME))?.sync()?;
    storage.sync_folder(&stage)?;
    let is_free = match look_at(storage, &output.path)? {
        Place::Free => true,
        Place::Folder => storage.count_entries(&output.path)? == 0,
        _ => false,
    };
    if !is_free && replace == Replace::Never {
        return Err(Error::OutputExists { path: output.path.clone(), holds: String::new() });
    }
    Ok(publish_folder(storage, &stage, &output.path, replace, MERGED_FOLDER, run)?)
}

/// Removes a file, unless another process did.
pub(crate) fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    match storage.remove(path) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}
