//! Distributed checkpoints of PyTorch (`torch.distributed.checkpoint`): `.metadata` and `.distcp` files, as FSDP,
//! FSDP2, meshes, torchtitan, OLMo-core, Lightning and others save them.
//!
//! The metadata says where each box of each tensor is, so a checkpoint is opened without reading the data. Each box is
//! a separate archive, which is opened when it is first needed.

mod chunk;
pub mod error;
mod hf_shards;
mod metadata;
mod objects;
mod select;
pub(crate) mod write;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_storage::{FileKind, FolderEntry, Storage};
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_tensor::{Piece, TensorCatalog, TensorEntry};

use self::chunk::Archives;
use self::error::{ChunkFault, DcpError};
pub use self::hf_shards::DcpSafetensors;
pub(super) use self::metadata::Entry;
pub use self::metadata::PathPart;
use self::metadata::{Directory, METADATA_NAMES, StoredTensor, list_entries};
pub use self::objects::{DcpExtras, DcpObject, dcp_extras};
pub(super) use self::select::{Selection, has_all_below, select_model};
use super::torch::tensor::is_type_name;
use super::{Findings, Format, FormatContent, OpenFile, Place};
use crate::error::{UnfinishedFault, storage_error};
use crate::lazy_pieces::OpenPiece;
use crate::pickle::{Global, PickleLimits, parse_pickle};
use crate::{CatalogCache, Error, Note, ReadOptions};

/// The file that a save writes last.
pub(crate) const METADATA_FILE_NAME: &str = ".metadata";
/// The longest metadata that is read, in bytes: room for a million chunks.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Longer metadata is read by few threads at once: a pickle takes about ten times its length in memory.
const LARGE_METADATA_BYTES: u64 = 1 << 20;
const DATA_END: &str = ".distcp";
/// Folders inside a trainer's checkpoint that hold the distributed checkpoint of the model, each with what has to be
/// beside it: other trainers call other things `model`.
const INNER_FOLDERS: [(&str, Option<&str>); 6] = [
    // OLMo-core, accelerate, litgpt.
    ("model_and_optim", None),
    ("pytorch_model_fsdp_0", None),
    ("lit_model.pth", None),
    // VeOmni, and lm-engine without and with asynchronous saves.
    ("model/ckpt", Some("extra_state")),
    ("model", Some("training_config.yml")),
    ("model_optimizer", Some("training_config.yml")),
];
/// The metadata here and in each of those folders.
const MARKS: [&str; 7] = [
    METADATA_FILE_NAME,
    "model_and_optim/.metadata",
    "pytorch_model_fsdp_0/.metadata",
    "lit_model.pth/.metadata",
    "model/ckpt/.metadata",
    "model/.metadata",
    "model_optimizer/.metadata",
];
/// The file that Lightning puts beside the metadata.
const LIGHTNING_FILE_NAME: &str = "meta.pt";

/// A folder with `.metadata` and `.distcp` files.
#[derive(Debug, Clone, Copy)]
pub struct Dcp;

impl Format for Dcp {
    fn name(&self) -> &'static str {
        "dcp"
    }

    fn marks(&self) -> &'static [&'static str] {
        &MARKS
    }

    fn is_certain(&self, place: &Place) -> bool {
        is_ours(place)
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn recognises(&self, place: &Place) -> bool {
        if let Place::File { path, .. } = place {
            return path.file_name().is_some_and(|name| name == METADATA_FILE_NAME);
        }
        let is_whole = place.file_names().any(|name| name.ends_with(".safetensors"));
        is_ours(place) || !is_whole && inner_folder(place).is_some()
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let choose = |entries: &[Entry<'_>], is_lightning| {
            let model = select_model(entries, options.key.as_deref(), is_lightning)?;
            Ok(if options.optimizer { model.with_optimizer(entries, &|_| true) } else { model })
        };
        let reading = Reading { choose: &choose, fingerprint: fingerprint_of(self.name(), options) };
        open_folder(storage, &folder_of(place), &reading, cache)
    }
}

/// Whether the folder itself, and not one in it, is a distributed checkpoint.
pub(super) fn is_ours(place: &Place) -> bool {
    place.file_names().any(|name| name == METADATA_FILE_NAME || name.ends_with(DATA_END))
}

fn inner_folder(place: &Place) -> Option<&'static str> {
    let Place::Folder { entries, .. } = place else { return None };
    let has_folder = |name: &str| entries.iter().any(|entry| entry.kind == FileKind::Folder && entry.name == name);
    let is_there = |(inner, beside): &&(&str, Option<&str>)| {
        has_folder(inner.split('/').next().unwrap_or(inner))
            && beside.is_none_or(|beside| entries.iter().any(|entry| entry.name == beside))
    };
    INNER_FOLDERS.iter().find(is_there).map(|(inner, _)| *inner)
}

/// The folder of the distributed checkpoint at a place.
fn folder_of(place: &Place) -> DcpFolder {
    match inner_folder(place).filter(|_| !is_ours(place)) {
        Some(inner) => DcpFolder { path: place.folder().join(inner), prefix: format!("{inner}/") },
        None => DcpFolder { path: place.folder().to_owned(), prefix: String::new() },
    }
}

/// The folder of a distributed checkpoint, which may be inside the trainer's.
#[derive(Debug)]
pub(super) struct DcpFolder {
    pub(super) path: PathBuf,
    /// Path from the checkpoint's folder to its files.
    pub(super) prefix: String,
}

/// Chooses the entries of the model. The second argument says whether Lightning wrote the folder.
pub(super) type ChooseEntries<'a> = &'a dyn Fn(&[Entry<'_>], bool) -> Result<Selection, DcpError>;

/// Which entries are read.
pub(super) struct Reading<'a> {
    pub(super) choose: ChooseEntries<'a>,
    /// All that the choice depends on besides the metadata.
    pub(super) fingerprint: String,
}

/// The options on which the choice of entries depends.
pub(super) fn fingerprint_of(format: &str, options: &ReadOptions) -> String {
    format!("{format} {:?} {} {:?}", options.key, options.optimizer, options.params)
}

/// What metadata says: all about a folder but its files.
#[derive(Debug)]
struct KnownMetadata {
    catalog: Arc<TensorCatalog>,
    files: Vec<(String, u64)>,
    archives: Arc<Archives>,
    findings: Findings,
    notes: Vec<Note>,
    n_state: usize,
}

/// Reads metadata, unless the same bytes were read before: listing a run and then merging it opens each checkpoint
/// twice.
fn know_metadata(
    bytes: &[u8],
    reading: &Reading<'_>,
    is_lightning: bool,
    cache: &CatalogCache,
) -> Result<Arc<KnownMetadata>, DcpError> {
    let digest = bytes_digest(DigestKind::Blake3, bytes);
    let fingerprint = format!("{} {is_lightning} {digest}", reading.fingerprint);
    if let Some(known) = cache.recall_metadata(&fingerprint) {
        return Ok(known);
    }
    let chosen = choose_tensors(bytes, &|entries| (reading.choose)(entries, is_lightning))?;
    let duplicate = |name: Box<str>| DcpError::DuplicateName { name: name.into() };
    let known = Arc::new(KnownMetadata {
        catalog: cache.share(TensorCatalog::new(chosen.entries).map_err(duplicate)?),
        files: chosen.files,
        archives: Arc::new(Archives::new(chosen.archives)),
        findings: chosen.findings,
        notes: chosen.notes,
        n_state: chosen.n_state,
    });
    cache.remember_metadata(fingerprint, &known);
    Ok(known)
}

/// Reads the metadata of a folder, opens the files that it names, and assembles the chosen tensors.
pub(super) fn open_folder(
    storage: &Arc<dyn Storage>,
    folder: &DcpFolder,
    reading: &Reading<'_>,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let entries = storage.list_folder(&folder.path).map_err(|error| storage_error(&folder.path, error))?;
    let metadata_path = folder.path.join(METADATA_FILE_NAME);
    if !entries.iter().any(|entry| entry.name == METADATA_FILE_NAME) {
        let n_shards = entries.iter().filter(|entry| entry.name.ends_with(DATA_END)).count();
        let faults = vec![UnfinishedFault::NoIndex { n_shards, index: METADATA_FILE_NAME.to_owned() }];
        return Err(Error::Unfinished { path: folder.path.clone(), faults });
    }
    let refuse = |source| Error::Dcp { path: metadata_path.clone(), source: Box::new(source) };
    let is_lightning = entries.iter().any(|entry| entry.name == LIGHTNING_FILE_NAME);
    let is_large = |entry: &FolderEntry| entry.name == METADATA_FILE_NAME && entry.len_bytes > LARGE_METADATA_BYTES;
    let known = {
        let _turn = entries.iter().any(is_large).then(|| cache.take_turn());
        let bytes = storage.read_file(&metadata_path, MAX_METADATA_BYTES)?;
        know_metadata(&bytes, reading, is_lightning, cache).map_err(refuse)?
    };
    let files = open_files(storage, folder, &known.files)?;
    let opener: Arc<dyn OpenPiece> = Arc::<Archives>::clone(&known.archives);
    let mut notes = known.notes.clone();
    notes.extend(note_mixture(&files, storage.file_info(&metadata_path)?.modified_ns));
    Ok(FormatContent {
        files,
        catalog: Arc::clone(&known.catalog),
        n_state: known.n_state,
        notes,
        findings: known.findings.clone(),
        opener: Some(opener),
        ..FormatContent::default()
    })
}

/// The tensors that the bytes of a `.metadata` list below `key`, or those of the only model in it.
///
/// # Errors
/// A [`DcpError`] if the metadata cannot be read.
pub fn read_metadata(bytes: &[u8], key: Option<&str>) -> Result<Vec<TensorEntry>, DcpError> {
    Ok(choose_tensors(bytes, &|entries| select_model(entries, key, false))?.entries)
}

/// Reads the metadata, and frees it before any file is opened.
fn choose_tensors(
    bytes: &[u8],
    choose: &dyn Fn(&[Entry<'_>]) -> Result<Selection, DcpError>,
) -> Result<Chosen, DcpError> {
    let (pickle, _) = parse_pickle(bytes, &[METADATA_NAMES], &limits_for(bytes.len()))?;
    let directory = list_entries(&pickle)?;
    let selection = choose(&directory.entries)?;
    let mut chosen = gather_tensors(&directory, &selection)?;
    chosen.notes = notes(&selection);
    chosen.n_state = selection.n_state;
    chosen.findings = Findings {
        key: selection.key,
        params: selection.params,
        other_keys: selection.others,
        lone_keys: selection.lone,
        foreign_names: pickle.unlisted_names().filter(|name| !is_type_name(name)).map(Global::display).collect(),
        ..Findings::default()
    };
    Ok(chosen)
}

/// Limits on reading metadata. It grows with the number of ranks, so the limits grow with its length.
///
/// A chunk takes 180 bytes of metadata. With its place, the pickle counts 4 KiB of memory for it, several times what it
/// takes.
/// The name of a class counts as text again although its module was written before: small metadata has more text than
/// bytes.
fn limits_for(n_bytes: usize) -> PickleLimits {
    let n_bytes = n_bytes as u64;
    PickleLimits {
        max_memory_bytes: (64 << 20) + 40 * n_bytes,
        max_text_bytes: (64 << 10) + n_bytes,
        max_ops: 1_000 + n_bytes,
        ..PickleLimits::default()
    }
}

/// The chosen tensors, and everything that their pieces need.
#[derive(Default)]
struct Chosen {
    entries: Vec<TensorEntry>,
    /// Names of files in the order of their numbers in pieces, each with the end of the last byte that a piece needs.
    files: Vec<(String, u64)>,
    archives: Vec<(u32, u64, u64)>,
    findings: Findings,
    notes: Vec<Note>,
    n_state: usize,
}

fn gather_tensors(directory: &Directory<'_>, selection: &Selection) -> Result<Chosen, DcpError> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut ends: Vec<u64> = Vec::new();
    let mut chosen = Chosen::default();
    for (position, name) in &selection.tensors {
        let fail = |fault| DcpError::Tensor { tensor: name.clone(), fault };
        let Some(entry) = directory.entries.get(*position) else { continue };
        let StoredTensor { dtype, shape, chunks } = directory.read_tensor(entry).map_err(fail)?;
        let mut pieces = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let file_idx = match numbers.get(chunk.file) {
                Some(file_idx) => *file_idx,
                None => {
                    let file_idx = u32::try_from(ends.len()).unwrap_or(u32::MAX);
                    numbers.insert(chunk.file, file_idx);
                    ends.push(0);
                    file_idx
                }
            };
            let end =
                chunk.offset.checked_add(chunk.len_bytes).ok_or(fail(ChunkFault::Malformed { what: "length" }))?;
            if let Some(last) = ends.get_mut(thalweg_tensor::to_index(file_idx.into())) {
                *last = end.max(*last);
            }
            chosen.archives.push((file_idx, chunk.offset, chunk.len_bytes));
            pieces.push(Piece::boxed(file_idx, chunk.offset, &chunk.start, &chunk.extent));
        }
        let entry = TensorEntry::of_pieces(name.as_str().into(), dtype, shape, pieces);
        chosen.entries.push(entry.map_err(|fault| fail(ChunkFault::Cover(fault)))?);
    }
    let mut files: Vec<(u32, String)> = numbers.into_iter().map(|(name, idx)| (idx, name.to_owned())).collect();
    files.sort_unstable();
    chosen.files = files.into_iter().map(|(_, name)| name).zip(ends).collect();
    Ok(chosen)
}

/// Opens every file that has a chunk; the error lists all missing and truncated files.
fn open_files(storage: &Arc<dyn Storage>, folder: &DcpFolder, named: &[(String, u64)]) -> Result<Vec<OpenFile>, Error> {
    let (mut files, mut faults) = (Vec::with_capacity(named.len()), Vec::new());
    for (name, end) in named {
        let path = folder.path.join(name);
        let file = format!("{}{name}", folder.prefix);
        let reader = match storage.open_file(&path) {
            Err(error) if error.is_not_found() => {
                faults.push(UnfinishedFault::MissingShard { file });
                continue;
            }
            opened => opened?,
        };
        let found_bytes = reader.info().len_bytes;
        if found_bytes < *end {
            faults.push(UnfinishedFault::ShortShard { file, wanted_bytes: *end, found_bytes });
            continue;
        }
        files.push(OpenFile { name: file, path, reader });
    }
    if faults.is_empty() {
        return Ok(files);
    }
    faults.sort_by(|a, b| a.file().cmp(b.file()));
    Err(Error::Unfinished { path: folder.path.clone(), faults })
}

/// A save over an existing checkpoint, if killed, leaves files of two steps beside the old metadata.
fn note_mixture(files: &[OpenFile], metadata_ns: i128) -> Option<Note> {
    /// The times of files that were copied together may differ by this much.
    const TOLERANCE_NS: i128 = 60_000_000_000;
    let is_newer = |file: &&OpenFile| file.reader.info().modified_ns > metadata_ns + TOLERANCE_NS;
    let newer: Vec<String> = files.iter().filter(is_newer).map(|file| file.name.clone()).collect();
    let n_older = files.len() - newer.len();
    (!newer.is_empty() && n_older > 0).then_some(Note::NewerThanMetadata { files: newer, n_older })
}

fn notes(selection: &Selection) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(selection.key.clone().map(|key| Note::KeyChosen { key }));
    if !selection.others.is_empty() {
        notes.push(Note::OtherKeys { keys: selection.others.clone(), lone: selection.lone.clone() });
    }
    notes.extend(selection.stripped.iter().map(|prefix| Note::PrefixTakenOff { prefix: (*prefix).to_owned() }));
    if !selection.objects.is_empty() {
        notes.push(Note::ObjectsLeftOut { names: selection.objects.clone() });
    }
    notes
}
