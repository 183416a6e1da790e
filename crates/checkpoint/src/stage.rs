//! An unfinished output: files of their final length in a folder that is not taken for a checkpoint.
//!
//! Tensors are written at their known offsets, in any order and from any thread. Nothing here makes the output
//! exist; see `commit`.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_storage::{Storage, WriteAt};
use thalweg_tensor::{AccessError, TensorCatalog, TensorEntry, TensorSink, display_name, to_index};

use crate::Error;
use crate::checkpoint::{access_error, byte_range};
use crate::index::check_file_name;
use crate::layout::{OutputLayout, reserved_names};

/// Shards of one output that are kept open: several outputs of thousands of shards must not use up the process's
/// files.
const MAX_OPEN_SHARDS: usize = 48;

/// A staged output: a `TensorSink` on a folder.
#[derive(Debug)]
pub struct StagedCheckpoint {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    layout: Arc<OutputLayout>,
    shards: OpenShards,
    added: BTreeSet<String>,
}

/// The shards that are open now; the others are opened when they are needed.
#[derive(Debug)]
struct OpenShards {
    /// One place for each shard.
    files: Vec<Mutex<Option<Arc<dyn WriteAt>>>>,
    /// Those that are open, longest-open first.
    order: Mutex<VecDeque<usize>>,
}

impl OpenShards {
    fn new(n_shards: usize) -> Self {
        Self { files: (0..n_shards).map(|_| Mutex::new(None)).collect(), order: Mutex::new(VecDeque::new()) }
    }

    fn get(&self, file_idx: usize) -> Option<Arc<dyn WriteAt>> {
        self.files[file_idx].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a file open, and closes the one that was open longest if there are too many.
    fn keep(&self, file_idx: usize, file: Arc<dyn WriteAt>) {
        let before = self.files[file_idx].lock().unwrap_or_else(PoisonError::into_inner).replace(file);
        if before.is_some() {
            return;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(file_idx);
        if order.len() > MAX_OPEN_SHARDS
            && let Some(oldest) = order.pop_front()
        {
            self.files[oldest].lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Whether the disk can take `wanted_bytes` more below `path`; yes where the storage does not know.
///
/// # Errors
/// `NotEnoughSpace`; `Storage`.
pub fn check_free_space(storage: &dyn Storage, path: &Path, wanted_bytes: u64) -> Result<(), Error> {
    match storage.free_bytes(path)? {
        Some(free_bytes) if free_bytes < wanted_bytes => {
            Err(Error::NotEnoughSpace { path: path.to_owned(), wanted_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

impl StagedCheckpoint {
    /// Creates every shard with its final length and its header; the folder may exist, the shards may not.
    ///
    /// # Errors
    /// `Storage`, also when a shard is there already or the disk is full.
    pub fn create(storage: &Arc<dyn Storage>, folder: &Path, layout: Arc<OutputLayout>) -> Result<Self, Error> {
        storage.create_folder(folder)?;
        let shards = OpenShards::new(layout.files().len());
        for (file_idx, output) in layout.files().iter().enumerate() {
            let file = storage.create_file(&folder.join(&output.name), output.len_bytes)?;
            file.write_all_at(0, &output.header)?;
            shards.keep(file_idx, file);
        }
        Ok(Self { storage: Arc::clone(storage), folder: folder.to_owned(), layout, shards, added: BTreeSet::new() })
    }

    /// Opens a stage that was left behind, if its shards have the lengths and headers of this very layout.
    ///
    /// What the tensors hold is not looked at: a caller that resumes checks the ranges that it keeps.
    ///
    /// # Errors
    /// `StageMismatch` with the first shard that differs; `Storage`.
    pub fn reopen(storage: &Arc<dyn Storage>, folder: &Path, layout: Arc<OutputLayout>) -> Result<Self, Error> {
        let shards = OpenShards::new(layout.files().len());
        for (file_idx, output) in layout.files().iter().enumerate() {
            let path = folder.join(&output.name);
            let refuse = |reason: String| Error::StageMismatch { path: path.clone(), reason };
            let file = match storage.open_for_update(&path) {
                Err(error) if error.is_not_found() => return Err(refuse("the file is missing".to_owned())),
                opened => opened?,
            };
            let found_bytes = file.len_bytes()?;
            if found_bytes != output.len_bytes {
                return Err(refuse(format!("it has {found_bytes} bytes, {} expected", output.len_bytes)));
            }
            let mut header = vec![0; output.header.len()];
            file.read_exact_at(0, &mut header)?;
            if header != output.header {
                return Err(refuse("its header lists other tensors".to_owned()));
            }
            shards.keep(file_idx, file);
        }
        Ok(Self { storage: Arc::clone(storage), folder: folder.to_owned(), layout, shards, added: BTreeSet::new() })
    }

    /// The folder of the stage.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where every byte goes.
    pub fn layout(&self) -> &Arc<OutputLayout> {
        &self.layout
    }

    /// Adds a small file whole: config, tokenizer, model card. One that an earlier attempt left is replaced.
    ///
    /// # Errors
    /// `BadFileName`; `DuplicateFile` for the name of a shard or of a file added before; `Storage`.
    pub fn add_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.check_new_name(name)?;
        self.put_file(name, bytes)
    }

    pub(crate) fn check_new_name(&self, name: &str) -> Result<(), Error> {
        if check_file_name(name).is_err() || name.contains('/') {
            return Err(Error::BadFileName { name: name.to_owned() });
        }
        if reserved_names(&self.layout).any(|reserved| reserved == name) || self.added.contains(name) {
            return Err(Error::DuplicateFile { name: name.to_owned() });
        }
        Ok(())
    }

    pub(crate) fn put_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(name);
        match self.storage.remove(&path) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let file = self.storage.create_file(&path, bytes.len() as u64)?;
        file.write_all_at(0, bytes)?;
        file.sync()?;
        self.added.insert(name.to_owned());
        Ok(())
    }

    /// Reads back what was written: elements of tensor number `tensor_idx`.
    ///
    /// # Errors
    /// As [`TensorSink::write_elements`].
    pub fn read_back(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        let (entry, file_idx) = self.entry(tensor_idx)?;
        let bytes = self.place(entry, elements, out.len())?;
        let read = self.shard(file_idx).and_then(|file| file.read_exact_at(bytes.start, out));
        read.map_err(|error| access_error(&self.file_path(file_idx), "read back", &entry.name, error))
    }

    /// Asks the system to begin writing these elements to the medium, without waiting.
    pub fn start_writeback(&self, tensor_idx: usize, elements: Range<u64>) {
        let Ok((entry, file_idx)) = self.entry(tensor_idx) else { return };
        let bytes = entry.pieces.first().and_then(|piece| byte_range(entry, piece, &elements));
        if let (Some(bytes), Some(file)) = (bytes, self.shards.get(file_idx)) {
            file.start_writeback(bytes.start, bytes.end - bytes.start);
        }
    }

    /// Returns once all shards are on the medium.
    ///
    /// # Errors
    /// `Storage`.
    pub fn sync(&self) -> Result<(), Error> {
        // A sync covers what was written through any opening of the file, also one that was closed since.
        (0..self.layout.files().len()).try_for_each(|file_idx| Ok(self.shard(file_idx)?.sync()?))
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Every name that the output holds so far, the index included.
    pub fn names(&self) -> BTreeSet<String> {
        reserved_names(&self.layout).map(str::to_owned).chain(self.added.iter().cloned()).collect()
    }

    /// Whether a name in the folder belongs to the output.
    pub(crate) fn owns(&self, name: &str) -> bool {
        self.added.contains(name) || reserved_names(&self.layout).any(|reserved| reserved == name)
    }

    fn shard(&self, file_idx: usize) -> Result<Arc<dyn WriteAt>, thalweg_storage::Error> {
        if let Some(file) = self.shards.get(file_idx) {
            return Ok(file);
        }
        let file = self.storage.open_for_update(&self.file_path(file_idx))?;
        self.shards.keep(file_idx, Arc::clone(&file));
        Ok(file)
    }

    fn file_path(&self, file_idx: usize) -> PathBuf {
        let name = self.layout.files().get(file_idx).map(|file| &*file.name);
        name.map_or_else(|| self.folder.clone(), |name| self.folder.join(name))
    }

    fn entry(&self, tensor_idx: usize) -> Result<(&TensorEntry, usize), AccessError> {
        let entries = self.layout.catalog().entries();
        let found =
            entries.get(tensor_idx).and_then(|entry| Some((entry, to_index(entry.pieces.first()?.file_idx.into()))));
        found.filter(|(_, file_idx)| *file_idx < self.layout.files().len()).ok_or_else(|| {
            let message = format!("there is no tensor number {tensor_idx}, only {}", entries.len());
            AccessError { path: self.folder.display().to_string(), message, source: None }
        })
    }

    fn place(&self, entry: &TensorEntry, elements: Range<u64>, n_bytes: usize) -> Result<Range<u64>, AccessError> {
        let bytes = entry.pieces.first().and_then(|piece| byte_range(entry, piece, &elements));
        bytes.filter(|bytes| bytes.end - bytes.start == n_bytes as u64).ok_or_else(|| {
            let (name, n_elements) = (display_name(&entry.name), entry.n_elements());
            let Range { start, end } = elements;
            let message = format!(
                "{n_bytes} bytes are not the range {start}..{end} of tensor `{name}` with {n_elements} elements"
            );
            AccessError { path: self.folder.display().to_string(), message, source: None }
        })
    }
}

impl TensorSink for StagedCheckpoint {
    fn catalog(&self) -> &TensorCatalog {
        self.layout.catalog()
    }

    fn write_elements(&self, tensor_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let (entry, file_idx) = self.entry(tensor_idx)?;
        // Packed elements included: whole bytes hold a whole number of them, or `place` refuses.
        let n_elements = (bytes.len() as u64).saturating_mul(8) / u64::from(entry.dtype.bits());
        let range = self.place(entry, first_element..first_element.saturating_add(n_elements), bytes.len())?;
        let written = self.shard(file_idx).and_then(|file| file.write_all_at(range.start, bytes));
        written.map_err(|error| access_error(&self.file_path(file_idx), "write", &entry.name, error))
    }
}
