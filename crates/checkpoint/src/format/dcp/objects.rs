//! What a distributed checkpoint holds besides tensors: counters, schedulers, positions of data loaders. Each is a
//! separate archive, which a new checkpoint takes over byte for byte.

use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;

use super::error::{ChunkFault, DcpError};
use super::metadata::{METADATA_NAMES, PathPart, list_entries};
use super::{DcpFolder, MAX_METADATA_BYTES, METADATA_FILE_NAME, folder_of, limits_for, select_model};
use crate::Error;
use crate::error::{UnfinishedFault, storage_error};
use crate::format::Place;
use crate::layout::CopiedBytes;
use crate::pickle::parse_pickle;

/// An entry of a distributed checkpoint that is not a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DcpObject {
    /// The name under which it is stored.
    pub name: String,
    /// Keys and positions that lead to it in the saved state; empty where the checkpoint does not say.
    pub path: Vec<PathPart>,
    /// The archive that holds it.
    pub bytes: CopiedBytes,
}

/// What a new distributed checkpoint takes over from another besides the tensors of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DcpExtras {
    /// Keys that lead to the model in the saved state, such as `model`. They are put before the names of its tensors.
    pub key: Vec<String>,
    /// The entries that are not tensors.
    pub objects: Vec<DcpObject>,
}

/// Lists what the distributed checkpoint in a folder holds besides tensors, and the key of its model.
///
/// `key` says which model, as in [`ReadOptions`](crate::ReadOptions). Entries below other keys are listed too.
///
/// # Errors
/// `Dcp` if the metadata cannot be read; `Unfinished` if a file is missing or too short; `Storage`.
pub fn dcp_extras(storage: &Arc<dyn Storage>, path: &Path, key: Option<&str>) -> Result<DcpExtras, Error> {
    let entries = storage.list_folder(path).map_err(|error| storage_error(path, error))?;
    let folder = folder_of(&Place::Folder { path: path.to_owned(), entries });
    let metadata_path = folder.path.join(METADATA_FILE_NAME);
    let bytes =
        storage.read_file(&metadata_path, MAX_METADATA_BYTES).map_err(|error| storage_error(&metadata_path, error))?;
    let refuse = |source| Error::Dcp { path: metadata_path.clone(), source: Box::new(source) };
    let extras = read_extras(&bytes, &folder, key).map_err(refuse)?;
    let mut faults = Vec::new();
    for object in &extras.objects {
        faults.extend(check_file(storage, &folder, &object.bytes)?);
    }
    faults.dedup();
    if faults.is_empty() { Ok(extras) } else { Err(Error::Unfinished { path: folder.path, faults }) }
}

fn read_extras(bytes: &[u8], folder: &DcpFolder, key: Option<&str>) -> Result<DcpExtras, DcpError> {
    let (pickle, _) = parse_pickle(bytes, &[METADATA_NAMES], &limits_for(bytes.len()))?;
    let directory = list_entries(&pickle)?;
    let key = select_model(&directory.entries, key, false)?.path;
    let mut objects = Vec::new();
    for entry in directory.entries.iter().filter(|entry| !entry.is_tensor()) {
        let fail = |fault| DcpError::Tensor { tensor: entry.fqn.to_owned(), fault };
        let (file, offset, len_bytes) = directory.place_of_object(entry.fqn).map_err(fail)?;
        offset.checked_add(len_bytes).ok_or(fail(ChunkFault::Malformed { what: "length" }))?;
        let bytes = CopiedBytes { path: folder.path.join(file), offset, len_bytes };
        objects.push(DcpObject { name: entry.fqn.to_owned(), path: entry.parts(), bytes });
    }
    Ok(DcpExtras { key, objects })
}

/// A file that is missing, or that ends before an object does.
fn check_file(
    storage: &Arc<dyn Storage>,
    folder: &DcpFolder,
    bytes: &CopiedBytes,
) -> Result<Option<UnfinishedFault>, Error> {
    let name = bytes.path.strip_prefix(&folder.path).unwrap_or(&bytes.path).to_string_lossy();
    let file = format!("{}{name}", folder.prefix);
    let found_bytes = match storage.file_info(&bytes.path) {
        Err(error) if error.is_not_found() => return Ok(Some(UnfinishedFault::MissingShard { file })),
        info => info?.len_bytes,
    };
    let wanted_bytes = bytes.offset + bytes.len_bytes;
    Ok((found_bytes < wanted_bytes).then_some(UnfinishedFault::ShortShard { file, wanted_bytes, found_bytes }))
}
