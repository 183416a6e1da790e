//! The only place where an output starts to exist.
//!
//! First everything is made durable in the stage, the manifest last; then the storage publishes the folder. A
//! crash at any point leaves no output, or the whole one; an old output stays until its successor is durable.

use std::path::Path;

use thalweg_storage::publish::{Replace, publish_folder};

use crate::format::huggingface::INDEX_FILE_NAME;
use crate::{Error, StagedCheckpoint};

/// Name of the receipt in an output folder: its presence makes the output a checkpoint, and tells it from a raw one.
pub const RECEIPT_NAME: &str = "thalweg.json";
/// Name of the journal in a stage.
pub const JOURNAL_NAME: &str = "thalweg-journal";

/// The file whose presence makes a checkpoint committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Seals a stage whose tensors are all written, and publishes it as `target`.
///
/// # Errors
/// `OutputExists` where something is there and may not be replaced; as [`StagedCheckpoint::seal`]. The stage is
/// then still there, and so is an old target.
pub fn commit_checkpoint(
    mut staged: StagedCheckpoint,
    target: &Path,
    manifest: Manifest<'_>,
    replace: Replace,
) -> Result<(), Error> {
    // Asked before anything of the stage is removed, so that a refused stage can still be taken up again.
    match staged.storage().file_info(target) {
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
        Ok(_) if replace == Replace::Force || target == staged.folder() => {}
        Ok(_) => return Err(Error::OutputExists { path: target.to_owned() }),
    }
    staged.seal(manifest.name, manifest.bytes)?;
    publish_folder(&**staged.storage(), staged.folder(), target, replace).map_err(|error| match error {
        // Someone else's output appeared in between.
        thalweg_storage::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            Error::OutputExists { path: target.to_owned() }
        }
        error => error.into(),
    })
}

impl StagedCheckpoint {
    /// Makes the stage whole and durable: shards, index, then the manifest; what does not belong to the output
    /// (a journal, leftovers of another attempt) is removed, so that nothing but the output is ever published.
    ///
    /// # Errors
    /// `BadFileName` or `DuplicateFile` for the manifest; `Storage`.
    pub fn seal(&mut self, manifest_name: &str, manifest_bytes: &[u8]) -> Result<(), Error> {
        self.check_new_name(manifest_name)?;
        if let Some(index) = self.layout().index_bytes().map(<[u8]>::to_vec) {
            self.put_file(INDEX_FILE_NAME, &index)?;
        }
        self.sync()?;
        // The names of all the rest are durable before the file that vouches for them.
        self.storage().sync_folder(self.folder())?;
        self.put_file(manifest_name, manifest_bytes)?;
        for entry in self.storage().list_folder(self.folder())? {
            if !self.owns(&entry.name) {
                self.storage().remove(&self.folder().join(&entry.name))?;
            }
        }
        Ok(self.storage().sync_folder(self.folder())?)
    }
}
