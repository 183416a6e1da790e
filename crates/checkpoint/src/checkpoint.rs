//! `Checkpoint`: an opened checkpoint of any format, as a source of tensor bytes.
//!
//! Opening read the headers; bytes are read in positioned reads, whole or not at all.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use thalweg_storage::{FileInfo, ReadAt};
use thalweg_tensor::{AccessError, Piece, TensorCatalog, TensorEntry, TensorSource, display_name, to_index};

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

/// A `config.json` as it stood in the folder.
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
    pub(crate) catalog: Arc<TensorCatalog>,
    pub(crate) files: Vec<ShardFile>,
    pub(crate) readers: Vec<Arc<dyn ReadAt>>,
    pub(crate) config: Option<ConfigFile>,
    pub(crate) side_files: Vec<SideFile>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) notes: Vec<Note>,
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
        &self.catalog
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

    /// Remarks in the header of the first shard, such as `format`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Things a user should be told.
    pub fn notes(&self) -> &[Note] {
        &self.notes
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
            let message = format!("there is no tensor number {tensor_idx}, only {n_tensors}");
            AccessError { path: self.path.display().to_string(), message, source: None }
        })
    }

    /// The file and the byte range of an element range.
    fn place(&self, entry: &TensorEntry, elements: &Range<u64>) -> Result<(usize, Range<u64>), AccessError> {
        let refuse = |path: &Path, message| AccessError { path: path.display().to_string(), message, source: None };
        let [piece] = &*entry.pieces else {
            let name = display_name(&entry.name);
            let message = format!("tensor `{name}` has {} pieces, which cannot be read as one", entry.pieces.len());
            return Err(refuse(&self.path, message));
        };
        let file_idx = to_index(piece.file_idx.into());
        let path = self.files.get(file_idx).map_or(&*self.path, |file| &*file.path);
        if !piece.is_whole() || file_idx >= self.readers.len() {
            let message = format!("tensor `{}` does not lie whole in one file", display_name(&entry.name));
            return Err(refuse(path, message));
        }
        match byte_range(entry, piece, elements) {
            Some(bytes) => Ok((file_idx, bytes)),
            None => {
                let (name, Range { start, end }) = (display_name(&entry.name), elements);
                let message =
                    format!("tensor `{name}` with {} elements has no range {start}..{end}", entry.n_elements());
                Err(refuse(path, message))
            }
        }
    }

    fn hint_range(&self, tensor_idx: usize, elements: &Range<u64>) -> Option<(&dyn ReadAt, u64, u64)> {
        let entry = self.entry(tensor_idx).ok()?;
        let (file_idx, bytes) = self.place(entry, elements).ok()?;
        Some((&**self.readers.get(file_idx)?, bytes.start, bytes.end - bytes.start))
    }
}

/// Bytes of an element range in its file; `None` if the range is not in the tensor or cuts a byte.
pub(crate) fn byte_range(entry: &TensorEntry, piece: &Piece, elements: &Range<u64>) -> Option<Range<u64>> {
    if elements.start > elements.end || elements.end > entry.n_elements() {
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
            format!("the file ends at byte {found_bytes}, tensor `{tensor}` needs {wanted_bytes}")
        }
        _ => format!("cannot {act} tensor `{tensor}`"),
    };
    AccessError { path: path.display().to_string(), message, source: Some(Box::new(error)) }
}

impl TensorSource for Checkpoint {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        let entry = self.entry(tensor_idx)?;
        let (file_idx, bytes) = self.place(entry, &elements)?;
        let (file, reader) = (&self.files[file_idx], &self.readers[file_idx]);
        if bytes.end - bytes.start != out.len() as u64 {
            let wanted_bytes = bytes.end - bytes.start;
            let message = format!("{wanted_bytes} bytes cannot be read into a buffer of {}", out.len());
            return Err(AccessError { path: file.path.display().to_string(), message, source: None });
        }
        if out.is_empty() {
            return Ok(());
        }
        reader.read_exact_at(bytes.start, out).map_err(|error| access_error(&file.path, "read", &entry.name, error))
    }

    fn will_read(&self, tensor_idx: usize, elements: Range<u64>) {
        if let Some((reader, offset, len_bytes)) = self.hint_range(tensor_idx, &elements) {
            reader.will_need(offset, len_bytes);
        }
    }

    fn done_reading(&self, tensor_idx: usize, elements: Range<u64>) {
        if let Some((reader, offset, len_bytes)) = self.hint_range(tensor_idx, &elements) {
            reader.drop_cache(offset, len_bytes);
        }
    }
}
