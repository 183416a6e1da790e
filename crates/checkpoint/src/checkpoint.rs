//! `Checkpoint`: an opened checkpoint of any format, as a source of tensor bytes.
//!
//! Opening read the headers; bytes are read in positioned reads, whole or not at all.

pub(crate) mod dequantised;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use thalweg_storage::{FileInfo, ReadAt};
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_tensor::{AccessError, Piece, TensorCatalog, TensorEntry, TensorSource, display_name, to_index};

use self::dequantised::Dequantised;
use crate::block_scaled::{BlockScaled, ScaledFault, find_block_scaled};
use crate::config::without_quantisation;
use crate::format::Findings;
use crate::gather::{Share, read_share, shares_of};
use crate::lazy_pieces::{LazyPieces, Look, PieceRefusal};
use crate::unpacked::{N_PLACES, ShardedArray, UNPACK_BYTES};
use crate::{Error, Note, SideFile};

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFile {
    /// Name relative to the checkpoint's folder.
    pub name: String,
    /// Path.
    pub path: PathBuf,
    /// Size and identity when it was opened.
    pub info: FileInfo,
}

/// A `config.json` as it was in the folder.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What they say: an object.
    pub value: Value,
}

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) path: PathBuf,
    pub(crate) format_name: &'static str,
    /// The tensors as they are stored.
    pub(crate) catalog: Arc<TensorCatalog>,
    pub(crate) dequantised: Option<Dequantised>,
    pub(crate) files: Vec<ShardFile>,
    pub(crate) readers: Vec<Arc<dyn ReadAt>>,
    pub(crate) config: Option<ConfigFile>,
    pub(crate) side_files: Vec<SideFile>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) notes: Vec<Note>,
    pub(crate) findings: Findings,
    pub(crate) is_packed: bool,
    pub(crate) sharded: Vec<ShardedArray>,
    pub(crate) lazy: Option<LazyPieces>,
}

impl Checkpoint {
    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the format, such as `safetensors`.
    pub fn format_name(&self) -> &'static str {
        self.format_name
    }

    /// Names, dtypes, shapes and places of the tensors; checkpoints opened together share equal ones.
    pub fn catalog(&self) -> &Arc<TensorCatalog> {
        self.dequantised.as_ref().map_or(&self.catalog, |seen| &seen.catalog)
    }

    /// The same for the tensors as the files hold them, where they are seen without quantisation.
    pub fn stored_catalog(&self) -> &Arc<TensorCatalog> {
        &self.catalog
    }

    /// Whether a tensor holds products of FP8 codes and scales.
    pub fn is_dequantised(&self, tensor_idx: usize) -> bool {
        self.dequantised.as_ref().is_some_and(|seen| seen.is_product(tensor_idx))
    }

    /// Number of tensors that hold products of FP8 codes and scales, and the block that shares a scale; `None` if there
    /// are none, or if the checkpoint was opened without [`ReadOptions::dequantise`](crate::ReadOptions).
    pub fn dequantised_weights(&self) -> Option<(usize, [u64; 2])> {
        self.dequantised.as_ref().map(|seen| (seen.n_weights, seen.block))
    }

    /// The stored weights that are FP8 codes with scales for blocks, by their positions in
    /// [`stored_catalog`](Self::stored_catalog); `None` if there are no such scales.
    ///
    /// # Errors
    /// Why the numbers of some weight are not known.
    pub fn block_scaled(&self) -> Option<Result<BlockScaled, ScaledFault>> {
        let found = find_block_scaled(&self.catalog, self.config())?;
        let edited = self.config_bytes().map(without_quantisation).transpose();
        Some(found.and_then(|found| edited.map(|_| found).map_err(|reason| ScaledFault::ConfigText { reason })))
    }

    /// The files that hold the tensors; pieces of the catalog count them from 0.
    pub fn files(&self) -> &[ShardFile] {
        &self.files
    }

    /// What `config.json` says, if there is one.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref().map(|config| &config.value)
    }

    /// The bytes of `config.json`, if there is one.
    pub fn config_bytes(&self) -> Option<&[u8]> {
        self.config.as_ref().map(|config| &*config.bytes)
    }

    /// The small files beside the tensors, sorted by name; code files are among them and are marked.
    pub fn side_files(&self) -> &[SideFile] {
        &self.side_files
    }

    /// Most memory that reading its tensors takes besides the buffers that are read into.
    pub fn unpack_bytes(&self) -> u64 {
        if self.is_packed { UNPACK_BYTES } else { 0 }
    }

    /// Remarks in the header of the first shard, such as `format`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Notes for the user.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Length, time, identity and header of every file, as text: equal for two openings if no file was written in
    /// between.
    ///
    /// Meant for naming data cached from a checkpoint. The path is not part of it, and neither is the time at which
    /// metadata changed: a hard link changes that.
    pub fn identity(&self) -> String {
        let facts = |(file, header): (&ShardFile, String)| {
            let FileInfo { len_bytes, modified_ns, id, .. } = file.info;
            format!("{} {len_bytes} {modified_ns} {id:?} {header};", file.name)
        };
        self.files.iter().zip(self.header_digests()).map(facts).collect()
    }

    /// A digest of the header of each file: of names, element types, shapes and places of its tensors, so that it does
    /// not depend on how a format writes them.
    pub fn header_digests(&self) -> Vec<String> {
        let mut headers = vec![String::new(); self.files.len()];
        for entry in self.stored_catalog().entries() {
            for piece in &entry.pieces {
                let Some(header) = headers.get_mut(to_index(piece.file_idx.into())) else { continue };
                header.push_str(&format!("{}\0{}\0{}\0{}\n", entry.name, entry.dtype, entry.shape, piece.offset));
            }
        }
        headers.iter().map(|header| bytes_digest(DigestKind::Blake3, header.as_bytes()).to_string()).collect()
    }

    /// What opening found besides the tensors, such as tensors that cannot be read.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Compares every file with what it was when the checkpoint was opened.
    ///
    /// # Errors
    /// `Storage` with the first file that changed.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        self.readers.iter().try_for_each(|reader| Ok(reader.check_unchanged()?))
    }

    fn entry(&self, tensor_idx: usize) -> Result<&TensorEntry, AccessError> {
        self.catalog.entries().get(tensor_idx).ok_or_else(|| {
            let n_tensors = self.catalog.entries().len();
            let message = format!("there is no tensor with index {tensor_idx}, only {n_tensors}");
            AccessError { path: self.path.display().to_string(), message, source: None }
        })
    }

    /// Checks that a range of elements is in the tensor and starts and ends on byte boundaries.
    fn check_range(&self, entry: &TensorEntry, elements: &Range<u64>) -> Result<(), AccessError> {
        let is_range = elements.start <= elements.end && elements.end <= entry.n_elements();
        let ends_fill_bytes = [elements.start, elements.end].iter().all(|&n| entry.dtype.bytes_of(n).is_some());
        if is_range && ends_fill_bytes {
            return Ok(());
        }
        let (name, Range { start, end }) = (display_name(&entry.name), elements);
        let message = format!("tensor `{name}` with {} elements has no range {start}..{end}", entry.n_elements());
        Err(AccessError { path: self.first_path(entry), message, source: None })
    }

    /// Path of the file that holds the first piece, or of the checkpoint if the tensor has no pieces.
    fn first_path(&self, entry: &TensorEntry) -> String {
        let file = entry.pieces.first().and_then(|piece| self.files.get(to_index(piece.file_idx.into())));
        file.map_or(&*self.path, |file| &*file.path).display().to_string()
    }

    /// The file that holds a piece, and its reader.
    fn file_of(&self, entry: &TensorEntry, piece: &Piece) -> Result<(&ShardFile, &dyn ReadAt), AccessError> {
        let file_idx = to_index(piece.file_idx.into());
        let file = self.files.get(file_idx).zip(self.readers.get(file_idx));
        file.map(|(file, reader)| (file, &**reader)).ok_or_else(|| {
            let name = display_name(&entry.name);
            let message = format!("tensor `{name}` is in file number {file_idx} of {}", self.files.len());
            AccessError { path: self.path.display().to_string(), message, source: None }
        })
    }

    /// The piece with the offset and strides that its file states.
    fn opened_piece<'a>(
        &'a self,
        tensor_idx: usize,
        entry: &'a TensorEntry,
        piece_idx: usize,
    ) -> Result<&'a Piece, AccessError> {
        let piece = &entry.pieces[piece_idx];
        let Some(lazy) = &self.lazy else { return Ok(piece) };
        let (file, reader) = self.file_of(entry, piece)?;
        lazy.open(self.catalog.entries(), (tensor_idx, piece_idx), reader).map_err(|refusal| match refusal {
            PieceRefusal::Storage(error) => access_error(&file.path, "read", &entry.name, error),
            PieceRefusal::Format(reason) => {
                let message = format!("tensor `{}`: {reason}", display_name(&entry.name));
                AccessError { path: file.path.display().to_string(), message, source: None }
            }
        })
    }

    /// Opens pieces whose files describe them more fully than the directory does, so that an unreadable piece is found
    /// before anything relies on it. Reads no tensor bytes; does nothing if the headers say everything.
    ///
    /// # Errors
    /// `Access` for the first piece that contradicts the directory.
    pub fn look_inside(&self, look: Look) -> Result<(), Error> {
        if self.lazy.is_none() {
            return Ok(());
        }
        for (tensor_idx, entry) in self.catalog.entries().iter().enumerate() {
            let n_pieces = if look == Look::EachTensor { entry.pieces.len().min(1) } else { entry.pieces.len() };
            for piece_idx in 0..n_pieces {
                self.opened_piece(tensor_idx, entry, piece_idx)?;
            }
        }
        Ok(())
    }

    /// A note about arrays some of whose chunks inside shards are not stored, by what was read so far. Their index says
    /// so, and they are zeros.
    pub fn note_of_shards(&self) -> Option<Note> {
        let arrays: Vec<_> = self.sharded.iter().filter_map(ShardedArray::unstored).collect();
        (!arrays.is_empty()).then_some(Note::ChunksNotStored { arrays })
    }

    /// The tensors with the offsets and strides that their files state. Opens all pieces; reads no tensor bytes.
    ///
    /// # Errors
    /// `Access` for the first piece that contradicts the directory.
    pub fn opened_entries(&self) -> Result<Vec<TensorEntry>, Error> {
        let open = |(tensor_idx, entry): (usize, &TensorEntry)| {
            let pieces = (0..entry.pieces.len()).map(|i| self.opened_piece(tensor_idx, entry, i).cloned());
            Ok(TensorEntry { pieces: pieces.collect::<Result<_, AccessError>>()?, ..entry.clone() })
        };
        self.catalog.entries().iter().enumerate().map(open).collect()
    }

    /// The archives in a file, as ranges of its bytes; none if the format does not list them.
    pub(crate) fn archives_in(&self, file_idx: u32) -> Vec<Range<u64>> {
        self.lazy.as_ref().map(|lazy| lazy.archives_in(file_idx)).unwrap_or_default()
    }

    pub(crate) fn readers(&self) -> &[Arc<dyn ReadAt>] {
        &self.readers
    }

    /// Reads a range of a tensor of the stored catalog.
    pub(crate) fn read_stored(
        &self,
        tensor_idx: usize,
        elements: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), AccessError> {
        let entry = self.entry(tensor_idx)?;
        self.check_range(entry, &elements)?;
        let wanted_bytes = entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0);
        if wanted_bytes != out.len() as u64 {
            let message = format!("{wanted_bytes} bytes cannot be read into a buffer of {}", out.len());
            return Err(AccessError { path: self.first_path(entry), message, source: None });
        }
        if out.is_empty() {
            return Ok(());
        }
        if self.lazy.is_none()
            && let [piece] = &*entry.pieces
            && let Some(bytes) = byte_range(entry, piece, &elements)
        {
            let (file, reader) = self.file_of(entry, piece)?;
            let outcome = reader.read_exact_at(bytes.start, out);
            return outcome.map_err(|error| access_error(&file.path, "read", &entry.name, error));
        }
        for share in shares_of(entry, &elements) {
            let (file, reader) = self.file_of(entry, &entry.pieces[share.piece_idx])?;
            let piece = self.opened_piece(tensor_idx, entry, share.piece_idx)?;
            let read = &mut |offset, out: &mut [u8]| reader.read_exact_at(offset, out);
            read_share(entry, piece, share.positions, elements.start, out, read)
                .map_err(|error| access_error(&file.path, "read", &entry.name, error))?;
        }
        Ok(())
    }

    fn position(&self, tensor_idx: usize) -> usize {
        self.dequantised.as_ref().map_or(tensor_idx, |seen| seen.position(tensor_idx))
    }

    /// Tells the files which bytes a range of elements needs. Skips pieces with strides: the bytes that a range needs
    /// are spread over the whole piece.
    fn hint(&self, tensor_idx: usize, elements: &Range<u64>, tell: fn(&dyn ReadAt, u64, u64)) {
        let Ok(entry) = self.entry(tensor_idx) else { return };
        if self.check_range(entry, elements).is_err() {
            return;
        }
        for Share { piece_idx, positions } in shares_of(entry, elements) {
            let known = self.lazy.as_ref().and_then(|lazy| lazy.known(tensor_idx, piece_idx));
            let piece = known.unwrap_or(&entry.pieces[piece_idx]);
            let Ok((_, reader)) = self.file_of(entry, piece) else { continue };
            let ends = entry.dtype.bytes_of(positions.start).zip(entry.dtype.bytes_of(positions.end));
            if let (None, Some((start, end))) = (piece.strides(), ends) {
                tell(reader, piece.offset + start, end - start);
            }
        }
    }
}

/// Bytes of an element range in the file that holds the whole tensor; `None` if the tensor is in pieces, or if the
/// range is outside the tensor or cuts a byte.
pub(crate) fn byte_range(entry: &TensorEntry, piece: &Piece, elements: &Range<u64>) -> Option<Range<u64>> {
    if !piece.is_whole() || elements.start > elements.end || elements.end > entry.n_elements() {
        return None;
    }
    let start = piece.offset.checked_add(entry.dtype.bytes_of(elements.start)?)?;
    let end = piece.offset.checked_add(entry.dtype.bytes_of(elements.end)?)?;
    Some(start..end)
}

/// A storage error as an access error that names the tensor; the file is said once.
pub(crate) fn access_error(path: &Path, act: &str, tensor: &str, error: thalweg_storage::Error) -> AccessError {
    let tensor = display_name(tensor);
    let message = match &error {
        thalweg_storage::Error::Changed { .. } => format!("the file changed while tensor `{tensor}` was read"),
        thalweg_storage::Error::Truncated { wanted_bytes, found_bytes, .. } => {
            format!("the file ends at byte {found_bytes}, but tensor `{tensor}` needs {wanted_bytes}")
        }
        _ => format!("cannot {act} tensor `{tensor}`"),
    };
    AccessError { path: path.display().to_string(), message, source: Some(Box::new(error)) }
}

impl TensorSource for Checkpoint {
    fn catalog(&self) -> &TensorCatalog {
        Self::catalog(self)
    }

    fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        match &self.dequantised {
            Some(seen) => seen.read(self, tensor_idx, elements, out),
            None => self.read_stored(tensor_idx, elements, out),
        }
    }

    fn stored_bytes(&self, tensor_idx: usize, elements: Range<u64>) -> u64 {
        match &self.dequantised {
            Some(seen) => seen.stored_bytes(&self.catalog, tensor_idx, &elements),
            None => {
                let n_elements = elements.end.saturating_sub(elements.start);
                self.catalog.entries().get(tensor_idx).and_then(|entry| entry.dtype.bytes_of(n_elements)).unwrap_or(0)
            }
        }
    }

    fn n_places(&self) -> Option<usize> {
        self.is_packed.then_some(N_PLACES)
    }

    fn will_read(&self, tensor_idx: usize, elements: Range<u64>) {
        let stored = self.position(tensor_idx);
        self.hint(stored, &elements, |reader, offset, len_bytes| reader.will_need(offset, len_bytes));
    }

    fn done_reading(&self, tensor_idx: usize, elements: Range<u64>) {
        let stored = self.position(tensor_idx);
        self.hint(stored, &elements, |reader, offset, len_bytes| reader.drop_cache(offset, len_bytes));
    }
}
