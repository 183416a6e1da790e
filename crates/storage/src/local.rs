//! The local file system behind the `Storage` trait.
//!
//! Positioned reads and writes, no memory maps: a truncated file is an error, not a signal. Files opened for reading
//! are closed and opened again behind the caller's back when many are in use; see
//! [`LocalStorage::with_max_open_files`]. How an output becomes visible is not decided here, but in `publish`.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{Access, Advice, AtFlags, FallocateFlags, FlockOperation, OFlags, RenameFlags, StatxFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::address::scheme_of;
use crate::direct::{AheadState, DirectFile, DirectReaders, DirectWriters, ReadAhead, files_within};
use crate::mutex::lock_mutex;
use crate::stdin::piped_input;
use crate::{Error, FileInfo, FileKind, FolderEntry, Lock, ReadAt, Storage, WriteAt};

/// The path is copied only if there is an error: this is on the path of every read and write.
pub(crate) fn io_error(act: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { act, path: path.to_owned(), source }
}

/// Disks of this machine and what is mounted on them.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::{LocalStorage, Storage};
///
/// let missing = LocalStorage::new().open_file(Path::new("no/such/file")).unwrap_err();
/// assert!(missing.is_not_found());
/// ```
#[derive(Debug, Clone)]
pub struct LocalStorage {
    pool: Arc<FilePool>,
    writers: Arc<DirectWriters>,
    readers: Arc<DirectReaders>,
}

/// Less is left to the system to read ahead.
const MIN_READ_AHEAD_BYTES: u64 = 64 << 10;

/// Shorter outputs go through the page cache: they are written in a moment, and often read soon.
const MIN_DIRECT_BYTES: u64 = 32 << 20;

impl Default for LocalStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalStorage {
    /// Keeps as many source files open as the process's limit leaves room for.
    pub fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
        let (n_files, n_ahead) = files_within(usize::try_from(limit).unwrap_or(usize::MAX));
        Self { readers: Arc::new(DirectReaders::new(n_ahead)), ..Self::with_max_open_files(n_files) }
    }

    /// Keeps at most about `n_files` source files open at once: a thread that is reading keeps its file a moment
    /// longer.
    pub fn with_max_open_files(n_files: usize) -> Self {
        let pool = Arc::new(FilePool { max_open: n_files.max(1), open: Mutex::new(VecDeque::new()) });
        let readers = Arc::new(DirectReaders::new(DirectReaders::MAX_FILES));
        Self { pool, writers: Arc::default(), readers }
    }

    fn output(&self, path: &Path, file: File) -> LocalOutput {
        LocalOutput { path: path.to_owned(), file: Arc::new(file), direct: None }
    }

    /// The output, written directly if it has `len_bytes`.
    fn large_output(&self, mut output: LocalOutput, len_bytes: u64) -> Arc<dyn WriteAt> {
        if len_bytes >= MIN_DIRECT_BYTES {
            output.direct = DirectFile::open(&output.path, &output.file, &self.writers);
        }
        Arc::new(output)
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
        changed_ns: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
        id: (metadata.dev(), metadata.ino()),
    }
}

/// Source files that are open now, in the order in which their turn to be closed comes.
#[derive(Debug)]
struct FilePool {
    max_open: usize,
    open: Mutex<VecDeque<Weak<LocalFile>>>,
}

impl FilePool {
    /// Makes room for one more file and notes it. A file that was read since its last turn is skipped once.
    fn admit(&self, file: &Arc<LocalFile>) {
        let mut victims = Vec::new();
        let mut open = lock_mutex(&self.open);
        let mut n_spared = 0;
        let n_sparable = open.len();
        while open.len() >= self.max_open {
            let Some(next) = open.pop_front() else { break };
            let Some(next) = next.upgrade() else { continue };
            if n_spared < n_sparable && next.was_used.swap(false, Ordering::Relaxed) {
                n_spared += 1;
                open.push_back(Arc::downgrade(&next));
            } else {
                victims.push(next);
            }
        }
        open.push_back(Arc::downgrade(file));
        // A file's own lock is never taken under the pool's.
        drop(open);
        victims.iter().for_each(|victim| victim.close());
    }

    fn close_all(&self) {
        let open = std::mem::take(&mut *lock_mutex(&self.open));
        open.iter().filter_map(Weak::upgrade).for_each(|file| file.close());
    }

    /// Opens something; if the process has no descriptor left, gives back those of the pool and tries again. Other
    /// threads may take them first.
    fn open_with_room<T>(&self, open: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        const MAX_ATTEMPTS: usize = 16;
        let lacks_room = |error: &Error| match error {
            Error::Io { source, .. } => source.raw_os_error() == Some(Errno::MFILE.raw_os_error()),
            _ => false,
        };
        let mut outcome = open();
        for _ in 1..MAX_ATTEMPTS {
            if !outcome.as_ref().is_err_and(lacks_room) {
                break;
            }
            self.close_all();
            outcome = open();
        }
        outcome
    }
}

/// A file opened for reading; its descriptor may be closed and opened again.
#[derive(Debug)]
struct LocalFile {
    path: PathBuf,
    info: FileInfo,
    handle: Mutex<Option<Arc<File>>>,
    was_used: AtomicBool,
    pool: Arc<FilePool>,
    this: Weak<LocalFile>,
    readers: Arc<DirectReaders>,
    ahead: Mutex<AheadState>,
}

/// Opens a regular file only: a pipe would block, a device would do worse.
fn open_regular(path: &Path, options: &OpenOptions) -> Result<(File, FileInfo), Error> {
    let not_a_file = || Error::NotAFile { path: path.to_owned() };
    if info_of(&fs::metadata(path).map_err(io_error("open", path))?).kind != FileKind::File {
        return Err(not_a_file());
    }
    open_if_regular(path, options)
}

/// As `open_regular`, without a look before: between that and the opening a pipe may have taken the place, and then
/// nothing must wait for its other end.
fn open_if_regular(path: &Path, options: &OpenOptions) -> Result<(File, FileInfo), Error> {
    let file = options.clone().custom_flags(flag_bits(OFlags::NONBLOCK)).open(path).map_err(io_error("open", path))?;
    let info = info_of(&file.metadata().map_err(io_error("open", path))?);
    if info.kind != FileKind::File {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| io_error("open", path)(error.into()))?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|error| io_error("open", path)(error.into()))?;
    Ok((file, info))
}

fn flag_bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

fn reading() -> OpenOptions {
    OpenOptions::new().read(true).clone()
}

fn updating() -> OpenOptions {
    OpenOptions::new().read(true).write(true).clone()
}

impl LocalFile {
    fn close(&self) {
        lock_mutex(&self.handle).take();
        lock_mutex(&self.ahead).close();
    }

    fn changed(&self) -> Error {
        Error::Changed { path: self.path.clone() }
    }

    fn handle(&self) -> Result<Arc<File>, Error> {
        if !self.was_used.load(Ordering::Relaxed) {
            self.was_used.store(true, Ordering::Relaxed);
        }
        let (file, is_new) = self.pool.open_with_room(|| self.open_again())?;
        if is_new && let Some(this) = self.this.upgrade() {
            self.pool.admit(&this);
        }
        Ok(file)
    }

    /// The open file, and whether it was opened just now.
    fn open_again(&self) -> Result<(Arc<File>, bool), Error> {
        let mut handle = lock_mutex(&self.handle);
        if let Some(file) = &*handle {
            return Ok((Arc::clone(file), false));
        }
        let file = Arc::new(self.reopen()?);
        *handle = Some(Arc::clone(&file));
        Ok((file, true))
    }

    /// What reads this file past the page cache, if it can be read so.
    fn ahead(&self) -> Option<Arc<ReadAhead>> {
        let is_same = |file: &File| file.metadata().is_ok_and(|metadata| info_of(&metadata) == self.info);
        lock_mutex(&self.ahead).open(&self.path, self.info.len_bytes, is_same, &self.readers)
    }

    fn reopen(&self) -> Result<File, Error> {
        match open_regular(&self.path, &reading()) {
            Ok((file, info)) if info == self.info => Ok(file),
            Ok(_) | Err(Error::NotAFile { .. }) => Err(self.changed()),
            // Room is made by the caller, who holds no lock: two threads that did would wait for each other's.
            Err(error) => Err(error),
        }
    }

    fn advise(&self, offset: u64, len_bytes: u64, advice: Advice) {
        if let Ok(file) = self.handle() {
            advise(&file, offset, len_bytes, advice);
        }
    }
}

impl ReadAt for LocalFile {
    fn info(&self) -> FileInfo {
        self.info
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let wanted_bytes = offset.saturating_add(out.len() as u64);
        if wanted_bytes > self.info.len_bytes {
            self.check_unchanged()?;
            return Err(Error::Truncated { path: self.path.clone(), wanted_bytes, found_bytes: self.info.len_bytes });
        }
        let file = self.handle()?;
        let ahead = lock_mutex(&self.ahead).opened().map(Arc::clone);
        let read = match ahead {
            Some(ahead) => ahead.read_exact_at(offset, out, |offset, out| file.read_exact_at(out, offset)),
            None => file.read_exact_at(out, offset),
        };
        match read {
            Ok(()) => Ok(()),
            // It was long enough when it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            Err(source) => Err(io_error("read", &self.path)(source)),
        }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let by_handle = self.handle()?.metadata().map_err(io_error("read", &self.path))?;
        let by_path = fs::metadata(&self.path).map_err(io_error("read", &self.path))?;
        if info_of(&by_handle) != self.info || info_of(&by_path) != self.info {
            return Err(self.changed());
        }
        Ok(())
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        if self.readers.is_on()
            && len_bytes >= MIN_READ_AHEAD_BYTES
            && let Some(ahead) = self.ahead()
        {
            ahead.begin(&(offset..offset.saturating_add(len_bytes)));
            return;
        }
        self.advise(offset, len_bytes, Advice::WillNeed);
    }

    fn drop_cache(&self, offset: u64, len_bytes: u64) {
        let mut ahead = lock_mutex(&self.ahead);
        if let Some(open) = ahead.opened() {
            open.end(&(offset..offset.saturating_add(len_bytes).min(self.info.len_bytes)));
            if open.is_empty() && self.readers.is_crowded() {
                ahead.close();
            }
        }
        drop(ahead);
        self.advise(offset, len_bytes, Advice::DontNeed);
    }

    fn system_file(&self) -> Option<Arc<File>> {
        self.handle().ok()
    }
}

/// A file opened for writing.
#[derive(Debug)]
struct LocalOutput {
    path: PathBuf,
    file: Arc<File>,
    /// Where large writes go, which the system must have before anything else is asked of the file.
    direct: Option<DirectFile>,
}

impl LocalOutput {
    fn reserve(&self, len_bytes: u64) -> Result<(), Error> {
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len_bytes)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.file.set_len(len_bytes).map_err(io_error("reserve space for", &self.path))
            }
            Err(error) => Err(io_error("reserve space for", &self.path)(error.into())),
        }
    }

    fn settle(&self) -> Result<(), Error> {
        self.direct.as_ref().map_or(Ok(()), DirectFile::settle).map_err(io_error("write", &self.path))
    }
}

impl WriteAt for LocalOutput {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let written = match &self.direct {
            Some(direct) => direct.write_all_at(offset, bytes),
            None => self.file.write_all_at(bytes, offset),
        };
        written.map_err(io_error("write", &self.path))
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.settle()?;
        match self.file.read_exact_at(out, offset) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Truncated {
                path: self.path.clone(),
                wanted_bytes: offset.saturating_add(out.len() as u64),
                found_bytes: self.len_bytes()?,
            }),
            Err(source) => Err(io_error("read", &self.path)(source)),
        }
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        advise(&self.file, offset, len_bytes, Advice::WillNeed);
    }

    fn len_bytes(&self) -> Result<u64, Error> {
        self.settle()?;
        Ok(self.file.metadata().map_err(io_error("read", &self.path))?.len())
    }

    fn copy_from(&self, offset: u64, source: &dyn ReadAt, from: u64, len_bytes: u64) -> u64 {
        let Some(file) = source.system_file().filter(|_| self.settle().is_ok()) else { return 0 };
        let (mut source_offset, mut own_offset) = (from, offset);
        while source_offset - from < len_bytes {
            let left = usize::try_from(len_bytes - (source_offset - from)).unwrap_or(usize::MAX);
            let copy = || {
                rustix::fs::copy_file_range(&file, Some(&mut source_offset), &self.file, Some(&mut own_offset), left)
            };
            if !matches!(retry_on_intr(copy), Ok(1..)) {
                break;
            }
        }
        source_offset - from
    }

    fn start_writeback(&self, offset: u64, len_bytes: u64) {
        // On Linux this starts writing the dirty pages of the range before it looks for clean ones to drop;
        // `sync_file_range`, made for this, has no safe binding.
        advise(&self.file, offset, len_bytes, Advice::DontNeed);
    }

    fn write_back(&self) -> Result<(), Error> {
        match &self.direct {
            // Its blocks go to the medium by themselves, once they are full.
            Some(direct) => direct.check().map_err(io_error("write", &self.path)),
            None => self.sync(),
        }
    }

    fn sync(&self) -> Result<(), Error> {
        self.settle()?;
        // Length and place on the medium are part of this; only times are not.
        self.file.sync_data().map_err(io_error("sync", &self.path))
    }
}

/// Says how a part of a file will be used. That is only advice: a file system that takes none still reads and writes.
fn advise(file: &File, offset: u64, len_bytes: u64, advice: Advice) {
    // A length of zero would mean the rest of the file.
    if let Some(len_bytes) = NonZeroU64::new(len_bytes) {
        let _ = rustix::fs::fadvise(file, offset, Some(len_bytes), advice);
    }
}

/// The path without `/` or `/.` at its end, which would make the system follow a link that is meant itself.
fn without_slash(path: &Path) -> &Path {
    path.components().as_path()
}

/// Whether the error means that the file system has no locks, like some network file systems.
fn lacks_locks(error: Errno) -> bool {
    [Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOLCK].contains(&error)
}

/// Whether the system does not know this kind of rename; it also says so for a folder moved into itself.
fn lacks_rename_flags(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// The mount that a path is on, as far as the system tells: two of one disk differ only in this.
fn mount_of(path: &Path) -> Option<(u32, u32, u64)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::MNT_ID | StatxFlags::BASIC_STATS).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id))
}

impl LocalStorage {
    fn lock_by(&self, path: &Path, operation: FlockOperation) -> Result<Lock, Error> {
        /// How often the file may be replaced under us before we say that it is in use.
        const MAX_ATTEMPTS: usize = 8;
        check_local(path)?;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        for _ in 0..MAX_ATTEMPTS {
            if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
                return Err(Error::NotAFile { path: path.to_owned() });
            }
            let (file, info) = self.pool.open_with_room(|| open_if_regular(path, &options))?;
            match retry_on_intr(|| rustix::fs::flock(&file, operation)) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => break,
                // A file system without locks: two processes on one stage are then the user's care.
                Err(error) if lacks_locks(error) => return Ok(Lock::unsupported()),
                Err(error) => return Err(io_error("lock", path)(error.into())),
            }
            // Its last holder may have removed the file after we opened it: then our lock has no effect.
            if fs::metadata(path).is_ok_and(|metadata| info_of(&metadata).id == info.id) {
                return Ok(Lock::held(file));
            }
        }
        Err(Error::Locked { path: path.to_owned() })
    }
}

/// Checks that a path is one of a file system, and not an address such as `s3://bucket/run`.
///
/// # Errors
/// `UnsupportedScheme`.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::check_local;
///
/// assert!(check_local(Path::new("runs/s3:/a")).is_ok());
/// let refused = check_local(Path::new("gs://bucket/run")).unwrap_err();
/// assert!(refused.to_string().contains("`gs://`"));
/// ```
pub fn check_local(path: &Path) -> Result<(), Error> {
    match scheme_of(&path.to_string_lossy()) {
        Some(scheme) => Err(Error::UnsupportedScheme { path: path.to_owned(), scheme: scheme.to_owned() }),
        None => Ok(()),
    }
}

impl Storage for LocalStorage {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        check_local(path)?;
        if let Some(input) = piped_input(path)? {
            return Ok(input.info());
        }
        Ok(info_of(&fs::metadata(path).map_err(io_error("read", path))?))
    }

    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        check_local(path)?;
        let mut entries = Vec::new();
        for entry in self.pool.open_with_room(|| fs::read_dir(path).map_err(io_error("list", path)))? {
            let entry = entry.map_err(io_error("list", path))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let info = fs::metadata(entry.path()).ok().map(|metadata| info_of(&metadata));
            let kind = info.map_or(FileKind::Other, |info| info.kind);
            let len_bytes = info.filter(|info| info.kind == FileKind::File).map_or(0, |info| info.len_bytes);
            entries.push(FolderEntry { name, kind, len_bytes });
        }
        crate::storage::sort_entries(&mut entries);
        Ok(entries)
    }

    fn link_target(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        check_local(path)?;
        let path = without_slash(path);
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                fs::read_link(path).map(Some).map_err(io_error("read the link", path))
            }
            _ => Ok(None),
        }
    }

    fn keeps_folder(&self, path: &Path) -> Result<Option<&'static str>, Error> {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if mount_of(path) != mount_of(above) {
            return Ok(Some("something is mounted there, so it cannot be renamed"));
        }
        let may_change = |path: &Path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        Ok((!may_change(path)).then_some("its entries cannot be renamed: permission denied"))
    }

    fn set_io_memory(&self, n_written: usize, n_read: usize, limit_bytes: u64) -> u64 {
        let write_bytes = DirectWriters::bytes_for(n_written).min(limit_bytes);
        let read_bytes = DirectReaders::bytes_for(n_read).min(limit_bytes - write_bytes);
        self.writers.set_limit(write_bytes);
        self.readers.set_limit(read_bytes);
        write_bytes + read_bytes
    }

    fn count_entries(&self, path: &Path) -> Result<usize, Error> {
        Ok(self.pool.open_with_room(|| fs::read_dir(path).map_err(io_error("list", path)))?.count())
    }

    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        check_local(path)?;
        if let Some(input) = piped_input(path)? {
            return Ok(input);
        }
        let (file, info) = self.pool.open_with_room(|| open_regular(path, &reading()))?;
        let opened = Arc::new_cyclic(|this| LocalFile {
            path: path.to_owned(),
            info,
            handle: Mutex::new(Some(Arc::new(file))),
            was_used: AtomicBool::new(false),
            pool: Arc::clone(&self.pool),
            this: Weak::clone(this),
            readers: Arc::clone(&self.readers),
            ahead: Mutex::default(),
        });
        self.pool.admit(&opened);
        Ok(opened)
    }

    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        check_local(path)?;
        let options = updating().create_new(true).clone();
        let file = self.pool.open_with_room(|| options.open(path).map_err(io_error("create", path)))?;
        self.writers.forget(info_of(&file.metadata().map_err(io_error("create", path))?).id);
        let output = self.output(path, file);
        if len_bytes > 0
            && let Err(error) = output.reserve(len_bytes)
        {
            // What could not be made is not left in the way of the next attempt; the first error is the one that tells.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(self.large_output(output, len_bytes))
    }

    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        check_local(path)?;
        let (file, info) = self.pool.open_with_room(|| open_regular(path, &updating()))?;
        Ok(self.large_output(self.output(path, file), info.len_bytes))
    }

    fn open_together(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        check_local(path)?;
        let options = updating().create(true).truncate(false).clone();
        let (file, info) = self.pool.open_with_room(|| open_if_regular(path, &options))?;
        if info.len_bytes == 0 {
            self.writers.forget(info.id);
        }
        let output = self.output(path, file);
        if info.len_bytes < len_bytes {
            // Others may have the file open already, so it stays if this fails.
            output.reserve(len_bytes)?;
        }
        Ok(self.large_output(output, len_bytes))
    }

    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        check_local(path)?;
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && fs::metadata(folder).is_err();
        let missing: Vec<&Path> = without_slash(path).ancestors().take_while(is_missing).collect();
        fs::create_dir_all(path).map_err(io_error("create", path))?;
        // The caller syncs the folder next to the output, and cannot know that those above are new as well.
        missing.iter().skip(1).rev().filter_map(|folder| folder.parent()).try_for_each(|above| self.sync_folder(above))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let options = reading().custom_flags(flag_bits(OFlags::DIRECTORY | OFlags::NONBLOCK)).clone();
        let folder = self.pool.open_with_room(|| options.open(path).map_err(io_error("sync", path)))?;
        match rustix::fs::fsync(&folder) {
            // A file system that keeps no folders to sync, as some network ones, has done what it can.
            Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(io_error("sync", path)(error.into())),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let (at, from, to) = (rustix::fs::CWD, without_slash(from), without_slash(to));
        match rustix::fs::renameat_with(at, from, at, to, RenameFlags::NOREPLACE) {
            Err(error) if lacks_rename_flags(error) => {
                if fs::symlink_metadata(to).is_ok() {
                    return Err(io_error("rename to", to)(io::ErrorKind::AlreadyExists.into()));
                }
                fs::rename(from, to).map_err(io_error("rename", from))
            }
            Err(error @ Errno::EXIST) => Err(io_error("rename to", to)(error.into())),
            other => other.map_err(|error| io_error("rename", from)(error.into())),
        }
    }

    fn link_file(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::hard_link(from, to).map_err(io_error("link", from))
    }

    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        let (at, a, b) = (rustix::fs::CWD, without_slash(a), without_slash(b));
        rustix::fs::renameat_with(at, a, at, b, RenameFlags::EXCHANGE).map_err(|error| {
            let unsupported = io::ErrorKind::Unsupported.into();
            io_error("exchange", a)(if lacks_rename_flags(error) { unsupported } else { error.into() })
        })
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let path = without_slash(path);
        let metadata = fs::symlink_metadata(path).map_err(io_error("remove", path))?;
        let removed = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(io_error("remove", path))
    }

    fn free_bytes(&self, path: &Path) -> Result<Option<u64>, Error> {
        let existing = self.canonical_path(path)?;
        let existing = existing.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
        let stats = retry_on_intr(|| rustix::fs::statvfs(existing))
            .map_err(|error| io_error("find the free space of", path)(error.into()))?;
        Ok(Some(stats.f_bavail.saturating_mul(stats.f_frsize)))
    }

    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        check_local(path)?;
        let absolute = std::path::absolute(path).map_err(io_error("resolve", path))?;
        let mut real = PathBuf::new();
        for part in absolute.components() {
            match part {
                // `real` has no links, so the folder above it is the one it names.
                Component::ParentDir => {
                    real.pop();
                }
                part => real.push(part),
            }
            match fs::canonicalize(&real) {
                Ok(resolved) => real = resolved,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(io_error("resolve", path)(error)),
            }
        }
        Ok(real)
    }

    fn lock(&self, path: &Path) -> Result<Lock, Error> {
        self.lock_by(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_shared(&self, path: &Path) -> Result<Lock, Error> {
        self.lock_by(path, FlockOperation::NonBlockingLockShared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_have_no_locks_is_known_and_a_held_lock_is_none_of_them() {
        assert!([Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOLCK].into_iter().all(lacks_locks));
        assert!(![Errno::WOULDBLOCK, Errno::IO, Errno::ACCESS].into_iter().any(lacks_locks));
    }
}
