//! The local file system behind the `Storage` trait.
//!
//! Positioned reads and writes, no memory maps: a truncated file is an error, not a signal. Files opened for reading
//! are closed and opened again behind the caller's back when many are in use; see [`LocalStorage::with_max_open_files`].

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags, RenameFlags};

use crate::{Error, FileInfo, FileKind, FolderEntry, ReadAt, Storage, WriteAt};

fn io_error(act: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { act, path: path.clone(), source }
}

/// Disks of this machine and what is mounted on them.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    pool: Arc<FilePool>,
}

impl Default for LocalStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalStorage {
    /// Keeps as many source files open as the process's limit leaves room for.
    pub fn new() -> Self {
        /// Left for outputs, locks, libraries and standard streams.
        const RESERVE: u64 = 64;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
        let n_files = usize::try_from(limit.saturating_sub(RESERVE).clamp(16, 1024)).unwrap_or(16);
        Self::with_max_open_files(n_files)
    }

    /// Keeps at most about `n_files` source files open at once.
    pub fn with_max_open_files(n_files: usize) -> Self {
        Self { pool: Arc::new(FilePool { max_open: n_files, open: Mutex::new(VecDeque::new()) }) }
    }
}

fn info_of(metadata: &fs::Metadata) -> FileInfo {
    let kind = if metadata.is_file() {
        FileKind::File
    } else if metadata.is_dir() {
        FileKind::Folder
    } else {
        FileKind::Other
    };
    FileInfo {
        kind,
        len_bytes: metadata.len(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        id: (metadata.dev(), metadata.ino()),
    }
}

/// Source files that are open now, longest-open first.
#[derive(Debug)]
struct FilePool {
    max_open: usize,
    open: Mutex<VecDeque<Weak<LocalFile>>>,
}

impl FilePool {
    /// Makes room for one more file and notes it.
    fn admit(&self, file: &Arc<LocalFile>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while open.len() >= self.max_open {
            let Some(oldest) = open.pop_front() else { break };
            if let Some(oldest) = oldest.upgrade().filter(|oldest| !Arc::ptr_eq(oldest, file)) {
                oldest.close();
            }
        }
        open.push_back(Arc::downgrade(file));
    }
}

/// A file opened for reading; its descriptor may be closed and opened again.
#[derive(Debug)]
struct LocalFile {
    path: PathBuf,
    info: FileInfo,
    handle: Mutex<Option<Arc<File>>>,
    pool: Arc<FilePool>,
    this: Weak<LocalFile>,
}

/// Opens a regular file only: a pipe would block, a device would do worse.
fn open_regular(path: &Path) -> Result<(File, FileInfo), Error> {
    let not_a_file = || Error::NotAFile { path: path.to_owned() };
    if info_of(&fs::metadata(path).map_err(io_error("open", path))?).kind != FileKind::File {
        return Err(not_a_file());
    }
    // Between the look and the opening a pipe may have taken the place: do not wait for its other end.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io_error("open", path))?;
    let info = info_of(&file.metadata().map_err(io_error("open", path))?);
    if info.kind == FileKind::File { Ok((file, info)) } else { Err(not_a_file()) }
}

impl LocalFile {
    fn close(&self) {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn handle(&self) -> Result<Arc<File>, Error> {
        if let Some(file) = &*self.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(file));
        }
        let (file, info) = open_regular(&self.path)?;
        if info != self.info {
            return Err(Error::Changed { path: self.path.clone() });
        }
        let file = Arc::new(file);
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&file));
        if let Some(this) = self.this.upgrade() {
            self.pool.admit(&this);
        }
        Ok(file)
    }

    fn advise(&self, offset: u64, len_bytes: u64, advice: Advice) {
        if let Ok(file) = self.handle() {
            // Advice is only that; a file system that takes none still reads.
            let _ = rustix::fs::fadvise(&*file, offset, std::num::NonZeroU64::new(len_bytes), advice);
        }
    }
}

impl ReadAt for LocalFile {
    fn info(&self) -> FileInfo {
        self.info
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let file = self.handle()?;
        match file.read_exact_at(out, offset) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.check_unchanged()?;
                Err(Error::Truncated {
                    path: self.path.clone(),
                    wanted_bytes: offset.saturating_add(out.len() as u64),
                    found_bytes: self.info.len_bytes,
                })
            }
            Err(source) => Err(Error::Io { act: "read", path: self.path.clone(), source }),
        }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let by_handle = self.handle()?.metadata().map_err(io_error("read", &self.path))?;
        let by_path = fs::metadata(&self.path).map_err(io_error("read", &self.path))?;
        if info_of(&by_handle) != self.info || info_of(&by_path) != self.info {
            return Err(Error::Changed { path: self.path.clone() });
        }
        Ok(())
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        self.advise(offset, len_bytes, Advice::WillNeed);
    }

    fn drop_cache(&self, offset: u64, len_bytes: u64) {
        self.advise(offset, len_bytes, Advice::DontNeed);
    }
}

/// A file opened for writing.
#[derive(Debug)]
struct LocalOutput {
    path: PathBuf,
    file: File,
}

impl WriteAt for LocalOutput {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(io_error("write", &self.path))
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(out, offset).map_err(io_error("read", &self.path))
    }

    fn len_bytes(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(io_error("read", &self.path))?.len())
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(io_error("sync", &self.path))
    }
}

impl Storage for LocalStorage {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        Ok(info_of(&fs::metadata(path).map_err(io_error("read", path))?))
    }

    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(io_error("list", path))? {
            let entry = entry.map_err(io_error("list", path))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let info = fs::metadata(entry.path()).ok().map(|metadata| info_of(&metadata));
            let kind = info.map_or(FileKind::Other, |info| info.kind);
            let len_bytes = info.filter(|info| info.kind == FileKind::File).map_or(0, |info| info.len_bytes);
            entries.push(FolderEntry { name, kind, len_bytes });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        let (file, info) = open_regular(path)?;
        let opened = Arc::new_cyclic(|this| LocalFile {
            path: path.to_owned(),
            info,
            handle: Mutex::new(Some(Arc::new(file))),
            pool: Arc::clone(&self.pool),
            this: Weak::clone(this),
        });
        self.pool.admit(&opened);
        Ok(opened)
    }

    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(io_error("create", path))?;
        if len_bytes > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len_bytes) {
                Ok(()) => {}
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                    file.set_len(len_bytes).map_err(io_error("reserve space for", path))?;
                }
                Err(error) => return Err(io_error("reserve space for", path)(error.into())),
            }
        }
        Ok(Arc::new(LocalOutput { path: path.to_owned(), file }))
    }

    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
        Ok(Arc::new(LocalOutput { path: path.to_owned(), file }))
    }

    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        fs::create_dir_all(path).map_err(io_error("create", path))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let at = rustix::fs::CWD;
        match rustix::fs::renameat_with(at, from, at, to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if fs::symlink_metadata(to).is_ok() {
                    return Err(io_error("rename to", to)(io::ErrorKind::AlreadyExists.into()));
                }
                fs::rename(from, to).map_err(io_error("rename", from))
            }
            other => other.map_err(|error| io_error("rename to", to)(error.into())),
        }
    }

    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        let at = rustix::fs::CWD;
        rustix::fs::renameat_with(at, a, at, b, RenameFlags::EXCHANGE).map_err(|error| match error {
            rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => {
                io_error("exchange", a)(io::ErrorKind::Unsupported.into())
            }
            error => io_error("exchange", a)(error.into()),
        })
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(path).map_err(io_error("remove", path))?;
        let removed = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(io_error("remove", path))
    }

    fn free_bytes(&self, path: &Path) -> Result<Option<u64>, Error> {
        let existing = self.canonical_path(path)?;
        let existing = existing.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
        let stats =
            rustix::fs::statvfs(existing).map_err(|error| io_error("ask the free space of", path)(error.into()))?;
        Ok(Some(stats.f_bavail.saturating_mul(stats.f_frsize)))
    }

    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        let absolute = std::path::absolute(path).map_err(io_error("resolve", path))?;
        let mut missing = Vec::new();
        for ancestor in absolute.ancestors() {
            if let Ok(real) = fs::canonicalize(ancestor) {
                return Ok(missing.iter().rev().fold(real, |path, part| path.join(part)));
            }
            missing.extend(ancestor.file_name());
        }
        Ok(absolute.clone())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn std::fmt::Debug + Send + Sync>, Error> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io_error("lock", path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Box::new(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path: path.to_owned() }),
            // A file system without locks: two processes on one stage are then the user's care.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => Ok(Box::new(file)),
            Err(error) => Err(io_error("lock", path)(error.into())),
        }
    }
}
