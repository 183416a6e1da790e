//! How bytes become durable and an output becomes visible: the only code that renames.
//!
//! On return everything is on the medium. At any crash before, there is no target, or the old one, untouched.

use std::ffi::OsString;
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
/// Where there is no rename the folder was written in place, and its manifest was the last file.
///
/// # Errors
/// `Io`; the stage is then still there, and so is an old target.
pub fn publish_folder(storage: &dyn Storage, stage: &Path, target: &Path, replace: Replace) -> Result<(), Error> {
    match storage.commit_style() {
        CommitStyle::ManifestLast => Ok(()),
        CommitStyle::RenameFolder => rename_durably(storage, stage, target, replace),
    }
}

/// Writes a small file whole or not at all, replacing what is there.
///
/// # Errors
/// `Io`; an old file is then untouched.
pub fn publish_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let beside = with_suffix(path, ".thalweg-new");
    remove_if_there(storage, &beside)?;
    write_durably(storage, &beside, bytes)?;
    rename_durably(storage, &beside, path, Replace::Force)
}

fn write_durably(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = storage.create_file(path, bytes.len() as u64)?;
    file.write_all_at(0, bytes)?;
    file.sync()
}

fn rename_durably(storage: &dyn Storage, from: &Path, to: &Path, replace: Replace) -> Result<(), Error> {
    let parent = to.parent().unwrap_or(Path::new(""));
    let is_there = storage.file_info(to).is_ok();
    if !is_there || replace == Replace::Never {
        storage.rename(from, to)?;
        return storage.sync_folder(parent);
    }
    match storage.exchange(from, to) {
        // Now the old one has the stage's name.
        Ok(()) => {
            storage.sync_folder(parent)?;
            storage.remove(from)
        }
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Unsupported => {
            let aside = with_suffix(to, ".thalweg-old");
            remove_if_there(storage, &aside)?;
            storage.rename(to, &aside)?;
            storage.rename(from, to)?;
            storage.sync_folder(parent)?;
            storage.remove(&aside)
        }
        Err(error) => Err(error),
    }
}

fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    match storage.remove(path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
