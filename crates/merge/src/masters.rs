//! Copies of the parameters in the state of an optimizer that a merge would not reach. A trainer that resumed from an
//! output with them would go back to the newest source at its first step.

use std::collections::BTreeSet;
use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, ReadOptions, open_checkpoint_with, open_other_copy};
use thalweg_storage::Storage;
use thalweg_tensor::display_name;

use crate::error::Error;

/// Parts of names by which optimizers call their copies of the parameters.
const MASTER_WORDS: [&str; 4] = ["fp32_param", "fp32_from_fp16", "fp32_groups", "master"];
/// What Megatron-Core calls the copies in its buckets, which hold many parameters each.
const BUCKET_NAME: &str = ".param";

/// The first copy of parameters in `newest` beside the tensors that are read and those that are written with them.
///
/// # Errors
/// When the checkpoint cannot be opened again.
pub fn unreached_masters(
    storage: &Arc<dyn Storage>,
    newest: &Checkpoint,
    reading: &ReadOptions,
) -> Result<Option<String>, Error> {
    // DeepSpeed's formats know where all copies are. Elsewhere the state of an optimizer has another key.
    if newest.format_name().starts_with("deepspeed") || newest.findings().other_keys.is_empty() {
        return Ok(None);
    }
    let whole = ReadOptions { key: Some(".".to_owned()), ..ReadOptions::default() };
    let whole = open_checkpoint_with(storage, newest.path(), &whole)?;
    let other = open_other_copy(storage, newest, reading)?;
    let is_written = |name: &str, catalog: &thalweg_tensor::TensorCatalog| {
        let below = |at: usize| catalog.find(&name[at..]).map(|t| &catalog.entries()[t]);
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        starts.filter_map(below).any(|found| {
            let read = newest.catalog().find(&found.name).map(|t| &newest.catalog().entries()[t]);
            read.is_some_and(|read| read.shape == found.shape)
        })
    };
    let beside: BTreeSet<&str> = newest.findings().other_keys.iter().map(|(key, _)| &**key).collect();
    let is_beside = |name: &str| name.match_indices('.').any(|(at, _)| beside.contains(&name[..at]));
    let is_master = |name: &str| MASTER_WORDS.iter().any(|word| name.contains(word)) || name.ends_with(BUCKET_NAME);
    let mut names = whole.catalog().entries().iter().map(|entry| &*entry.name);
    let found = names.find(|name| {
        is_beside(name) && is_master(name) && !other.as_ref().is_some_and(|other| is_written(name, other.catalog()))
    });
    Ok(found.map(display_name))
}
