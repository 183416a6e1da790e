//! Which file of a folder holds the model, if torch.save wrote several.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::display_name;

use super::super::Place;
use super::error::TorchError;
use super::file_names::{is_saved_name, strip_end};
use super::ranks::RankFiles;
use super::torch_error;
use crate::error::UnfinishedFault;
use crate::state_names::is_state_name;
use crate::{Error, Note};

/// The single file that readers look for first.
pub(super) const SINGLE_FILE_NAME: &str = "pytorch_model.bin";
/// The index that readers look for next.
pub(super) const INDEX_FILE_NAME: &str = "pytorch_model.bin.index.json";
/// Names that trainers give to a file of the whole model, with other files beside it.
const MODEL_NAMES: [&str; 7] = [
    "lit_model.pth",
    "model.pt",
    "model.pth",
    "pytorch_model_fsdp.bin",
    "model.bin",
    "checkpoint.pt",
    "consolidated.pth",
];
const INDEX_END: &str = ".bin.index.json";

/// Which file or files to open.
#[derive(Debug)]
pub(super) enum Entrance {
    Single {
        name: String,
        note: Option<Note>,
    },
    Index(String),
    /// All shards, complete by their names, without an index.
    Shards(Vec<String>),
    /// Files of ranks, each with its part of the model.
    Ranks(RankFiles),
}

/// Whether a name is like those of torch.save files.
pub(super) fn is_torch_name(name: &str) -> bool {
    is_saved_name(name) || name.ends_with(INDEX_END)
}

/// A shard's stem, its number, and the number of shards: `STEM-00001-of-00004.bin`.
fn parse_shard(name: &str) -> Option<(&str, u64, u64)> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let stem = strip_end(name)?;
    let (rest, n_shards) = stem.rsplit_once("-of-")?;
    let (stem, shard) = rest.rsplit_once('-')?;
    Some((stem, number(shard)?, number(n_shards)?))
}

/// Shards without an index: complete, or an unfinished save.
fn shards_alone(path: PathBuf, names: &[&str]) -> Result<Entrance, Error> {
    let mut shards: Vec<(&str, u64, u64)> = names.iter().filter_map(|name| parse_shard(name)).collect();
    shards.sort_unstable();
    let is_complete = shards.first().is_some_and(|(stem, _, n_shards)| {
        shards.len() as u64 == *n_shards
            && shards.iter().zip(1..).all(|(shard, number)| *shard == (stem, number, *n_shards))
    });
    if is_complete {
        return Ok(Entrance::Shards(names.iter().map(|name| (*name).to_owned()).collect()));
    }
    let faults = vec![UnfinishedFault::NoIndex { n_shards: names.len(), index: INDEX_FILE_NAME.to_owned() }];
    Err(Error::Unfinished { path, faults })
}

/// The files of a folder that make up its model, by their names: those of an index are the shards of its stem.
pub(crate) fn files_by_name(place: &Place) -> Result<Vec<String>, Error> {
    Ok(match choose_entrance(place)? {
        Entrance::Single { name, .. } => vec![name],
        Entrance::Shards(names) => names,
        Entrance::Ranks(files) => files.complete(place.path())?,
        Entrance::Index(name) => {
            let stem = name.strip_suffix(INDEX_END).unwrap_or(&name);
            let is_shard = |name: &&str| parse_shard(name).is_some_and(|(of, ..)| of == stem);
            place.file_names().filter(is_shard).map(str::to_owned).chain([name.clone()]).collect()
        }
    })
}

pub(super) fn choose_entrance(place: &Place) -> Result<Entrance, Error> {
    let path = place.path().to_owned();
    if let Place::File { path, .. } = place {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_index = name.ends_with(INDEX_END);
        return Ok(if is_index { Entrance::Index(name) } else { Entrance::Single { name, note: None } });
    }
    let has = |wanted: &str| place.file_names().any(|name| name == wanted);
    if has(SINGLE_FILE_NAME) {
        let (used, unused) = (SINGLE_FILE_NAME.to_owned(), INDEX_FILE_NAME.to_owned());
        let note = has(INDEX_FILE_NAME).then_some(Note::SingleFilePreferred { used, unused });
        return Ok(Entrance::Single { name: SINGLE_FILE_NAME.to_owned(), note });
    }
    let indexes: Vec<&str> = place.file_names().filter(|name| name.ends_with(INDEX_END)).collect();
    if has(INDEX_FILE_NAME) || indexes.len() == 1 {
        let name = if has(INDEX_FILE_NAME) { INDEX_FILE_NAME } else { indexes[0] };
        return Ok(Entrance::Index(name.to_owned()));
    }
    if let Some(name) = MODEL_NAMES.iter().find(|name| has(name)) {
        return Ok(Entrance::Single { name: (*name).to_owned(), note: None });
    }
    let files = || place.file_names().filter(|name| is_torch_name(name) && !is_state_name(name));
    if let Some(files) = RankFiles::find(files()) {
        return Ok(Entrance::Ranks(files));
    }
    if let Some(name) = files().find(|name| name.starts_with("pytorch_model_fsdp_") && name.contains("_rank")) {
        return Err(torch_error(&path, TorchError::OneRank { name: name.to_owned() }));
    }
    let shards: Vec<&str> = files().filter(|name| parse_shard(name).is_some()).collect();
    if !shards.is_empty() {
        return shards_alone(path, &shards);
    }
    match files().collect::<Vec<_>>()[..] {
        [] => {
            let first = place.file_names().find(|name| is_torch_name(name)).map(display_name).unwrap_or_default();
            let found = format!("it holds `{first}`, which is not a model, and no other torch.save file");
            Err(Error::NotACheckpoint { path, found, converter: None })
        }
        [name] => {
            let note = Some(Note::UnusualName { file: name.to_owned() });
            Ok(Entrance::Single { name: name.to_owned(), note })
        }
        ref several => {
            Err(Error::Ambiguous { path, candidates: several.iter().map(|name| (*name).to_owned()).collect() })
        }
    }
}

/// Checks that no shard is missing; the error lists all that are.
pub(super) fn check_shards(
    storage: &Arc<dyn Storage>,
    place: &Place,
    shards: &[(String, PathBuf)],
) -> Result<(), Error> {
    let is_missing = |path: &PathBuf| storage.file_info(path).is_err_and(|error| error.is_not_found());
    let missing = shards.iter().filter(|(_, path)| is_missing(path));
    let faults: Vec<UnfinishedFault> =
        missing.map(|(name, _)| UnfinishedFault::MissingShard { file: name.clone() }).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::Unfinished { path: place.path().to_owned(), faults }) }
}
