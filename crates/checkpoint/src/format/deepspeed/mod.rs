//! Checkpoints of DeepSpeed: 16-bit weights of the module, and FP32 masters that ZeRO cut over the ranks.
//!
//! Decides which values are meant. `files` says which files of a folder belong together, `masters` assembles the
//! masters, `cut` reads models that several ranks hold, `experts` numbers experts, `universal` reads universal
//! checkpoints, and `torch` reads the files themselves.

mod cut;
mod experts;
mod files;
pub(crate) mod frozen;
mod layers;
mod masters;
mod runs;
mod steps;
mod universal;

use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::TensorEntry;

use self::files::{RankFiles, SavedFiles, is_state_file};
pub(crate) use self::files::{is_expert_optimizer, is_model_file};
use super::torch::error::TorchError;
use super::torch::tensor::TensorSpec;
use super::torch::{TorchFile, content_of, entry_of};
use super::{Findings, Format, FormatContent, OpenFile, Place};
use crate::error::{UnfinishedFault, storage_error};
use crate::pickle::{NameList, Value};
use crate::{CatalogCache, Error, Note, Params, ReadOptions};

/// Classes of DeepSpeed whose objects are read as data.
const NAMES: NameList =
    &[("deepspeed.runtime.zero.config", "ZeroStageEnum"), ("deepspeed.utils.tensor_fragment", "fragment_address")];
/// The file that names the newest checkpoint of a folder.
const LATEST_NAME: &str = "latest";
/// A tracker file holds one short name.
const MAX_TRACKER_BYTES: u64 = 4096;
/// Most missing files that an error lists: one file with a damaged number has a million.
const MAX_MISSING: u32 = 1024;

/// ZeRO of any stage, and DeepSpeed without ZeRO.
#[derive(Debug, Clone, Copy)]
pub struct DeepSpeedZero;

/// What `ds_to_universal` makes: a folder for each parameter.
#[derive(Debug, Clone, Copy)]
pub struct DeepSpeedUniversal;

impl Format for DeepSpeedZero {
    fn name(&self) -> &'static str {
        "deepspeed-zero"
    }

    fn marks(&self) -> &'static [&'static str] {
        &["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"]
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn other_params(&self, place: &Place, params: Option<Params>) -> Option<Params> {
        other_params(place, params)
    }

    fn recognises(&self, place: &Place) -> bool {
        let is_ours = |name: &str| is_state_file(name) || name == LATEST_NAME;
        matches!(place, Place::Folder { .. }) && place.file_names().any(is_ours)
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        match follow_latest(storage, place)? {
            Some(inner) => self.open(storage, &inner, options, cache),
            None => open_zero(storage, place, options, cache),
        }
    }
}

impl Format for DeepSpeedUniversal {
    fn name(&self) -> &'static str {
        "deepspeed-universal"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[]
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn other_params(&self, place: &Place, params: Option<Params>) -> Option<Params> {
        other_params(place, params)
    }

    fn recognises(&self, place: &Place) -> bool {
        place.folder_names().any(|name| name == universal::FOLDER_NAME) && place.file_names().any(is_model_file)
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let saved = SavedFiles::find(place);
        if options.params == Some(Params::Module) {
            return match saved.uncut() {
                Some(files) => open_module(storage, (files, true), None, options, cache),
                None => cut::open_cut(storage, &saved, options, cache),
            };
        }
        let files = saved.first_rank();
        universal::open_masters(storage, place, files, options, cache)
    }
}

/// Masters and the module's weights are copies of each other, if the files hold both: ZeRO-3 has only masters.
fn other_params(place: &Place, params: Option<Params>) -> Option<Params> {
    let saved = SavedFiles::find(place);
    let has_masters = saved.has_masters() || DeepSpeedUniversal.recognises(place);
    match params? {
        Params::Master => saved.has_weights().then_some(Params::Module),
        Params::Module => has_masters.then_some(Params::Master),
    }
}

/// The folder that `latest` names, if this folder holds that file and no states itself.
fn follow_latest(storage: &Arc<dyn Storage>, place: &Place) -> Result<Option<Place>, Error> {
    if place.file_names().any(is_state_file) {
        return Ok(None);
    }
    let bytes = storage.read_file(&place.folder().join(LATEST_NAME), MAX_TRACKER_BYTES)?;
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    let Some(name) = place.folder_names().find(|folder| **folder == *name) else {
        let faults = vec![UnfinishedFault::MissingShard { file: name }];
        return Err(Error::Unfinished { path: place.path().to_owned(), faults });
    };
    let path = place.folder().join(name);
    let entries = storage.list_folder(&path)?;
    if !entries.iter().any(|entry| is_model_file(&entry.name)) {
        let found = format!("`{LATEST_NAME}` names `{name}`, which holds no DeepSpeed states");
        return Err(Error::NotACheckpoint { path: place.path().to_owned(), found, converter: None });
    }
    Ok(Some(Place::Folder { path, entries }))
}

/// One opened file.
struct Opened {
    file: OpenFile,
    torch: TorchFile,
}

impl Opened {
    fn open(storage: &Arc<dyn Storage>, path: &Path, name: &str) -> Result<Self, Error> {
        let reader = storage.open_file(path).map_err(|error| storage_error(path, error))?;
        let window = 0..reader.info().len_bytes;
        let torch = TorchFile::open(&*reader, window, &[NAMES]).map_err(|source| refuse(path, source))?;
        Ok(Self { file: OpenFile { name: name.to_owned(), path: path.to_owned(), reader }, torch })
    }

    fn root(&self) -> Value<'_> {
        self.torch.pickle.root()
    }

    fn broken(&self, reason: impl Into<String>) -> Error {
        broken(&self.file.path, reason)
    }
}

fn refuse(path: &Path, source: TorchError) -> Error {
    Error::Torch { path: path.to_owned(), source: Box::new(source) }
}

fn broken(path: &Path, reason: impl Into<String>) -> Error {
    Error::Layout { path: path.to_owned(), reason: reason.into() }
}

fn open_zero(
    storage: &Arc<dyn Storage>,
    place: &Place,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let saved = SavedFiles::find(place);
    let Some(files) = saved.uncut() else { return cut::open_cut(storage, &saved, options, cache) };
    if reads_module(options, &saved) {
        return open_module(storage, (files, !files.optimizer.is_empty()), Some(&saved), options, cache);
    }
    match masters::open_masters(storage, files, options, cache) {
        Err(Error::NoMasters { .. }) if options.params.is_none() => {
            open_module(storage, (files, false), Some(&saved), options, cache)
        }
        opened => opened,
    }
}

/// Whether the module's weights are read, and not the masters.
fn reads_module(options: &ReadOptions, saved: &SavedFiles) -> bool {
    match options.params {
        Some(params) => params == Params::Module,
        None => !saved.has_masters(),
    }
}

/// The name of a moment of a parameter.
fn moment_name(moment: &str, param: &str) -> String {
    format!("optimizer.{moment}.{param}")
}

fn first_model(storage: &Arc<dyn Storage>, files: &RankFiles) -> Result<Opened, Error> {
    let Some(name) = files.model.get(&0) else {
        let faults = vec![UnfinishedFault::MissingShard { file: files.model_name() }];
        return Err(Error::Unfinished { path: files.folder.clone(), faults });
    };
    Opened::open(storage, &files.path(name), name)
}

/// The module's own weights, in the element type in which the model computes. `with_experts` are all files, if experts
/// have separate files.
fn open_module(
    storage: &Arc<dyn Storage>,
    (files, has_masters): (&RankFiles, bool),
    with_experts: Option<&SavedFiles>,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let model = first_model(storage, files)?;
    if let Some(saved) = with_experts {
        cut::check_experts(saved, model.root())?;
    }
    if files.model.len() > 1 {
        return Err(Error::NoModuleWeights { path: model.file.path.clone() });
    }
    let path = &model.file.path;
    let module = ReadOptions { key: Some("module".to_owned()), ..options.clone() };
    let found = content_of(&model.torch, &*model.file.reader, 0, &module).map_err(|source| refuse(path, source))?;
    let choice = if has_masters { Choice::Both(Params::Module) } else { Choice::Only(Params::Module) };
    let mut content = finish(vec![model.file.clone()], found.entries, found.findings, choice, cache)?;
    content.notes.extend(steps::note_step(storage, files, &model, None)?);
    Ok(FormatContent { n_state: found.n_state, ..content })
}

/// Which values of the parameters are read.
#[derive(Debug, Clone, Copy)]
enum Choice {
    /// These, and the checkpoint also has the others.
    Both(Params),
    /// The only ones that there are.
    Only(Params),
}

fn finish(
    files: Vec<OpenFile>,
    entries: Vec<TensorEntry>,
    mut findings: Findings,
    choice: Choice,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
    let twice =
        |name: Box<str>| broken(&path, format!("tensor `{}` appears twice", thalweg_tensor::display_name(&name)));
    let catalog = cache.share(thalweg_tensor::TensorCatalog::new(entries).map_err(twice)?);
    let (Choice::Both(params) | Choice::Only(params)) = choice;
    findings.params = Some(params);
    let notes = match choice {
        Choice::Both(params) => vec![Note::ParamsChosen { params }],
        Choice::Only(_) => Vec::new(),
    };
    Ok(FormatContent { files, catalog, notes, findings, ..FormatContent::default() })
}

fn state_of(rank: &Opened) -> Result<Value<'_>, Error> {
    let state = rank.root().get("optimizer_state_dict");
    state.filter(|state| state.is_dict()).ok_or_else(|| rank.broken("it holds no `optimizer_state_dict`"))
}

/// What the optimizer of a rank keeps for each of its flat vectors: a dictionary by their numbers, or a list.
fn groups_of_state(rank: &Opened) -> Result<Option<Value<'_>>, Error> {
    let state = state_of(rank)?;
    // Of ZeRO-1 and 2, and of ZeRO-3.
    let base = state.get("base_optimizer_state").or_else(|| state.get("optimizer_state_dict"));
    Ok(base.map(|base| base.get("state").unwrap_or(base)))
}

fn place_of(rank: &Opened, spec: &TensorSpec<'_>) -> Result<u64, Error> {
    let piece = rank.torch.locate(&*rank.file.reader, 0, spec);
    piece.map(|piece| piece.offset).map_err(|error| refuse(&rank.file.path, error.of("a share of the masters")))
}

/// The tensors of a dictionary of tensors, with their places in a file.
fn entries_of(opened: &Opened, file_idx: u32, dict: Value<'_>) -> Result<Vec<TensorEntry>, Error> {
    let mut entries = Vec::new();
    for (name, value) in dict.entries() {
        let Some(name) = name.as_text() else { continue };
        let entry = entry_of(&opened.torch, &*opened.file.reader, file_idx, name, value);
        entries.extend(entry.map_err(|source| refuse(&opened.file.path, source))?);
    }
    Ok(entries)
}
