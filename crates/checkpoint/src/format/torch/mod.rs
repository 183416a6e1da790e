//! torch.save files: `.pt`, `.pth`, `.bin`, `.ckpt`, one or many with an index.
//!
//! Decides which file of a folder is meant and which part of it is the model. `archive` reads archives, `legacy` the
//! older streams, and `tensor` tensors. No instruction of a pickle is ever executed.

pub mod archive;
pub(crate) mod archive_write;
pub(crate) mod dtensor;
pub mod error;
mod file_names;
mod folder;
mod legacy;
pub mod rank_folders;
mod ranks;
mod state_dict;
pub(crate) mod tensor;
#[cfg(test)]
mod tests;
pub(crate) mod write;
#[cfg(test)]
mod write_tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{ReadAt, Storage};
use thalweg_tensor::{Piece, TensorEntry};

use self::archive::{Archive, ArchiveError};
use self::dtensor::DTENSOR_NAMES;
use self::error::TorchError;
use self::file_names::FILE_ENDS;
pub(crate) use self::file_names::is_saved_name;
pub(crate) use self::folder::files_by_name;
use self::folder::{Entrance, choose_entrance, is_torch_name};
use self::ranks::{RankFiles, is_rank_path, part_name};
use self::state_dict::{Holds, StateDict, all_as_named, all_tensors, find_state_dict};
pub(crate) use self::state_dict::{NameBudget, most_names};
use self::tensor::{Found, TENSOR_NAMES, TensorFault, TensorSpec, is_type_name, read_tensor};
use super::{Findings, Format, FormatContent, OpenFile, Place, Unreadable, npz};
use crate::error::storage_error;
use crate::index::{MAX_INDEX_BYTES, parse_index};
use crate::optimizer_state::is_optimizer_state;
use crate::pickle::{Global, NameList, Pickle, PickleLimits, Value, parse_pickle};
use crate::stranger::has_name_of_stranger;
use crate::zip_directory::{self, read_at};
use crate::{CatalogCache, Error, Note, ReadOptions};

/// The longest pickle that is read, in bytes.
const MAX_PICKLE_BYTES: u64 = 128 << 20;

/// torch.save files.
#[derive(Debug, Clone, Copy)]
pub struct Torch;

/// The name of the format.
const FORMAT_NAME: &str = "torch";

impl Format for Torch {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn marks(&self) -> &'static [&'static str] {
        &["pytorch_model.bin", "pytorch_model.bin.index.json", "lit_model.pth"]
    }

    fn file_ends(&self) -> &'static [&'static str] {
        &FILE_ENDS
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn recognises(&self, place: &Place) -> bool {
        match place {
            Place::File { path, head } => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let is_saved = head.starts_with(b"PK\x03\x04") || matches!(**head, [0x80, 0..=5, ..]);
                // NumPy's archives and shards of distributed checkpoints begin like torch.save files.
                is_torch_name(name) || is_saved && !name.ends_with(npz::FILE_END) && !has_name_of_stranger(name)
            }
            Place::Folder { .. } => place.file_names().any(is_torch_name),
        }
    }

    fn is_certain(&self, place: &Place) -> bool {
        matches!(place, Place::Folder { .. }) && matches!(choose_entrance(place), Ok(Entrance::Ranks(_)))
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        match choose_entrance(place)? {
            Entrance::Single { name, note } => {
                let path = match place {
                    Place::File { path, .. } => path.clone(),
                    Place::Folder { path, .. } => path.join(&name),
                };
                // A user who gives one rank's file means that part.
                let is_part = matches!(place, Place::File { .. }) && is_rank_path(&path);
                let holds = if is_part { Holds::Parts } else { Holds::Whole };
                let mut content = open_shards(storage, vec![(name, path)], (options, holds), cache)?;
                content.notes.extend(note);
                Ok(content)
            }
            Entrance::Shards(names) => {
                let n_shards = names.len();
                let shards = names.into_iter().map(|name| (name.clone(), place.folder().join(&name))).collect();
                let mut content = open_shards(storage, shards, (options, Holds::Whole), cache)?;
                content.notes.push(Note::ShardsWithoutIndex { n_shards });
                Ok(content)
            }
            Entrance::Ranks(files) => open_ranks(storage, place.path(), files, options, cache),
            Entrance::Index(name) => {
                let path = place.folder().join(&name);
                open_sharded(storage, &path, place, options, cache)
            }
        }
    }
}

fn refuse_reading(error: thalweg_storage::Error) -> TorchError {
    TorchError::Archive(zip_directory::refuse_reading(error).into())
}

/// An opened torch.save file: what its pickle says, and where its storages are.
#[derive(Debug)]
pub(crate) struct TorchFile {
    pub(crate) pickle: Pickle,
    container: Container,
}

#[derive(Debug)]
enum Container {
    Archive(Archive),
    Stream(BTreeMap<Box<str>, Range<u64>>),
}

impl TorchFile {
    /// Opens the archive or stream in these bytes of a file: a chunk of a distributed checkpoint is a whole archive,
    /// too.
    ///
    /// Calls of names in `lists` are understood in addition to those that make tensors.
    pub(crate) fn open(file: &dyn ReadAt, window: Range<u64>, lists: &[NameList]) -> Result<Self, TorchError> {
        let lists = [lists, &[TENSOR_NAMES]].concat();
        let head_bytes = (window.end.saturating_sub(window.start)).min(512);
        let head = read_at(file, window.start, head_bytes).map_err(refuse_reading)?;
        match &*head {
            [b'P', b'K', 3, 4, ..] => {
                let archive = Archive::open(file, window)?;
                let bytes = archive.read_pickle(file, MAX_PICKLE_BYTES)?;
                let (pickle, _) = parse_pickle(&bytes, &lists, &PickleLimits::default())?;
                Ok(Self { pickle, container: Container::Archive(archive) })
            }
            _ if could_be_pickle(&head) => {
                let stream = legacy::open_stream(file, window, &lists)?;
                Ok(Self { pickle: stream.pickle, container: Container::Stream(stream.storages) })
            }
            _ => Err(TorchError::NotTorch { found: describe(&head) }),
        }
    }

    /// Where the bytes of a tensor are.
    pub(crate) fn locate(&self, file: &dyn ReadAt, file_idx: u32, spec: &TensorSpec<'_>) -> Result<Piece, LocateError> {
        let key = spec.key.to_owned();
        let range = match &self.container {
            Container::Archive(archive) => archive.find_storage(file, spec.key)?,
            Container::Stream(storages) => storages.get(spec.key).cloned(),
        };
        let range = range.ok_or_else(|| TensorFault::NoStorage { key: key.clone() })?;
        let found_bytes = range.end - range.start;
        if found_bytes != spec.storage_bytes {
            return Err(TensorFault::StorageLength { key, wanted_bytes: spec.storage_bytes, found_bytes }.into());
        }
        let whole = Piece::whole(file_idx, range.start + spec.first_byte);
        let malformed = LocateError::Tensor(TensorFault::Malformed { what: "strides" });
        whole.with_strides(&spec.shape, &spec.strides).ok_or(malformed)
    }
}

/// Why a tensor cannot be found in its file.
#[derive(Debug)]
pub(crate) enum LocateError {
    Tensor(TensorFault),
    Archive(ArchiveError),
}

impl LocateError {
    /// The error of a file, with the name of the tensor.
    pub(crate) fn of(self, tensor: &str) -> TorchError {
        match self {
            Self::Tensor(fault) => TorchError::Tensor { tensor: tensor.to_owned(), fault },
            Self::Archive(error) => TorchError::Archive(error),
        }
    }
}

impl From<TensorFault> for LocateError {
    fn from(fault: TensorFault) -> Self {
        Self::Tensor(fault)
    }
}

impl From<ArchiveError> for LocateError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// Whether a file may begin with a pickle: protocol 2 and later say so, and older ones begin with an operation.
fn could_be_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, ..] | [b'c' | b'(' | b'I' | b'L' | b'J' | b'K' | b'M' | b'N' | b']' | b'}' | b')', ..])
}

/// What a file is, if it is not a torch.save file, by its first bytes.
fn describe(head: &[u8]) -> &'static str {
    match head {
        [] => "the file is empty",
        [b'<', ..] => "the file is a web page",
        [0x1f, 0x8b, ..] => "the file is compressed by gzip",
        _ if head.get(257..262) == Some(b"ustar") => "the file is a tar archive, as PyTorch wrote them before 0.1.10",
        _ => "the file is neither a zip archive nor a pickle",
    }
}

/// The tensors of one file.
#[derive(Debug)]
pub struct FileContent {
    /// The chosen tensors, with their places in file number `file_idx`.
    pub entries: Vec<TensorEntry>,
    /// What reading found besides the tensors.
    pub findings: Findings,
    /// What was removed from the names.
    pub stripped: Vec<&'static str>,
    /// How many of the tensors belong to the state of an optimizer that was asked for.
    pub n_state: usize,
}

/// Reads what a file holds under the key of `options`, or the only state dict in it that can be meant. No tensor byte
/// is read.
///
/// # Errors
/// A [`TorchError`] if the file cannot be read.
pub fn read_content(file: &dyn ReadAt, file_idx: u32, options: &ReadOptions) -> Result<FileContent, TorchError> {
    read_part(file, file_idx, (options, Holds::Whole))
}

/// As [`read_content`], for a file that may hold a part of the model.
fn read_part(
    file: &dyn ReadAt,
    file_idx: u32,
    (options, holds): (&ReadOptions, Holds),
) -> Result<FileContent, TorchError> {
    let lists: &[NameList] = if holds == Holds::Parts { &[DTENSOR_NAMES] } else { &[] };
    let torch_file = TorchFile::open(file, 0..file.info().len_bytes, lists)?;
    place_all(&torch_file, file, file_idx, find_state_dict(torch_file.pickle.root(), options, holds)?)
}

/// What an opened file holds under the key of `options`, or the only state dict in it that can be meant.
pub(crate) fn content_of(
    torch_file: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    options: &ReadOptions,
) -> Result<FileContent, TorchError> {
    place_all(torch_file, file, file_idx, find_state_dict(torch_file.pickle.root(), options, Holds::Whole)?)
}

fn place_all(
    torch_file: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    found: StateDict<'_>,
) -> Result<FileContent, TorchError> {
    let StateDict { key, tensors, unreadable, others, stripped, n_state, holds: _ } = found;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, spec) in tensors {
        entries.push(place_entry(torch_file, file, file_idx, &name, spec)?);
    }
    let unreadable = unreadable.into_iter().map(|(name, reason)| Unreadable { name, reason }).collect();
    let foreign_names =
        torch_file.pickle.unlisted_names().filter(|name| !is_type_name(name)).map(Global::display).collect();
    let findings = Findings { key, other_keys: others, unreadable, foreign_names, ..Findings::default() };
    Ok(FileContent { entries, findings, stripped, n_state })
}

/// Every tensor below a value, named by its path; it is not an error if there are none.
pub(crate) fn content_under(
    torch_file: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    value: Value<'_>,
    budget: &mut NameBudget,
) -> Result<FileContent, TorchError> {
    place_all(torch_file, file, file_idx, all_tensors(value, budget)?)
}

/// Every tensor below a value, named by its path, from which nothing is removed; it is not an error if there are none.
pub(crate) fn content_as_named(
    torch_file: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    value: Value<'_>,
) -> Result<FileContent, TorchError> {
    place_all(torch_file, file, file_idx, all_as_named(value, &mut NameBudget::new(value))?)
}

fn place_entry(
    torch_file: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    name: &str,
    spec: TensorSpec<'_>,
) -> Result<TensorEntry, TorchError> {
    let piece = torch_file.locate(file, file_idx, &spec).map_err(|error| error.of(name))?;
    Ok(TensorEntry { name: name.into(), dtype: spec.dtype, shape: spec.shape, pieces: [piece].into() })
}

/// The tensor that a value is, with its place; `None` if it is something else.
pub(crate) fn entry_of(
    torch_file: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    name: &str,
    value: Value<'_>,
) -> Result<Option<TensorEntry>, TorchError> {
    match read_tensor(value).map_err(|fault| TorchError::Tensor { tensor: name.to_owned(), fault })? {
        Found::Tensor(spec) => place_entry(torch_file, file, file_idx, name, spec).map(Some),
        Found::Unreadable(reason) => Err(TorchError::NoneReadable { tensor: name.to_owned(), reason }),
        Found::Other => Ok(None),
    }
}

fn torch_error(path: &Path, source: TorchError) -> Error {
    Error::Torch { path: path.to_owned(), source: Box::new(source) }
}

/// Reads another format's rank files as torch.save files, where their parts cannot be joined; `None` if their names do
/// not belong together.
///
/// # Errors
/// As for torch.save files.
pub(crate) fn open_parts<'a>(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    names: impl IntoIterator<Item = &'a str>,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<Option<FormatContent>, Error> {
    let Some(files) = RankFiles::find(names) else { return Ok(None) };
    let content = open_ranks(storage, folder, files, options, cache)?;
    Ok(Some(FormatContent { format_name: Some(FORMAT_NAME), ..content }))
}

/// Opens the files of ranks, whose tensors are named by their files if there are several.
fn open_ranks(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    files: RankFiles,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let shards: Vec<_> = files.complete(folder)?.into_iter().map(|name| (name.clone(), folder.join(name))).collect();
    let n_ranks = shards.len();
    let mut content = open_shards(storage, shards, (options, Holds::Parts), cache)?;
    if n_ranks > 1 {
        content.findings.n_ranks = n_ranks;
        let example = content.catalog.entries().first().map(|entry| entry.name.to_string());
        content.notes.extend(example.map(|example| Note::NamedByRank { example }));
    }
    Ok(content)
}

impl FileContent {
    /// Names the tensors by their file. Those of an optimizer are known by the key that their names begin with.
    fn name_by_file(&mut self, file: &str) {
        let part = part_name(file);
        let has_state = self.n_state > 0;
        let named = |name: &str| match name.split_once('.').filter(|_| has_state && is_optimizer_state(name)) {
            Some((key, rest)) => format!("{key}.{part}.{rest}"),
            None => format!("{part}.{name}"),
        };
        for entry in &mut self.entries {
            entry.name = named(&entry.name).into();
        }
        for unreadable in &mut self.findings.unreadable {
            unreadable.name = named(&unreadable.name);
        }
    }
}

/// Opens files one after the other and joins their tensors.
fn open_shards(
    storage: &Arc<dyn Storage>,
    shards: Vec<(String, std::path::PathBuf)>,
    (options, holds): (&ReadOptions, Holds),
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let mut content = FormatContent::default();
    let mut entries = Vec::new();
    let mut stripped = Vec::new();
    let is_cut = holds == Holds::Parts && shards.len() > 1;
    for (file_idx, (name, path)) in (0..).zip(shards) {
        let reader = storage.open_file(&path).map_err(|error| storage_error(&path, error))?;
        let found = read_part(&*reader, file_idx, (options, holds));
        let mut found = found.map_err(|error| torch_error(&path, error))?;
        if is_cut {
            found.name_by_file(&name);
        }
        entries.extend(found.entries);
        content.n_state += found.n_state;
        content.findings.join(found.findings);
        stripped.extend(found.stripped.into_iter().filter(|what| !stripped.contains(what)).collect::<Vec<_>>());
        content.files.push(OpenFile { name, path, reader });
    }
    content.notes = notes(&content.findings, &stripped);
    let first_path = content.files.first().map(|file| file.path.clone()).unwrap_or_default();
    let refuse = |tensor: Box<str>| {
        let fault = TensorFault::Malformed { what: "name, which appears twice," };
        torch_error(&first_path, TorchError::Tensor { tensor: tensor.into(), fault })
    };
    content.catalog = cache.share(thalweg_tensor::TensorCatalog::new(entries).map_err(refuse)?);
    Ok(content)
}

fn notes(findings: &Findings, stripped: &[&'static str]) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(key) = &findings.key {
        notes.push(Note::KeyChosen { key: key.clone() });
    }
    if !findings.other_keys.is_empty() {
        notes.push(Note::OtherKeys { keys: findings.other_keys.clone(), lone: findings.lone_keys.clone() });
    }
    notes.extend(stripped.iter().map(|prefix| Note::PrefixTakenOff { prefix: (*prefix).to_owned() }));
    notes
}

fn open_sharded(
    storage: &Arc<dyn Storage>,
    index_path: &Path,
    place: &Place,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let bytes = storage.read_file(index_path, MAX_INDEX_BYTES).map_err(|error| storage_error(index_path, error))?;
    let refuse = |source| Error::Index { path: index_path.to_owned(), source: Box::new(source) };
    let index = parse_index(&bytes).map_err(refuse)?;
    let shards: Vec<_> = index.files.iter().map(|name| (name.clone(), place.folder().join(name))).collect();
    folder::check_shards(storage, place, &shards)?;
    let content = open_shards(storage, shards, (options, Holds::Whole), cache)?;
    let faults = super::huggingface::compare_index(&index, content.catalog.entries());
    if !faults.is_empty() {
        return Err(Error::IndexMismatch { path: index_path.to_owned(), faults });
    }
    Ok(content)
}
