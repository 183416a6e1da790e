//! Checkpoints of torch_checkpointing 0.1: a file for each item and rank, and `metadata.pkl`, which says how the
//! tensors of an item are placed on the mesh of ranks.
//!
//! Which box a rank holds is not stored; it follows from mesh and placement. Where the metadata is missing, as it is in
//! all but the first checkpoint of a process, distributed tensors still state both themselves.

pub mod error;
mod files;
mod metadata;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{Piece, Shape, TensorCatalog, TensorEntry};

use self::error::TcError;
use self::files::{ItemFile, LocalTensor, TorchItem, list_tensors};
use self::metadata::{ItemTensor, Metadata, RankBox, name_of, read_metadata};
use super::key_fault::KeyFault;
use super::model_key::{Level, choose_branch, strip_names};
use super::placement::{box_at, coordinate_of};
use super::torch::dtensor::{DistributedTensor, KnownMeshes};
use super::{Findings, Format, FormatContent, OpenFile, Place};
use crate::error::{UnfinishedFault, storage_error};
use crate::pickle::{PickleLimits, parse_pickle};
use crate::{CatalogCache, Error, Note, ReadOptions};

const METADATA_FILE_NAME: &str = "metadata.pkl";
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// The item that is looked for where there is no metadata.
const MODEL_ITEM: &str = "model";
const INDEX_END: &str = ".safetensors.index.json";

/// A folder of files such as `model_0.pt`.
#[derive(Debug, Clone, Copy)]
pub struct TorchCheckpointing;

/// Item and rank of a usual file name, and whether it is a safetensors file.
fn parse_name(name: &str) -> Option<(&str, u64, bool)> {
    let (stem, is_safetensors) = match (name.strip_suffix(".pt"), name.strip_suffix(".safetensors")) {
        (Some(stem), _) => (stem, false),
        (_, Some(stem)) => (stem, true),
        _ => return None,
    };
    let (item, rank) = stem.rsplit_once('_')?;
    let is_number = rank == "0" || rank.starts_with(|c: char| c.is_ascii_digit() && c != '0');
    Some((item, rank.parse().ok().filter(|_| is_number)?, is_safetensors)).filter(|_| !item.is_empty())
}

impl Format for TorchCheckpointing {
    fn name(&self) -> &'static str {
        "torch-checkpointing"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[METADATA_FILE_NAME]
    }

    fn is_certain(&self, place: &Place) -> bool {
        self.recognises(place)
    }

    fn recognises(&self, place: &Place) -> bool {
        let has = |test: &dyn Fn(&str) -> bool| place.file_names().any(test);
        let is_first = |name: &str| parse_name(name).is_some_and(|(item, rank, _)| item == MODEL_ITEM && rank == 0);
        // A consolidated copy in the same folder is complete and is read instead; its index shows that it is there.
        !has(&|name| name.ends_with(INDEX_END)) && (has(&|name| name == METADATA_FILE_NAME) || has(&is_first))
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let metadata_path = place.folder().join(METADATA_FILE_NAME);
        let refuse = |source| tc_error(&metadata_path, source);
        let pickle = match place.file_names().any(|name| name == METADATA_FILE_NAME) {
            false => None,
            true => {
                let bytes = storage.read_file(&metadata_path, MAX_METADATA_BYTES)?;
                let parsed = parse_pickle(&bytes, &[], &PickleLimits::default());
                Some(parsed.map_err(|error| refuse(TcError::Pickle(error)))?.0)
            }
        };
        let metadata = pickle.as_ref().map(read_metadata).transpose().map_err(refuse)?;
        let folder = refuse_of(place);
        let choice = choose_item(place, metadata.as_ref(), options.key.as_deref()).map_err(folder)?;
        let mut files = RankFiles {
            storage,
            place,
            metadata: metadata.as_ref(),
            item: &choice.item,
            opened: BTreeMap::new(),
            files: Vec::new(),
        };
        let described = metadata.as_ref().and_then(|metadata| metadata.read_item(&choice.item));
        let tensors = match described.transpose().map_err(folder)? {
            Some(tensors) => tensors,
            None => files.describe()?,
        };
        let entries = files.gather(tensors, &choice)?;
        let mut notes = vec![Note::KeyChosen { key: choice.key.clone() }];
        notes.extend(entries.1.iter().map(|prefix| Note::PrefixTakenOff { prefix: (*prefix).to_owned() }));
        let duplicate =
            |name: Box<str>| folder(TcError::Tensor { tensor: name.into(), reason: "appears twice".to_owned() });
        let catalog = TensorCatalog::new(entries.0).map_err(duplicate)?;
        let findings = Findings { key: Some(choice.key), ..Findings::default() };
        Ok(FormatContent {
            files: files.files,
            catalog: cache.share(catalog),
            notes,
            findings,
            ..FormatContent::default()
        })
    }
}

fn tc_error(path: &Path, source: TcError) -> Error {
    Error::TorchCheckpointing { path: path.to_owned(), source: Box::new(source) }
}

fn refuse_of(place: &Place) -> impl Fn(TcError) -> Error + Copy + '_ {
    |source| tc_error(place.path(), source)
}

/// The chosen item, and which part of it.
#[derive(Debug)]
struct Choice {
    item: String,
    /// Prefix of the chosen names in the item; empty for the whole item.
    prefix: String,
    key: String,
}

fn choose_item(place: &Place, metadata: Option<&Metadata<'_>>, key: Option<&str>) -> Result<Choice, TcError> {
    let in_files = place.file_names().filter_map(parse_name).map(|(item, ..)| item);
    let items: BTreeSet<&str> = in_files.chain(metadata.into_iter().flat_map(Metadata::items)).collect();
    let items: Vec<String> = items.into_iter().map(str::to_owned).collect();
    let whole = |item: &String| Choice { item: item.clone(), prefix: String::new(), key: item.clone() };
    let Some(key) = key else {
        let level = Level { branches: &items, n_direct: 0, depth: 0, was_named: false };
        let chosen = choose_branch(level)?.and_then(|at| items.get(at));
        return chosen.map(whole).ok_or_else(|| TcError::Key(KeyFault::SeveralKeys { keys: items.clone() }));
    };
    if let Some(item) = items.iter().find(|item| *item == key) {
        return Ok(whole(item));
    }
    let inner = key.split_once('.').filter(|(first, _)| items.iter().any(|item| item == first));
    match inner {
        Some((item, rest)) => Ok(Choice { item: item.to_owned(), prefix: format!("{rest}."), key: key.to_owned() }),
        None => Err(KeyFault::no_such_key(key, items).into()),
    }
}

/// The files of an item, opened when they are first needed.
struct RankFiles<'a> {
    storage: &'a Arc<dyn Storage>,
    place: &'a Place,
    metadata: Option<&'a Metadata<'a>>,
    item: &'a str,
    opened: BTreeMap<u64, (u32, ItemFile)>,
    files: Vec<OpenFile>,
}

impl RankFiles<'_> {
    fn name_of(&self, rank: u64) -> (String, bool) {
        if let Some(layout) = self.metadata.and_then(|metadata| metadata.layout(self.item, rank)) {
            return (layout.name.clone(), layout.is_safetensors);
        }
        let usual = |(item, found, _): &(&str, u64, bool)| *item == self.item && *found == rank;
        let is_safetensors = self.place.file_names().filter_map(parse_name).find(usual).is_some_and(|(.., is)| is);
        let end = if is_safetensors { "safetensors" } else { "pt" };
        (format!("{}_{rank}.{end}", self.item), is_safetensors)
    }

    fn open(&mut self, rank: u64) -> Result<(), Error> {
        if self.opened.contains_key(&rank) {
            return Ok(());
        }
        let (name, is_safetensors) = self.name_of(rank);
        let path = self.place.folder().join(&name);
        let reader = match self.storage.open_file(&path) {
            Err(error) if error.is_not_found() => {
                let faults = vec![UnfinishedFault::MissingShard { file: name }];
                return Err(Error::Unfinished { path: self.place.path().to_owned(), faults });
            }
            opened => opened.map_err(|error| storage_error(&path, error))?,
        };
        let file_idx = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let file = if is_safetensors {
            ItemFile::open_safetensors(&*reader, &path, file_idx)?
        } else {
            let refuse = |source| Error::Torch { path: path.clone(), source: Box::new(source) };
            ItemFile::open_torch(&*reader).map_err(refuse)?
        };
        self.opened.insert(rank, (file_idx, file));
        self.files.push(OpenFile { name, path, reader });
        Ok(())
    }

    fn find(&mut self, tensor: &ItemTensor, place: &RankBox) -> Result<Piece, Error> {
        self.open(place.rank)?;
        let folder = self.place.path().to_owned();
        let Some((file_idx, file)) = self.opened.get(&place.rank) else {
            return Err(tc_error(&folder, TcError::NoTensors { item: self.item.to_owned() }));
        };
        let Some(open) = self.files.get(thalweg_tensor::to_index((*file_idx).into())) else {
            return Err(tc_error(&folder, TcError::NoTensors { item: self.item.to_owned() }));
        };
        let fail = |reason| tc_error(&open.path, TcError::Tensor { tensor: name_of(&tensor.path), reason });
        let local = file.find(&*open.reader, *file_idx, &tensor.path).map_err(fail)?;
        place_local(tensor, place, local).map_err(fail)
    }

    /// The entries of an item, and what was removed from their names.
    fn gather(
        &mut self,
        tensors: Vec<ItemTensor>,
        choice: &Choice,
    ) -> Result<(Vec<TensorEntry>, Vec<&'static str>), Error> {
        let refuse = refuse_of(self.place);
        let meant: Vec<ItemTensor> =
            tensors.into_iter().filter(|tensor| name_of(&tensor.path).starts_with(&choice.prefix)).collect();
        if meant.is_empty() {
            return Err(refuse(TcError::NoTensors { item: choice.key.clone() }));
        }
        let mut names: Vec<String> =
            meant.iter().map(|tensor| name_of(&tensor.path)[choice.prefix.len()..].to_owned()).collect();
        let stripped = strip_names(&mut names, false);
        let mut entries = Vec::with_capacity(meant.len());
        for (name, tensor) in names.into_iter().zip(&meant) {
            let pieces =
                tensor.boxes.iter().map(|place| self.find(tensor, place)).collect::<Result<Vec<Piece>, Error>>()?;
            let made = TensorEntry::of_pieces(name.as_str().into(), tensor.dtype, Shape::new(&*tensor.shape), pieces);
            entries.push(made.map_err(|fault| refuse(TcError::Cover { tensor: name, fault }))?);
        }
        Ok((entries, stripped))
    }

    /// What an item holds, if there is no metadata: reads each rank's file.
    fn describe(&mut self) -> Result<Vec<ItemTensor>, Error> {
        let refuse = refuse_of(self.place);
        let ranks: BTreeSet<u64> = self
            .place
            .file_names()
            .filter_map(parse_name)
            .filter(|(item, ..)| *item == self.item)
            .map(|(_, rank, _)| rank)
            .collect();
        if let Some(missing) = (0..).zip(&ranks).find(|(expected, rank)| expected != *rank) {
            let faults = vec![UnfinishedFault::MissingShard { file: self.name_of(missing.0).0 }];
            return Err(Error::Unfinished { path: self.place.path().to_owned(), faults });
        }
        ranks.iter().try_for_each(|rank| self.open(*rank))?;
        let mut found: BTreeMap<Vec<metadata::PathPart>, ItemTensor> = BTreeMap::new();
        for (rank, (file_idx, file)) in &self.opened {
            let mut meshes = KnownMeshes::default();
            let Some(open) = self.files.get(thalweg_tensor::to_index((*file_idx).into())) else { continue };
            match file {
                ItemFile::Safetensors(_) if ranks.len() > 1 => {
                    let (item, n_ranks) = (self.item.to_owned(), ranks.len());
                    return Err(refuse(TcError::NoMetadata { item, n_ranks }));
                }
                ItemFile::Safetensors(tensors) => {
                    for (name, local) in tensors {
                        let path = vec![metadata::PathPart::Key(name.to_string())];
                        found.insert(path.clone(), whole_tensor(path, local, *rank));
                    }
                }
                ItemFile::Torch(item) => {
                    let TorchItem { archive, .. } = &**item;
                    let tensors = list_tensors(archive);
                    let tensors =
                        tensors.map_err(|source| Error::Torch { path: open.path.clone(), source: Box::new(source) })?;
                    for (path, value) in tensors {
                        let fail = |reason| tc_error(&open.path, TcError::Tensor { tensor: name_of(&path), reason });
                        let local = files::local_tensor(archive, &*open.reader, *file_idx, value).map_err(fail)?;
                        let Some(distributed) = DistributedTensor::of(value) else {
                            // A tensor that is not distributed is the same on every rank: the lowest rank's is read.
                            found.entry(path.clone()).or_insert_with(|| whole_tensor(path, &local, *rank));
                            continue;
                        };
                        let spread = distributed.spread(&*open.reader, archive, &mut meshes).zip(distributed.shape());
                        let place = spread.and_then(|(spread, shape)| {
                            let coordinate = coordinate_of(*rank, &spread.mesh_shape, &spread.ranks)?;
                            let place = box_at(&shape, &spread.mesh_shape, &coordinate, &spread.placements)?;
                            Some((shape, place))
                        });
                        let malformed = "its placement cannot be read, and there is no `metadata.pkl` to look it up in";
                        let (shape, (start, extent)) = place.ok_or_else(|| fail(malformed.to_owned()))?;
                        let tensor = found.entry(path.clone()).or_insert_with(|| ItemTensor {
                            path,
                            dtype: local.dtype,
                            shape,
                            boxes: Vec::new(),
                        });
                        let is_new = |known: &RankBox| known.start != start || known.extent != extent;
                        if !extent.contains(&0) && tensor.boxes.iter().all(is_new) {
                            tensor.boxes.push(RankBox { rank: *rank, start, extent });
                        }
                    }
                }
            }
        }
        Ok(found.into_values().collect())
    }
}

fn whole_tensor(path: Vec<metadata::PathPart>, local: &LocalTensor, rank: u64) -> ItemTensor {
    let shape = local.shape.0.to_vec();
    let boxes = if shape.contains(&0) {
        Vec::new()
    } else {
        vec![RankBox { rank, start: vec![0; shape.len()], extent: shape.clone() }]
    };
    ItemTensor { path, dtype: local.dtype, shape, boxes }
}

/// What a rank holds as a box of the whole tensor.
fn place_local(tensor: &ItemTensor, place: &RankBox, local: LocalTensor) -> Result<Piece, String> {
    if local.dtype != tensor.dtype {
        return Err(format!("holds {} on rank {}, but {} is expected", local.dtype, place.rank, tensor.dtype));
    }
    if *local.shape.0 != *place.extent {
        let expected = Shape::new(&*place.extent);
        return Err(format!("has shape {} on rank {}, but {expected} is expected", local.shape, place.rank));
    }
    let boxed = Piece::boxed(local.piece.file_idx, local.piece.offset, &place.start, &place.extent);
    match local.piece.strides() {
        None => Ok(boxed),
        Some(strides) => boxed
            .with_strides(&Shape::new(&*tensor.shape), strides)
            .ok_or_else(|| "does not have the dimensions that it states".to_owned()),
    }
}
