//! A disk in memory behind the `Storage` trait: for tests, and for outputs that are not kept.
//!
//! Nothing in it survives the process, so a sync does nothing. There are no links, and relative paths start at the
//! root.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::{Error, FileInfo, FileKind, FolderEntry, Lock, ReadAt, Storage, WriteAt};

fn fail(act: &'static str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::Io { act, path: path.to_owned(), source: kind.into() }
}

/// A disk in memory; clones share it.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::{MemoryStorage, Storage};
///
/// let storage = MemoryStorage::new();
/// storage.create_file(Path::new("/a"), 0)?.write_all_at(0, b"abc")?;
/// assert_eq!(storage.read_file(Path::new("/a"), 10)?, b"abc");
/// # Ok::<(), thalweg_storage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    disk: Arc<Disk>,
}

#[derive(Debug)]
struct Disk {
    tree: Mutex<Tree>,
    space: Arc<Space>,
}

/// Everything by its whole path; what a folder holds follows it in this order.
#[derive(Debug)]
struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    /// Whether each lock that is held is shared, and by how many.
    locked: BTreeMap<PathBuf, (bool, usize)>,
    n_made: u64,
}

#[derive(Debug, Clone)]
enum Node {
    File(Arc<MemoryFile>),
    Folder(u64),
}

/// Room for the content of files, those included that are removed but still open.
#[derive(Debug)]
struct Space {
    capacity_bytes: u64,
    used_bytes: AtomicU64,
}

impl Space {
    fn take(&self, n_bytes: u64) -> Result<(), io::ErrorKind> {
        let take = |used: u64| used.checked_add(n_bytes).filter(|&used| used <= self.capacity_bytes);
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(|_| ()).map_err(|_| io::ErrorKind::StorageFull)
    }
}

#[derive(Debug)]
struct MemoryFile {
    number: u64,
    content: RwLock<Content>,
    space: Arc<Space>,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    /// Stands in for the time of the last change.
    n_changes: u64,
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.space.used_bytes.fetch_sub(content.bytes.len() as u64, Ordering::Relaxed);
    }
}

impl MemoryFile {
    fn info(&self) -> FileInfo {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        FileInfo {
            kind: FileKind::File,
            len_bytes: content.bytes.len() as u64,
            modified_ns: i128::from(content.n_changes),
            changed_ns: 0,
            id: (1, self.number),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), io::ErrorKind> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            return Ok(());
        }
        self.grow(&mut content, end)?;
        content.bytes[start..end].copy_from_slice(bytes);
        content.n_changes += 1;
        Ok(())
    }

    fn grow(&self, content: &mut Content, len_bytes: usize) -> Result<(), io::ErrorKind> {
        let n_more = len_bytes.saturating_sub(content.bytes.len());
        self.space.take(n_more as u64)?;
        if content.bytes.try_reserve(n_more).is_err() {
            self.space.used_bytes.fetch_sub(n_more as u64, Ordering::Relaxed);
            return Err(io::ErrorKind::StorageFull);
        }
        content.bytes.resize(content.bytes.len() + n_more, 0);
        Ok(())
    }

    /// Fills `out`, or says how long the file is.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), u64> {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(out.len())?));
        let bytes = range.and_then(|range| content.bytes.get(range)).ok_or(content.bytes.len() as u64)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file of the disk, opened.
#[derive(Debug)]
struct OpenFile {
    disk: Arc<Disk>,
    path: PathBuf,
    /// When it was opened.
    info: FileInfo,
    file: Arc<MemoryFile>,
}

impl OpenFile {
    fn truncated(&self, offset: u64, n_bytes: usize, found_bytes: u64) -> Error {
        let wanted_bytes = offset.saturating_add(n_bytes as u64);
        Error::Truncated { path: self.path.clone(), wanted_bytes, found_bytes }
    }
}

impl ReadAt for OpenFile {
    fn info(&self) -> FileInfo {
        self.info
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let n_bytes = out.len();
        self.file.read(offset, out).or_else(|found_bytes| {
            self.check_unchanged()?;
            Err(self.truncated(offset, n_bytes, found_bytes))
        })
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let by_path = self.disk.tree().need("read", &self.path)?.info();
        if self.file.info() != self.info || by_path != self.info {
            return Err(Error::Changed { path: self.path.clone() });
        }
        Ok(())
    }
}

impl WriteAt for OpenFile {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write(offset, bytes).map_err(|kind| fail("write", &self.path, kind))
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let n_bytes = out.len();
        self.file.read(offset, out).map_err(|found_bytes| self.truncated(offset, n_bytes, found_bytes))
    }

    fn len_bytes(&self) -> Result<u64, Error> {
        Ok(self.file.info().len_bytes)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Node {
    fn info(&self) -> FileInfo {
        match self {
            Self::File(file) => file.info(),
            Self::Folder(number) => {
                FileInfo { kind: FileKind::Folder, len_bytes: 0, modified_ns: 0, changed_ns: 0, id: (1, *number) }
            }
        }
    }
}

/// The path from the root, without `.` and `..`.
fn normal_path(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    normal
}

impl Disk {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    /// What is at a path; a file in the place of a folder differs from nothing at all.
    fn need(&self, act: &'static str, path: &Path) -> Result<&Node, Error> {
        let normal = normal_path(path);
        self.nodes.get(&normal).ok_or_else(|| {
            let below_file = normal.ancestors().any(|above| matches!(self.nodes.get(above), Some(Node::File(_))));
            fail(act, path, if below_file { io::ErrorKind::NotADirectory } else { io::ErrorKind::NotFound })
        })
    }

    /// Where something new may go: in a folder, where nothing exists yet.
    fn free_place(&self, act: &'static str, path: &Path) -> Result<PathBuf, Error> {
        let normal = normal_path(path);
        if self.nodes.contains_key(&normal) {
            return Err(fail(act, path, io::ErrorKind::AlreadyExists));
        }
        let parent = normal.parent().unwrap_or(Path::new("/"));
        match self.need(act, parent) {
            Ok(Node::Folder(_)) => Ok(normal),
            Ok(Node::File(_)) => Err(fail(act, path, io::ErrorKind::NotADirectory)),
            Err(Error::Io { source, .. }) => Err(fail(act, path, source.kind())),
            Err(error) => Err(error),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.n_made += 1;
        self.n_made
    }

    /// Removes and returns what is at a path, with all below it.
    fn take_subtree(&mut self, top: &Path) -> Vec<(PathBuf, Node)> {
        let paths = self.nodes.range(top.to_owned()..).map(|(path, _)| path);
        let paths: Vec<PathBuf> = paths.take_while(|path| path.starts_with(top)).cloned().collect();
        paths.into_iter().filter_map(|path| self.nodes.remove_entry(&path)).collect()
    }

    fn put_subtree(&mut self, subtree: Vec<(PathBuf, Node)>, from: &Path, to: &Path) {
        for (path, node) in subtree {
            let path = match path.strip_prefix(from) {
                Ok(below) if !below.as_os_str().is_empty() => to.join(below),
                _ => to.to_owned(),
            };
            self.nodes.insert(path, node);
        }
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// An empty disk.
    pub fn new() -> Self {
        Self::with_capacity_bytes(u64::MAX)
    }

    /// An empty disk that is full when its files hold `capacity_bytes`.
    pub fn with_capacity_bytes(capacity_bytes: u64) -> Self {
        let nodes = BTreeMap::from([(PathBuf::from("/"), Node::Folder(0))]);
        let tree = Mutex::new(Tree { nodes, locked: BTreeMap::new(), n_made: 0 });
        let space = Arc::new(Space { capacity_bytes, used_bytes: AtomicU64::new(0) });
        Self { disk: Arc::new(Disk { tree, space }) }
    }

    fn open(&self, path: &Path) -> Result<Arc<OpenFile>, Error> {
        match self.disk.tree().need("open", path)? {
            Node::Folder(_) => Err(Error::NotAFile { path: path.to_owned() }),
            Node::File(file) => Ok(self.opened(path, file)),
        }
    }

    fn opened(&self, path: &Path, file: &Arc<MemoryFile>) -> Arc<OpenFile> {
        let (disk, file) = (Arc::clone(&self.disk), Arc::clone(file));
        Arc::new(OpenFile { disk, path: path.to_owned(), info: file.info(), file })
    }
}

impl MemoryStorage {
    fn take_lock(&self, path: &Path, is_shared: bool) -> Result<Lock, Error> {
        match self.open(path) {
            Err(error) if error.is_not_found() => drop(self.create_file(path, 0)?),
            opened => drop(opened?),
        }
        let place = normal_path(path);
        let mut tree = self.disk.tree();
        match tree.locked.get_mut(&place) {
            Some((true, n_holders)) if is_shared => *n_holders += 1,
            Some(_) => return Err(Error::Locked { path: path.to_owned() }),
            None => drop(tree.locked.insert(place.clone(), (is_shared, 1))),
        }
        drop(tree);
        Ok(Lock::held(MemoryLock { disk: Arc::clone(&self.disk), path: place }))
    }
}

/// A lock that is held.
#[derive(Debug)]
struct MemoryLock {
    disk: Arc<Disk>,
    path: PathBuf,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut tree = self.disk.tree();
        match tree.locked.get_mut(&self.path) {
            Some((_, n_holders)) if *n_holders > 1 => *n_holders -= 1,
            _ => drop(tree.locked.remove(&self.path)),
        }
    }
}

impl Storage for MemoryStorage {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        Ok(self.disk.tree().need("read", path)?.info())
    }

    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        let tree = self.disk.tree();
        if let Node::File(_) = tree.need("list", path)? {
            return Err(fail("list", path, io::ErrorKind::NotADirectory));
        }
        let folder = normal_path(path);
        let inside = tree.nodes.range(folder.clone()..).take_while(|(path, _)| path.starts_with(&folder));
        let entries = inside.filter(|(path, _)| path.parent() == Some(&*folder)).filter_map(|(path, node)| {
            let info = node.info();
            let name = path.file_name()?.to_str()?.to_owned();
            Some(FolderEntry { name, kind: info.kind, len_bytes: info.len_bytes })
        });
        let mut entries: Vec<FolderEntry> = entries.collect();
        crate::storage::sort_entries(&mut entries);
        Ok(entries)
    }

    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        Ok(self.open(path)?)
    }

    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        let mut tree = self.disk.tree();
        let place = tree.free_place("create", path)?;
        let content = RwLock::new(Content { bytes: Vec::new(), n_changes: 0 });
        let file = MemoryFile { number: tree.next_number(), content, space: Arc::clone(&self.disk.space) };
        let len_bytes = usize::try_from(len_bytes).map_err(|_| fail("create", path, io::ErrorKind::FileTooLarge))?;
        {
            let mut content = file.content.write().unwrap_or_else(PoisonError::into_inner);
            let grown = file.grow(&mut content, len_bytes);
            grown.map_err(|kind| fail("reserve space for", path, kind))?;
        }
        let file = Arc::new(file);
        tree.nodes.insert(place, Node::File(Arc::clone(&file)));
        Ok(self.opened(path, &file))
    }

    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        Ok(self.open(path)?)
    }

    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        let mut tree = self.disk.tree();
        let normal = normal_path(path);
        if normal.ancestors().any(|above| matches!(tree.nodes.get(above), Some(Node::File(_)))) {
            let is_last = matches!(tree.nodes.get(&normal), Some(Node::File(_)));
            let kind = if is_last { io::ErrorKind::AlreadyExists } else { io::ErrorKind::NotADirectory };
            return Err(fail("create", path, kind));
        }
        for above in normal.ancestors() {
            let number = tree.next_number();
            tree.nodes.entry(above.to_owned()).or_insert(Node::Folder(number));
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        match self.disk.tree().need("sync", path)? {
            Node::Folder(_) => Ok(()),
            Node::File(_) => Err(fail("sync", path, io::ErrorKind::NotADirectory)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut tree = self.disk.tree();
        tree.need("rename", from)?;
        let (from_place, to_place) = (normal_path(from), tree.free_place("rename to", to)?);
        if to_place.starts_with(&from_place) {
            return Err(fail("rename", from, io::ErrorKind::InvalidInput));
        }
        let subtree = tree.take_subtree(&from_place);
        tree.put_subtree(subtree, &from_place, &to_place);
        Ok(())
    }

    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        let mut tree = self.disk.tree();
        tree.need("exchange", a)?;
        tree.need("exchange", b)?;
        let (a_place, b_place) = (normal_path(a), normal_path(b));
        if a_place.starts_with(&b_place) || b_place.starts_with(&a_place) {
            return Err(fail("exchange", a, io::ErrorKind::InvalidInput));
        }
        let (a_tree, b_tree) = (tree.take_subtree(&a_place), tree.take_subtree(&b_place));
        tree.put_subtree(a_tree, &a_place, &b_place);
        tree.put_subtree(b_tree, &b_place, &a_place);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let mut tree = self.disk.tree();
        tree.need("remove", path)?;
        let place = normal_path(path);
        if place.parent().is_none() {
            return Err(fail("remove", path, io::ErrorKind::InvalidInput));
        }
        tree.take_subtree(&place);
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> Result<Option<u64>, Error> {
        let space = &self.disk.space;
        let free = space.capacity_bytes.saturating_sub(space.used_bytes.load(Ordering::Relaxed));
        Ok(Some(free).filter(|_| space.capacity_bytes < u64::MAX))
    }

    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(normal_path(path))
    }

    fn lock(&self, path: &Path) -> Result<Lock, Error> {
        self.take_lock(path, false)
    }

    fn lock_shared(&self, path: &Path) -> Result<Lock, Error> {
        self.take_lock(path, true)
    }
}
