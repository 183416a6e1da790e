//! FP32 masters, and the moments, which are laid out in the same way, assembled from the shares of all ranks.
//!
//! ZeRO-1 and 2 concatenate the parameters of a group and cut the whole into one share for each rank; ZeRO-3 cuts
//! each parameter into as many equal parts as there are ranks, the last one padded with uninitialised memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{Dtype, Shape, TensorEntry, display_name, to_index};

use super::super::torch::most_names;
use super::super::torch::tensor::{Found, read_tensor};
use super::experts::{ExpertNumbers, Portion, has_cut_layers, portions};
use super::frozen::frozen_in_shares;
use super::runs::{Groups, Run, entry_of_runs, read_shape};
use super::steps::{Count, check_steps, note_step};
use super::{
    Choice, MAX_MISSING, Opened, RankFiles, entries_of, finish, first_model, groups_of_state, moment_name, place_of,
    state_of,
};
use crate::error::UnfinishedFault;
use crate::format::{Findings, FormatContent, OpenFile};
use crate::optimizer_state::MOMENT_NAMES;
use crate::pickle::Value;
use crate::{CatalogCache, Error, Params, ReadOptions};

/// Most pieces of parameters that share their values with another one: each has a copy of the other's pieces.
const MAX_SHARED_PIECES: usize = 4_000_000;

/// A flat vector in a rank's file.
struct FlatVector {
    offset: u64,
    n_elements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    OneOrTwo,
    Three,
}

impl Stage {
    /// The key of the masters in a rank's state.
    fn master_key(self) -> &'static str {
        match self {
            Self::OneOrTwo => "single_partition_of_fp32_groups",
            Self::Three => "fp32_flat_groups",
        }
    }
}

/// What the flat vectors of all ranks hold for each parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Master,
    /// A moment of this name.
    Moment(&'static str),
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Master => "masters",
            Self::Moment(_) => "moments",
        }
    }
}

pub(super) fn open_masters(
    storage: &Arc<dyn Storage>,
    files: &RankFiles,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let model = first_model(storage, files)?;
    let RankMasters { files: open_files, params, moments, step, stage } =
        read_masters(storage, (files, &model), &model, 0, options)?;
    let note = note_step(storage, files, &model, step.map(|count| count.step))?;
    let mut entries = params;
    let n_state = moments.len();
    entries.extend(moments.into_iter().map(|(moment, entry)| {
        let name = moment_name(moment, &entry.name).into();
        TensorEntry { name, ..entry }
    }));
    let choice = match stage {
        Stage::OneOrTwo => Choice::Both(Params::Master),
        Stage::Three => Choice::Only(Params::Master),
    };
    let mut content = finish(open_files, entries, Findings::default(), choice, cache)?;
    content.notes.extend(note);
    Ok(FormatContent { n_state, ..content })
}

/// What the files of one rank of the model hold besides the module's weights.
pub(super) struct RankMasters {
    pub(super) files: Vec<OpenFile>,
    /// The masters, and what is in no optimizer: buffers and frozen parameters.
    pub(super) params: Vec<TensorEntry>,
    /// Moments under the names of their parameters, with their own names.
    pub(super) moments: Vec<(&'static str, TensorEntry)>,
    /// What the optimizers count.
    pub(super) step: Option<Count>,
    pub(super) stage: Stage,
}

/// Assembles the masters of one rank of the model, whose files get the numbers from `first_idx` on. `sharing` is the
/// file that says which parameters share their values.
pub(super) fn read_masters(
    storage: &Arc<dyn Storage>,
    (files, model): (&RankFiles, &Opened),
    sharing: &Opened,
    first_idx: u32,
    options: &ReadOptions,
) -> Result<RankMasters, Error> {
    if model.root().get("optimizer").is_some_and(Value::is_dict) {
        return Err(Error::NoMasters { path: model.file.path.clone() });
    }
    if has_cut_layers(model.root()) {
        return Err(Error::AutoExperts { path: model.file.path.clone() });
    }
    let shapes = param_shapes(model)?;
    let ranks = open_ranks(storage, files, model)?;
    let step = check_steps(&ranks)?;
    let is_stage_3 = state_of(&ranks[0])?.get(Stage::Three.master_key()).is_some();
    let stage = if is_stage_3 { Stage::Three } else { Stage::OneOrTwo };
    let mut params = assemble((&ranks, first_idx), &shapes, (stage, Kind::Master))?;
    let n_ranks = u32::try_from(ranks.len()).unwrap_or(u32::MAX);
    let model_idx = first_idx.saturating_add(n_ranks);
    params.extend(buffers_of(model, model_idx)?);
    let mut others = Vec::new();
    let frozen = model.root().get("frozen_param_fragments").filter(|frozen| frozen.entries().len() > 0);
    match (frozen, stage) {
        (None, _) => {}
        (Some(frozen), Stage::OneOrTwo) => params.extend(entries_of(model, model_idx, frozen)?),
        (Some(_), Stage::Three) => {
            let (found, files) = frozen_in_shares(storage, files, (model, model_idx), n_ranks)?;
            params.extend(found);
            others = files;
        }
    }
    add_shared(sharing, &mut params)?;
    let mut moments = Vec::new();
    if options.optimizer {
        for moment in moments_of(&ranks[0])? {
            let found = assemble((&ranks, first_idx), &shapes, (stage, Kind::Moment(moment)))?;
            moments.extend(found.into_iter().map(|entry| (moment, entry)));
        }
    }
    let mut open_files: Vec<_> = ranks.into_iter().map(|rank| rank.file).collect();
    open_files.push(model.file.clone());
    open_files.extend(others);
    Ok(RankMasters { files: open_files, params, moments, step, stage })
}

/// One tensor for each parameter, under its name.
fn assemble(
    (ranks, first_idx): (&[Opened], u32),
    shapes: &Groups,
    (stage, kind): (Stage, Kind),
) -> Result<Vec<TensorEntry>, Error> {
    if stage == Stage::Three {
        let runs = runs_of_stage_3(ranks, shapes, kind)?;
        let entry = |param| entry_of_param(&ranks[0], param, (&runs, first_idx));
        return shapes.iter().flatten().map(entry).collect();
    }
    let numbers = ExpertNumbers::new(shapes);
    let mut entries = Vec::new();
    for portion in portions(ranks, shapes)? {
        let runs = runs_of_stages_1_and_2(ranks, shapes, &portion, kind)?;
        for param in portion.groups.iter().flat_map(|group| &shapes[*group]) {
            let entry = entry_of_param(&ranks[0], param, (&runs, first_idx))?;
            entries.push(TensorEntry { name: numbers.name_of(&param.0, portion.expert_rank).into(), ..entry });
        }
    }
    Ok(entries)
}

/// A parameter whose runs are in files with numbers from `first_idx` on.
fn entry_of_param(
    first: &Opened,
    (name, shape): &(String, Shape),
    (runs, first_idx): (&Runs<'_>, u32),
) -> Result<TensorEntry, Error> {
    let own = runs.get(name.as_str()).map_or(&[][..], Vec::as_slice);
    let mut entry = entry_of_runs(first, name, (Dtype::F32, shape), own)?;
    entry.pieces.iter_mut().for_each(|piece| piece.file_idx += first_idx);
    Ok(entry)
}

pub(super) fn param_shapes(model: &Opened) -> Result<Groups, Error> {
    let fail = || model.broken("its `param_shapes` are not in the form that DeepSpeed writes");
    let shapes = model.root().get("param_shapes").ok_or_else(fail)?;
    // Old versions write one dictionary, newer ones one for each group.
    let groups: Vec<Value<'_>> = if shapes.is_dict() { vec![shapes] } else { shapes.items().collect() };
    // Groups may be one dictionary listed many times.
    let (max_params, _) = most_names(shapes);
    let n_params = groups.iter().fold(groups.len(), |n, group| n.saturating_add(group.entries().len()));
    if n_params > max_params {
        return Err(model.broken(format!("its `param_shapes` have more than {max_params} names")));
    }
    let group =
        |group: Value<'_>| group.entries().map(|(name, shape)| read_shape(name, shape).ok_or_else(fail)).collect();
    groups.into_iter().map(group).collect()
}

/// Opens the files of all ranks; the error lists every missing rank.
fn open_ranks(storage: &Arc<dyn Storage>, files: &RankFiles, model: &Opened) -> Result<Vec<Opened>, Error> {
    let highest = files.optimizer.keys().last().map_or(0, |rank| rank + 1);
    let stated = model.root().get("dp_world_size").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let n_ranks = stated.unwrap_or(highest).max(highest).clamp(1, highest.saturating_add(MAX_MISSING));
    let missing = (0..n_ranks).filter(|rank| !files.optimizer.contains_key(rank)).take(to_index(MAX_MISSING.into()));
    let faults: Vec<_> =
        missing.map(|rank| UnfinishedFault::MissingShard { file: files.optimizer_name(rank) }).collect();
    if !faults.is_empty() {
        return Err(Error::Unfinished { path: files.folder.clone(), faults });
    }
    files.optimizer.values().map(|name| Opened::open(storage, &files.path(name), name)).collect()
}

/// The names of the moments that a rank's optimizer keeps.
fn moments_of(rank: &Opened) -> Result<Vec<&'static str>, Error> {
    let Some(groups) = groups_of_state(rank)? else { return Ok(Vec::new()) };
    let groups: Vec<Value<'_>> = groups.entries().map(|(_, group)| group).chain(groups.items()).collect();
    let is_kept = |name: &&str| groups.iter().any(|group| group.get(name).is_some());
    Ok(MOMENT_NAMES.into_iter().filter(is_kept).collect())
}

/// Where a flat vector is; it must be an F32 tensor of one dimension.
fn flat_vector(rank: &Opened, value: Value<'_>, kind: Kind) -> Result<FlatVector, Error> {
    let fail = || rank.broken(format!("a share of the {} is not a flat F32 tensor", kind.noun()));
    let Ok(Found::Tensor(spec)) = read_tensor(value) else { return Err(fail()) };
    let is_flat = spec.dtype == Dtype::F32 && spec.shape.0.len() == 1 && spec.strides == [1];
    if !is_flat {
        return Err(fail());
    }
    let n_elements = spec.shape.0[0];
    Ok(FlatVector { offset: place_of(rank, &spec)?, n_elements })
}

fn vectors(rank: &Opened, (stage, kind): (Stage, Kind)) -> Result<Vec<FlatVector>, Error> {
    let key = stage.master_key();
    let masters = state_of(rank)?.get(key).ok_or_else(|| rank.broken(format!("it holds no `{key}`")))?;
    let Kind::Moment(moment) = kind else {
        return masters.items().map(|value| flat_vector(rank, value, kind)).collect();
    };
    let Some(groups) = groups_of_state(rank)? else { return Ok(Vec::new()) };
    let numbered = groups.entries().filter_map(|(number, group)| Some((number.as_u64()?, group)));
    let groups: BTreeMap<u64, Value<'_>> = numbered.chain((0..).zip(groups.items())).collect();
    let n_vectors = masters.items().len() as u64;
    let vector = |number: u64| {
        let value = groups.get(&number).and_then(|group| group.get(moment));
        let missing = || rank.broken(format!("its optimizer keeps no `{moment}` for group {number}"));
        flat_vector(rank, value.ok_or_else(missing)?, kind)
    };
    (0..n_vectors).map(vector).collect()
}

type Runs<'a> = BTreeMap<&'a str, Vec<Run>>;

fn runs_of_stages_1_and_2<'a>(
    ranks: &[Opened],
    shapes: &'a Groups,
    portion: &Portion,
    kind: Kind,
) -> Result<Runs<'a>, Error> {
    let mut runs = Runs::new();
    // Number of elements of each group that earlier ranks hold, for files without the addresses of parameters.
    let mut n_before = vec![0_u64; shapes.len()];
    let mut has_addresses = vec![true; shapes.len()];
    for (number, rank) in portion.ranks.iter().filter_map(|i| Some((u32::try_from(*i).ok()?, ranks.get(*i)?))) {
        let parts = vectors(rank, (Stage::OneOrTwo, kind))?;
        if parts.len() != shapes.len() {
            return Err(rank.broken(format!("it has {} parameter groups, {} expected", parts.len(), shapes.len())));
        }
        let addresses: Vec<Value<'_>> =
            state_of(rank)?.get("param_slice_mappings").map(|groups| groups.items().collect()).unwrap_or_default();
        for (group, part) in portion.groups.iter().map(|group| (*group, &parts[*group])) {
            match addresses.get(group).filter(|addresses| addresses.is_dict()) {
                Some(addresses) => add_addressed(rank, number, *addresses, part, &shapes[group], &mut runs)?,
                None => {
                    has_addresses[group] = false;
                    add_overlapping(number, n_before[group], part, &shapes[group], &mut runs);
                }
            }
            n_before[group] = n_before[group].saturating_add(part.n_elements);
        }
    }
    for (group, n_held) in n_before.into_iter().enumerate().filter(|(group, _)| !has_addresses[*group]) {
        let n_params =
            shapes[group].iter().fold(0_u64, |n, (_, shape)| n.saturating_add(shape.n_elements().unwrap_or(0)));
        if !is_only_padded(n_held, n_params, portion.ranks.len() as u64) {
            let reason =
                format!("the ranks hold {n_held} elements of group {group}, but its parameters have {n_params}");
            return Err(ranks[0].broken(reason));
        }
    }
    Ok(runs)
}

/// Whether the ranks hold no more elements than the parameters and DeepSpeed's padding: a group is padded to a multiple
/// of two elements per rank. Too few elements are found when the last parameter is put together.
fn is_only_padded(n_held: u64, n_params: u64, n_ranks: u64) -> bool {
    let multiple = n_ranks.saturating_mul(2).max(1);
    n_held <= n_params.div_ceil(multiple).saturating_mul(multiple)
}

/// Adds the runs that a rank's file states: first element and length within its share.
fn add_addressed<'a>(
    rank: &Opened,
    number: u32,
    addresses: Value<'_>,
    part: &FlatVector,
    group: &'a [(String, Shape)],
    runs: &mut Runs<'a>,
) -> Result<(), Error> {
    let names: BTreeSet<&str> = group.iter().map(|(name, _)| name.as_str()).collect();
    for (name, address) in addresses.entries() {
        let known = name.as_text().and_then(|name| names.get(name).copied());
        let number_of = |field| address.as_object().and_then(|object| object.attribute(field)).and_then(Value::as_u64);
        let (Some(name), Some(start), Some(n_elements)) = (known, number_of("start"), number_of("numel")) else {
            return Err(rank.broken("an address of a parameter is not in the form that DeepSpeed writes"));
        };
        if start.checked_add(n_elements).is_none_or(|end| end > part.n_elements) {
            return Err(rank.broken(format!("parameter `{}` reaches beyond this rank's share", display_name(name))));
        }
        runs.entry(name).or_default().push(Run { file_idx: number, offset: part.offset + 4 * start, n_elements });
    }
    Ok(())
}

/// Adds the runs that follow from the lengths: the share of this rank begins `n_before` elements into the group.
fn add_overlapping<'a>(
    number: u32,
    n_before: u64,
    part: &FlatVector,
    group: &'a [(String, Shape)],
    runs: &mut Runs<'a>,
) {
    let share = n_before..n_before.saturating_add(part.n_elements);
    let mut first = 0_u64;
    for (name, shape) in group {
        let last = first.saturating_add(shape.n_elements().unwrap_or(0));
        let (start, end) = (first.max(share.start), last.min(share.end));
        if start < end {
            let offset = part.offset + 4 * (start - share.start);
            runs.entry(name).or_default().push(Run { file_idx: number, offset, n_elements: end - start });
        }
        first = last;
    }
}

fn runs_of_stage_3<'a>(ranks: &[Opened], shapes: &'a Groups, kind: Kind) -> Result<Runs<'a>, Error> {
    let n_ranks = ranks.len() as u64;
    let mut runs = Runs::new();
    for (number, rank) in (0..).zip(ranks) {
        let parts = vectors(rank, (Stage::Three, kind))?;
        let (mut cursor, mut position) = (Cursor { parts: &parts, next: 0, used: 0 }, 0_u64);
        for (name, shape) in shapes.iter().flatten() {
            let n_elements = shape.n_elements().unwrap_or(0);
            let share = n_elements.div_ceil(n_ranks);
            let before = share.saturating_mul(number.into()).min(n_elements);
            // After the last element comes padding: uninitialised memory.
            let own = share.min(n_elements - before);
            let ends_early = |left: u64| rank.broken(format!("its {} are {left} elements short", kind.noun()));
            for (offset, n_elements) in cursor.take(own).map_err(ends_early)? {
                runs.entry(name).or_default().push(Run { file_idx: number, offset, n_elements });
            }
            // Padding that is missing is found by the sum below.
            let _padding = cursor.take(share - own);
            position = position.saturating_add(share);
        }
        let n_held = parts.iter().fold(0_u64, |n, part| n.saturating_add(part.n_elements));
        if n_held != position {
            // Every parameter after one that is not listed would get the values of its neighbour.
            let noun = kind.noun();
            return Err(rank.broken(format!("its {noun} have {n_held} elements, but its parameters {position}")));
        }
    }
    Ok(runs)
}

/// A position in vectors that are laid end to end.
struct Cursor<'a> {
    parts: &'a [FlatVector],
    next: usize,
    /// Elements of the next part that were taken.
    used: u64,
}

impl Cursor<'_> {
    /// Byte offset and length of each part of the next `n_elements`; the error is how many are missing.
    fn take(&mut self, n_elements: u64) -> Result<Vec<(u64, u64)>, u64> {
        let (mut found, mut left) = (Vec::new(), n_elements);
        while left > 0 {
            let part = self.parts.get(self.next).ok_or(left)?;
            let n_here = left.min(part.n_elements - self.used);
            if n_here > 0 {
                found.push((part.offset + 4 * self.used, n_here));
            }
            (self.used, left) = (self.used + n_here, left - n_here);
            if self.used == part.n_elements {
                (self.next, self.used) = (self.next + 1, 0);
            }
        }
        Ok(found)
    }
}

/// Buffers, which are in no group.
fn buffers_of(model: &Opened, file_idx: u32) -> Result<Vec<TensorEntry>, Error> {
    let root = model.root();
    let module = root.get("module").map(|module| entries_of(model, file_idx, module)).transpose()?.unwrap_or_default();
    let names = root.get("buffer_names").map(|names| names.items().filter_map(Value::as_text).collect::<BTreeSet<_>>());
    let is_buffer = |entry: &TensorEntry| names.as_ref().is_some_and(|names| names.contains(&*entry.name));
    Ok(module.into_iter().filter(is_buffer).collect())
}

/// Adds parameters that share their values with another one: both names are kept, as in the module.
fn add_shared(model: &Opened, entries: &mut Vec<TensorEntry>) -> Result<(), Error> {
    let Some(shared) = model.root().get("shared_params") else { return Ok(()) };
    let mut positions: HashMap<Box<str>, usize> =
        entries.iter().enumerate().map(|(position, entry)| (entry.name.clone(), position)).rev().collect();
    let mut n_pieces = 0;
    for (alias, source) in shared.entries() {
        let (Some(alias), Some(source)) = (alias.as_text(), source.as_text()) else {
            return Err(model.broken("its `shared_params` are not in the form that DeepSpeed writes"));
        };
        if positions.contains_key(alias) {
            continue;
        }
        let Some(entry) = positions.get(source).and_then(|position| entries.get(*position)) else {
            return Err(
                model.broken(format!("parameter `{}` shares its values with a missing parameter", display_name(alias)))
            );
        };
        n_pieces += entry.pieces.len();
        if n_pieces > MAX_SHARED_PIECES {
            return Err(model.broken(format!("parameters that share values have more than {MAX_SHARED_PIECES} pieces")));
        }
        let copy = TensorEntry { name: alias.into(), ..entry.clone() };
        positions.insert(alias.into(), entries.len());
        entries.push(copy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_told_from_masters_that_no_parameter_claims() {
        // 10 elements on 4 ranks are padded to 16.
        for n_held in [10, 12, 16] {
            assert!(is_only_padded(n_held, 10, 4), "{n_held}");
        }
        assert!(!is_only_padded(17, 10, 4) && !is_only_padded(24, 16, 4));
        assert!(is_only_padded(16, 16, 4) && is_only_padded(0, 0, 4));
    }
}
