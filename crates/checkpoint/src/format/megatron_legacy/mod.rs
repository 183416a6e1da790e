//! Megatron-LM's older checkpoints: one `model_optim_rng.pt` for each tensor, pipeline and expert rank.
//!
//! Decides which files belong together and joins their tensors under the names that an uncut model has. The name of a
//! tensor says how it is cut over the tensor ranks: see `cuts`.

mod cuts;
mod names;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{TensorCatalog, TensorEntry, display_name};

use self::cuts::{Misfit, join_ranks};
use self::names::{ExpertNames, LayerNames};
use super::megatron_dist::ITERATION_START;
use super::stated_step::{StatedStep, compare_step, step_in_name};
use super::torch::error::TorchError;
use super::torch::{NameBudget, TorchFile, content_under, open_parts};
use super::{Findings, Format, FormatContent, OpenFile, Place};
use crate::error::{UnfinishedFault, storage_error};
use crate::pickle::{NameList, Value};
use crate::{CatalogCache, Error, ReadOptions};

const FILE_NAME: &str = "model_optim_rng.pt";
const FOLDER_START: &str = "mp_rank_";
/// Classes in which Megatron keeps its arguments.
const NAMES: NameList = &[("argparse", "Namespace"), ("types", "SimpleNamespace")];
/// Most ranks: more than any model is cut over.
const MAX_RANKS: usize = 65_536;
/// Most virtual stages of a rank: more than any model has layers for.
const MAX_CHUNKS: usize = 256;
/// Most missing ranks that an error lists: one folder with a damaged number has tens of thousands.
const MAX_MISSING: usize = 1024;

/// One file for each rank.
#[derive(Debug, Clone, Copy)]
pub struct MegatronLegacy;

impl Format for MegatronLegacy {
    fn name(&self) -> &'static str {
        "megatron-legacy"
    }

    fn marks(&self) -> &'static [&'static str] {
        &["mp_rank_00/model_optim_rng.pt", "mp_rank_00_000/model_optim_rng.pt", "mp_rank_00_000_000/model_optim_rng.pt"]
    }

    fn recognises(&self, place: &Place) -> bool {
        place.folder_names().any(|name| Rank::parse(name).is_some())
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let grid = Grid::find(place)?;
        let mut files = Vec::new();
        let mut stages: BTreeMap<StageKey, Vec<TensorEntry>> = BTreeMap::new();
        let mut findings = Findings::default();
        let mut iteration = None;
        for (file_idx, (rank, name)) in (0..).zip(&grid.ranks) {
            let path = place.folder().join(name);
            let reader = storage.open_file(&path).map_err(|error| storage_error(&path, error))?;
            let refuse = |source| refuse(&path, source);
            let torch = TorchFile::open(&*reader, 0..reader.info().len_bytes, &[NAMES]).map_err(refuse)?;
            grid.check_arguments(&torch, place)?;
            check_iteration(&torch, &path, &mut iteration)?;
            let mut budget = NameBudget::new(torch.pickle.root());
            let chunks = chunks(&torch).ok_or_else(|| broken(&path, "it holds no `model`"))?;
            if chunks.len() > MAX_CHUNKS {
                let reason = format!("it holds {} virtual stages of the model, more than {MAX_CHUNKS}", chunks.len());
                return Err(broken(&path, reason));
            }
            for (chunk, value) in chunks {
                let found = content_under(&torch, &*reader, file_idx, value, &mut budget).map_err(refuse)?;
                findings.join(found.findings);
                stages.insert(
                    StageKey { chunk, stage: rank.stage, expert: rank.expert, tensor: rank.tensor },
                    found.entries,
                );
            }
            files.push(OpenFile { name: name.clone(), path, reader });
        }
        let has_virtual_stages = stages.keys().any(|key| key.chunk > 0);
        let mut content = match grid.join(stages) {
            Ok(entries) => {
                let twice =
                    |name: Box<str>| broken(place.path(), format!("tensor `{}` appears twice", display_name(&name)));
                let catalog = cache.share(TensorCatalog::new(entries).map_err(twice)?);
                FormatContent { files, catalog, findings, ..FormatContent::default() }
            }
            Err(misfit) => {
                // A torch.save file is read under one key, and each virtual stage has its own.
                let has_parts = matches!(misfit, Misfit::UnknownCut(_)) && !has_virtual_stages;
                let names = grid.ranks.values().map(String::as_str);
                let parts = if has_parts { open_parts(storage, place.path(), names, options, cache)? } else { None };
                parts.ok_or_else(|| broken(place.path(), misfit.into_reason()))?
            }
        };
        if let Some((step, file)) = iteration.zip(grid.ranks.values().next().cloned()) {
            let named = step_in_name(place.folder(), &[ITERATION_START]);
            let note = compare_step(&StatedStep { file, step }, named, None);
            content.notes.extend(note.map_err(|reason| broken(place.path(), reason))?);
        }
        Ok(content)
    }
}

fn refuse(path: &std::path::Path, source: TorchError) -> Error {
    Error::Torch { path: path.to_owned(), source: Box::new(source) }
}

fn broken(path: &std::path::Path, reason: impl Into<String>) -> Error {
    Error::Layout { path: path.to_owned(), reason: reason.into() }
}

/// All ranks of a save have one iteration; a file with another one comes from an unfinished save or a wrong copy.
fn check_iteration(torch: &TorchFile, path: &std::path::Path, known: &mut Option<u64>) -> Result<(), Error> {
    let Some(found) = torch.pickle.root().get("iteration").and_then(Value::as_u64) else { return Ok(()) };
    let wanted = *known.get_or_insert(found);
    if wanted == found {
        return Ok(());
    }
    Err(broken(path, format!("it is from iteration {found}, but the ranks before it are from iteration {wanted}")))
}

/// The parts of the model that a rank holds: one, or one for each virtual stage.
fn chunks(torch: &TorchFile) -> Option<Vec<(u32, Value<'_>)>> {
    let root = torch.pickle.root();
    if let Some(model) = root.get("model") {
        return Some(vec![(0, model)]);
    }
    let numbered = |(key, value): (Value<'_>, _)| {
        let text = key.as_text()?.strip_prefix("model")?;
        let number: u32 = text.parse().ok()?;
        (number.to_string() == text).then_some((number, value))
    };
    let found: BTreeMap<u32, Value<'_>> = root.entries().filter_map(numbered).collect();
    let chunks: Vec<_> =
        (0..).zip(found).map_while(|(n, (number, value))| (n == number).then_some((n, value))).collect();
    (!chunks.is_empty()).then_some(chunks)
}

/// A place in the grid of ranks, as the name of its folder gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    stage: u32,
    expert: u32,
    tensor: u32,
}

impl Rank {
    /// Reads `mp_rank_TT[_PPP[_EEE]]`.
    fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix(FOLDER_START)?.split('_').map(|number| {
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| number.parse().ok()).flatten()
        });
        let tensor = numbers.next()??;
        let stage = numbers.next().unwrap_or(Some(0))?;
        let expert = numbers.next().unwrap_or(Some(0))?;
        numbers.next().is_none().then_some(Self { stage, expert, tensor })
    }

    /// The file of this rank in a grid of this many stages and expert ranks.
    fn file_name(self, n_stages: u32, n_experts: u32) -> String {
        let Self { stage, expert, tensor } = self;
        let stage = if n_stages > 1 || n_experts > 1 { format!("_{stage:03}") } else { String::new() };
        let expert = if n_experts > 1 { format!("_{expert:03}") } else { String::new() };
        format!("{FOLDER_START}{tensor:02}{stage}{expert}/{FILE_NAME}")
    }
}

/// Which part of the model; sorts in the order of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct StageKey {
    chunk: u32,
    stage: u32,
    expert: u32,
    tensor: u32,
}

/// All ranks and the names of their files.
#[derive(Debug)]
struct Grid {
    ranks: BTreeMap<Rank, String>,
    n_tensor: u32,
    n_stages: u32,
    n_experts: u32,
}

impl Grid {
    fn find(place: &Place) -> Result<Self, Error> {
        let ranks: BTreeMap<Rank, String> =
            place.folder_names().filter_map(|name| Some((Rank::parse(name)?, format!("{name}/{FILE_NAME}")))).collect();
        let size = |of: fn(&Rank) -> u32| ranks.keys().map(of).max().map_or(1, |last| last.saturating_add(1));
        let (n_tensor, n_stages, n_experts) =
            (size(|rank| rank.tensor), size(|rank| rank.stage), size(|rank| rank.expert));
        let n_all = u64::from(n_tensor).saturating_mul(n_stages.into()).saturating_mul(n_experts.into());
        if n_all > MAX_RANKS as u64 {
            return Err(broken(place.path(), format!("its folders number {n_all} ranks, more than {MAX_RANKS}")));
        }
        let all = (0..n_stages).flat_map(|stage| {
            (0..n_experts).flat_map(move |expert| (0..n_tensor).map(move |tensor| Rank { stage, expert, tensor }))
        });
        let missing = all.filter(|rank| !ranks.contains_key(rank)).take(MAX_MISSING);
        let faults: Vec<_> =
            missing.map(|rank| UnfinishedFault::MissingShard { file: rank.file_name(n_stages, n_experts) }).collect();
        if faults.is_empty() {
            return Ok(Self { ranks, n_tensor, n_stages, n_experts });
        }
        Err(Error::Unfinished { path: PathBuf::from(place.path()), faults })
    }

    /// Compares the folders with Megatron's arguments, which say over how many ranks the model is cut: the folders
    /// alone do not show that the last rank is missing.
    fn check_arguments(&self, torch: &TorchFile, place: &Place) -> Result<(), Error> {
        let arguments = torch.pickle.root().get("args").and_then(Value::as_object);
        let stated = |name: &str, found: u32| {
            let size = arguments.and_then(|arguments| arguments.attribute(name)).and_then(Value::as_u64);
            // A damaged count must not make a list of four billion names.
            let size = size.filter(|size| (1..=MAX_RANKS as u64).contains(size));
            size.and_then(|size| u32::try_from(size).ok()).unwrap_or(found)
        };
        let n_tensor = stated("tensor_model_parallel_size", self.n_tensor);
        let n_stages = stated("pipeline_model_parallel_size", self.n_stages);
        if n_tensor <= self.n_tensor && n_stages <= self.n_stages {
            return Ok(());
        }
        let (stage, tensor) = (n_stages - 1, n_tensor - 1);
        let last = Rank { stage, expert: 0, tensor };
        let faults = vec![UnfinishedFault::MissingShard { file: last.file_name(n_stages, self.n_experts) }];
        Err(Error::Unfinished { path: PathBuf::from(place.path()), faults })
    }

    /// Joins the tensors of all ranks; the error is the reason why they do not fit.
    fn join(&self, stages: BTreeMap<StageKey, Vec<TensorEntry>>) -> Result<Vec<TensorEntry>, Misfit> {
        let mut joined: BTreeMap<Box<str>, TensorEntry> = BTreeMap::new();
        let mut layers = LayerNames::default();
        let mut stages = stages.into_iter().peekable();
        while let Some((key, first)) = stages.next() {
            let mut ranks = vec![first];
            let is_same =
                |other: &StageKey| (other.chunk, other.stage, other.expert) == (key.chunk, key.stage, key.expert);
            while let Some((_, entries)) = stages.next_if(|(other, _)| is_same(other)) {
                ranks.push(entries);
            }
            if ranks.len() != usize::try_from(self.n_tensor).unwrap_or(usize::MAX) {
                return Err(format!("virtual stage {} is not in the file of every tensor rank", key.chunk).into());
            }
            let experts = ExpertNames::new(key.expert, &ranks[0]);
            if key.expert == 0 {
                layers.begin_stage(&ranks[0]);
            }
            for mut entry in join_ranks(ranks)? {
                // What is not an expert is the same in the files of all expert ranks.
                if key.expert > 0 && !ExpertNames::is_expert(&entry.name) {
                    continue;
                }
                entry.name = layers.rename(&experts.rename(&entry.name)).into();
                // Tied embeddings are in both the first and the last stage.
                joined.entry(entry.name.clone()).or_insert(entry);
            }
        }
        Ok(joined.into_values().collect())
    }
}
