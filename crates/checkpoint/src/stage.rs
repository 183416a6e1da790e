//! An unfinished output: files of their final length in a folder that is not taken for a checkpoint.
//!
//! Tensors are written at their known offsets, in any order and from any thread. Nothing here makes the output
//! exist; see `commit`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_storage::{Error as StorageError, FileInfo, Storage, WriteAt};
use thalweg_tensor::{AccessError, Piece, TensorCatalog, TensorEntry, TensorSink, display_name, to_index};

use crate::Error;
use crate::checkpoint::{access_error, byte_range};
use crate::crc_ranges::CrcRanges;
use crate::error::storage_error;
use crate::gather::{read_share, shares_of, write_share};
use crate::index::check_file_name;
use crate::layout::{CopiedBytes, FrameContent, FramePart, OutputFile, OutputLayout, reserved_names};
use crate::spans::strided_spans;

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
    /// Those of the files that were added that may not be on the medium yet.
    unsynced: Mutex<BTreeSet<String>>,
    /// For each file that holds sums, those of what was written to it.
    sums: Vec<Option<CrcRanges>>,
    has_checksums: bool,
    /// The files that this process writes, where other processes write the others; `None` if it writes all.
    own_files: Option<BTreeSet<usize>>,
    /// Files that parts of the frame were copied from, as they were then.
    copied: Mutex<BTreeMap<PathBuf, FileInfo>>,
    /// Held while elements that are not contiguous in their file are changed: their neighbours are written back too.
    strided: Mutex<()>,
}

/// Acts on a piece, given the positions in it, the number of its file and the file.
type VisitShare<'a> = &'a mut dyn FnMut(&Piece, Range<u64>, usize, &dyn WriteAt) -> Result<(), StorageError>;

/// Bytes to copy from a file of the newest source into a file of the stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameCopy {
    /// Position of the file in the layout.
    pub file_idx: usize,
    /// Where they go.
    pub offset: u64,
    /// Where they come from.
    pub from: CopiedBytes,
}

/// What is copied into a stage, by when.
///
/// Until the last of it is there, programs that read the format cannot read the files: each lacks its beginning and its
/// end, and with them headers, directories and the trainer's own marker of a finished checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameCopies {
    /// Before the tensors are written, because elements that are not contiguous lie between these bytes.
    pub before: Vec<FrameCopy>,
    /// Once the tensors are written.
    pub after: Vec<FrameCopy>,
    /// When nothing but these is missing.
    pub last: Vec<FrameCopy>,
}

impl FrameCopies {
    /// All of them, in a possible order.
    pub fn in_order(self) -> impl Iterator<Item = FrameCopy> {
        self.before.into_iter().chain(self.after).chain(self.last)
    }
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

impl StagedCheckpoint {
    /// Creates every file with its final length and the known bytes of its frame; the folder may exist, the files may
    /// not.
    ///
    /// What [`StagedCheckpoint::frame_copies`] lists is still missing.
    ///
    /// # Errors
    /// `Storage`, also when a file is there already or the disk is full.
    pub fn create(storage: &Arc<dyn Storage>, folder: &Path, layout: Arc<OutputLayout>) -> Result<Self, Error> {
        storage.create_folder(folder)?;
        for inner in folders_of(&layout) {
            storage.create_folder(&folder.join(inner))?;
        }
        let shards = OpenShards::new(layout.files().len());
        for (file_idx, output) in layout.files().iter().enumerate() {
            let file = storage.create_file(&folder.join(&output.name), output.len_bytes)?;
            for (offset, bytes) in known_bytes(output) {
                file.write_all_at(offset, bytes)?;
            }
            shards.keep(file_idx, file);
        }
        Ok(Self::new(storage, folder, layout, shards))
    }

    fn new(storage: &Arc<dyn Storage>, folder: &Path, layout: Arc<OutputLayout>, shards: OpenShards) -> Self {
        let sums = layout.files().iter().map(|file| (!file.checksums.is_empty()).then(CrcRanges::default)).collect();
        Self {
            storage: Arc::clone(storage),
            folder: folder.to_owned(),
            layout,
            shards,
            added: BTreeSet::new(),
            unsynced: Mutex::default(),
            sums,
            has_checksums: false,
            own_files: None,
            copied: Mutex::default(),
            strided: Mutex::new(()),
        }
    }

    /// Opens a stage that several processes fill at once, of which this one writes to `files`: they are made where they
    /// are missing, and get the known bytes of their frame.
    ///
    /// # Errors
    /// `Storage`.
    pub fn open_together(
        storage: &Arc<dyn Storage>,
        folder: &Path,
        layout: Arc<OutputLayout>,
        files: BTreeSet<usize>,
    ) -> Result<Self, Error> {
        for inner in folders_of(&layout) {
            storage.create_folder(&folder.join(inner))?;
        }
        let shards = OpenShards::new(layout.files().len());
        for &file_idx in &files {
            let Some(output) = layout.files().get(file_idx) else { continue };
            let file = storage.open_together(&folder.join(&output.name), output.len_bytes)?;
            for (offset, bytes) in known_bytes(output) {
                file.write_all_at(offset, bytes)?;
            }
            shards.keep(file_idx, file);
        }
        Ok(Self { own_files: Some(files), ..Self::new(storage, folder, layout, shards) })
    }

    /// Makes the names of all files so far durable.
    ///
    /// # Errors
    /// `Storage`.
    pub fn sync_names(&self) -> Result<(), Error> {
        for inner in folders_of(&self.layout) {
            self.storage.sync_folder(&self.folder.join(inner))?;
        }
        Ok(self.storage.sync_folder(&self.folder)?)
    }

    /// Opens a stage that was left behind, if its files have the lengths and known bytes of this very layout.
    ///
    /// The tensors are not checked: a caller that resumes checks the ranges that it means to keep. What is copied is
    /// copied again, as after [`StagedCheckpoint::create`].
    ///
    /// # Errors
    /// `StageMismatch` with the first file that differs; `Storage`.
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
            for (offset, bytes) in known_bytes(output) {
                let mut found = vec![0; bytes.len()];
                file.read_exact_at(offset, &mut found)?;
                if found != bytes {
                    return Err(refuse("its header lists other tensors".to_owned()));
                }
            }
            shards.keep(file_idx, file);
        }
        Ok(Self::new(storage, folder, layout, shards))
    }

    /// What must be copied into the stage, cut into parts of at most `max_bytes`.
    pub fn frame_copies(&self, max_bytes: u64) -> FrameCopies {
        let max_bytes = max_bytes.max(1);
        let mut copies = FrameCopies::default();
        for (file_idx, file) in self.layout.files().iter().enumerate() {
            let under = strided_spans(self.catalog().entries(), u32::try_from(file_idx).unwrap_or(u32::MAX));
            let mut in_file = Vec::new();
            for FramePart { offset, content } in &file.frame {
                let FrameContent::Copy(whole) = content else { continue };
                for n_before in (0..whole.len_bytes).step_by(to_index(max_bytes)) {
                    let len_bytes = max_bytes.min(whole.len_bytes - n_before);
                    let from = CopiedBytes { path: whole.path.clone(), offset: whole.offset + n_before, len_bytes };
                    in_file.push(FrameCopy { file_idx, offset: offset + n_before, from });
                }
            }
            let is_under = |copy: &FrameCopy| {
                let end = copy.offset + copy.from.len_bytes;
                let next = under.partition_point(|span| span.end <= copy.offset);
                under.get(next).is_some_and(|span| span.start < end)
            };
            let (first, last) = (in_file.first().map(|copy| copy.offset), in_file.last().map(|copy| copy.offset));
            for copy in in_file {
                let is_at_an_end = Some(copy.offset) == first || Some(copy.offset) == last;
                match (is_under(&copy), is_at_an_end) {
                    (true, _) => copies.before.push(copy),
                    (false, false) => copies.after.push(copy),
                    (false, true) => copies.last.push(copy),
                }
            }
        }
        copies
    }

    /// Copies one part of the frame. `buffer` holds up to a mebibyte of it at a time.
    ///
    /// # Errors
    /// `Storage`, also if the file changed since another part of it was copied.
    pub fn copy_frame(&self, copy: &FrameCopy, buffer: &mut Vec<u8>) -> Result<(), Error> {
        const PIECE_BYTES: u64 = 1 << 20;
        let CopiedBytes { path, offset, len_bytes } = &copy.from;
        let source = self.storage.open_file(path).map_err(|error| storage_error(path, error))?;
        let info = source.info();
        if *self.copied.lock().unwrap_or_else(PoisonError::into_inner).entry(path.clone()).or_insert(info) != info {
            return Err(StorageError::Changed { path: path.clone() }.into());
        }
        let target = self.shard(copy.file_idx)?;
        let n_copied = target.copy_from(copy.offset, &*source, *offset, *len_bytes);
        for n_before in (n_copied..*len_bytes).step_by(to_index(PIECE_BYTES)) {
            buffer.resize(to_index(PIECE_BYTES.min(len_bytes - n_before)), 0);
            source.read_exact_at(offset + n_before, buffer)?;
            target.write_all_at(copy.offset + n_before, buffer)?;
        }
        Ok(())
    }

    /// The file that parts of the frame were copied from, as it was then; `None` if none were.
    pub fn copied_from(&self, path: &Path) -> Option<FileInfo> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied()
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
        self.unsynced.get_mut().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.added.insert(name.to_owned());
        Ok(())
    }

    /// Reads back what was written: elements of tensor number `tensor_idx`.
    ///
    /// # Errors
    /// As [`TensorSink::write_elements`].
    pub fn read_back(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        let entry = self.entry(tensor_idx)?;
        self.check_length(entry, &elements, out.len())?;
        if let Some((file_idx, bytes)) = contiguous(entry, &elements) {
            let read = self.shard(file_idx).and_then(|file| file.read_exact_at(bytes.start, out));
            return read.map_err(|error| access_error(&self.file_path(file_idx), "read back", &entry.name, error));
        }
        self.for_each_share(entry, &elements, "read back", &mut |piece, positions, _, file| {
            let read = &mut |offset, out: &mut [u8]| file.read_exact_at(offset, out);
            read_share(entry, piece, positions, elements.start, out, read)
        })
    }

    /// Says that these elements will be read back soon, so that they can be fetched ahead.
    pub fn will_read_back(&self, tensor_idx: usize, elements: Range<u64>) {
        if let Ok(entry) = self.entry(tensor_idx)
            && let Some((file_idx, bytes)) = contiguous(entry, &elements)
            && let Ok(file) = self.shard(file_idx)
        {
            file.will_need(bytes.start, bytes.end - bytes.start);
        }
    }

    /// As [`StagedCheckpoint::read_back`], for bytes that are kept if they are whole: the sums that the file holds of
    /// them need no further reading.
    ///
    /// # Errors
    /// As [`StagedCheckpoint::read_back`].
    pub fn read_to_keep(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        self.read_back(tensor_idx, elements.clone(), out)?;
        if let Some((file_idx, bytes)) = contiguous(self.entry(tensor_idx)?, &elements)
            && let Some(sums) = &self.sums[file_idx]
        {
            sums.add(bytes.start, out);
        }
        Ok(())
    }

    /// Visits the pieces that hold some of the elements, each with the positions in it and its file.
    fn for_each_share(
        &self,
        entry: &TensorEntry,
        elements: &Range<u64>,
        act: &str,
        visit: VisitShare<'_>,
    ) -> Result<(), AccessError> {
        for share in shares_of(entry, elements) {
            let piece = &entry.pieces[share.piece_idx];
            let file_idx = to_index(piece.file_idx.into());
            let visited = self.shard(file_idx).and_then(|file| visit(piece, share.positions, file_idx, &*file));
            visited.map_err(|error| access_error(&self.file_path(file_idx), act, &entry.name, error))?;
        }
        Ok(())
    }

    /// Asks the system to begin writing these elements to the medium, without waiting.
    pub fn start_writeback(&self, tensor_idx: usize, elements: Range<u64>) {
        let Ok(entry) = self.entry(tensor_idx) else { return };
        if let Some((file_idx, bytes)) = contiguous(entry, &elements)
            && let Some(file) = self.shards.get(file_idx)
        {
            file.start_writeback(bytes.start, bytes.end - bytes.start);
        }
    }

    /// Reads bytes of file number `file_idx` as it is now.
    ///
    /// # Errors
    /// `Storage`.
    pub fn read_file(&self, file_idx: usize, offset: u64, out: &mut [u8]) -> Result<(), StorageError> {
        self.shard(file_idx)?.read_exact_at(offset, out)
    }

    /// Writes the sums that files hold of their tensors, unless that was done. All tensors must be written.
    ///
    /// # Errors
    /// `Storage`.
    pub fn write_checksums(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.has_checksums, true) {
            return Ok(());
        }
        for (file_idx, output) in self.layout.files().iter().enumerate() {
            let Some(sums) = &self.sums[file_idx] else { continue };
            let file = self.shard(file_idx)?;
            for checksum in &output.checksums {
                // A record may hold more than was written by element, such as a header or padding, and what an earlier
                // attempt wrote: only that is read.
                let (mut sum, mut at) = (crc32fast::Hasher::new(), checksum.range.start);
                for (known, part) in sums.sums_within(&checksum.range) {
                    sum.combine(&read_sum(&*file, &(at..known.start))?);
                    sum.combine(&part);
                    at = known.end;
                }
                sum.combine(&read_sum(&*file, &(at..checksum.range.end))?);
                let sum = sum.finalize();
                for place in &checksum.places {
                    file.write_all_at(*place, &sum.to_le_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Writes elements of copy number `copy_idx` of [`OutputLayout::copies`], from element `first_element` on.
    ///
    /// # Errors
    /// As [`TensorSink::write_elements`].
    pub fn write_copy(&self, copy_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.write_entry(self.entry_of(self.layout.copies(), copy_idx)?, first_element, bytes)
    }

    fn own_files(&self) -> impl Iterator<Item = usize> {
        let is_own = |file_idx: &usize| self.own_files.as_ref().is_none_or(|own| own.contains(file_idx));
        (0..self.layout.files().len()).filter(is_own)
    }

    /// Returns once all files that this process writes are on the medium.
    ///
    /// # Errors
    /// `Storage`.
    pub fn sync(&self) -> Result<(), Error> {
        // A sync covers what was written through any opening of the file, also one that was closed since.
        self.own_files().try_for_each(|file_idx| self.shard(file_idx)?.sync())?;
        self.sync_added()
    }

    /// Brings to the medium what was written so far, while more is written: the sync at the end then waits for less.
    ///
    /// # Errors
    /// `Storage`.
    pub fn write_back(&self) -> Result<(), Error> {
        Ok(self.own_files().try_for_each(|file_idx| self.shard(file_idx)?.write_back())?)
    }

    /// Returns once the files that were added are on the medium.
    pub(crate) fn sync_added(&self) -> Result<(), Error> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(name) = unsynced.first().cloned() {
            self.storage.open_for_update(&self.folder.join(&name))?.sync()?;
            unsynced.remove(&name);
        }
        Ok(())
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Every name that the output holds so far, the index included.
    pub fn names(&self) -> BTreeSet<String> {
        reserved_names(&self.layout).map(str::to_owned).chain(self.added.iter().cloned()).collect()
    }

    /// Whether a name in the folder belongs to the output: that of a file, or of a folder with its files.
    pub(crate) fn owns(&self, name: &str) -> bool {
        let is_or_is_below =
            |owned: &str| owned.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.added.contains(name) || reserved_names(&self.layout).any(is_or_is_below)
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

    fn entry(&self, tensor_idx: usize) -> Result<&TensorEntry, AccessError> {
        self.entry_of(self.layout.catalog(), tensor_idx)
    }

    fn entry_of<'a>(&self, catalog: &'a TensorCatalog, tensor_idx: usize) -> Result<&'a TensorEntry, AccessError> {
        let entries = catalog.entries();
        let n_files = self.layout.files().len();
        let is_placed =
            |entry: &&TensorEntry| entry.pieces.iter().all(|piece| to_index(piece.file_idx.into()) < n_files);
        entries.get(tensor_idx).filter(is_placed).ok_or_else(|| {
            let message = format!("there is no tensor with index {tensor_idx}, only {}", entries.len());
            AccessError { path: self.folder.display().to_string(), message, source: None }
        })
    }

    /// Checks that `n_bytes` are the bytes of a range of a tensor's elements.
    fn check_length(&self, entry: &TensorEntry, elements: &Range<u64>, n_bytes: usize) -> Result<(), AccessError> {
        let is_range = elements.start <= elements.end && elements.end <= entry.n_elements();
        let ends = entry.dtype.bytes_of(elements.start).zip(entry.dtype.bytes_of(elements.end));
        if is_range && ends.is_some_and(|(start, end)| end - start == n_bytes as u64) {
            return Ok(());
        }
        let (name, n_elements) = (display_name(&entry.name), entry.n_elements());
        let Range { start, end } = elements;
        let message =
            format!("{n_bytes} bytes are not the range {start}..{end} of tensor `{name}` with {n_elements} elements");
        Err(AccessError { path: self.folder.display().to_string(), message, source: None })
    }

    fn write_entry(&self, entry: &TensorEntry, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        // Packed elements included: whole bytes hold a whole number of them, or `check_length` refuses.
        let n_elements = (bytes.len() as u64).saturating_mul(8) / u64::from(entry.dtype.bits());
        let elements = first_element..first_element.saturating_add(n_elements);
        self.check_length(entry, &elements, bytes.len())?;
        if let Some((file_idx, range)) = contiguous(entry, &elements) {
            let written = self.shard(file_idx).and_then(|file| self.write_to(file_idx, &*file, range.start, bytes));
            return written.map_err(|error| access_error(&self.file_path(file_idx), "write", &entry.name, error));
        }
        self.for_each_share(entry, &elements, "write", &mut |piece, positions, file_idx, file| {
            let _guard = piece.strides().map(|_| self.strided.lock().unwrap_or_else(PoisonError::into_inner));
            let read = &mut |offset, out: &mut [u8]| file.read_exact_at(offset, out);
            let write = &mut |offset, bytes: &[u8]| self.write_to(file_idx, file, offset, bytes);
            write_share(entry, piece, positions, first_element, bytes, (read, write))
        })
    }

    /// Writes bytes to a file and keeps their sum if the file holds sums.
    fn write_to(&self, file_idx: usize, file: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        file.write_all_at(offset, bytes)?;
        if let Some(sums) = &self.sums[file_idx] {
            sums.add(offset, bytes);
        }
        Ok(())
    }
}

/// The file and the bytes that hold a range of elements, if they are one run.
fn contiguous(entry: &TensorEntry, elements: &Range<u64>) -> Option<(usize, Range<u64>)> {
    let [piece] = &*entry.pieces else { return None };
    Some((to_index(piece.file_idx.into()), byte_range(entry, piece, elements)?))
}

/// The known bytes of a file's frame.
fn known_bytes(file: &OutputFile) -> impl Iterator<Item = (u64, &[u8])> {
    file.frame.iter().filter_map(|part| match &part.content {
        FrameContent::Bytes(bytes) => Some((part.offset, &**bytes)),
        FrameContent::Copy(_) => None,
    })
}

/// The folders inside an output, each after the one that holds it.
pub(crate) fn folders_of(layout: &OutputLayout) -> BTreeSet<&str> {
    let names = reserved_names(layout);
    names.flat_map(|name| name.match_indices('/').map(move |(at, _)| &name[..at])).collect()
}

fn read_sum(file: &dyn WriteAt, range: &Range<u64>) -> Result<crc32fast::Hasher, Error> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; to_index(PIECE_BYTES.min(range.end - range.start))];
    let mut at = range.start;
    while at < range.end {
        let piece = &mut buffer[..to_index(PIECE_BYTES.min(range.end - at))];
        file.read_exact_at(at, piece)?;
        hasher.update(piece);
        at += piece.len() as u64;
    }
    Ok(hasher)
}

impl TensorSink for StagedCheckpoint {
    fn catalog(&self) -> &TensorCatalog {
        self.layout.catalog()
    }

    fn write_elements(&self, tensor_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.write_entry(self.entry(tensor_idx)?, first_element, bytes)
    }
}
