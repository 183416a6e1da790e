//! A small file that is written in place: held in memory, put as one object when it is synced.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, FileInfo, FileKind, ReadAt, WriteAt};

/// Larger files are staged on a disk.
const MAX_BYTES: u64 = 256 << 20;

/// Files of one store that this process has written and not yet put, by key.
pub(super) type PendingFiles = Mutex<BTreeMap<String, Arc<PendingFile>>>;

/// The store that a file is written to.
pub(super) trait FileStore: std::fmt::Debug + Send + Sync {
    /// Puts these bytes as the object `key`, in place of the one that is there.
    fn put_whole(&self, key: &str, bytes: Vec<u8>) -> Result<(), Error>;

    /// The file of this process that is at `key` now.
    fn pending_info(&self, key: &str) -> Option<FileInfo>;
}

#[derive(Debug)]
pub(super) struct PendingFile {
    remote: Arc<dyn FileStore>,
    path: PathBuf,
    key: String,
    number: u64,
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    n_changes: u64,
    is_put: bool,
}

impl PendingFile {
    /// # Errors
    /// `Io` with kind `FileTooLarge` for what does not fit into memory.
    pub(super) fn new(
        remote: Arc<dyn FileStore>,
        (path, key): (PathBuf, &str),
        number: u64,
        bytes: Vec<u8>,
    ) -> Arc<Self> {
        Arc::new(Self {
            remote,
            path,
            key: key.to_owned(),
            number,
            content: Mutex::new(Content { bytes, n_changes: 0, is_put: false }),
        })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self) -> FileInfo {
        let content = self.content();
        FileInfo {
            kind: FileKind::File,
            len_bytes: content.bytes.len() as u64,
            modified_ns: i128::from(content.n_changes),
            changed_ns: 0,
            id: (u64::MAX, self.number),
        }
    }

    /// Whether the store has what is in it.
    pub(super) fn is_put(&self) -> bool {
        self.content().is_put
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let content = self.content();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(out.len()).and_then(|end| content.bytes.get(start..end));
        let Some(part) = part else {
            let wanted_bytes = offset.saturating_add(out.len() as u64);
            return Err(Error::Truncated {
                path: self.path.clone(),
                wanted_bytes,
                found_bytes: content.bytes.len() as u64,
            });
        };
        out.copy_from_slice(part);
        Ok(())
    }

    /// Puts the file if it changed since it was put.
    pub(super) fn put(&self) -> Result<(), Error> {
        let content = self.content();
        if content.is_put {
            return Ok(());
        }
        let (bytes, n_changes) = (content.bytes.clone(), content.n_changes);
        drop(content);
        self.remote.put_whole(&self.key, bytes)?;
        let mut content = self.content();
        content.is_put = content.n_changes == n_changes;
        Ok(())
    }
}

/// Checks that a file of this length can be held.
pub(super) fn check_length(len_bytes: u64, path: &std::path::Path) -> Result<usize, Error> {
    let too_large =
        || Error::Io { act: "reserve space for", path: path.to_owned(), source: io::ErrorKind::FileTooLarge.into() };
    usize::try_from(len_bytes).ok().filter(|_| len_bytes <= MAX_BYTES).ok_or_else(too_large)
}

impl WriteAt for PendingFile {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = check_length(offset.saturating_add(bytes.len() as u64), &self.path)?;
        let mut content = self.content();
        if content.bytes.len() < end {
            content.bytes.resize(end, 0);
        }
        content.bytes[end - bytes.len()..end].copy_from_slice(bytes);
        content.n_changes += 1;
        content.is_put = false;
        Ok(())
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.read(offset, out)
    }

    fn len_bytes(&self) -> Result<u64, Error> {
        Ok(self.info().len_bytes)
    }

    fn sync(&self) -> Result<(), Error> {
        self.put()
    }
}

/// A file of this process, read before or after it was put.
#[derive(Debug)]
pub(super) struct PendingReader {
    file: Arc<PendingFile>,
    info: FileInfo,
}

impl PendingReader {
    pub(super) fn new(file: Arc<PendingFile>) -> Self {
        Self { info: file.info(), file }
    }
}

impl ReadAt for PendingReader {
    fn info(&self) -> FileInfo {
        self.info
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read(offset, out).or_else(|error| self.check_unchanged().and(Err(error)))
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match self.file.remote.pending_info(&self.file.key) == Some(self.info) {
            true => Ok(()),
            false => Err(Error::Changed { path: self.file.path.clone() }),
        }
    }
}
