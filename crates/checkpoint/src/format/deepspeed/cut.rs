//! Models that tensor, pipeline or expert parallelism cuts: the tensors of every rank, under the name of their rank or
//! layer. How the ranks fit together is the trainer's knowledge. Merges are element by element and do not need it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{TensorEntry, display_name, to_index};

use super::super::torch::content_as_named;
use super::files::{ExpertFile, RankFiles, SavedFiles, rank_name};
use super::layers::{LayerFile, LayerNames, LayerWeights, NameFault, RankParam, add_same};
use super::masters::{param_shapes, read_masters};
use super::steps::{check_same_count, check_same_step, note_step};
use super::{Choice, MAX_MISSING, Opened, finish, first_model, moment_name, reads_module, refuse};
use crate::error::UnfinishedFault;
use crate::format::{Findings, FormatContent, OpenFile};
use crate::pickle::Value;
use crate::{CatalogCache, Error, Note, Params, ReadOptions};

/// The state of the module in each rank of the model.
type Models<'a> = Vec<(&'a RankFiles, Opened)>;

pub(super) fn open_cut(
    storage: &Arc<dyn Storage>,
    saved: &SavedFiles,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let models = open_models(storage, saved)?;
    check_layers(saved, &models)?;
    check_experts(saved, models[0].1.root())?;
    let mut content = if reads_module(options, saved) {
        open_weights(storage, saved, &models, cache)?
    } else {
        match open_masters(storage, saved, &models, options, cache) {
            Err(Error::NoMasters { .. }) if options.params.is_none() => open_weights(storage, saved, &models, cache)?,
            opened => opened?,
        }
    };
    if let Some(first) = content.catalog.entries().first().filter(|_| is_named_by_part(saved)) {
        content.notes.push(Note::NamedByRank { example: first.name.to_string() });
    }
    Ok(content)
}

/// Whether names begin with the part of the model. With experts alone they need not: their names have numbers.
fn is_named_by_part(saved: &SavedFiles) -> bool {
    saved.ranks.len() > 1 || !saved.layers.is_empty()
}

/// Opens a file of the module's state for each rank of the model. The error lists every rank that is missing.
fn open_models<'a>(storage: &Arc<dyn Storage>, saved: &'a SavedFiles) -> Result<Models<'a>, Error> {
    let refuse_missing = |n_ranks: u32| {
        let missing = (0..n_ranks).filter(|rank| saved.ranks.get(rank).is_none_or(|files| files.model.is_empty()));
        let name = |model_rank| RankFiles { model_rank, ..RankFiles::default() }.model_name();
        let missing = missing.take(to_index(MAX_MISSING.into()));
        unfinished(saved, missing.map(name).collect())
    };
    let n_found = saved.ranks.keys().last().map_or(1, |rank| rank + 1);
    refuse_missing(n_found)?;
    let mut models: Models<'a> = Vec::new();
    for files in saved.ranks.values() {
        let model = first_model(storage, files)?;
        let stated = model.root().get("mp_world_size").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        refuse_missing(stated.unwrap_or(n_found).min(n_found.saturating_add(MAX_MISSING)))?;
        if let Some((_, first)) = models.first() {
            check_same_step(first, &model)?;
        }
        models.push((files, model));
    }
    Ok(models)
}

fn unfinished(saved: &SavedFiles, files: Vec<String>) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let faults = files.into_iter().map(|file| UnfinishedFault::MissingShard { file }).collect();
    Err(Error::Unfinished { path: saved.folder.clone(), faults })
}

/// Every layer has files of the same ranks, and of as many as the states say.
fn check_layers(saved: &SavedFiles, models: &Models<'_>) -> Result<(), Error> {
    let mut ranks: BTreeSet<String> = saved.layers.values().flat_map(BTreeMap::keys).cloned().collect();
    let number = |value: Option<Value<'_>>| value.and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let root = models[0].1.root();
    // DeepSpeed since 0.19, and GPT-NeoX.
    let stated = number(root.get("checkpoint_parallel_dimensions").and_then(|sizes| sizes.get("tp_degree")))
        .or_else(|| number(root.get("args").and_then(|args| args.get("model_parallel_size"))));
    if ranks.iter().all(|rank| rank.starts_with("model_") && !rank.contains('-')) {
        ranks.extend(
            (0..stated.unwrap_or(0).min(MAX_MISSING))
                .map(|rank| format!("model_{rank:02}"))
                .filter(|_| !ranks.is_empty())
                .collect::<Vec<_>>(),
        );
    }
    let missing = saved.layers.iter().flat_map(|(layer, files)| {
        let lacking = ranks.iter().filter(|rank| !files.contains_key(*rank));
        lacking.map(move |rank| match &**rank {
            "" => format!("layer_{layer:02}-model_states.pt"),
            rank => format!("layer_{layer:02}-{rank}-model_states.pt"),
        })
    });
    unfinished(saved, missing.take(to_index(MAX_MISSING.into())).collect())
}

/// Whether neighbouring data-parallel ranks have different experts, as DeepSpeed places them unless it is told not to.
fn alternates(model: Value<'_>) -> bool {
    let config = model.get("ds_config").and_then(|config| config.get("use_data_before_expert_parallelism"));
    config.and_then(Value::as_bool) != Some(true)
}

/// Every expert that the state of the module counts has its file.
pub(super) fn check_experts(saved: &SavedFiles, model: Value<'_>) -> Result<(), Error> {
    let Some(counts) = model.get("num_experts") else { return Ok(()) };
    let counts: Vec<(Option<u32>, u64)> = match counts.as_u64() {
        Some(n_experts) if !saved.experts.is_empty() => vec![(None, n_experts)],
        Some(_) => return Ok(()),
        None => (0..).map(Some).zip(counts.items().map(|count| count.as_u64().unwrap_or(0))).collect(),
    };
    let known: BTreeSet<&str> = saved.experts.iter().map(|expert| &*expert.name).collect();
    let all = counts.iter().flat_map(|(layer, n_experts)| {
        let n_experts = u32::try_from(*n_experts).unwrap_or(u32::MAX);
        (0..n_experts)
            .flat_map(move |expert| saved.ranks.keys().map(move |rank| ExpertFile::new(*layer, expert, *rank).name))
    });
    let missing = all.filter(|name| !known.contains(&**name));
    unfinished(saved, missing.take(to_index(MAX_MISSING.into())).collect())
}

/// The weights in all files, and which of them are in files of layers.
#[derive(Default)]
struct Weights {
    files: Vec<OpenFile>,
    entries: Vec<TensorEntry>,
    findings: Findings,
    layers: LayerWeights,
}

impl Weights {
    /// Adds the tensors below a value in a file.
    fn add(&mut self, file: &Opened, value: Value<'_>, prefix: &str) -> Result<&[TensorEntry], Error> {
        let file_idx = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let found = content_as_named(&file.torch, &*file.file.reader, file_idx, value);
        let mut found = found.map_err(|source| refuse(&file.file.path, source))?;
        found.entries.iter_mut().for_each(|entry| entry.name = format!("{prefix}{}", entry.name).into());
        found.findings.unreadable.iter_mut().for_each(|one| one.name = format!("{prefix}{}", one.name));
        self.findings.join(found.findings);
        let first = self.entries.len();
        self.entries.extend(found.entries);
        self.files.push(file.file.clone());
        Ok(&self.entries[first..])
    }

    /// Reads the files of layers and experts.
    fn read_parts(storage: &Arc<dyn Storage>, saved: &SavedFiles) -> Result<Self, Error> {
        let mut weights = Self::default();
        for (layer, files) in &saved.layers {
            for (rank, name) in files {
                let file = Opened::open(storage, &saved.folder.join(name), name)?;
                let rank = rank.replace('-', ".");
                let dot = if rank.is_empty() { "" } else { "." };
                let prefix = format!("layer_{layer:02}.{rank}{dot}");
                if !file.root().is_dict() {
                    return Err(file.broken("it does not hold the state of a layer"));
                }
                let own = weights.add(&file, file.root(), &prefix)?;
                let own = own.iter().map(|entry| (entry.name[prefix.len()..].into(), entry.shape.clone()));
                let file = LayerFile { weights: own.collect(), prefix };
                weights.layers.0.entry(*layer).or_default().push(file);
            }
        }
        for expert in &saved.experts {
            let file = Opened::open(storage, &saved.folder.join(&expert.name), &expert.name)?;
            if !file.root().is_dict() {
                return Err(file.broken("it does not hold the state of an expert"));
            }
            let prefix = prefix_of(saved, expert.model_rank);
            weights.add(&file, file.root(), &prefix)?;
        }
        Ok(weights)
    }
}

/// What the names of tensors of a rank of the model begin with.
fn prefix_of(saved: &SavedFiles, model_rank: u32) -> String {
    if is_named_by_part(saved) { format!("{}.", rank_name(model_rank)) } else { String::new() }
}

/// The module's own weights.
fn open_weights(
    storage: &Arc<dyn Storage>,
    saved: &SavedFiles,
    models: &Models<'_>,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    if !saved.has_weights() {
        return Err(Error::NoModuleWeights { path: models[0].1.file.path.clone() });
    }
    let mut weights = Weights::read_parts(storage, saved)?;
    let mut params = Vec::new();
    for (files, model) in models {
        if let Some(module) = model.root().get("module").filter(|module| module.is_dict() || module.is_sequence()) {
            weights.add(model, module, &prefix_of(saved, files.model_rank))?;
        }
        if saved.has_masters() && model.root().get("param_shapes").is_some_and(|shapes| !shapes.is_none()) {
            params.extend(param_shapes(model)?.into_iter().flatten().map(|param| (files.model_rank, param)));
        }
    }
    let Weights { files, mut entries, findings, layers } = weights;
    if entries.is_empty() {
        return Err(Error::NoModuleWeights { path: models[0].1.file.path.clone() });
    }
    if !layers.0.is_empty() {
        let params: Vec<RankParam<'_>> = params
            .iter()
            .map(|(model_rank, (name, shape))| RankParam { model_rank: *model_rank, name, shape })
            .collect();
        let names = LayerNames::find(&layers, &params).map_err(|fault| name_error(saved, fault))?;
        // A parameter without weights would stay as it is in the files of an output.
        let known: BTreeSet<&str> = entries.iter().map(|entry| &*entry.name).collect();
        let is_known = |name: &str| known.contains(name) || names.same.iter().any(|(same, _)| same == name);
        let lost = params.iter().find(|param| !is_known(&names.name_of(param.model_rank, param.name)));
        if let Some(RankParam { model_rank, name, .. }) = lost {
            let facts = format!(
                "no file of a layer holds the weight of `{}` of `{}`: only its masters are there, which `--params master` reads",
                display_name(name),
                rank_name(*model_rank)
            );
            return Err(super::broken(&saved.folder, facts));
        }
        add_same(&mut entries, &names.same);
    }
    let has_named_masters = !params.is_empty() && (saved.experts.is_empty() || !is_named_by_part(saved));
    let choice = if has_named_masters { Choice::Both(Params::Module) } else { Choice::Only(Params::Module) };
    let mut content = finish(files, entries, findings, choice, cache)?;
    content.notes.extend(note_step(storage, models[0].0, &models[0].1, None)?);
    Ok(content)
}

fn name_error(saved: &SavedFiles, fault: NameFault) -> Error {
    match fault {
        NameFault::Missing(faults) => Error::Unfinished { path: saved.folder.clone(), faults },
        NameFault::Misfit(reason) => super::broken(&saved.folder, reason),
    }
}

/// The masters of all ranks, and the weights that have none.
fn open_masters(
    storage: &Arc<dyn Storage>,
    saved: &SavedFiles,
    models: &Models<'_>,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let of_expert = |expert: &ExpertFile| Error::ExpertMasters { path: saved.folder.join(&expert.name) };
    if let Some(expert) = saved.experts.first().filter(|_| is_named_by_part(saved) || !alternates(models[0].1.root())) {
        return Err(of_expert(expert));
    }
    let Weights { mut files, entries: weights, findings, layers } = Weights::read_parts(storage, saved)?;
    let mut ranks = Vec::new();
    let (mut notes, mut count) = (Vec::new(), None);
    for (rank, model) in models {
        let first_idx = u32::try_from(files.len()).unwrap_or(u32::MAX);
        // DeepSpeed lists shared parameters in the first file only, and all parts of a model share the same ones.
        let has_own = model.root().get("shared_params").is_some_and(|shared| shared.entries().len() > 0);
        let sharing = if has_own || !layers.0.is_empty() { model } else { &models[0].1 };
        let mut found = read_masters(storage, (rank, model), sharing, first_idx, options)?;
        let step = found.step.as_ref().map(|count| count.step);
        check_same_count(&mut count, found.step.take())?;
        notes.extend(note_step(storage, rank, model, step)?.filter(|_| ranks.is_empty()));
        files.append(&mut found.files);
        ranks.push((rank.model_rank, found));
    }
    let names = if layers.0.is_empty() {
        LayerNames::default()
    } else {
        let params: Vec<RankParam<'_>> = ranks
            .iter()
            .flat_map(|(model_rank, found)| {
                found.params.iter().map(|entry| RankParam {
                    model_rank: *model_rank,
                    name: &entry.name,
                    shape: &entry.shape,
                })
            })
            .collect();
        LayerNames::find(&layers, &params).map_err(|fault| name_error(saved, fault))?
    };
    let (mut entries, mut moments) = (Vec::new(), Vec::new());
    for (model_rank, found) in ranks {
        let name_of = |entry: &TensorEntry| match is_named_by_part(saved) {
            true => names.name_of(model_rank, &entry.name),
            false => entry.name.to_string(),
        };
        entries.extend(found.params.into_iter().map(|entry| TensorEntry { name: name_of(&entry).into(), ..entry }));
        moments.extend(found.moments.into_iter().map(|(moment, entry)| {
            let name = moment_name(moment, &name_of(&entry)).into();
            TensorEntry { name, ..entry }
        }));
    }
    let known: BTreeSet<Box<str>> = entries.iter().map(|entry| entry.name.clone()).collect();
    let is_known = |name: &str| known.contains(name) || names.same.iter().any(|(same, _)| same == name);
    let others: Vec<TensorEntry> = weights.into_iter().filter(|weight| !is_known(&weight.name)).collect();
    if let Some(expert) = saved.experts.first().filter(|_| !others.is_empty()) {
        return Err(of_expert(expert));
    }
    entries.extend(others);
    add_same(&mut entries, &names.same);
    let n_state = moments.len();
    entries.extend(moments);
    let choice = if saved.has_weights() { Choice::Both(Params::Master) } else { Choice::Only(Params::Master) };
    let mut content = finish(files, entries, findings, choice, cache)?;
    content.notes.extend(notes);
    Ok(FormatContent { n_state, ..content })
}
