//! Pieces of tensors in safetensors files, as the Hugging Face storage writer of PyTorch leaves them: each file holds
//! one rank's pieces of some tensors, and says at which index of the whole tensor each piece begins.
//!
//! There is no index and no mark of completeness. Whole shapes follow from the pieces, so the loss of all files of a
//! rank is noticed only if its pieces leave a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;
use thalweg_storage::Storage;
use thalweg_tensor::{Dtype, Piece, Shape, TensorCatalog, TensorEntry};

use super::super::safetensors::{HeaderTensor, read_header_text};
use super::super::{Format, FormatContent, OpenFile, Place};
use super::error::{ChunkFault, DcpError};
use crate::error::{UnfinishedFault, storage_error};
use crate::{CatalogCache, Error, Note, ReadOptions};

const FILE_END: &str = ".safetensors";
/// The metadata key of a file that says where its pieces begin.
const OFFSETS_KEY: &str = "DCP_SHARDING_INFO";

/// A folder of `shard-00001-model-00001-of-00003.safetensors` files.
#[derive(Debug, Clone, Copy)]
pub struct DcpSafetensors;

/// What the name of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ShardName {
    /// From 1.
    rank: u32,
    /// From 1.
    file: u32,
    n_files: u32,
}

fn parse_name(name: &str) -> Option<ShardName> {
    let (rank, rest) = name.strip_prefix("shard-")?.strip_suffix(FILE_END)?.split_once('-')?;
    let (rest, n_files) = rest.rsplit_once("-of-")?;
    let (_, file) = rest.rsplit_once('-')?;
    Some(ShardName { rank: rank.parse().ok()?, file: file.parse().ok()?, n_files: n_files.parse().ok()? })
}

impl Format for DcpSafetensors {
    fn name(&self) -> &'static str {
        "dcp"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[]
    }

    fn is_certain(&self, place: &Place) -> bool {
        self.recognises(place)
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn recognises(&self, place: &Place) -> bool {
        let has = |test: &dyn Fn(&str) -> bool| place.file_names().any(test);
        let is_whole = |name: &str| name.ends_with(".safetensors.index.json") || name == "model.safetensors";
        has(&|name| parse_name(name).is_some()) && !has(&is_whole)
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        _options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let names: BTreeMap<ShardName, &str> =
            place.file_names().filter_map(|name| Some((parse_name(name)?, name))).collect();
        check_names(place, names.keys().copied())?;
        let (mut files, mut tensors, mut metadata) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (file_idx, name) in (0..).zip(names.values()) {
            let path = place.folder().join(name);
            let reader = storage.open_file(&path).map_err(|error| storage_error(&path, error))?;
            let text = read_header_text(&*reader, &path)?;
            let header = text.parse(&path)?;
            let refuse = |source| Error::Dcp { path: path.clone(), source: Box::new(source) };
            let offsets = read_offsets(header.metadata.get(OFFSETS_KEY)).map_err(refuse)?;
            for tensor in header.tensors {
                let place = (file_idx, text.data_start() + tensor.begin);
                let entry = tensors.entry(tensor.name.clone()).or_insert_with(|| Pieced::new(tensor.dtype));
                entry.add(&tensor, place, &offsets).map_err(refuse)?;
            }
            metadata.extend(header.metadata.into_iter().filter(|(key, _)| key == "format"));
            files.push(OpenFile { name: (*name).to_owned(), path, reader });
        }
        let refuse = |source| Error::Dcp { path: place.path().to_owned(), source: Box::new(source) };
        let entries = tensors.into_iter().map(|(name, pieced)| pieced.into_entry(name));
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
        let catalog =
            TensorCatalog::new(entries).map_err(|name| refuse(DcpError::DuplicateName { name: name.into() }))?;
        let n_ranks = names.keys().map(|name| name.rank).collect::<BTreeSet<_>>().len();
        let notes = vec![Note::RanksNotRecorded { n_ranks }];
        Ok(FormatContent { files, catalog: cache.share(catalog), metadata, notes, ..FormatContent::default() })
    }
}

/// Checks that every rank up to the last has a file, and that every file up to the stated number exists.
fn check_names(place: &Place, names: impl Iterator<Item = ShardName>) -> Result<(), Error> {
    let (mut ranks, mut numbers, mut n_files) = (BTreeSet::new(), BTreeSet::new(), 0);
    for name in names {
        ranks.insert(name.rank);
        numbers.insert(name.file);
        n_files = n_files.max(name.n_files);
    }
    let missing = |found: &BTreeSet<u32>, last: u32| (1..=last).find(|number| !found.contains(number));
    let of_rank = missing(&ranks, ranks.last().copied().unwrap_or(0)).map(|rank| format!("shard-{rank:05}-*"));
    let of_file = missing(&numbers, n_files).map(|file| format!("shard-*-{file:05}-of-{n_files:05}{FILE_END}"));
    match of_rank.or(of_file) {
        None => Ok(()),
        Some(file) => {
            let faults = vec![UnfinishedFault::MissingShard { file }];
            Err(Error::Unfinished { path: place.path().to_owned(), faults })
        }
    }
}

type Offsets = BTreeMap<String, Vec<u64>>;

/// For each tensor of a file, the index at which its piece begins.
fn read_offsets(text: Option<&String>) -> Result<Offsets, DcpError> {
    const MALFORMED: DcpError = DcpError::Malformed { what: "`DCP_SHARDING_INFO`" };
    let Some(text) = text else { return Ok(Offsets::new()) };
    let Ok(Json::Object(tensors)) = serde_json::from_str(text) else { return Err(MALFORMED) };
    let read = |(name, info): (String, Json)| {
        let offsets = info.get("saved_offsets").and_then(Json::as_array).ok_or(MALFORMED)?;
        let offsets = offsets.iter().map(Json::as_u64).collect::<Option<Vec<_>>>().ok_or(MALFORMED)?;
        Ok((name, offsets))
    };
    tensors.into_iter().map(read).collect()
}

/// A tensor while its pieces are collected.
#[derive(Debug)]
struct Pieced {
    dtype: Dtype,
    shape: Vec<u64>,
    pieces: Vec<Piece>,
}

impl Pieced {
    fn new(dtype: Dtype) -> Self {
        Self { dtype, shape: Vec::new(), pieces: Vec::new() }
    }

    fn add(
        &mut self,
        tensor: &HeaderTensor,
        (file_idx, offset): (u32, u64),
        offsets: &Offsets,
    ) -> Result<(), DcpError> {
        let fail = |fault| DcpError::Tensor { tensor: tensor.name.to_string(), fault };
        let extent = &*tensor.shape.0;
        let zeros = vec![0; extent.len()];
        let start = offsets.get(&*tensor.name).unwrap_or(&zeros);
        if self.dtype != tensor.dtype {
            let (expected, found) = (self.dtype, tensor.dtype);
            return Err(fail(ChunkFault::Dtype { offset, expected, found }));
        }
        if self.pieces.is_empty() {
            self.shape = zeros.clone();
        }
        if start.len() != extent.len() || self.shape.len() != extent.len() {
            let (expected, found) = (Shape::new(start.as_slice()), tensor.shape.clone());
            return Err(fail(ChunkFault::Shape { offset, expected, found }));
        }
        for (size, (start, extent)) in self.shape.iter_mut().zip(start.iter().zip(extent)) {
            let end = start.checked_add(*extent).ok_or(fail(ChunkFault::Malformed { what: "offset" }))?;
            *size = end.max(*size);
        }
        self.pieces.push(Piece::boxed(file_idx, offset, start, extent));
        Ok(())
    }

    fn into_entry(self, name: Box<str>) -> Result<TensorEntry, DcpError> {
        let tensor = name.to_string();
        let made = TensorEntry::of_pieces(name, self.dtype, Shape::new(self.shape), self.pieces);
        made.map_err(|fault| DcpError::Tensor { tensor, fault: ChunkFault::Cover(fault) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_hold_rank_and_file() {
        let name = ShardName { rank: 2, file: 1, n_files: 3 };
        assert_eq!(parse_name("shard-00002-model-00001-of-00003.safetensors"), Some(name));
        for other in ["model-00001-of-00003.safetensors", "shard-00002.safetensors", "shard-x-model-1-of-2.safetensors"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
