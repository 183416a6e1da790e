//! A storage that forwards every call, records reads, and can fail a read or change a file at one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use thalweg_storage::{CommitStyle, Error, FileInfo, FolderEntry, Lock, ReadAt, Storage, WriteAt};

/// Offset and length of each read, by file.
type Reads = BTreeMap<PathBuf, Vec<(u64, u64)>>;

#[derive(Debug, Default)]
struct Seen {
    reads: Reads,
    /// Number of the read that fails, counted over all files from 0.
    fails_at: Option<usize>,
    n_reads: usize,
    n_resolved: usize,
    /// Number of the read at which a file changes, as if another program wrote to it, and the file.
    touches_at: Option<(usize, PathBuf)>,
    /// Whether it behaves like a file system without locks.
    has_no_locks: bool,
}

/// The storage. Clones share their record.
#[derive(Debug, Clone)]
pub struct Tap {
    inner: Arc<dyn Storage>,
    seen: Arc<Mutex<Seen>>,
}

impl Tap {
    /// A tap on `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, seen: Arc::default() }
    }

    /// The storage that is tapped.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// Makes the `n`-th read from now on fail, counted from 0.
    pub fn fail_read(&self, n: usize) {
        let mut seen = self.seen.lock().unwrap();
        seen.fails_at = Some(seen.n_reads + n);
    }

    /// Changes the modification time of a file of the local disk at the `n`-th read from now on, counted from 0.
    pub fn touch_at_read(&self, n: usize, path: &Path) {
        let mut seen = self.seen.lock().unwrap();
        seen.touches_at = Some((seen.n_reads + n, path.to_owned()));
    }

    /// Makes it behave like a file system without locks.
    pub fn forget_locks(&self) {
        self.seen.lock().unwrap().has_no_locks = true;
    }

    /// The number of reads so far.
    pub fn n_reads(&self) -> usize {
        self.seen.lock().unwrap().n_reads
    }

    /// The number of paths that were resolved so far.
    pub fn n_resolved(&self) -> usize {
        self.seen.lock().unwrap().n_resolved
    }

    /// How often the header of each safetensors file was read: it begins with its length in eight bytes.
    pub fn header_reads(&self) -> BTreeMap<PathBuf, usize> {
        let seen = self.seen.lock().unwrap();
        let is_shard = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
        let count = |path: &PathBuf| seen.reads[path].iter().filter(|read| **read == (0, 8)).count();
        seen.reads.keys().filter(is_shard).map(|path| (path.clone(), count(path))).collect()
    }

    /// Bytes read from a file by reads that begin at offset `from` or later.
    pub fn bytes_read(&self, path: &Path, from: u64) -> u64 {
        let seen = self.seen.lock().unwrap();
        seen.reads.get(path).into_iter().flatten().filter(|read| read.0 >= from).map(|read| read.1).sum()
    }
}

#[derive(Debug)]
struct TapFile {
    inner: Arc<dyn ReadAt>,
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

impl ReadAt for TapFile {
    fn info(&self) -> FileInfo {
        self.inner.info()
    }
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut seen = self.seen.lock().unwrap();
        seen.reads.entry(self.path.clone()).or_default().push((offset, out.len() as u64));
        seen.n_reads += 1;
        if seen.fails_at == Some(seen.n_reads - 1) {
            let source = std::io::Error::other("input/output error");
            return Err(Error::Io { act: "read", path: self.path.clone(), source });
        }
        if let Some((at, path)) = &seen.touches_at
            && *at == seen.n_reads - 1
        {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        drop(seen);
        self.inner.read_exact_at(offset, out)
    }
    fn check_unchanged(&self) -> Result<(), Error> {
        self.inner.check_unchanged()
    }
}

impl Storage for Tap {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        self.inner.file_info(path)
    }
    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        self.inner.list_folder(path)
    }
    fn link_target(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        self.inner.link_target(path)
    }
    fn count_entries(&self, path: &Path) -> Result<usize, Error> {
        self.inner.count_entries(path)
    }
    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        let inner = self.inner.open_file(path)?;
        Ok(Arc::new(TapFile { inner, path: path.to_owned(), seen: Arc::clone(&self.seen) }))
    }
    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        self.inner.create_file(path, len_bytes)
    }
    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        self.inner.open_for_update(path)
    }
    fn open_together(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        self.inner.open_together(path, len_bytes)
    }
    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        self.inner.create_folder(path)
    }
    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        self.inner.sync_folder(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.inner.rename(from, to)
    }
    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        self.inner.exchange(a, b)
    }
    fn remove(&self, path: &Path) -> Result<(), Error> {
        self.inner.remove(path)
    }
    fn free_bytes(&self, path: &Path) -> Result<Option<u64>, Error> {
        self.inner.free_bytes(path)
    }
    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        self.seen.lock().unwrap().n_resolved += 1;
        self.inner.canonical_path(path)
    }
    fn lock(&self, path: &Path) -> Result<Lock, Error> {
        let lock = self.inner.lock(path)?;
        Ok(if self.seen.lock().unwrap().has_no_locks { Lock::unsupported() } else { lock })
    }
    fn lock_shared(&self, path: &Path) -> Result<Lock, Error> {
        let lock = self.inner.lock_shared(path)?;
        Ok(if self.seen.lock().unwrap().has_no_locks { Lock::unsupported() } else { lock })
    }
    fn commit_style(&self, path: &Path) -> CommitStyle {
        self.inner.commit_style(path)
    }
}
