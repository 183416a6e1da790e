//! The two images of a crash disk: what is live, what is durable, and what may have happened in between.
//!
//! Knows nothing of paths beyond names, nor of mishaps; see `crash_disk`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

use thalweg_storage::{FileInfo, FileKind, FolderEntry};

/// A file or folder by its number; removed ones keep theirs, since someone may still have them open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    File(usize),
    Folder(usize),
}

/// What lands together or not at all when power fails during a write; small, since test files are.
const SECTOR_BYTES: usize = 16;

#[derive(Debug, Clone, Default)]
struct FileState {
    // Shared until one of them changes: tests copy disks by the thousand.
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// The disk's clock at the last change of the content.
    modified: u64,
}

type Names = BTreeMap<String, Node>;

/// A folder, a name in it, and what that name refers to from now on.
type NameChange = (usize, String, Option<Node>);

/// An act on names that happens whole or not at all.
type NameAct = Vec<NameChange>;

#[derive(Debug, Clone)]
pub(crate) struct Image {
    files: Vec<FileState>,
    live: Vec<Names>,
    durable: Vec<Names>,
    /// What separates the durable names from the live ones, in order.
    pending: Vec<NameAct>,
    /// Counts the changes of all files: one clock, because time passes for all of them.
    clock: u64,
}

impl Default for Image {
    fn default() -> Self {
        Self { files: Vec::new(), live: vec![Names::new()], durable: vec![Names::new()], pending: Vec::new(), clock: 0 }
    }
}

fn apply(folders: &mut [Names], act: &NameAct) {
    for (folder_idx, name, node) in act {
        match node {
            Some(node) => folders[*folder_idx].insert(name.clone(), *node),
            None => folders[*folder_idx].remove(name),
        };
    }
}

/// Small, well mixed, and the same everywhere: the generator of Steele, Lea and Flood (splitmix64).
struct Coins(u64);

impl Coins {
    fn next(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) >> 63 == 1
    }
}

impl Image {
    pub(crate) fn find(&self, names: &[String]) -> Result<Node, io::ErrorKind> {
        names.iter().try_fold(Node::Folder(0), |node, name| match node {
            Node::Folder(folder_idx) => self.live[folder_idx].get(name).copied().ok_or(io::ErrorKind::NotFound),
            Node::File(_) => Err(io::ErrorKind::NotADirectory),
        })
    }

    pub(crate) fn info(&self, node: Node) -> FileInfo {
        match node {
            Node::File(file_idx) => FileInfo {
                kind: FileKind::File,
                len_bytes: self.files[file_idx].live.len() as u64,
                modified_ns: i128::from(self.files[file_idx].modified),
                changed_ns: 0,
                id: (1, file_idx as u64),
            },
            Node::Folder(folder_idx) => {
                let id = (2, folder_idx as u64);
                FileInfo { kind: FileKind::Folder, len_bytes: 0, modified_ns: 0, changed_ns: 0, id }
            }
        }
    }

    pub(crate) fn names(&self, folder_idx: usize) -> Vec<String> {
        self.live[folder_idx].keys().cloned().collect()
    }

    pub(crate) fn list(&self, folder_idx: usize) -> Vec<FolderEntry> {
        let entry = |(name, node): (&String, &Node)| {
            let info = self.info(*node);
            FolderEntry { name: name.clone(), kind: info.kind, len_bytes: info.len_bytes }
        };
        self.live[folder_idx].iter().map(entry).collect()
    }

    pub(crate) fn content(&self, folder_idx: usize) -> BTreeMap<String, Vec<u8>> {
        let read = |(name, node): (&String, &Node)| match node {
            Node::File(file_idx) => (name.clone(), self.files[*file_idx].live.to_vec()),
            Node::Folder(_) => (format!("{name}/"), Vec::new()),
        };
        self.live[folder_idx].iter().map(read).collect()
    }

    /// A hash of every name and every byte that is live.
    pub(crate) fn live_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut folders = vec![0];
        while let Some(folder_idx) = folders.pop() {
            for (name, node) in &self.live[folder_idx] {
                (folder_idx, name).hash(&mut hasher);
                match node {
                    Node::Folder(folder_idx) => {
                        folders.push(*folder_idx);
                        folder_idx.hash(&mut hasher);
                    }
                    Node::File(file_idx) => self.files[*file_idx].live.hash(&mut hasher),
                }
            }
        }
        hasher.finish()
    }

    pub(crate) fn bytes(&self, file_idx: usize) -> &[u8] {
        &self.files[file_idx].live
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used_bytes(&self) -> u64 {
        let mut folders = vec![0];
        let mut files = BTreeSet::new();
        while let Some(folder_idx) = folders.pop() {
            for node in self.live[folder_idx].values() {
                match node {
                    Node::Folder(folder_idx) => folders.push(*folder_idx),
                    Node::File(file_idx) => {
                        files.insert(*file_idx);
                    }
                }
            }
        }
        files.iter().map(|&file_idx| self.files[file_idx].live.len() as u64).sum()
    }

    pub(crate) fn add_file(&mut self, folder_idx: usize, name: String, len_bytes: usize) {
        let file = FileState { live: Arc::new(vec![0; len_bytes]), ..FileState::default() };
        self.files.push(file);
        self.set_names([(folder_idx, name, Some(Node::File(self.files.len() - 1)))]);
    }

    pub(crate) fn add_folder(&mut self, folder_idx: usize, name: String) -> usize {
        self.live.push(Names::new());
        self.durable.push(Names::new());
        let made = self.live.len() - 1;
        self.set_names([(folder_idx, name, Some(Node::Folder(made)))]);
        made
    }

    /// One act on names.
    pub(crate) fn set_names<const N: usize>(&mut self, changes: [NameChange; N]) {
        let act = NameAct::from(changes);
        apply(&mut self.live, &act);
        self.pending.push(act);
    }

    pub(crate) fn write(&mut self, file_idx: usize, start: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let file = &mut self.files[file_idx];
        let end = start + bytes.len();
        let live = Arc::make_mut(&mut file.live);
        live.resize(live.len().max(end), 0);
        live[start..end].copy_from_slice(bytes);
        self.clock += 1;
        file.modified = self.clock;
    }

    pub(crate) fn sync_file(&mut self, file_idx: usize) {
        let file = &mut self.files[file_idx];
        file.durable.clone_from(&file.live);
    }

    /// Makes the acts on this folder's names durable, with those before that touch the same folders: else an older
    /// act could later undo a newer one.
    pub(crate) fn sync_folder(&mut self, folder_idx: usize) {
        let mut folders = BTreeSet::from([folder_idx]);
        let mut is_due: Vec<bool> = Vec::with_capacity(self.pending.len());
        for act in self.pending.iter().rev() {
            let touches = act.iter().any(|(folder_idx, _, _)| folders.contains(folder_idx));
            if touches {
                folders.extend(act.iter().map(|(folder_idx, _, _)| *folder_idx));
            }
            is_due.push(touches);
        }
        let mut is_due = is_due.into_iter().rev();
        let durable = &mut self.durable;
        self.pending.retain(|act| {
            let is_due = is_due.next().unwrap_or(false);
            if is_due {
                apply(durable, act);
            }
            !is_due
        });
    }

    /// Only what was synced.
    pub(crate) fn synced(mut self) -> Self {
        self.live.clone_from(&self.durable);
        self.with_synced_content()
    }

    /// All names, with synced content only.
    pub(crate) fn with_synced_content(mut self) -> Self {
        self.files.iter_mut().for_each(|file| file.live.clone_from(&file.durable));
        self.flushed()
    }

    /// What is live, now on the medium.
    pub(crate) fn flushed(mut self) -> Self {
        self.files.iter_mut().for_each(|file| file.durable.clone_from(&file.live));
        self.durable.clone_from(&self.live);
        self.pending.clear();
        self
    }

    /// What was synced, and of the rest what the seed picks.
    pub(crate) fn reordered(mut self, seed: u64) -> Self {
        let mut coins = Coins(seed);
        let mut names = self.durable.clone();
        self.pending.iter().filter(|_| coins.next()).for_each(|act| apply(&mut names, act));
        self.live = names;
        for file in &mut self.files {
            // The length is written apart from the content: of sectors beyond the old end that never landed zeros stay.
            let len_bytes = if coins.next() { file.live.len() } else { file.durable.len() };
            if Arc::ptr_eq(&file.live, &file.durable) {
                continue;
            }
            let mut bytes = file.durable.to_vec();
            bytes.resize(len_bytes, 0);
            for (sector, live) in bytes.chunks_mut(SECTOR_BYTES).zip(file.live.chunks(SECTOR_BYTES)) {
                if coins.next() {
                    let n_bytes = sector.len().min(live.len());
                    sector[..n_bytes].copy_from_slice(&live[..n_bytes]);
                }
            }
            file.live = Arc::new(bytes);
        }
        self.flushed()
    }
}
