//! Folders of tensors that appear whole or not at all and replace only their own kind: what is written while training.
//!
//! Does not say what is in them; the caller gives the catalog, the small files, and fills the tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::guard::{OwnFolder, clear_stage, contents_by_manifest};
use thalweg_storage::publish::Replace;
use thalweg_storage::{Storage, Unwatched};
use thalweg_tensor::TensorCatalog;

use crate::commit::{CommitRules, Manifest, commit_checkpoint};
use crate::layout::{LayoutEntry, layout_output};
use crate::{Error, StagedCheckpoint};

/// Small files of a folder, and the manifest, which is written last.
#[derive(Debug, Clone, Copy)]
pub struct FolderFiles<'a> {
    /// Names and contents.
    pub files: &'a [(&'a str, &'a [u8])],
    /// Name and content of the manifest, a JSON object.
    pub manifest: (&'a str, &'a [u8]),
    /// `kind` in the manifest: only a folder whose manifest has it is replaced.
    pub kind: &'a str,
    /// What such a folder is called in messages.
    pub what: &'a str,
    /// Other names that a folder of this kind may hold when it is replaced.
    pub earlier: &'a [String],
    /// Tensors fill files of this size at most; a larger tensor has a file to itself.
    pub shard_bytes: u64,
}

/// Writes tensors and files as the folder `target`, in safetensors, replacing one of the same kind.
///
/// `fill` writes every element of the stage that it is given.
///
/// # Errors
/// Also when the disk is full or the target is not ours; the target then stays as it was. What `fill` gives.
pub fn write_folder<E: From<Error> + From<thalweg_storage::Error>>(
    storage: &Arc<dyn Storage>,
    target: &Path,
    catalog: &TensorCatalog,
    files: FolderFiles<'_>,
    fill: &mut dyn FnMut(&StagedCheckpoint) -> Result<(), E>,
) -> Result<(), E> {
    let entry = |entry: &thalweg_tensor::TensorEntry| LayoutEntry {
        name: entry.name.clone(),
        dtype: entry.dtype,
        shape: entry.shape.clone(),
    };
    let entries: Vec<LayoutEntry> = catalog.entries().iter().map(entry).collect();
    let layout = Arc::new(layout_output(&entries, files.shard_bytes, &BTreeMap::new())?);
    let stage = storage.stage_path(target);
    let (name, bytes) = files.manifest;
    let mut names: BTreeSet<String> = layout.files().iter().map(|file| file.name.clone()).collect();
    names.extend(layout.documents().iter().map(|document| document.name.clone()));
    names.extend(files.files.iter().map(|(name, _)| (*name).to_owned()));
    names.insert(name.to_owned());
    clear_stage(&**storage, &stage, &names)?;
    let mut staged = StagedCheckpoint::create(storage, &stage, layout)?;
    let added = files.files.iter().try_for_each(|(name, bytes)| staged.add_file(name, bytes));
    let written = added.map_err(E::from).and_then(|()| fill(&staged));
    if let Err(error) = written {
        // A stage that cannot be finished is in the way of the next attempt, most of all on a full disk.
        let _ = storage.remove(&stage);
        return Err(error);
    }
    names.extend(files.earlier.iter().cloned());
    let contents_of =
        |storage: &dyn Storage, folder: &Path| contents_by_manifest(storage, folder, (name, files.kind), &names);
    let own = OwnFolder { what: files.what, contents_of: &contents_of };
    let rules = CommitRules { replace: Replace::Force, own, leftovers: &BTreeSet::new() };
    Ok(commit_checkpoint(staged, target, Manifest { name, bytes }, rules, &Unwatched)?)
}
