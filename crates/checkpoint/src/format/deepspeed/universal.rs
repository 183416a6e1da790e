//! Universal checkpoints: one folder for each parameter, with its master and its moments in separate files.

use std::collections::BTreeSet;
use std::sync::Arc;

use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::{Shape, TensorEntry, display_name};

use super::super::torch::entry_of;
use super::super::torch::error::TorchError;
use super::{Opened, RankFiles, finish, first_model, refuse};
use crate::error::UnfinishedFault;
use crate::format::{Findings, FormatContent, Place};
use crate::pickle::Value;
use crate::{CatalogCache, Error, Params};

/// The folder of the parameters.
pub(super) const FOLDER_NAME: &str = "zero";
/// The file of a parameter's master.
const MASTER_NAME: &str = "fp32.pt";
/// Most missing parameters that an error lists: groups may be one dictionary listed many times.
const MAX_MISSING: usize = 1024;

pub(super) fn open_masters(
    storage: &Arc<dyn Storage>,
    place: &Place,
    files: &RankFiles,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let model = first_model(storage, files)?;
    let zero = place.folder().join(FOLDER_NAME);
    let (mut entries, mut open_files) = (Vec::new(), Vec::new());
    let folders = storage.list_folder(&zero)?;
    for (file_idx, folder) in (0..).zip(folders.iter().filter(|entry| entry.kind == FileKind::Folder)) {
        let name = format!("{FOLDER_NAME}/{}/{MASTER_NAME}", folder.name);
        let path = zero.join(&folder.name).join(MASTER_NAME);
        let opened = match Opened::open(storage, &path, &name) {
            Err(Error::NotFound { .. }) => {
                let faults = vec![UnfinishedFault::MissingShard { file: name }];
                return Err(Error::Unfinished { path: place.path().to_owned(), faults });
            }
            opened => opened?,
        };
        entries.push(read_master(&opened, &model, file_idx, &folder.name)?);
        open_files.push(opened.file);
    }
    let missing = missing_parameters(&model, &entries);
    if !missing.is_empty() {
        return Err(Error::Unfinished { path: place.path().to_owned(), faults: missing });
    }
    finish(open_files, entries, Findings::default(), Params::Master, cache)
}

/// Parameters of the module whose folder is missing.
fn missing_parameters(model: &Opened, entries: &[TensorEntry]) -> Vec<UnfinishedFault> {
    let groups = model.root().get("param_shapes").map(|groups| groups.items().collect::<Vec<_>>()).unwrap_or_default();
    let names = groups.into_iter().flat_map(Value::entries).filter_map(|(name, _)| name.as_text());
    let found: BTreeSet<&str> = entries.iter().map(|entry| &*entry.name).collect();
    let is_missing = |name: &&str| !found.contains(name);
    names
        .filter(is_missing)
        .take(MAX_MISSING)
        .map(|name| UnfinishedFault::MissingShard { file: format!("{FOLDER_NAME}/{name}/{MASTER_NAME}") })
        .collect()
}

/// A master: a tensor, or a dictionary that also says along which dimension it was cut.
fn read_master(opened: &Opened, model: &Opened, file_idx: u32, name: &str) -> Result<TensorEntry, Error> {
    let path = &opened.file.path;
    let root = opened.root();
    let (value, is_flat) = root.get("param").map_or((root, true), |param| (param, false));
    let entry = entry_of(&opened.torch, &*opened.file.reader, file_idx, name, value);
    let entry = entry.map_err(|source| refuse(path, source))?;
    let Some(entry) = entry else { return Err(refuse(path, TorchError::NoTensors)) };
    if !is_flat || entry.shape.0.len() != 1 {
        return Ok(entry);
    }
    // Under ZeRO-3 the file holds only the elements; their shape is in the states of the module.
    let groups = model.root().get("param_shapes").map(|groups| groups.items().collect::<Vec<_>>()).unwrap_or_default();
    let sizes = groups.into_iter().find_map(|group| group.get(name));
    let sizes = sizes.and_then(|sizes| sizes.items().map(Value::as_u64).collect::<Option<Vec<u64>>>());
    let Some(shape) = sizes.map(Shape::new) else {
        return Err(opened.broken(format!("the shape of parameter `{}` is not known", display_name(name))));
    };
    if shape.n_elements() != entry.shape.n_elements() || !entry.pieces.iter().all(|piece| piece.is_whole()) {
        let facts = format!("it has shape {}, {shape} expected", entry.shape);
        return Err(opened.broken(facts));
    }
    Ok(TensorEntry { shape, ..entry })
}
