//! How bytes become durable and an output becomes visible: the only code that renames.
//!
//! On return everything is on the medium. At any crash before, there is no target, or the old one, untouched. What
//! the output consists of, and that its manifest is written last, is the caller's affair.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::{CommitStyle, Error, Storage};

/// Whether something that is there already may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It is an error.
    Never,
    /// The old one goes, once its successor is durable.
    Force,
}

/// Makes a folder visible whose whole content, manifest included, is durable.
///
/// With `Force` stage and target are exchanged by one step, then the old one is removed. Where the system cannot do
/// that, the old one is first renamed to `TARGET.thalweg-old`: between the two renames there is no target, but the
/// old one is whole under that name. Where there is no rename at all the folder was written in place, manifest last.
///
/// # Errors
/// `NotInPlace` where there is no rename and `stage` is not `target`. `Io`, of kind `AlreadyExists` if there is a
/// target and `replace` is `Never`; the stage is then still there, and so is an old target, unless only the removal of
/// the old one failed: then the new one is in its place.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::publish::{Replace, publish_folder};
/// use thalweg_storage::{MemoryStorage, Storage};
///
/// let storage = MemoryStorage::new();
/// let (stage, target) = (Path::new("/out.partial"), Path::new("/out"));
/// storage.create_folder(stage)?;
/// publish_folder(&storage, stage, target, Replace::Never)?;
/// assert!(storage.file_info(target).is_ok());
/// assert!(storage.file_info(stage).is_err());
/// # Ok::<(), thalweg_storage::Error>(())
/// ```
pub fn publish_folder(storage: &dyn Storage, stage: &Path, target: &Path, replace: Replace) -> Result<(), Error> {
    match storage.commit_style() {
        CommitStyle::RenameFolder => rename_durably(storage, stage, target, replace),
        CommitStyle::ManifestLast if stage == target => Ok(()),
        // To say yes here would be to lose the output without a word.
        CommitStyle::ManifestLast => Err(Error::NotInPlace { stage: stage.to_owned(), target: target.to_owned() }),
    }
}

/// Writes a small file whole or not at all, replacing what is there.
///
/// Where there is no rename the old file is removed first.
///
/// # Errors
/// `Io`; where there is a rename, an old file is then untouched.
pub fn publish_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let beside = match storage.commit_style() {
        CommitStyle::RenameFolder => with_suffix(path, ".thalweg-new"),
        CommitStyle::ManifestLast => path.to_owned(),
    };
    remove_if_there(storage, &beside)?;
    write_durably(storage, &beside, bytes)?;
    match storage.commit_style() {
        CommitStyle::RenameFolder => rename_durably(storage, &beside, path, Replace::Force),
        CommitStyle::ManifestLast => storage.sync_folder(parent_of(path)),
    }
}

fn write_durably(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = storage.create_file(path, bytes.len() as u64)?;
    file.write_all_at(0, bytes)?;
    file.sync()
}

fn rename_durably(storage: &dyn Storage, from: &Path, to: &Path, replace: Replace) -> Result<(), Error> {
    if replace == Replace::Never {
        return rename_or_undo(storage, from, to);
    }
    let aside = with_suffix(to, ".thalweg-old");
    match storage.exchange(from, to) {
        // Now the old one has the stage's name.
        Ok(()) => {
            if let Err(error) = sync_parents(storage, from, to) {
                // Else the next attempt would take the old one for its stage. If this fails too, nothing helps.
                let _ = storage.exchange(from, to);
                return Err(error);
            }
            storage.remove(from)
        }
        Err(error) if error.is_not_found() => {
            rename_or_undo(storage, from, to)?;
            // A crash between the two renames below left the old one there.
            remove_if_there(storage, &aside)
        }
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
            replace_by_two_renames(storage, from, to, &aside)
        }
        Err(error) => Err(error),
    }
}

fn replace_by_two_renames(storage: &dyn Storage, from: &Path, to: &Path, aside: &Path) -> Result<(), Error> {
    match storage.file_info(to) {
        Err(error) if error.is_not_found() => {
            rename_or_undo(storage, from, to)?;
            return remove_if_there(storage, aside);
        }
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    remove_if_there(storage, aside)?;
    storage.rename(to, aside)?;
    if let Err(error) = rename_or_undo(storage, from, to) {
        let _ = storage.rename(aside, to);
        return Err(error);
    }
    storage.remove(aside)
}

/// Renames and makes that durable; what is not known to be durable is taken back.
fn rename_or_undo(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), Error> {
    storage.rename(from, to)?;
    sync_parents(storage, from, to).inspect_err(|_| {
        let _ = storage.rename(to, from);
    })
}

fn sync_parents(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), Error> {
    storage.sync_folder(parent_of(to))?;
    if parent_of(from) == parent_of(to) { Ok(()) } else { storage.sync_folder(parent_of(from)) }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    match storage.remove(path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// A name beside `path`; a `/` at its end must not make it a name inside.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.components().as_path().as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
