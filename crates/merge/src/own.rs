//! How to recognise a merged checkpoint that this program wrote and that has not been changed since.
//!
//! Only such a folder is ever replaced. Its `thalweg.json` is a receipt, and it holds only what the receipt lists.
//! Small files, which a person may have edited, still have their digests. Files of tensors still have their lengths and
//! are not newer than the receipt, which is written last: otherwise another program saved tensors over them. A bit that
//! the disk flipped changes neither length nor time, so a damaged output may be replaced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thalweg_storage::guard::{Contents, OwnFolder, Place, foreign_entries, is_json_of_kind, look_at};
use thalweg_storage::publish::is_stage_name;
use thalweg_storage::{Error, FileKind, Storage};
use thalweg_tensor::digest::bytes_digest;

use crate::receipt::MAX_RECEIPT_BYTES;
use crate::receipt::{FileReceipt, MergeReceipt, RECEIPT_NAME};

/// The policy that `init` and `recover` put beside a merge.
pub const START_NAME: &str = "thalweg-start.json";
/// `kind` of that policy.
pub const START_KIND: &str = "thalweg-start";

/// Small files are compared whole; larger ones are tensors.
const MAX_SMALL_BYTES: u64 = 256 << 20;

/// A folder that a merge wrote.
pub(crate) const MERGED_FOLDER: OwnFolder<'static> =
    OwnFolder { what: "a merged checkpoint", contents_of: &merged_contents };

/// What a folder holds beyond a merge.
///
/// # Errors
/// `Io`. A folder whose receipt cannot be parsed is not ours.
pub fn merged_contents(storage: &dyn Storage, folder: &Path) -> Result<Contents, Error> {
    let path = folder.join(RECEIPT_NAME);
    if look_at(storage, &path)? != Place::File {
        return Ok(Contents::NotOurs);
    }
    let bytes = match storage.read_file(&path, MAX_RECEIPT_BYTES) {
        Err(Error::TooLarge { .. }) => return Ok(Contents::NotOurs),
        bytes => bytes?,
    };
    let Ok(receipt) = MergeReceipt::from_json(&bytes, &path) else { return Ok(Contents::NotOurs) };
    let mut names: BTreeSet<String> = receipt.files.iter().map(|file| file.name.clone()).collect();
    names.insert(RECEIPT_NAME.to_owned());
    if is_json_of_kind(storage, &folder.join(START_NAME), START_KIND)? {
        names.insert(START_NAME.to_owned());
    }
    let mut foreign = foreign_entries(storage, folder, &names)?;
    for file in &receipt.files {
        if !foreign.contains(&file.name)
            && let Some(change) = find_change(storage, folder, file, &receipt)?
        {
            foreign.push(format!("{} ({change})", file.name));
        }
    }
    Ok(Contents::Ours { manifest: RECEIPT_NAME.to_owned(), foreign })
}

/// The merges in a folder that is not one itself, sorted by name: those that a sweep wrote.
///
/// # Errors
/// `Io`. A path that is not a folder holds none.
pub fn merges_in(storage: &dyn Storage, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let has_receipt = |path: &Path| Ok::<_, Error>(look_at(storage, &path.join(RECEIPT_NAME))? == Place::File);
    let is_folder = storage.file_info(folder).is_ok_and(|info| info.kind == FileKind::Folder);
    if !is_folder || has_receipt(folder)? {
        return Ok(Vec::new());
    }
    let mut merges = Vec::new();
    for entry in storage.list_folder(folder)? {
        let path = folder.join(&entry.name);
        if entry.kind == FileKind::Folder && !is_stage_name(&entry.name) && has_receipt(&path)? {
            merges.push(path);
        }
    }
    merges.sort();
    Ok(merges)
}

/// Why a file may not be the one that the merge wrote. A missing file is not a reason.
fn find_change(
    storage: &dyn Storage,
    folder: &Path,
    file: &FileReceipt,
    receipt: &MergeReceipt,
) -> Result<Option<&'static str>, Error> {
    const CHANGED: &str = "changed since the merge";
    let path = folder.join(&file.name);
    let is_tensors = file.frame_digest.is_some()
        || Path::new(&file.name).extension().is_some_and(|extension| extension == "safetensors");
    let info = match storage.file_info(&path) {
        Err(error) if error.is_not_found() => return Ok(None),
        info => info?,
    };
    if info.len_bytes != file.len_bytes {
        return Ok(Some(CHANGED));
    }
    if is_tensors || info.len_bytes > MAX_SMALL_BYTES {
        // Training may resume in the folder of a merge and save weights of the same length. A copied file may be newer
        // too; it is refused, since only reading all of it could tell.
        let receipt_info = storage.file_info(&folder.join(RECEIPT_NAME))?;
        return Ok((info.modified_ns > receipt_info.modified_ns).then_some("newer than the receipt"));
    }
    let Some((kind, digest)) = receipt.plan.digest.kind().zip(file.digest.as_ref()) else { return Ok(None) };
    let found = bytes_digest(kind, &storage.read_file(&path, MAX_SMALL_BYTES)?).to_string();
    Ok((found != *digest).then_some(CHANGED))
}
