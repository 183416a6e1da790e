//! Universal checkpoints: one folder for each parameter, with its master and its moments in separate files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::{Shape, TensorEntry, display_name};

use super::super::torch::entry_of;
use super::super::torch::error::TorchError;
use super::steps::note_step;
use super::{Choice, Opened, RankFiles, finish, first_model, moment_name, refuse};
use crate::error::UnfinishedFault;
use crate::format::{Findings, FormatContent, Place};
use crate::optimizer_state::MOMENT_NAMES;
use crate::pickle::Value;
use crate::{CatalogCache, Error, Params, ReadOptions};

/// The folder of the parameters.
pub(super) const FOLDER_NAME: &str = "zero";
/// The file of a parameter's master.
const MASTER_NAME: &str = "fp32.pt";
/// Ending of the names of all files of a parameter.
const FILE_END: &str = ".pt";
/// Most missing parameters that an error lists: groups may be one dictionary listed many times.
const MAX_MISSING: usize = 1024;

pub(super) fn open_masters(
    storage: &Arc<dyn Storage>,
    place: &Place,
    files: &RankFiles,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let model = first_model(storage, files)?;
    let zero = place.folder().join(FOLDER_NAME);
    let (mut entries, mut state, mut open_files) = (Vec::new(), Vec::new(), Vec::new());
    let folders = storage.list_folder(&zero)?;
    for folder in folders.iter().filter(|entry| entry.kind == FileKind::Folder) {
        let mut read = |file_name: &str, tensor: &str| {
            let name = format!("{FOLDER_NAME}/{}/{file_name}", folder.name);
            let opened = match Opened::open(storage, &zero.join(&folder.name).join(file_name), &name) {
                Err(Error::NotFound { .. }) => {
                    let faults = vec![UnfinishedFault::MissingShard { file: name }];
                    return Err(Error::Unfinished { path: place.path().to_owned(), faults });
                }
                opened => opened?,
            };
            let file_idx = u32::try_from(open_files.len()).unwrap_or(u32::MAX);
            let entry = read_whole(&opened, &model, file_idx, (&folder.name, tensor))?;
            open_files.push(opened.file);
            Ok(entry)
        };
        entries.push(read(MASTER_NAME, &folder.name)?);
        for moment in moments_in(&**storage, &zero.join(&folder.name), options)? {
            state.push(read(&format!("{moment}{FILE_END}"), &moment_name(moment, &folder.name))?);
        }
    }
    let missing = missing_parameters(&model, &entries);
    if !missing.is_empty() {
        return Err(Error::Unfinished { path: place.path().to_owned(), faults: missing });
    }
    let n_state = state.len();
    entries.extend(state);
    let mut content = finish(open_files, entries, Findings::default(), Choice::Both(Params::Master), cache)?;
    content.notes.extend(note_step(storage, files, &model, None)?);
    Ok(FormatContent { n_state, ..content })
}

/// The moments that have a file in the folder of a parameter, if they are to be read.
fn moments_in(storage: &dyn Storage, folder: &Path, options: &ReadOptions) -> Result<Vec<&'static str>, Error> {
    if !options.optimizer {
        return Ok(Vec::new());
    }
    let files = storage.list_folder(folder)?;
    let is_there = |moment: &&str| files.iter().any(|file| file.name.strip_suffix(FILE_END) == Some(*moment));
    Ok(MOMENT_NAMES.into_iter().filter(is_there).collect())
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

/// A master or moment of the parameter `name`: a tensor, or a dictionary that also says along which dimension it was
/// cut.
fn read_whole(
    opened: &Opened,
    model: &Opened,
    file_idx: u32,
    (name, tensor): (&str, &str),
) -> Result<TensorEntry, Error> {
    let path = &opened.file.path;
    let root = opened.root();
    let (value, is_flat) = root.get("param").map_or((root, true), |param| (param, false));
    let entry = entry_of(&opened.torch, &*opened.file.reader, file_idx, tensor, value);
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
        return Err(opened.broken(format!("the shape of parameter `{}` is unknown", display_name(name))));
    };
    if shape.n_elements() != entry.shape.n_elements() || !entry.pieces.iter().all(|piece| piece.is_whole()) {
        let facts = format!("it has shape {}, {shape} expected", entry.shape);
        return Err(opened.broken(facts));
    }
    Ok(TensorEntry { shape, ..entry })
}
