//! Parameters that are not trained, under ZeRO-3: they are in no optimizer, so each rank's file of the module's state
//! has its share of each, in the element type in which the model computes.

use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{Dtype, TensorEntry, display_name};

use super::super::torch::most_names;
use super::super::torch::tensor::{Found, read_tensor};
use super::runs::{Run, entry_of_runs, read_shape};
use super::{Opened, RankFiles, place_of};
use crate::Error;
use crate::error::UnfinishedFault;
use crate::format::OpenFile;
use crate::pickle::Value;

/// Where the shares are.
const SHARES_KEY: &str = "frozen_param_fragments";
/// Their shapes before they were cut.
const SHAPES_KEY: &str = "frozen_param_shapes";

/// Whether a tensor of a rank's file, by its full name there, is a share of the frozen parameter `param`.
pub fn is_frozen_share(name: &str, param: &str) -> bool {
    name.strip_prefix(SHARES_KEY).and_then(|rest| rest.strip_prefix('.')) == Some(param)
}

/// A rank's share of a parameter.
struct Share {
    dtype: Dtype,
    offset: u64,
    n_elements: u64,
}

/// The frozen parameters of `n_ranks` ranks, and the files of all ranks but the first, which follow it.
pub(super) fn frozen_in_shares(
    storage: &Arc<dyn Storage>,
    files: &RankFiles,
    (first, first_idx): (&Opened, u32),
    n_ranks: u32,
) -> Result<(Vec<TensorEntry>, Vec<OpenFile>), Error> {
    let name = |rank| format!("zero_pp_rank_{rank}_{}", files.model_name());
    let missing = (0..n_ranks).filter(|rank| !files.model.contains_key(rank));
    let faults: Vec<_> = missing.map(|rank| UnfinishedFault::MissingShard { file: name(rank) }).collect();
    if !faults.is_empty() {
        return Err(Error::Unfinished { path: files.folder.clone(), faults });
    }
    let others = files.model.range(1..n_ranks).map(|(_, name)| Opened::open(storage, &files.path(name), name));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let fail = || first.broken(format!("its `{SHAPES_KEY}` are not in the form that DeepSpeed writes"));
    let shapes = first.root().get(SHAPES_KEY).filter(|shapes| shapes.is_dict()).ok_or_else(fail)?;
    let (max_params, _) = most_names(shapes);
    if shapes.entries().len() > max_params {
        return Err(first.broken(format!("its `{SHAPES_KEY}` have more than {max_params} names")));
    }
    let mut entries = Vec::new();
    for (name, shape) in shapes.entries() {
        let (name, shape) = read_shape(name, shape).ok_or_else(fail)?;
        let n_elements = shape.n_elements().unwrap_or(0);
        let n_each = n_elements.div_ceil(n_ranks.into());
        let (mut runs, mut known, mut n_before) = (Vec::new(), None, 0);
        for (file_idx, rank) in (first_idx..).zip([first].into_iter().chain(&others)) {
            let share = share_of(rank, &name)?;
            // The last shares are padded.
            let n_own = n_each.min(n_elements - n_before);
            let dtype = *known.get_or_insert(share.dtype);
            if share.dtype != dtype || share.n_elements < n_own {
                let (name, found) = (display_name(&name), share.n_elements);
                let facts = format!("{found} elements of type {}, expected {n_own} of type {dtype}", share.dtype);
                return Err(rank.broken(format!("its share of frozen parameter `{name}` has {facts}")));
            }
            runs.push(Run { file_idx, offset: share.offset, n_elements: n_own });
            n_before += n_own;
        }
        let dtype = known.unwrap_or(Dtype::F32);
        entries.push(entry_of_runs(first, &name, (dtype, &shape), &runs)?);
    }
    Ok((entries, others.into_iter().map(|other| other.file).collect()))
}

fn share_of(rank: &Opened, name: &str) -> Result<Share, Error> {
    let fail = || rank.broken(format!("its share of frozen parameter `{}` is not a flat tensor", display_name(name)));
    let value = rank.root().get(SHARES_KEY).and_then(|shares: Value<'_>| shares.get(name)).ok_or_else(fail)?;
    let Ok(Found::Tensor(spec)) = read_tensor(value) else { return Err(fail()) };
    if spec.shape.0.len() != 1 || spec.strides != [1] {
        return Err(fail());
    }
    Ok(Share { dtype: spec.dtype, offset: place_of(rank, &spec)?, n_elements: spec.shape.0[0] })
}
