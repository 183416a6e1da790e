//! Where nothing may be written: inside a checkpoint of a run, and inside a merge.
//!
//! Files that are put there count as the checkpoint's own from then on, travel with merges, and keep a merge from being
//! replaced. What may be written over is decided by the guard of `storage`.

use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::RECEIPT_NAME;
use thalweg_storage::guard::{OwnKind, Place, check_document, look_at, output_path};
use thalweg_storage::{FileKind, Storage};

use crate::layout::parse_entry_name;
use crate::{Error, PathKind, look_at_path};

/// Checks that a path is not inside a checkpoint. The path itself need not exist.
///
/// A folder is a checkpoint if it has the receipt of a merge, or if its name has a step and it holds tensors.
///
/// # Errors
/// `InsideCheckpoint`; `Storage`.
pub fn check_outside_checkpoints(storage: &Arc<dyn Storage>, path: &Path) -> Result<(), Error> {
    let path = output_path(&**storage, path)?;
    match path.ancestors().skip(1).find(|above| is_closed(storage, above)) {
        Some(checkpoint) => Err(Error::InsideCheckpoint { checkpoint: checkpoint.to_owned(), path }),
        None => Ok(()),
    }
}

/// Checks that a document of this kind may be written to a path, as the guard does, and that it is not inside a
/// checkpoint. To be asked before the work that fills the document.
///
/// # Errors
/// As [`check_outside_checkpoints`] and [`check_document`].
pub fn check_new_document(storage: &Arc<dyn Storage>, path: &Path, kind: OwnKind<'_>) -> Result<(), Error> {
    check_outside_checkpoints(storage, path)?;
    Ok(check_document(&**storage, path, kind)?)
}

/// Whether a folder is a checkpoint, and so has no room for anything else.
fn is_closed(storage: &Arc<dyn Storage>, folder: &Path) -> bool {
    if !storage.file_info(folder).is_ok_and(|info| info.kind == FileKind::Folder) {
        return false;
    }
    if look_at(&**storage, &folder.join(RECEIPT_NAME)).is_ok_and(|place| place == Place::File) {
        return true;
    }
    let has_step = folder
        .file_name()
        .is_some_and(|name| parse_entry_name(&name.to_string_lossy(), FileKind::Folder, None).is_some());
    has_step && look_at_path(storage, folder, None).is_ok_and(|kind| kind == PathKind::Checkpoint)
}
