//! A disk in memory that loses power: it counts what changes it, stops at a chosen count, and then shows what a
//! real disk may show after the restart. It does not time anything, and locks nothing.

#![expect(clippy::unwrap_used, reason = "a fault of the disk itself must stop the test that uses it")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use thalweg_storage::{Error, FileInfo, FileKind, FolderEntry, ReadAt, Storage, WriteAt};

/// What is left after the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Only what was synced: content by file, names by folder.
    OnlySynced,
    /// All names, but only synced content: file systems may write names first.
    NamesFirst,
    /// Everything: the process was killed and the machine went on.
    Everything,
}

/// What happens at the chosen count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// Power fails: this act and all after it do nothing. A write is torn in the middle.
    PowerFails,
    /// This one act is refused.
    Refused,
    /// This one act finds the disk full.
    DiskFull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Folder(usize),
}

#[derive(Debug, Clone, Default)]
struct FileState {
    written: Vec<u8>,
    synced: Vec<u8>,
}

type Names = BTreeMap<String, Node>;

#[derive(Debug, Clone, Default)]
struct FolderState {
    written: Names,
    synced: Names,
}

#[derive(Debug, Clone)]
struct State {
    files: Vec<FileState>,
    folders: Vec<FolderState>,
    n_acts: u64,
    mishap: Option<(u64, Mishap)>,
    can_exchange: bool,
}

/// The disk; clones share it.
#[derive(Debug, Clone)]
pub struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct Open {
    disk: CrashDisk,
    path: PathBuf,
    file: usize,
    info: FileInfo,
}

fn fail(act: &'static str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::Io { act, path: path.to_owned(), source: kind.into() }
}

impl State {
    /// Counts an act; at the chosen one the mishap happens.
    fn act(&mut self, act: &'static str, path: &Path) -> Result<(), Error> {
        self.n_acts += 1;
        match self.mishap {
            Some((at, Mishap::PowerFails)) if self.n_acts >= at => Err(fail(act, path, io::ErrorKind::Other)),
            Some((at, Mishap::Refused)) if self.n_acts == at => Err(fail(act, path, io::ErrorKind::PermissionDenied)),
            Some((at, Mishap::DiskFull)) if self.n_acts == at => Err(fail(act, path, io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }

    fn is_torn(&self) -> bool {
        matches!(self.mishap, Some((at, Mishap::PowerFails)) if self.n_acts == at)
    }

    fn find(&self, path: &Path) -> Option<Node> {
        path.components().try_fold(Node::Folder(0), |node, part| match (node, part) {
            (node, Component::RootDir) => Some(node),
            (Node::Folder(folder), Component::Normal(name)) => {
                self.folders[folder].written.get(name.to_str()?).copied()
            }
            _ => None,
        })
    }

    fn need(&self, act: &'static str, path: &Path) -> Result<Node, Error> {
        self.find(path).ok_or_else(|| fail(act, path, io::ErrorKind::NotFound))
    }

    /// The names of the folder in which a path stands, and its own name.
    fn place(&mut self, act: &'static str, path: &Path) -> Result<(&mut Names, String), Error> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap().to_owned();
        match self.need(act, path.parent().unwrap())? {
            Node::Folder(folder) => Ok((&mut self.folders[folder].written, name)),
            Node::File(_) => Err(fail(act, path, io::ErrorKind::NotADirectory)),
        }
    }

    fn info(&self, node: Node) -> FileInfo {
        let (kind, len_bytes, id) = match node {
            Node::File(file) => (FileKind::File, self.files[file].written.len() as u64, (1, file as u64)),
            Node::Folder(folder) => (FileKind::Folder, 0, (2, folder as u64)),
        };
        FileInfo { kind, len_bytes, modified_ns: 0, id }
    }
}

impl Default for CrashDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl CrashDisk {
    /// An empty disk.
    pub fn new() -> Self {
        let folders = vec![FolderState::default()];
        Self(Arc::new(Mutex::new(State { files: Vec::new(), folders, n_acts: 0, mishap: None, can_exchange: true })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The disk as a storage.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// A disk with the same content that is not shared.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Acts so far.
    pub fn n_acts(&self) -> u64 {
        self.state().n_acts
    }

    /// Lets a mishap happen at the `at`-th act from now on, counted from 1.
    pub fn plan_mishap(&self, at: u64, mishap: Mishap) {
        let mut state = self.state();
        state.mishap = Some((state.n_acts + at, mishap));
    }

    /// Makes a disk of a system that cannot exchange two names in one step.
    pub fn forbid_exchange(&self) {
        self.state().can_exchange = false;
    }

    /// The disk after the restart.
    pub fn restart(&self, aftermath: Aftermath) -> Self {
        let mut state = self.state().clone();
        state.mishap = None;
        for file in state.files.iter_mut().filter(|_| aftermath != Aftermath::Everything) {
            file.written.clone_from(&file.synced);
        }
        for folder in state.folders.iter_mut().filter(|_| aftermath == Aftermath::OnlySynced) {
            folder.written.clone_from(&folder.synced);
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// Every file below a folder with its content; `None` if there is no folder.
    pub fn content(&self, folder: &Path) -> Option<BTreeMap<String, Vec<u8>>> {
        let state = self.state();
        let Some(Node::Folder(folder)) = state.find(folder) else { return None };
        let read = |(name, node): (&String, &Node)| match node {
            Node::File(file) => (name.clone(), state.files[*file].written.clone()),
            Node::Folder(_) => (format!("{name}/"), Vec::new()),
        };
        Some(state.folders[folder].written.iter().map(read).collect())
    }

    fn open(&self, act: &'static str, path: &Path) -> Result<Arc<Open>, Error> {
        let state = self.state();
        let node = state.need(act, path)?;
        let Node::File(file) = node else { return Err(Error::NotAFile { path: path.to_owned() }) };
        Ok(Arc::new(Open { disk: self.clone(), path: path.to_owned(), file, info: state.info(node) }))
    }
}

impl Open {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let state = self.disk.state();
        let written = &state.files[self.file].written;
        let start = usize::try_from(offset).unwrap();
        let Some(bytes) = written.get(start..start + out.len()) else {
            let (wanted_bytes, found_bytes) = (offset + out.len() as u64, written.len() as u64);
            return Err(Error::Truncated { path: self.path.clone(), wanted_bytes, found_bytes });
        };
        out.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for Open {
    fn info(&self) -> FileInfo {
        self.info
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.read(offset, out)
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let now = self.disk.state().info(Node::File(self.file));
        if now == self.info { Ok(()) } else { Err(Error::Changed { path: self.path.clone() }) }
    }
}

impl WriteAt for Open {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.disk.state();
        let allowed = state.act("write", &self.path);
        let kept = if allowed.is_ok() {
            bytes.len()
        } else if state.is_torn() {
            bytes.len() / 2
        } else {
            0
        };
        let start = usize::try_from(offset).unwrap();
        let written = &mut state.files[self.file].written;
        written.resize(written.len().max(start + kept), 0);
        written[start..start + kept].copy_from_slice(&bytes[..kept]);
        allowed
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.read(offset, out)
    }

    fn len_bytes(&self) -> Result<u64, Error> {
        Ok(self.disk.state().files[self.file].written.len() as u64)
    }

    fn sync(&self) -> Result<(), Error> {
        let mut state = self.disk.state();
        state.act("sync", &self.path)?;
        let file = &mut state.files[self.file];
        file.synced.clone_from(&file.written);
        Ok(())
    }
}

impl Storage for CrashDisk {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        let state = self.state();
        Ok(state.info(state.need("read", path)?))
    }

    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        let state = self.state();
        let Node::Folder(folder) = state.need("list", path)? else {
            return Err(fail("list", path, io::ErrorKind::NotADirectory));
        };
        let entry = |(name, node): (&String, &Node)| {
            let info = state.info(*node);
            FolderEntry { name: name.clone(), kind: info.kind, len_bytes: info.len_bytes }
        };
        Ok(state.folders[folder].written.iter().map(entry).collect())
    }

    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        Ok(self.open("open", path)?)
    }

    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        let mut state = self.state();
        state.act("create", path)?;
        let file = state.files.len();
        let (names, name) = state.place("create", path)?;
        if names.contains_key(&name) {
            return Err(fail("create", path, io::ErrorKind::AlreadyExists));
        }
        names.insert(name, Node::File(file));
        state.files.push(FileState { written: vec![0; usize::try_from(len_bytes).unwrap()], synced: Vec::new() });
        drop(state);
        Ok(self.open("create", path)?)
    }

    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        Ok(self.open("open", path)?)
    }

    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.state();
        state.act("create", path)?;
        let missing: Vec<&Path> = path.ancestors().take_while(|path| state.find(path).is_none()).collect();
        for path in missing.into_iter().rev() {
            let folder = state.folders.len();
            state.folders.push(FolderState::default());
            let (names, name) = state.place("create", path)?;
            names.insert(name, Node::Folder(folder));
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.state();
        state.act("sync", path)?;
        if let Node::Folder(folder) = state.need("sync", path)? {
            let folder = &mut state.folders[folder];
            folder.synced.clone_from(&folder.written);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut state = self.state();
        state.act("rename", from)?;
        if state.find(to).is_some() {
            return Err(fail("rename", to, io::ErrorKind::AlreadyExists));
        }
        let node = state.need("rename", from)?;
        let (names, name) = state.place("rename", from)?;
        names.remove(&name);
        let (names, name) = state.place("rename", to)?;
        names.insert(name, node);
        Ok(())
    }

    fn exchange(&self, a: &Path, b: &Path) -> Result<(), Error> {
        let mut state = self.state();
        if !state.can_exchange {
            return Err(fail("exchange", a, io::ErrorKind::Unsupported));
        }
        state.act("exchange", a)?;
        let (node_a, node_b) = (state.need("exchange", a)?, state.need("exchange", b)?);
        for (path, node) in [(a, node_b), (b, node_a)] {
            let (names, name) = state.place("exchange", path)?;
            names.insert(name, node);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.state();
        state.need("remove", path)?;
        state.act("remove", path)?;
        let (names, name) = state.place("remove", path)?;
        names.remove(&name);
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(path.to_owned())
    }

    fn lock(&self, _path: &Path) -> Result<Box<dyn std::fmt::Debug + Send + Sync>, Error> {
        Ok(Box::new(()))
    }
}
