//! The `Storage` trait: what the rest of thalweg may ask of a disk or of an object store.
//!
//! Nothing here assumes that a rename exists: `commit_style` says how an output becomes visible, and
//! `publish` is the only code that acts on it.

use std::fmt::Debug;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::names::stage_path;
use crate::{Error, UploadWatcher};

/// What is at a path, after following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A pipe, device or socket: never opened.
    Other,
}

/// Size and identity of a file. Two equal values mean that it did not change in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last change, nanoseconds since 1970; 0 where the storage has none.
    pub modified_ns: i128,
    /// Time of the last change of content or metadata, which no program can set, nanoseconds since 1970, or a number
    /// made from the version that an object store gives; 0 where the storage has neither.
    pub changed_ns: i128,
    /// Device and inode, or another identity; (0, 0) where there is none.
    pub id: (u64, u64),
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// File name, without its folder. Names that are not UTF-8 are left out of listings.
    pub name: String,
    /// What it is, after following links; `Other` for a dangling link.
    pub kind: FileKind,
    /// Length in bytes (0 for folders).
    pub len_bytes: u64,
}

/// Sorts the names in a folder.
pub(crate) fn sort_entries(entries: &mut [FolderEntry]) {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
}

/// How an output becomes visible at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitStyle {
    /// Staged beside the target, then renamed onto it.
    RenameFolder,
    /// Staged on a local disk, then uploaded, with the manifest as the last object: object stores.
    Upload,
}

/// A file opened for positioned reads. A truncated or changed file is an error, never a signal.
pub trait ReadAt: Send + Sync + Debug {
    /// Size and identity when it was opened.
    fn info(&self) -> FileInfo;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// `Truncated` if the file ends before; `Changed` if it is no longer the file that was opened.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error>;

    /// Compares the file with what it was when it was opened.
    ///
    /// # Errors
    /// `Changed`.
    fn check_unchanged(&self) -> Result<(), Error>;

    /// Asks for these bytes to be fetched ahead.
    fn will_need(&self, _offset: u64, _len_bytes: u64) {}

    /// Says that these bytes are not wanted again, so that the page cache need not keep them.
    fn drop_cache(&self, _offset: u64, _len_bytes: u64) {}

    /// The system's own file, if its bytes are those of this one: the system can then copy them by itself.
    fn system_file(&self) -> Option<Arc<File>> {
        None
    }
}

/// A file opened for positioned writes.
pub trait WriteAt: Send + Sync + Debug {
    /// Writes all of `bytes` at `offset`. Another opening of the file sees them once this one is synced or dropped.
    ///
    /// # Errors
    /// `Io`, also when the disk is full, and for an earlier write.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Fills `out` from `offset` on: a stage reads back what it wrote before it trusts it.
    ///
    /// # Errors
    /// `Truncated`, `Io`.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error>;

    /// Asks for these bytes to be fetched ahead, to be read back.
    fn will_need(&self, _offset: u64, _len_bytes: u64) {}

    /// Length in bytes.
    ///
    /// # Errors
    /// `Io`.
    fn len_bytes(&self) -> Result<u64, Error>;

    /// Has the system copy bytes `from..from + len_bytes` of another file to `offset`, as far as it can do that without
    /// bringing them here. Returns how many it copied, from the first one on: 0 where it cannot copy or the copy fails.
    /// Reading and writing the rest tells why.
    fn copy_from(&self, _offset: u64, _source: &dyn ReadAt, _from: u64, _len_bytes: u64) -> u64 {
        0
    }

    /// Asks the system to begin writing these bytes to the medium, without waiting.
    fn start_writeback(&self, _offset: u64, _len_bytes: u64) {}

    /// Brings to the medium what was written so far and is not gathered for a larger write, so that a later sync waits
    /// for less.
    ///
    /// # Errors
    /// `Io`.
    fn write_back(&self) -> Result<(), Error> {
        self.sync()
    }

    /// Returns once the content is on the medium.
    ///
    /// # Errors
    /// `Io`.
    fn sync(&self) -> Result<(), Error>;
}

/// A lock on a file, released when it is dropped.
#[derive(Debug)]
pub struct Lock(Option<Box<dyn Debug + Send + Sync>>);

impl Lock {
    /// A lock that lasts as long as `guard`.
    pub fn held(guard: impl Debug + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// What a file system without locks gives: it does not keep other processes away.
    pub fn unsupported() -> Self {
        Self(None)
    }

    /// Whether other processes are kept away.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// A disk, a memory, an object store.
pub trait Storage: Send + Sync + Debug {
    /// What is at `path`, following links.
    ///
    /// # Errors
    /// `Io` (see [`Error::is_not_found`]).
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error>;

    /// Where the link at `path` points; `None` if there is no link. Links above the last name are followed.
    ///
    /// # Errors
    /// `Io`.
    fn link_target(&self, _path: &Path) -> Result<Option<PathBuf>, Error> {
        Ok(None)
    }

    /// Why a folder cannot be renamed or emptied, where the system tells: something is mounted on it, or its names may
    /// not be changed. `None` where nothing speaks against it.
    ///
    /// # Errors
    /// `Io`.
    fn keeps_folder(&self, _path: &Path) -> Result<Option<&'static str>, Error> {
        Ok(None)
    }

    /// From now on takes up to `limit_bytes` of memory for gathering what is written to `n_written` files at once, and
    /// for what is read ahead of `n_read` files that are read once. Returns how much that can be.
    fn set_io_memory(&self, _n_written: usize, _n_read: usize, _limit_bytes: u64) -> u64 {
        0
    }

    /// Number of names in a folder, including those that are not UTF-8.
    ///
    /// # Errors
    /// `Io`.
    fn count_entries(&self, path: &Path) -> Result<usize, Error> {
        Ok(self.list_folder(path)?.len())
    }

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// `Io`.
    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `Io`; `NotAFile` for a folder, pipe or device (which is never opened).
    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error>;

    /// The whole content of a small file.
    ///
    /// # Errors
    /// `TooLarge` above `limit_bytes`, before anything is allocated; else as `open_file`.
    fn read_file(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, Error> {
        let file = self.open_file(path)?;
        let found_bytes = file.info().len_bytes;
        if found_bytes > limit_bytes {
            return Err(Error::TooLarge { path: path.to_owned(), limit_bytes, found_bytes });
        }
        let mut bytes = vec![0; usize::try_from(found_bytes).unwrap_or(usize::MAX)];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Creates a file of `len_bytes` bytes with its space reserved; the file must not exist yet.
    ///
    /// # Errors
    /// `Io`, also when the disk cannot hold it.
    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error>;

    /// Opens an existing file for reading and writing, as it is.
    ///
    /// # Errors
    /// `Io`.
    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error>;

    /// Opens a file of `len_bytes` bytes that several processes write at once, each its own ranges: made or lengthened
    /// if need be, with its space reserved, never cut or emptied.
    ///
    /// # Errors
    /// `Io`, also when the disk cannot hold it; `NotAFile`.
    fn open_together(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        let file = match self.create_file(path, len_bytes) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                self.open_for_update(path)?
            }
            created => return created,
        };
        if file.len_bytes()? < len_bytes {
            file.write_all_at(len_bytes - 1, &[0])?;
        }
        Ok(file)
    }

    /// Makes a folder and its missing parents; no error if it is there already. The names of the parents that were
    /// missing are then durable; the folder's own name is once the folder above it is synced.
    ///
    /// # Errors
    /// `Io`.
    fn create_folder(&self, path: &Path) -> Result<(), Error>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// `Io`.
    fn sync_folder(&self, path: &Path) -> Result<(), Error>;

    /// Renames a file or folder; `to` must not exist.
    ///
    /// # Errors
    /// `Io`.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error>;

    /// Gives a file a second name, by a hard link: its content stays as long as either name does.
    ///
    /// # Errors
    /// `Io`, with kind `Unsupported` where the system has no hard links and `CrossesDevices` between file systems.
    fn link_file(&self, from: &Path, _to: &Path) -> Result<(), Error> {
        let source = std::io::ErrorKind::Unsupported.into();
        Err(Error::Io { act: "link", path: from.to_owned(), source })
    }

    /// Exchanges two files or folders in one step.
    ///
    /// # Errors
    /// `Io` with kind `Unsupported` where the system cannot.
    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error>;

    /// Removes a file, or a folder with all it holds; links are removed, not followed.
    ///
    /// # Errors
    /// `Io`.
    fn remove(&self, path: &Path) -> Result<(), Error>;

    /// Bytes that can still be written below `path` (or its nearest existing parent); `None` if unknown.
    ///
    /// # Errors
    /// `Io`.
    fn free_bytes(&self, path: &Path) -> Result<Option<u64>, Error>;

    /// The path made absolute with links resolved; missing last parts are kept as they are.
    ///
    /// # Errors
    /// `Io`.
    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error>;

    /// Takes an exclusive lock on a file, made if it is missing; held until the value is dropped.
    ///
    /// A file system without locks gives one that is not held.
    ///
    /// # Errors
    /// `Locked` if another process holds it; `Io`.
    fn lock(&self, path: &Path) -> Result<Lock, Error>;

    /// As `lock`, but any number of holders share it: it keeps only holders of the exclusive lock away.
    ///
    /// # Errors
    /// As `lock`.
    fn lock_shared(&self, path: &Path) -> Result<Lock, Error>;

    /// How an output at `path` becomes visible.
    fn commit_style(&self, _path: &Path) -> CommitStyle {
        CommitStyle::RenameFolder
    }

    /// Where the output `target` is written before it becomes visible: beside it where it can be renamed, on a local
    /// disk where it is uploaded.
    fn stage_path(&self, target: &Path) -> PathBuf {
        stage_path(target)
    }

    /// Uploads what the folder `stage` holds to `target`, the file `manifest` last, then removes the stage. Until then
    /// nothing is found at `target`. What an interrupted upload of the same files left is used.
    ///
    /// # Errors
    /// `Io` with kind `Unsupported` where `commit_style` is not `Upload`; `Locked` while another process uploads the
    /// same stage; `Remote`.
    fn upload_folder(
        &self,
        _stage: &Path,
        target: &Path,
        _manifest: &str,
        _watcher: &dyn UploadWatcher,
    ) -> Result<(), Error> {
        let source = std::io::ErrorKind::Unsupported.into();
        Err(Error::Io { act: "upload to", path: target.to_owned(), source })
    }

    /// Says that these files are about to be opened and their beginnings read, so that a storage with slow answers can
    /// ask for all of them at once.
    fn will_open(&self, _paths: &[PathBuf]) {}
}
