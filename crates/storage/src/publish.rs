//! How bytes become durable and an output becomes visible: the only code that renames.
//!
//! On return everything is on the medium. At any crash before, there is no target, or the old one, untouched. What
//! the output consists of, and that its manifest is written last, is the caller's affair; what may be replaced is
//! decided by `guard`.

use std::io;
use std::path::{Path, PathBuf};

use crate::guard::{
    Contents, OwnFolder, OwnKind, Place, check_file, check_folder, is_empty_folder, is_own_file, look_at,
    remove_own_folder,
};
pub use crate::names::{is_stage_name, stage_path, trainer_part};
use crate::names::{new_path, old_path};
use crate::{CommitStyle, Error, Storage, UploadWatcher};

/// Whether something that is there already may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// It is an error.
    #[default]
    Never,
    /// The old one goes, once its successor is durable.
    Force,
}

/// Makes a folder visible whose whole content, manifest included, is durable. An empty folder is replaced.
///
/// With `Force` stage and target are exchanged by one step, then the old one is removed. Where the system cannot do
/// that, the old one is first renamed to `TARGET.thalweg-old`: between the two renames there is no target, but the
/// old one is whole under that name. Object stores have no rename: the folder is uploaded, its manifest last, and
/// `watcher` is told how far that is.
///
/// # Errors
/// `MayNotReplace` if the target is not of the kind `own` or holds anything else; nothing is changed then.
/// `NotAnOutput` if `stage`, which is to be uploaded, is not of that kind; `Remote`. `Io`, of kind `AlreadyExists` if
/// there is a target and `replace` is `Never`; the stage is then still there, and so is an old target, unless only the
/// removal of the old one failed: then the new one is in its place.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::guard::{Contents, OwnFolder};
/// use thalweg_storage::publish::{Replace, publish_folder};
/// use thalweg_storage::{MemoryStorage, Storage, Unwatched};
///
/// let storage = MemoryStorage::new();
/// let (stage, target) = (Path::new("/out.partial"), Path::new("/out"));
/// let own = OwnFolder { what: "a checkpoint", contents_of: &|_, _| Ok(Contents::NotOurs) };
/// storage.create_folder(stage)?;
/// publish_folder(&storage, stage, target, Replace::Never, own, &Unwatched)?;
/// assert!(storage.file_info(target).is_ok());
/// assert!(storage.file_info(stage).is_err());
/// # Ok::<(), thalweg_storage::Error>(())
/// ```
pub fn publish_folder(
    storage: &dyn Storage,
    stage: &Path,
    target: &Path,
    replace: Replace,
    own: OwnFolder<'_>,
    watcher: &dyn UploadWatcher,
) -> Result<(), Error> {
    match storage.commit_style(target) {
        CommitStyle::RenameFolder if replace == Replace::Never => {
            if is_empty_folder(storage, target)? {
                storage.remove(target)?;
            }
            rename_or_undo(storage, stage, target)
        }
        CommitStyle::RenameFolder => replace_durably(storage, stage, target, Own::Folder(own)),
        CommitStyle::Upload => {
            let manifest = clear_target(storage, stage, target, replace, own)?;
            storage.upload_folder(stage, target, &manifest, watcher)
        }
    }
}

/// Writes a small file whole or not at all, replacing one of the same kind.
///
/// Where there is no rename the old file is removed first.
///
/// # Errors
/// `MayNotReplace` if something else is there; `Io`. Where there is a rename, an old file is then untouched.
pub fn publish_file(storage: &dyn Storage, path: &Path, bytes: &[u8], kind: OwnKind<'_>) -> Result<(), Error> {
    let own = Own::File(kind, bytes);
    own.check(storage, path)?;
    match storage.commit_style(path) {
        CommitStyle::RenameFolder => {
            let beside = place_beside(storage, path, own)?;
            write_durably(storage, &beside, bytes)?;
            replace_durably(storage, &beside, path, own)
        }
        CommitStyle::Upload => {
            storage.create_folder(parent_of(path))?;
            own.remove(storage, path)?;
            write_durably(storage, path, bytes)
        }
    }
}

/// Makes room for a stage that is to be uploaded, and returns the name of its manifest. The old output is removed
/// first, because an object store cannot exchange two folders, and the files of two outputs must not mix. Its successor
/// is durable in the stage by then.
fn clear_target(
    storage: &dyn Storage,
    stage: &Path,
    target: &Path,
    replace: Replace,
    own: OwnFolder<'_>,
) -> Result<String, Error> {
    let Contents::Ours { manifest, .. } = (own.contents_of)(storage, stage)? else {
        return Err(Error::NotAnOutput { path: stage.to_owned() });
    };
    match replace {
        Replace::Force => remove_own_folder(storage, target, own)?,
        Replace::Never if look_at(storage, target)? != Place::Free => {
            return Err(Error::Io {
                act: "upload to",
                path: target.to_owned(),
                source: io::ErrorKind::AlreadyExists.into(),
            });
        }
        Replace::Never => {}
    }
    Ok(manifest)
}

/// What may be replaced and removed.
#[derive(Clone, Copy)]
enum Own<'a> {
    File(OwnKind<'a>, &'a [u8]),
    Folder(OwnFolder<'a>),
}

impl Own<'_> {
    fn check(self, storage: &dyn Storage, path: &Path) -> Result<(), Error> {
        match self {
            Self::File(kind, bytes) => check_file(storage, path, kind, bytes),
            Self::Folder(own) => check_folder(storage, path, own),
        }
    }

    fn remove(self, storage: &dyn Storage, path: &Path) -> Result<(), Error> {
        match self {
            Self::File(kind, bytes) => {
                check_own_name(check_file(storage, path, kind, bytes))?;
                remove_if_there(storage, path)
            }
            Self::Folder(own) => check_own_name(remove_own_folder(storage, path, own)),
        }
    }
}

/// Accepts `NoPlace`: names beside an output are reserved names, which users may not choose and we may.
fn check_own_name(checked: Result<(), Error>) -> Result<(), Error> {
    match checked {
        Err(Error::NoPlace { .. }) => Ok(()),
        checked => checked,
    }
}

/// A free name for a small file that is being written. Anything else than a leftover of ours at such a name stays
/// there.
fn place_beside(storage: &dyn Storage, path: &Path, own: Own<'_>) -> Result<PathBuf, Error> {
    const MAX_NAMES: usize = 100;
    let first = new_path(path);
    let mut candidate = first.clone();
    for n in 1..=MAX_NAMES {
        match look_at(storage, &candidate)? {
            Place::Free => return Ok(candidate),
            Place::File if is_leftover(storage, &candidate, own)? => {
                storage.remove(&candidate)?;
                return Ok(candidate);
            }
            _ => {}
        }
        let mut name = first.clone().into_os_string();
        name.push(format!("-{n}"));
        candidate = name.into();
    }
    Err(Error::Io { act: "create", path: first, source: io::ErrorKind::AlreadyExists.into() })
}

/// Whether a file is what a crash left of one that was being written: it is of the same kind, or holds only zeros and
/// parts of the bytes that are about to be written.
fn is_leftover(storage: &dyn Storage, path: &Path, own: Own<'_>) -> Result<bool, Error> {
    let Own::File(kind, bytes) = own else { return Ok(false) };
    let file = storage.open_file(path)?;
    let len_bytes = usize::try_from(file.info().len_bytes).unwrap_or(usize::MAX);
    if len_bytes <= bytes.len() {
        let mut found = vec![0; len_bytes];
        file.read_exact_at(0, &mut found)?;
        if found.iter().zip(bytes).all(|(found, byte)| *found == 0 || found == byte) {
            return Ok(true);
        }
    }
    is_own_file(storage, path, kind, bytes)
}

fn write_durably(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = storage.create_file(path, bytes.len() as u64)?;
    file.write_all_at(0, bytes)?;
    file.sync()
}

fn replace_durably(storage: &dyn Storage, from: &Path, to: &Path, own: Own<'_>) -> Result<(), Error> {
    own.check(storage, to)?;
    let aside = old_path(to);
    match storage.exchange(from, to) {
        // Now the old one has the stage's name.
        Ok(()) => {
            // Something may have been added to it since the check above: then it goes back to its place.
            let settled = check_own_name(own.check(storage, from)).and_then(|()| sync_parents(storage, from, to));
            if let Err(error) = settled {
                // Else the next attempt would take the old one for its stage. If this fails too, nothing helps.
                let _ = storage.exchange(from, to);
                return Err(error);
            }
            own.remove(storage, from)
        }
        Err(error) if error.is_not_found() => {
            rename_or_undo(storage, from, to)?;
            // A crash between the two renames below may have left the old one there; anything else of that name stays.
            drop_leftover(storage, &aside, own)
        }
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
            replace_by_two_renames(storage, (from, to), &aside, own)
        }
        Err(error) => Err(error),
    }
}

fn replace_by_two_renames(
    storage: &dyn Storage,
    (from, to): (&Path, &Path),
    aside: &Path,
    own: Own<'_>,
) -> Result<(), Error> {
    match look_at(storage, to)? {
        Place::Free => {
            rename_or_undo(storage, from, to)?;
            return drop_leftover(storage, aside, own);
        }
        _ => own.remove(storage, aside)?,
    }
    storage.rename(to, aside)?;
    if let Err(error) = rename_or_undo(storage, from, to) {
        let _ = storage.rename(aside, to);
        return Err(error);
    }
    own.remove(storage, aside)
}

/// Removes what a crash left at `aside`, if it is an old output.
fn drop_leftover(storage: &dyn Storage, aside: &Path, own: Own<'_>) -> Result<(), Error> {
    match own.remove(storage, aside) {
        Err(Error::MayNotReplace { .. }) => Ok(()),
        removed => removed,
    }
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
