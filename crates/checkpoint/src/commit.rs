//! The only place where an output starts to exist.
//!
//! First everything is made durable in the stage, the manifest last; then the storage publishes the folder. A
//! crash at any point leaves no output, or the whole one; an old output stays until its successor is durable.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::UploadWatcher;
use thalweg_storage::guard::{OwnFolder, check_folder, check_place, is_empty_folder};
use thalweg_storage::publish::{Replace, publish_folder};

use crate::stage::folders_of;
use crate::{Error, StagedCheckpoint};

/// The file whose presence makes a checkpoint committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// What a commit may remove.
#[derive(Debug, Clone, Copy)]
pub struct CommitRules<'a> {
    /// Whether an old output is replaced.
    pub replace: Replace,
    /// How to recognise an old output as one of ours.
    pub own: OwnFolder<'a>,
    /// Files of the stage that are ours and not part of the output, such as a journal. Another program put any other
    /// file there, and it stays in the folder.
    pub leftovers: &'a BTreeSet<String>,
}

/// Seals a stage whose tensors are all written, and publishes it as `target`; `watcher` is told how far an upload is.
///
/// # Errors
/// `OutputExists` if the target exists and nothing may be replaced; `Storage` if it is not ours to replace; as
/// [`StagedCheckpoint::seal`]. The stage and an old target are then still there.
pub fn commit_checkpoint(
    mut staged: StagedCheckpoint,
    target: &Path,
    manifest: Manifest<'_>,
    rules: CommitRules<'_>,
    watcher: &dyn UploadWatcher,
) -> Result<(), Error> {
    let exists =
        |staged: &StagedCheckpoint| Error::OutputExists { path: target.to_owned(), stage: staged.folder().to_owned() };
    // Asked before anything of the stage is removed, so that a refused stage can still be taken up again.
    match staged.storage().file_info(target) {
        Err(error) if error.is_free() => check_place(&**staged.storage(), target)?,
        Err(error) => return Err(error.into()),
        Ok(_) if target == staged.folder() => {}
        Ok(_) if rules.replace == Replace::Force || is_empty_folder(&**staged.storage(), target)? => {
            check_folder(&**staged.storage(), target, rules.own)?;
        }
        Ok(_) => return Err(exists(&staged)),
    }
    staged.seal(manifest.name, manifest.bytes, rules.leftovers)?;
    let storage = &**staged.storage();
    publish_folder(storage, staged.folder(), target, rules.replace, rules.own, watcher).map_err(|error| match error {
        // Someone else's output appeared in between.
        thalweg_storage::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            exists(&staged)
        }
        error => error.into(),
    })
}

impl StagedCheckpoint {
    /// Makes the stage complete and durable: shards, index, then the manifest. Removes the `leftovers`, which are not
    /// part of the output.
    ///
    /// # Errors
    /// `BadFileName` or `DuplicateFile` for the manifest; `Storage`.
    pub fn seal(
        &mut self,
        manifest_name: &str,
        manifest_bytes: &[u8],
        leftovers: &BTreeSet<String>,
    ) -> Result<(), Error> {
        self.check_new_name(manifest_name)?;
        self.write_checksums()?;
        let layout = Arc::clone(self.layout());
        for document in layout.documents() {
            self.put_file(&document.name, &document.bytes)?;
        }
        self.sync()?;
        // The names of all the rest are durable before the manifest that lists them.
        for inner in folders_of(&layout) {
            self.storage().sync_folder(&self.folder().join(inner))?;
        }
        self.storage().sync_folder(self.folder())?;
        self.put_file(manifest_name, manifest_bytes)?;
        self.sync_added()?;
        // What the stage could be resumed from goes only once it is complete without it.
        self.storage().sync_folder(self.folder())?;
        for entry in self.storage().list_folder(self.folder())? {
            if leftovers.contains(&entry.name) && !self.owns(&entry.name) {
                self.storage().remove(&self.folder().join(&entry.name))?;
            }
        }
        Ok(self.storage().sync_folder(self.folder())?)
    }
}
