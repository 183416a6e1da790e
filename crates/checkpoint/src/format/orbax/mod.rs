//! Checkpoints of Orbax (MaxText, Flax) and levanter: arrays of zarr in an OCDBT store or in plain files.
//!
//! `place` finds the folder of arrays and decides whether its save has finished, `store` and `ocdbt` list what is
//! stored, `zarr` reads the description of an array, and `tree` that of the tree. Chunks are unpacked when they are
//! read. `write` lays out outputs.

mod ocdbt;
mod ocdbt_write;
mod place;
mod store;
mod stored;
mod tree;
pub(crate) mod write;
mod zarr;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use thalweg_storage::Storage;
use thalweg_tensor::{Dtype, Piece, Shape, TensorCatalog, TensorEntry, display_name};

use self::ocdbt::MANIFEST_NAME;
use self::place::{FoundItem, Item, LEVANTER_NAME, find_item, is_ours};
use self::store::{has_manifest, read_value, read_values};
use self::stored::{Stored, Values, refuse};
use self::tree::{TREE_NAME, Tree, read_tree};
use self::zarr::{ArraySpec, Coding, ShardSpec, parse_version_2, parse_version_3};
use super::tree_path::{Beside, choose_path, rest_of};
use super::{Findings, Format, FormatContent, OpenFile, Place, Unreadable};
use crate::error::UnfinishedFault;
use crate::format::model_key::{WHOLE_KEY, is_other_key};
use crate::index::check_file_name;
use crate::optimizer_state::{is_optimizer_key, is_optimizer_state};
use crate::unpacked::{DecoderPool, Packed, PackedPart, Packing, Shard, ShardedArray, UnpackedFile};
use crate::{CatalogCache, Error, Note, ReadOptions, UnstoredChunks};

/// Name of the format.
pub(crate) const FORMAT_NAME: &str = "orbax";
/// The longest description of an array.
const MAX_SPEC_BYTES: u64 = 1 << 20;
/// Chunks of an array beyond so many for each that is stored are refused; missing ones are zeros, and cost memory.
const CHUNKS_PER_STORED: u64 = 8;
/// Chunks that any array may have.
const FREE_CHUNKS: u64 = 64;

/// Checkpoints of Orbax and levanter.
#[derive(Debug, Clone, Copy)]
pub struct Orbax;

impl Format for Orbax {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn marks(&self) -> &'static [&'static str] {
        &[place::STEP_METADATA_NAME, TREE_NAME, MANIFEST_NAME]
    }

    fn is_certain(&self, place: &Place) -> bool {
        self.recognises(place)
    }

    fn stores_elements_once(&self) -> bool {
        true
    }

    fn recognises(&self, place: &Place) -> bool {
        match place {
            Place::File { path, .. } => {
                path.file_name().is_some_and(|name| self.marks().iter().any(|mark| name == *mark))
            }
            Place::Folder { .. } => is_ours(place),
        }
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let found = find_item(storage, place, options.key.as_deref())?;
        let item = &found.item;
        let values = read_values(storage, &item.path, has_manifest(item.names()))?;
        let tree = if item.has(TREE_NAME) { read_tree(storage, &item.path.join(TREE_NAME))? } else { Tree::default() };
        let arrays = list_arrays(storage, item, &values, &tree)?;
        let mut selection = select_in_item(storage, place, &found, &arrays)?;
        if options.optimizer {
            selection.add_optimizer(&arrays);
        }
        let mut findings = Findings {
            key: selection.key,
            other_keys: selection.others,
            lone_keys: selection.lone,
            ..Findings::default()
        };
        let mut files = Files::new(storage, item, &values);
        files.open_description()?;
        let (mut entries, mut sharded, mut n_state) = (Vec::new(), Vec::new(), 0);
        for array in selection.chosen.into_iter().map(|position| &arrays[position]) {
            let name = array.path.join(".");
            let fail = |reason: String| refuse(&item.path, format!("array `{}`: {reason}", display_name(&name)));
            let spec = array.spec.as_ref().map_err(|reason| fail(reason.clone()))?;
            let dtype = match &spec.dtype {
                Ok(dtype) => *dtype,
                Err(reason) => {
                    findings.unreadable.push(Unreadable { name: name.clone(), reason: reason.clone() });
                    continue;
                }
            };
            let chunks = place_chunks(&mut files, (array, spec), dtype).map_err(|fault| match fault {
                ChunkFault::Reason(reason) => fail(reason),
                ChunkFault::Open(error) => error,
            })?;
            if chunks.n_missing > 0 {
                let (n_missing, n_chunks) = (chunks.n_missing, chunks.n_chunks);
                findings.unstored.push(UnstoredChunks { name: name.clone(), n_missing, n_chunks });
            }
            if !chunks.shards.is_empty() {
                sharded.push(ShardedArray { name: name.clone(), shards: chunks.shards });
            }
            n_state += usize::from(array.is_optimizer());
            let shape = spec.shape.clone();
            let entry = TensorEntry::of_pieces(name.clone().into(), dtype, shape, chunks.pieces);
            entries.push(entry.map_err(|fault| fail(fault.to_string()))?);
        }
        let twice = |name: Box<str>| refuse(&item.path, format!("array `{}` appears twice", display_name(&name)));
        let catalog = cache.share(TensorCatalog::new(entries).map_err(twice)?);
        let notes = notes(&findings, tree.others);
        let is_packed = files.has_parts;
        Ok(FormatContent {
            files: files.finish(),
            catalog,
            n_state,
            notes,
            findings,
            is_packed,
            sharded,
            ..FormatContent::default()
        })
    }
}

fn notes(findings: &Findings, others: Vec<String>) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(key) = &findings.key {
        notes.push(Note::KeyChosen { key: key.clone() });
    }
    if !findings.other_keys.is_empty() {
        notes.push(Note::OtherKeys { keys: findings.other_keys.clone(), lone: findings.lone_keys.clone() });
    }
    if !others.is_empty() {
        notes.push(Note::ObjectsLeftOut { names: others });
    }
    let is_partial = |array: &&UnstoredChunks| array.n_missing < array.n_chunks;
    let partial: Vec<UnstoredChunks> = findings.unstored.iter().filter(is_partial).cloned().collect();
    if !partial.is_empty() {
        notes.push(Note::ChunksNotStored { arrays: partial });
    }
    notes
}

/// An array, and what leads to it in the tree.
struct Array<'a> {
    path: Vec<String>,
    /// The key of its description, below which its chunks are.
    key: &'a str,
    /// Its description; why it cannot be read, otherwise.
    spec: Result<ArraySpec, String>,
    /// Its stored chunks by their keys below that of the array.
    chunks: BTreeMap<&'a str, &'a Stored>,
}

impl Array<'_> {
    /// Whether it belongs to the state of an optimizer, beside the model at the top of the tree.
    fn is_optimizer(&self) -> bool {
        self.path.len() > 1 && is_optimizer_state(&self.path.join("."))
    }
}

/// Finds the arrays in a store. Every leaf of the tree that is an array must be there.
fn list_arrays<'a>(
    storage: &Arc<dyn Storage>,
    item: &Item,
    values: &'a Values,
    tree: &Tree,
) -> Result<Vec<Array<'a>>, Error> {
    let mut arrays = Vec::new();
    for (key, value) in values {
        let Some((base, name)) = key.rsplit_once('/') else { continue };
        let read = || read_value(storage, &item.path, value, MAX_SPEC_BYTES);
        let spec = match name {
            ".zarray" => parse_version_2(&read()?).map(Some),
            "zarr.json" => parse_version_3(&read()?),
            _ => continue,
        };
        let Some(spec) = spec.transpose() else { continue };
        let separator = if base.contains('/') { '/' } else { '.' };
        let path = tree.paths.get(base).cloned();
        let path = path.unwrap_or_else(|| base.split(separator).map(str::to_owned).collect());
        let below = format!("{base}/");
        let range = values.range(below.clone()..).take_while(|(key, _)| key.starts_with(&below));
        let chunks = range.filter_map(|(key, value)| Some((key.get(below.len()..)?, value)));
        arrays.push(Array { path, key, spec, chunks: chunks.collect() });
    }
    let has = |name: &str| [".zarray", "zarr.json"].iter().any(|end| values.contains_key(&format!("{name}/{end}")));
    if let Some(missing) = tree.arrays.iter().find(|name| !has(name)) {
        let reason = format!("its tree has array `{}`, but nothing of it is stored", display_name(missing));
        return Err(refuse(&item.path, reason));
    }
    if arrays.is_empty() {
        return Err(refuse(&item.path, "it holds no arrays".to_owned()));
    }
    Ok(arrays)
}

/// The arrays that are read.
struct Selection {
    key: Option<String>,
    chosen: Vec<usize>,
    others: Vec<(String, usize)>,
    /// Those of the others that are tensors themselves.
    lone: Vec<String>,
}

impl Selection {
    /// Adds the state of the optimizer.
    fn add_optimizer(&mut self, arrays: &[Array<'_>]) {
        let state = (0..arrays.len()).filter(|position| arrays[*position].is_optimizer());
        self.chosen.extend(state);
        self.chosen.sort_unstable();
        self.chosen.dedup();
        self.others.retain(|(key, _)| !is_optimizer_key(key));
    }

    /// Puts the name of an item before all keys.
    fn add_item(&mut self, item: &str) {
        let with_item = |key: &str| format!("{item}.{key}");
        self.key = Some(self.key.as_deref().map_or_else(|| item.to_owned(), with_item));
        self.others.iter_mut().for_each(|(key, _)| *key = with_item(key));
        self.lone.iter_mut().for_each(|key| *key = with_item(key));
    }
}

/// Chooses the arrays of an item, and lists what is beside them there and in the other items.
fn select_in_item(
    storage: &Arc<dyn Storage>,
    place: &Place,
    found: &FoundItem,
    arrays: &[Array<'_>],
) -> Result<Selection, Error> {
    let mut selection = select(arrays, found.key.as_deref())
        .or_else(|error| match found.key_below_only_item() {
            Some(key) => select(arrays, key),
            None => Err(error),
        })
        .map_err(|error| Error::TreeKey { path: place.path().to_owned(), source: Box::new(error) })?;
    if found.is_named {
        selection.add_item(found.item.name());
    }
    for other in &found.others {
        let values = read_values(storage, &other.path, has_manifest(other.names()))?;
        let n_arrays = values.keys().filter(|key| key.ends_with("/.zarray") || key.ends_with("/zarr.json")).count();
        selection.others.push((other.name().to_owned(), n_arrays));
    }
    Ok(selection)
}

/// Chooses the arrays below a key, or the only part of the tree that can be meant. Their names stay those of the tree.
fn select(arrays: &[Array<'_>], key: Option<&str>) -> Result<Selection, super::key_fault::KeyFault> {
    let paths: Vec<Vec<&str>> = arrays.iter().map(|array| array.path.iter().map(String::as_str).collect()).collect();
    let tree: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
    let path = choose_path(&tree, key)?;
    // Counters beside the model, such as `step`, say nothing about it.
    let is_beside =
        |rest: &[&str]| key.is_none() && path.is_empty() && rest.first().is_some_and(|first| is_other_key(first));
    let mut chosen = Vec::new();
    let mut others = Beside::default();
    for (position, array) in tree.iter().enumerate() {
        match rest_of(array, &path).filter(|rest| !is_beside(rest)) {
            Some(_) => chosen.push(position),
            None => others.add(array, &path),
        }
    }
    let is_whole = key == Some(WHOLE_KEY) || path.is_empty();
    let (others, lone) = others.into_keys();
    Ok(Selection { key: (!is_whole).then(|| path.join(".")), chosen, others, lone })
}

/// Why the chunks of an array cannot be placed.
enum ChunkFault {
    Reason(String),
    Open(Error),
}

impl From<String> for ChunkFault {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

/// The files of a checkpoint, opened as they are needed.
struct Files<'a> {
    storage: &'a Arc<dyn Storage>,
    item: &'a Item,
    pool: Arc<DecoderPool>,
    numbers: BTreeMap<String, u32>,
    files: Vec<(String, PathBuf, UnpackedFile)>,
    first: Option<String>,
    /// Whether something has to be unpacked.
    has_parts: bool,
}

impl<'a> Files<'a> {
    fn new(storage: &'a Arc<dyn Storage>, item: &'a Item, values: &Values) -> Self {
        // Values in memory are read through the manifest, which says what is newest: a change of it is a change.
        let first = [MANIFEST_NAME, LEVANTER_NAME].into_iter().find(|name| item.has(name)).map(str::to_owned);
        let any = values.values().find_map(Stored::file).map(str::to_owned);
        let pool = Arc::default();
        let first = first.or(any);
        Self { storage, item, pool, numbers: BTreeMap::new(), files: Vec::new(), first, has_parts: false }
    }

    /// Makes levanter's description one of the files of the checkpoint, so that it is not copied to outputs in other
    /// formats, of which it says nothing.
    fn open_description(&mut self) -> Result<(), Error> {
        if !self.item.has(LEVANTER_NAME) {
            return Ok(());
        }
        self.open(LEVANTER_NAME).map(drop).map_err(|fault| match fault {
            ChunkFault::Reason(reason) => refuse(&self.item.path, reason),
            ChunkFault::Open(error) => error,
        })
    }

    /// The number of a file, which is opened now if it was not.
    fn open(&mut self, name: &str) -> Result<u32, ChunkFault> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        check_file_name(name).map_err(|fault| format!("it names the file `{}`, {fault}", display_name(name)))?;
        let path = self.item.path.join(name);
        let reader = self.storage.open_file(&path).map_err(|error| {
            let faults = vec![UnfinishedFault::MissingShard { file: name.to_owned() }];
            let folder = self.item.path.clone();
            let is_missing = error.is_not_found();
            ChunkFault::Open(if is_missing {
                Error::Unfinished { path: folder, faults }
            } else {
                Error::Storage(error)
            })
        })?;
        let number = u32::try_from(self.files.len()).map_err(|_| "it has too many files".to_owned())?;
        let file = UnpackedFile::new(path.clone(), reader, &self.pool);
        self.files.push((name.to_owned(), path, file));
        self.numbers.insert(name.to_owned(), number);
        Ok(number)
    }

    /// Where a stored value is: the number of its file, and its bytes.
    fn locate(&mut self, value: &Stored) -> Result<(u32, Packed), ChunkFault> {
        match value {
            Stored::Bytes(bytes) => Ok((self.open_first()?, Packed::Bytes(Arc::clone(bytes)))),
            Stored::Range { file, offset, len_bytes } => {
                let number = self.open(file)?;
                let found_bytes = self.len_of(number);
                match offset.checked_add(*len_bytes).filter(|end| *end <= found_bytes) {
                    Some(end) => Ok((number, Packed::Range(*offset..end))),
                    None => {
                        let wanted_bytes = offset.saturating_add(*len_bytes);
                        let fault = UnfinishedFault::ShortShard { file: file.clone(), wanted_bytes, found_bytes };
                        Err(ChunkFault::Open(Error::Unfinished { path: self.item.path.clone(), faults: vec![fault] }))
                    }
                }
            }
        }
    }

    /// A file through which values in memory and zeros are read.
    fn open_first(&mut self) -> Result<u32, ChunkFault> {
        match self.first.clone() {
            Some(name) => self.open(&name),
            None => Err("nothing of it is stored".to_owned().into()),
        }
    }

    fn len_of(&self, number: u32) -> u64 {
        use thalweg_storage::ReadAt as _;
        self.files.get(thalweg_tensor::to_index(number.into())).map_or(0, |(_, _, file)| file.info().len_bytes)
    }

    /// Adds a packed part to a file, and returns where it can be read.
    fn add(&mut self, number: u32, part: PackedPart) -> Result<u64, ChunkFault> {
        self.has_parts = true;
        let file = self.files.get_mut(thalweg_tensor::to_index(number.into()));
        let offset = file.and_then(|(_, _, file)| file.add(part));
        offset.ok_or_else(|| "the number of its chunks overflows 64 bits".to_owned().into())
    }

    fn finish(self) -> Vec<OpenFile> {
        let prefix = &self.item.prefix;
        let file = |(name, path, file)| OpenFile { name: format!("{prefix}{name}"), path, reader: Arc::new(file) };
        self.files.into_iter().map(file).collect()
    }
}

/// The chunks of an array.
struct PlacedChunks {
    pieces: Vec<Piece>,
    n_missing: u64,
    n_chunks: u64,
    /// The chunks that are shards, with the numbers of the inner chunks that hold some of the array.
    shards: Vec<(Arc<Shard>, Vec<usize>)>,
}

/// The pieces of an array: one for each chunk, or for each inner chunk of a shard.
fn place_chunks(
    files: &mut Files<'_>,
    (array, spec): (&Array<'_>, &ArraySpec),
    dtype: Dtype,
) -> Result<PlacedChunks, ChunkFault> {
    let count = || format!("the size of its shape {} overflows 64 bits", spec.shape);
    let n_bytes = spec.shape.n_elements().and_then(|n| dtype.bytes_of(n)).ok_or_else(count)?;
    if n_bytes == 0 {
        return Ok(PlacedChunks { pieces: Vec::new(), n_missing: 0, n_chunks: 0, shards: Vec::new() });
    }
    let grid: Vec<u64> = spec.shape.0.iter().zip(&spec.chunk).map(|(size, chunk)| size.div_ceil(*chunk)).collect();
    let n_chunks = grid.iter().try_fold(1_u64, |n, size| n.checked_mul(*size)).ok_or_else(count)?;
    let is_stored = |index: &[u64]| array.chunks.get(&*spec.keys.of(index)).copied();
    let n_stored = array.chunks.len() as u64 - 1;
    if n_stored == 0 {
        check_fill(spec)?;
        let number = files.open_first()?;
        let zeros = PackedPart { packed: Packed::Zeros, len_bytes: n_bytes, packing: Packing::None };
        let pieces = vec![Piece::whole(number, files.add(number, zeros)?)];
        return Ok(PlacedChunks { pieces, n_missing: n_chunks, n_chunks, shards: Vec::new() });
    }
    if n_chunks > FREE_CHUNKS + CHUNKS_PER_STORED * n_stored {
        return Err(format!("{n_stored} of its {n_chunks} chunks are stored").into());
    }
    let (mut pieces, mut shards, mut n_missing) = (Vec::new(), Vec::new(), 0);
    for index in indices(&grid) {
        let start: Vec<u64> = index.iter().zip(&spec.chunk).map(|(index, chunk)| index * chunk).collect();
        let at = ChunkPlace { array: spec, dtype, start };
        match (is_stored(&index), &spec.coding.shard) {
            (Some(value), None) => pieces.push(at.chunk(files, value)?),
            (Some(value), Some(shard)) => shards.push(at.shard(files, value, shard, &mut pieces)?),
            (None, _) => {
                n_missing += 1;
                check_fill(spec)?;
                let number = files.open_first()?;
                pieces.push(at.piece(files, number, Packed::Zeros, &spec.chunk, Packing::None)?);
            }
        }
    }
    Ok(PlacedChunks { pieces, n_missing, n_chunks, shards })
}

fn check_fill(spec: &ArraySpec) -> Result<(), String> {
    spec.fill.clone().map_err(|fill| format!("chunks that are not stored stand for {fill}, but only zero is supported"))
}

/// Every index of a grid, in row-major order.
fn indices(grid: &[u64]) -> impl Iterator<Item = Vec<u64>> {
    let n: u64 = grid.iter().product();
    let grid = grid.to_vec();
    (0..n).map(move |mut rest| {
        let mut index = vec![0; grid.len()];
        for (dim, size) in grid.iter().enumerate().rev() {
            index[dim] = rest % size;
            rest /= size;
        }
        index
    })
}

/// A chunk of an array.
struct ChunkPlace<'a> {
    array: &'a ArraySpec,
    dtype: Dtype,
    start: Vec<u64>,
}

impl ChunkPlace<'_> {
    fn chunk(&self, files: &mut Files<'_>, value: &Stored) -> Result<Piece, ChunkFault> {
        let Coding { packing, sum_bytes, .. } = self.array.coding;
        let (number, packed) = files.locate(value)?;
        let packed = match packed {
            Packed::Range(range) if range.end - range.start >= sum_bytes => {
                Packed::Range(range.start..range.end - sum_bytes)
            }
            Packed::Bytes(bytes) if bytes.len() as u64 >= sum_bytes => {
                let kept = bytes.len() - thalweg_tensor::to_index(sum_bytes);
                Packed::Bytes(bytes[..kept].into())
            }
            _ => return Err("a chunk is shorter than its checksum".to_owned().into()),
        };
        self.piece(files, number, packed, &self.array.chunk, packing)
    }

    /// Adds a piece for each inner chunk that holds some of the array.
    fn shard(
        &self,
        files: &mut Files<'_>,
        value: &Stored,
        spec: &ShardSpec,
        pieces: &mut Vec<Piece>,
    ) -> Result<(Arc<Shard>, Vec<usize>), ChunkFault> {
        check_fill(self.array)?;
        let grid: Vec<u64> = self.array.chunk.iter().zip(&spec.inner).map(|(outer, inner)| outer / inner).collect();
        let n_chunks: u64 = grid.iter().product();
        let (number, place) = files.locate(value)?;
        let has_index_sum = spec.index_sum_bytes > 0;
        let index_bytes = Shard::index_bytes(n_chunks, has_index_sum).filter(|n| *n <= value.len_bytes());
        index_bytes
            .ok_or_else(|| format!("a shard of {} bytes has no room for {n_chunks} chunks", value.len_bytes()))?;
        let shard = Arc::new(Shard {
            place,
            n_chunks: thalweg_tensor::to_index(n_chunks),
            is_index_last: spec.is_index_last,
            has_index_sum,
            sum_bytes: self.array.coding.sum_bytes,
            index: OnceLock::new(),
        });
        let mut numbers = Vec::new();
        for (position, index) in indices(&grid).enumerate() {
            let inner = index.iter().zip(&spec.inner).map(|(index, inner)| index * inner);
            let start: Vec<u64> = inner.zip(&self.start).map(|(inner, start)| start + inner).collect();
            if start.iter().zip(&self.array.shape.0).any(|(start, size)| start >= size) {
                continue;
            }
            let at = ChunkPlace { start, ..*self };
            let packed = Packed::Inner { shard: Arc::clone(&shard), number: position };
            pieces.push(at.piece(files, number, packed, &spec.inner, self.array.coding.packing)?);
            numbers.push(position);
        }
        Ok((shard, numbers))
    }

    /// The piece of a chunk of this extent, whose end may lie outside the array.
    fn piece(
        &self,
        files: &mut Files<'_>,
        number: u32,
        packed: Packed,
        chunk: &[u64],
        packing: Packing,
    ) -> Result<Piece, ChunkFault> {
        let count = || format!("the size of a chunk of shape {} overflows 64 bits", Shape::new(chunk));
        let n_elements = Shape::new(chunk).n_elements().ok_or_else(count)?;
        let len_bytes = self.dtype.bytes_of(n_elements).ok_or_else(count)?;
        if let Packed::Range(range) = &packed
            && !packing.can_hold(range.end - range.start, len_bytes)
        {
            let found = range.end - range.start;
            return Err(format!("a chunk of {found} bytes cannot expand to the {len_bytes} of its shape").into());
        }
        let offset = match (&packed, packing) {
            // What is not packed is read where it is.
            (Packed::Range(range), Packing::None) => range.start,
            _ => files.add(number, PackedPart { packed, len_bytes, packing })?,
        };
        chunk_piece(&self.array.shape, &self.start, chunk, (number, offset)).ok_or_else(|| count().into())
    }
}

/// The elements of an array in a chunk that begins at `start` and may reach past the end; `None` for another number of
/// dimensions.
fn chunk_piece(shape: &Shape, start: &[u64], chunk: &[u64], (number, offset): (u32, u64)) -> Option<Piece> {
    let ends = start.iter().zip(chunk).zip(&shape.0);
    let extent: Vec<u64> = ends.map(|((start, chunk), size)| (*chunk).min(size.saturating_sub(*start))).collect();
    let is_all = extent == *shape.0;
    let piece = if is_all { Piece::whole(number, offset) } else { Piece::boxed(number, offset, start, &extent) };
    let strides: Vec<u64> = (0..chunk.len()).map(|dim| chunk[dim + 1..].iter().product()).collect();
    piece.with_strides(shape, &strides)
}
