//! A disk in memory that loses power: it counts what is done to it, fails where it is told to, and then shows what a
//! real disk may show after the restart.
//!
//! It keeps two images. Writes, new names, renames and removals go to the *live* one. A sync of a file makes its
//! content durable, and nothing else; a sync of a folder makes the names in it durable, and no content.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thalweg_storage::{Error, FileInfo, FolderEntry, Lock, ReadAt, Storage, WriteAt};

use crate::crash_image::{Image, Node};

/// What is left after the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Only what was synced: content by file, names by folder.
    OnlySynced,
    /// All names, but only synced content: file systems may write names first.
    NamesFirst,
    /// Everything: the process was killed and the machine kept running.
    Everything,
    /// What was synced, and of the rest what this seed picks: some sectors of unsynced writes, some acts on names. A
    /// rename or an exchange stays one act.
    Reordered(u64),
}

/// What happens at the chosen act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// Power fails: this act and all after it, reading included, do nothing and are errors.
    PowerFails,
    /// The same, but a write at this act is torn: its first half lands.
    PowerFailsTorn,
    /// This one act is refused.
    Refused,
    /// This one act finds the disk full.
    DiskFull,
}

/// What happens at the chosen read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFault {
    /// The medium reports an error.
    Io,
    /// Half of the bytes come, then the file ends.
    Short,
}

/// What was done to a disk so far, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActCounts {
    /// Writes to files.
    pub n_writes: u64,
    /// Syncs of files and folders.
    pub n_syncs: u64,
    /// Renames and exchanges.
    pub n_renames: u64,
    /// New files and folders.
    pub n_creates: u64,
    /// Removed files and folders, each one apart.
    pub n_removes: u64,
    /// Reads of files; these are not acts.
    pub n_reads: u64,
}

impl ActCounts {
    /// All that can change the disk.
    pub fn n_acts(&self) -> u64 {
        self.n_writes + self.n_syncs + self.n_renames + self.n_creates + self.n_removes
    }
}

/// Renames that a disk can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renames {
    All,
    NoExchange,
    Refused,
}

#[derive(Debug, Clone)]
struct State {
    image: Image,
    counts: ActCounts,
    mishap: Option<(u64, Mishap)>,
    read_fault: Option<(u64, ReadFault)>,
    has_power: bool,
    renames: Renames,
    capacity_bytes: Option<u64>,
    /// The locks that are held, and whether each is shared.
    locked: Vec<(PathBuf, bool)>,
}

/// The most that any such disk holds: a length that comes from a broken file is refused before it is allocated.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Debug, Clone, Copy)]
enum Act {
    Write,
    Sync,
    Rename,
    Create,
    Remove,
}

/// The disk; clones share it.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::Storage;
/// use thalweg_testkit::crash_disk::{Aftermath, CrashDisk};
///
/// let disk = CrashDisk::new();
/// disk.create_file(Path::new("/a"), 0)?.sync()?;
/// // Its content is durable, but not yet its name.
/// let after = disk.after_crash(Aftermath::OnlySynced);
/// assert!(after.file_info(Path::new("/a")).is_err());
/// # Ok::<(), thalweg_storage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct OpenFile {
    disk: CrashDisk,
    path: PathBuf,
    file_idx: usize,
    info: FileInfo,
}

fn fail(act: &'static str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::Io { act, path: path.to_owned(), source: kind.into() }
}

impl State {
    fn check_power(&self, act: &'static str, path: &Path) -> Result<(), Error> {
        let no_power = || Error::Io { act, path: path.to_owned(), source: io::Error::other("the power failed") };
        if self.has_power { Ok(()) } else { Err(no_power()) }
    }

    /// Counts an act; at the chosen one the mishap happens.
    fn act(&mut self, act: Act, verb: &'static str, path: &Path) -> Result<(), Error> {
        self.check_power(verb, path)?;
        let counts = &mut self.counts;
        match act {
            Act::Write => counts.n_writes += 1,
            Act::Sync => counts.n_syncs += 1,
            Act::Rename => counts.n_renames += 1,
            Act::Create => counts.n_creates += 1,
            Act::Remove => counts.n_removes += 1,
        }
        let Some((_, mishap)) = self.mishap.filter(|(at, _)| *at == counts.n_acts()) else { return Ok(()) };
        match mishap {
            Mishap::Refused => Err(fail(verb, path, io::ErrorKind::PermissionDenied)),
            Mishap::DiskFull => Err(fail(verb, path, io::ErrorKind::StorageFull)),
            Mishap::PowerFails | Mishap::PowerFailsTorn => {
                self.has_power = false;
                self.check_power(verb, path)
            }
        }
    }

    fn is_torn(&self) -> bool {
        self.mishap.is_some_and(|(at, mishap)| mishap == Mishap::PowerFailsTorn && self.counts.n_acts() == at)
    }

    /// Whether files may hold this many bytes more.
    fn check_room(&self, verb: &'static str, path: &Path, n_more: u64) -> Result<(), Error> {
        let capacity_bytes = self.capacity_bytes.unwrap_or(MAX_BYTES);
        if self.image.used_bytes().saturating_add(n_more) > capacity_bytes {
            Err(fail(verb, path, io::ErrorKind::StorageFull))
        } else {
            Ok(())
        }
    }

    fn need(&self, verb: &'static str, path: &Path) -> Result<Node, Error> {
        self.check_power(verb, path)?;
        self.image.find(&normal_names(path)).map_err(|kind| fail(verb, path, kind))
    }

    /// The folder in which something new may go, and its name.
    fn free_place(&self, verb: &'static str, path: &Path) -> Result<(usize, String), Error> {
        if self.need(verb, path).is_ok() {
            return Err(fail(verb, path, io::ErrorKind::AlreadyExists));
        }
        self.place(verb, path)
    }

    fn place(&self, verb: &'static str, path: &Path) -> Result<(usize, String), Error> {
        let mut names = normal_names(path);
        let name = names.pop().ok_or_else(|| fail(verb, path, io::ErrorKind::InvalidInput))?;
        match self.image.find(&names).map_err(|kind| fail(verb, path, kind))? {
            Node::Folder(folder_idx) => Ok((folder_idx, name)),
            Node::File(_) => Err(fail(verb, path, io::ErrorKind::NotADirectory)),
        }
    }

    fn remove_tree(&mut self, path: &Path) -> Result<(), Error> {
        if let Node::Folder(folder_idx) = self.need("remove", path)? {
            for name in self.image.names(folder_idx) {
                self.remove_tree(&path.join(name))?;
            }
        }
        let (folder_idx, name) = self.place("remove", path)?;
        self.act(Act::Remove, "remove", path)?;
        self.image.set_names([(folder_idx, name, None)]);
        Ok(())
    }

    fn check_nesting(&self, verb: &'static str, inner: &Path, outer: &Path) -> Result<(), Error> {
        let is_inside = normal_names(inner).starts_with(&normal_names(outer));
        if is_inside { Err(fail(verb, outer, io::ErrorKind::InvalidInput)) } else { Ok(()) }
    }
}

/// The names on the way from the root.
fn normal_names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names
}

impl Default for CrashDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl CrashDisk {
    /// An empty disk with power, renames and room.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            image: Image::default(),
            counts: ActCounts::default(),
            mishap: None,
            read_fault: None,
            has_power: true,
            renames: Renames::All,
            capacity_bytes: None,
            locked: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as others see it.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// A disk with the same content and past that is not shared.
    pub fn copy(&self) -> Self {
        let mut state = self.state().clone();
        state.locked.clear();
        Self(Arc::new(Mutex::new(state)))
    }

    /// What was done so far.
    pub fn counts(&self) -> ActCounts {
        self.state().counts
    }

    /// Everything that could change the disk so far.
    pub fn n_acts(&self) -> u64 {
        self.counts().n_acts()
    }

    /// Lets a mishap happen at the `at`-th act from now on, counted from 1.
    pub fn plan_mishap(&self, at: u64, mishap: Mishap) {
        let mut state = self.state();
        state.mishap = Some((state.counts.n_acts() + at, mishap));
    }

    /// Lets the `at`-th read from now on fail, counted from 1.
    pub fn plan_read_fault(&self, at: u64, fault: ReadFault) {
        let mut state = self.state();
        state.read_fault = Some((state.counts.n_reads + at, fault));
    }

    /// From now on exchanges are unsupported, as on many file systems.
    pub fn forbid_exchange(&self) {
        self.state().renames = Renames::NoExchange;
    }

    /// From now on every rename and exchange is refused.
    pub fn refuse_renames(&self) {
        self.state().renames = Renames::Refused;
    }

    /// From now on the disk is full when its files hold this many bytes.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.state().capacity_bytes = Some(capacity_bytes);
    }

    /// Makes everything durable that was done so far; no act.
    pub fn settle(&self) {
        let mut state = self.state();
        state.image = std::mem::take(&mut state.image).flushed();
    }

    /// The disk after the restart: power is back, locks are gone, no mishap is planned.
    pub fn after_crash(&self, aftermath: Aftermath) -> Self {
        let mut state = self.state().clone();
        state.mishap = None;
        state.read_fault = None;
        state.has_power = true;
        state.locked.clear();
        state.image = match aftermath {
            Aftermath::OnlySynced => state.image.synced(),
            Aftermath::NamesFirst => state.image.with_synced_content(),
            Aftermath::Everything => state.image.flushed(),
            Aftermath::Reordered(seed) => state.image.reordered(seed),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Every name in a folder with the live content of its file, folders with a `/` behind; `None` if there is no
    /// folder.
    pub fn content(&self, folder: &Path) -> Option<BTreeMap<String, Vec<u8>>> {
        let state = self.state();
        let Ok(Node::Folder(folder_idx)) = state.image.find(&normal_names(folder)) else { return None };
        Some(state.image.content(folder_idx))
    }

    /// A hash of all names and contents: most power failures leave a disk that an earlier one left already, and what a
    /// program makes of it need not be tried twice.
    pub fn content_hash(&self) -> u64 {
        self.state().image.live_hash()
    }

    fn open(&self, path: &Path) -> Result<Arc<OpenFile>, Error> {
        let state = self.state();
        match state.need("open", path)? {
            Node::Folder(_) => Err(Error::NotAFile { path: path.to_owned() }),
            node @ Node::File(file_idx) => {
                let info = state.image.info(node);
                Ok(Arc::new(OpenFile { disk: self.clone(), path: path.to_owned(), file_idx, info }))
            }
        }
    }
}

impl OpenFile {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut state = self.disk.state();
        state.check_power("read", &self.path)?;
        state.counts.n_reads += 1;
        let fault = state.read_fault.filter(|(at, _)| *at == state.counts.n_reads).map(|(_, fault)| fault);
        let wanted_bytes = offset.saturating_add(out.len() as u64);
        let truncated = |found_bytes| Error::Truncated { path: self.path.clone(), wanted_bytes, found_bytes };
        let bytes = state.image.bytes(self.file_idx);
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(out.len())?));
        let bytes = range.and_then(|range| bytes.get(range)).ok_or_else(|| truncated(bytes.len() as u64))?;
        match fault {
            None => out.copy_from_slice(bytes),
            Some(ReadFault::Io) => {
                let source = io::Error::other("the medium cannot be read");
                return Err(Error::Io { act: "read", path: self.path.clone(), source });
            }
            Some(ReadFault::Short) => {
                let half = out.len() / 2;
                out[..half].copy_from_slice(&bytes[..half]);
                return Err(truncated(offset + half as u64));
            }
        }
        Ok(())
    }
}

impl ReadAt for OpenFile {
    fn info(&self) -> FileInfo {
        self.info
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.read(offset, out)
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let state = self.disk.state();
        let by_path = state.image.info(state.need("read", &self.path)?);
        if by_path != self.info || state.image.info(Node::File(self.file_idx)) != self.info {
            return Err(Error::Changed { path: self.path.clone() });
        }
        Ok(())
    }
}

impl WriteAt for OpenFile {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let too_large = || fail("write", &self.path, io::ErrorKind::FileTooLarge);
        let start = usize::try_from(offset).map_err(|_| too_large())?;
        let end = start.checked_add(bytes.len()).ok_or_else(too_large)?;
        let mut state = self.disk.state();
        let allowed = state.act(Act::Write, "write", &self.path);
        if allowed.is_err() {
            if state.is_torn() {
                state.image.write(self.file_idx, start, &bytes[..bytes.len() / 2]);
            }
            return allowed;
        }
        let n_more = end.saturating_sub(state.image.bytes(self.file_idx).len());
        state.check_room("write", &self.path, n_more as u64)?;
        state.image.write(self.file_idx, start, bytes);
        Ok(())
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.read(offset, out)
    }

    fn len_bytes(&self) -> Result<u64, Error> {
        let state = self.disk.state();
        state.check_power("read", &self.path)?;
        Ok(state.image.bytes(self.file_idx).len() as u64)
    }

    fn sync(&self) -> Result<(), Error> {
        let mut state = self.disk.state();
        state.act(Act::Sync, "sync", &self.path)?;
        state.image.sync_file(self.file_idx);
        Ok(())
    }
}

/// A lock that is held.
#[derive(Debug)]
struct CrashLock {
    disk: CrashDisk,
    path: PathBuf,
}

impl Drop for CrashLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if let Some(at) = state.locked.iter().position(|(path, _)| *path == self.path) {
            state.locked.remove(at);
        }
    }
}

impl CrashDisk {
    fn take_lock(&self, path: &Path, is_shared: bool) -> Result<Lock, Error> {
        match self.open(path) {
            Err(error) if error.is_not_found() => drop(self.create_file(path, 0)?),
            opened => drop(opened?),
        }
        let place = self.canonical_path(path)?;
        let mut state = self.state();
        if state.locked.iter().any(|(locked, both)| *locked == place && !(is_shared && *both)) {
            return Err(Error::Locked { path: path.to_owned() });
        }
        state.locked.push((place.clone(), is_shared));
        Ok(Lock::held(CrashLock { disk: self.clone(), path: place }))
    }
}

impl Storage for CrashDisk {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        let state = self.state();
        Ok(state.image.info(state.need("read", path)?))
    }

    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        let state = self.state();
        match state.need("list", path)? {
            Node::Folder(folder_idx) => Ok(state.image.list(folder_idx)),
            Node::File(_) => Err(fail("list", path, io::ErrorKind::NotADirectory)),
        }
    }

    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        Ok(self.open(path)?)
    }

    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        let mut state = self.state();
        state.act(Act::Create, "create", path)?;
        let (folder_idx, name) = state.free_place("create", path)?;
        state.check_room("reserve space for", path, len_bytes)?;
        let len_bytes = usize::try_from(len_bytes).map_err(|_| fail("create", path, io::ErrorKind::FileTooLarge))?;
        state.image.add_file(folder_idx, name, len_bytes);
        drop(state);
        Ok(self.open(path)?)
    }

    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        Ok(self.open(path)?)
    }

    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.state();
        let names = normal_names(path);
        let mut above = PathBuf::from("/");
        let mut folder_idx = 0;
        for (depth, name) in names.iter().enumerate() {
            above.push(name);
            folder_idx = match state.need("create", &above) {
                Ok(Node::Folder(folder_idx)) => folder_idx,
                Ok(Node::File(_)) => {
                    let is_last = depth + 1 == names.len();
                    let kind = if is_last { io::ErrorKind::AlreadyExists } else { io::ErrorKind::NotADirectory };
                    return Err(fail("create", path, kind));
                }
                Err(error) if error.is_not_found() => {
                    state.act(Act::Create, "create", &above)?;
                    let made = state.image.add_folder(folder_idx, name.clone());
                    if depth + 1 < names.len() {
                        state.act(Act::Sync, "sync", &above)?;
                        state.image.sync_folder(folder_idx);
                    }
                    made
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.state();
        state.act(Act::Sync, "sync", path)?;
        match state.need("sync", path)? {
            Node::Folder(folder_idx) => state.image.sync_folder(folder_idx),
            Node::File(_) => return Err(fail("sync", path, io::ErrorKind::NotADirectory)),
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut state = self.state();
        state.act(Act::Rename, "rename", from)?;
        if state.renames == Renames::Refused {
            return Err(fail("rename", from, io::ErrorKind::PermissionDenied));
        }
        let node = state.need("rename", from)?;
        let (to_folder, to_name) = state.free_place("rename to", to)?;
        state.check_nesting("rename", to, from)?;
        let (from_folder, from_name) = state.place("rename", from)?;
        state.image.set_names([(from_folder, from_name, None), (to_folder, to_name, Some(node))]);
        Ok(())
    }

    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        let mut state = self.state();
        if state.renames == Renames::NoExchange {
            return Err(fail("exchange", a, io::ErrorKind::Unsupported));
        }
        state.act(Act::Rename, "exchange", a)?;
        if state.renames == Renames::Refused {
            return Err(fail("exchange", a, io::ErrorKind::PermissionDenied));
        }
        let (a_node, b_node) = (state.need("exchange", a)?, state.need("exchange", b)?);
        state.check_nesting("exchange", a, b)?;
        state.check_nesting("exchange", b, a)?;
        let ((a_folder, a_name), (b_folder, b_name)) = (state.place("exchange", a)?, state.place("exchange", b)?);
        state.image.set_names([(a_folder, a_name, Some(b_node)), (b_folder, b_name, Some(a_node))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        self.state().remove_tree(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<Option<u64>, Error> {
        let state = self.state();
        state.check_power("find the free space of", path)?;
        Ok(state.capacity_bytes.map(|capacity| capacity.saturating_sub(state.image.used_bytes())))
    }

    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(normal_names(path).iter().fold(PathBuf::from("/"), |path, name| path.join(name)))
    }

    fn lock(&self, path: &Path) -> Result<Lock, Error> {
        self.take_lock(path, false)
    }

    fn lock_shared(&self, path: &Path) -> Result<Lock, Error> {
        self.take_lock(path, true)
    }
}
