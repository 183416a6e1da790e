//! Checkpoints of DeepSpeed: 16-bit weights of the module, and FP32 masters that ZeRO cut over the ranks.
//!
//! Decides which files of a folder belong together and which values are meant. `masters` assembles the masters,
//! `universal` reads universal checkpoints, and `torch` reads the files themselves.

pub(crate) mod frozen;
mod masters;
mod runs;
mod steps;
mod universal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::TensorEntry;

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
/// Most ranks: more than any job has.
const MAX_RANKS: u32 = 1 << 20;
pub(crate) const MODEL_END: &str = "_model_states.pt";
const OPTIMIZER_END: &str = "_optim_states.pt";

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
        let is_ours = |name: &str| name.ends_with(MODEL_END) || name.ends_with(OPTIMIZER_END) || name == LATEST_NAME;
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
        place.folder_names().any(|name| name == universal::FOLDER_NAME)
            && place.file_names().any(|name| name.ends_with(MODEL_END))
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let files = RankFiles::find(place);
        if options.params == Some(Params::Module) {
            return open_module(storage, (&files, true), options, cache);
        }
        universal::open_masters(storage, place, &files, options, cache)
    }
}

/// Masters and the module's weights are copies of each other, if the files hold both: ZeRO-3 has only masters.
fn other_params(place: &Place, params: Option<Params>) -> Option<Params> {
    let files = RankFiles::find(place);
    let has_masters = !files.optimizer.is_empty() || DeepSpeedUniversal.recognises(place);
    match params? {
        Params::Master => (files.model.len() == 1).then_some(Params::Module),
        Params::Module => has_masters.then_some(Params::Master),
    }
}

/// The folder that `latest` names, if this folder holds that file and no states itself.
fn follow_latest(storage: &Arc<dyn Storage>, place: &Place) -> Result<Option<Place>, Error> {
    if place.file_names().any(|name| name.ends_with(MODEL_END) || name.ends_with(OPTIMIZER_END)) {
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
    if !entries.iter().any(|entry| entry.name.ends_with(MODEL_END)) {
        let found = format!("`{LATEST_NAME}` names `{name}`, which holds no DeepSpeed states");
        return Err(Error::NotACheckpoint { path: place.path().to_owned(), found, converter: None });
    }
    Ok(Some(Place::Folder { path, entries }))
}

/// The files of a checkpoint by rank.
#[derive(Debug, Default)]
struct RankFiles {
    folder: PathBuf,
    /// States of the module: one, or one for each rank under ZeRO-3.
    model: BTreeMap<u32, String>,
    /// States of the optimizer.
    optimizer: BTreeMap<u32, String>,
    /// A file whose name shows that tensor, pipeline or expert parallelism cuts the model itself.
    cut: Option<String>,
}

impl RankFiles {
    fn find(place: &Place) -> Self {
        let mut files = Self { folder: place.folder().to_owned(), ..Self::default() };
        for name in place.file_names() {
            match parse_name(name) {
                Some((States::Model, rank)) => drop(files.model.insert(rank, name.to_owned())),
                Some((States::Optimizer, rank)) => drop(files.optimizer.insert(rank, name.to_owned())),
                Some((States::OfACutModel, _)) => files.cut = files.cut.or_else(|| Some(name.to_owned())),
                None => {}
            }
        }
        files
    }

    fn refuse_cut(&self) -> Result<(), Error> {
        let Some(name) = &self.cut else { return Ok(()) };
        let found = format!(
            "`{}` shows that the model is split by tensor, pipeline or expert parallelism; thalweg reads \
             such a model only from a universal checkpoint (`ds_to_universal.py`)",
            thalweg_tensor::display_name(name)
        );
        Err(Error::NotACheckpoint { path: self.folder.clone(), found, converter: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

enum States {
    Model,
    Optimizer,
    OfACutModel,
}

/// What a file is, and of which rank: `[bf16_]zero_pp_rank_R_mp_rank_MM_optim_states.pt`, `mp_rank_MM_model_states.pt`.
fn parse_name(name: &str) -> Option<(States, u32)> {
    let (stem, states) = match name.strip_suffix(MODEL_END) {
        Some(stem) => (stem, States::Model),
        None => (name.strip_suffix(OPTIMIZER_END)?, States::Optimizer),
    };
    if stem.starts_with("layer_") || stem.starts_with("expp_rank_") || stem.contains("expert") {
        return Some((States::OfACutModel, 0));
    }
    let stem = stem.strip_prefix("bf16_").unwrap_or(stem);
    let stem = stem.strip_prefix("fp16_").unwrap_or(stem);
    let (rank, model_rank) = match stem.strip_prefix("zero_pp_rank_") {
        Some(rest) => rest.split_once("_mp_rank_")?,
        None => ("0", stem.strip_prefix("mp_rank_")?),
    };
    let (rank, model_rank) = (rank.parse().ok().filter(|rank| *rank < MAX_RANKS)?, model_rank.parse::<u32>().ok()?);
    Some((if model_rank == 0 { states } else { States::OfACutModel }, rank))
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
    let files = RankFiles::find(place);
    files.refuse_cut()?;
    if options.params == Some(Params::Module) || files.optimizer.is_empty() && options.params.is_none() {
        return open_module(storage, (&files, !files.optimizer.is_empty()), options, cache);
    }
    masters::open_masters(storage, &files, options, cache)
}

/// The name of a moment of a parameter.
fn moment_name(moment: &str, param: &str) -> String {
    format!("optimizer.{moment}.{param}")
}

fn first_model(storage: &Arc<dyn Storage>, files: &RankFiles) -> Result<Opened, Error> {
    let Some(name) = files.model.get(&0) else {
        let faults = vec![UnfinishedFault::MissingShard { file: "mp_rank_00_model_states.pt".to_owned() }];
        return Err(Error::Unfinished { path: files.folder.clone(), faults });
    };
    Opened::open(storage, &files.path(name), name)
}

/// The module's own weights, in the element type in which the model computes.
fn open_module(
    storage: &Arc<dyn Storage>,
    (files, has_masters): (&RankFiles, bool),
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let model = first_model(storage, files)?;
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
