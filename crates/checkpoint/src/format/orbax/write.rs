//! Lays out outputs for Orbax and levanter. Chunks of merged arrays are not compressed, so that every byte has its
//! place before the first one is written; whatever else a checkpoint stores is copied as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{Piece, Shape, TensorCatalog, TensorEntry, display_name};

use super::ocdbt::{MANIFEST_NAME, MAX_KEY_BYTES};
use super::ocdbt_write::{MAX_INLINE_BYTES, MAX_WRITTEN_VALUES, WrittenValue, write_leaf, write_manifest};
use super::place::{COMMIT_NAME, Item, opened_item};
use super::store::{has_manifest, is_of_store, read_value, read_values};
use super::stored::{Stored, refuse};
use super::tree::{Leaf, TREE_NAME, Tree, plain_leaf, read_leaves, read_tree, write_tree};
use super::zarr::{ArraySpec, ChunkKeys, without_compression, write_version_2};
use super::{CHUNKS_PER_STORED, FREE_CHUNKS, MAX_SPEC_BYTES, chunk_piece, indices, list_arrays};
use crate::Error;
use crate::format::model_key::is_other_key;
use crate::frame_builder::FrameBuilder;
use crate::layout::{
    CopiedBytes, Document, LayoutEntry, OutputFile, OutputLayout, check_entries, fill_shards, unwritable,
};

/// The longest chunk of an array that is cut anew, if a row is not longer. What one device restores is read in whole
/// chunks.
const CHUNK_BYTES: u64 = 64 << 20;
/// The longest data file of a store that is written anew; Orbax's own limit.
const DATA_FILE_BYTES: u64 = 2 << 30;
/// What the marker of a finished save says.
const COMMITTED: &[u8] = b"The checkpoint is complete.\n";
const TOO_MANY: &str = "the store would have more than 1,048,576 values, and tensorstore takes no more in a node";

/// What an output that is written from scratch takes from its newest source.
#[derive(Debug, Clone, Default)]
pub struct OrbaxExtras {
    /// The folder of the arrays, with a slash at its end; empty for the output's own.
    item: String,
    /// How the arrays of that source are called in its tree, by their names.
    leaves: BTreeMap<String, Leaf>,
}

/// Reads what an output takes from a checkpoint of Orbax that was opened, given its folder and the name of one of its
/// files.
///
/// # Errors
/// `Layout`, `Storage`.
pub(crate) fn read_extras(storage: &Arc<dyn Storage>, root: &Path, file_name: &str) -> Result<OrbaxExtras, Error> {
    let item = opened_item(storage, root, file_name)?;
    let leaves = if item.has(TREE_NAME) { read_leaves(storage, &item.path.join(TREE_NAME))? } else { BTreeMap::new() };
    Ok(OrbaxExtras { item: item.prefix, leaves })
}

/// The folder of the arrays of a checkpoint that was opened, given its own folder and the name of one of its files.
///
/// # Errors
/// `Storage`.
pub(crate) fn folder_of_arrays(storage: &Arc<dyn Storage>, root: &Path, file_name: &str) -> Result<PathBuf, Error> {
    Ok(opened_item(storage, root, file_name)?.path)
}

/// Lays out an output for Orbax: an OCDBT store of zarr 2, its tree, and the marker of a finished save.
///
/// Where all tensors are leaves of the tree in `extras`, they have their keys; otherwise each name is one key.
///
/// # Errors
/// `NothingToWrite`; `UnwritableTensor` for a name that is empty, too long, ends in a slash, appears twice or would be
/// taken for the state of an optimizer, for impossible sizes, and for element types that zarr does not have.
///
/// # Example
/// ```
/// use thalweg_checkpoint::{LayoutEntry, layout_orbax};
/// use thalweg_tensor::{Dtype, Shape};
///
/// let entry = |name: &str| LayoutEntry { name: name.into(), dtype: Dtype::Bf16, shape: Shape::new([2]) };
/// let layout = layout_orbax(&[entry("a"), entry("b")], 1 << 30, &Default::default())?;
/// assert_eq!(layout.files()[0].name, "d/00000000000000000000000000000000");
/// assert_eq!(layout.documents().last().unwrap().name, "commit_success.txt");
/// # Ok::<(), thalweg_checkpoint::Error>(())
/// ```
pub fn layout_orbax(entries: &[LayoutEntry], max_file_bytes: u64, extras: &OrbaxExtras) -> Result<OutputLayout, Error> {
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    check_entries(&sorted)?;
    let is_known = sorted.iter().all(|entry| extras.leaves.contains_key(&*entry.name));
    let mut store = NewStore::default();
    let mut leaves = Vec::with_capacity(sorted.len());
    for (tensor_idx, entry) in sorted.iter().enumerate() {
        let fail = |reason| unwritable(&entry.name, reason);
        let known = extras.leaves.get(&*entry.name).filter(|_| is_known);
        if entry.name.is_empty() {
            return Err(fail("it has no name"));
        }
        if entry.name.ends_with('/') {
            return Err(fail("tensorstore drops a slash at the end of a name"));
        }
        if known.is_none() && is_other_key(&entry.name) {
            return Err(fail("readers of this format would mistake it for optimizer state"));
        }
        let chunk = whole_rows(entry).ok_or_else(|| fail("its size in bytes cannot be computed"))?;
        let text = write_version_2(&entry.shape, &chunk, entry.dtype);
        let text = text.ok_or_else(|| fail("zarr has no arrays of its element type"))?;
        store.put(format!("{}/.zarray", entry.name), NewContent::Bytes(text)).map_err(fail)?;
        store.add_chunks(&entry.name, (tensor_idx, entry), &chunk, &ChunkKeys::usual()).map_err(fail)?;
        leaves.push(known.cloned().unwrap_or_else(|| plain_leaf(&entry.name)));
    }
    let item = &*extras.item;
    let NewFiles { files, pieces, mut documents } = store.into_ocdbt(item, &shapes_of(&sorted), max_file_bytes);
    documents.insert(0, Document { name: format!("{item}{TREE_NAME}"), bytes: write_tree(leaves.into_iter()) });
    let folders = BTreeSet::from([item, ""]);
    documents.extend(folders.into_iter().rev().map(marker_in));
    let catalog = catalog_of(&sorted, pieces, |name, _| unwritable(name, "it has too many chunks"))?;
    Ok(OutputLayout::new(files, Arc::new(catalog), documents))
}

/// The tensors at their places. `fail` says what is wrong with one.
fn catalog_of(
    sorted: &[&LayoutEntry],
    pieces: Vec<Vec<Piece>>,
    fail: impl Fn(&str, String) -> Error,
) -> Result<TensorCatalog, Error> {
    let place = |(entry, pieces): (&&LayoutEntry, Vec<Piece>)| {
        let placed = TensorEntry::of_pieces(entry.name.clone(), entry.dtype, entry.shape.clone(), pieces);
        placed.map_err(|fault| fail(&entry.name, fault.to_string()))
    };
    let placed = sorted.iter().zip(pieces).map(place).collect::<Result<_, _>>()?;
    TensorCatalog::new(placed).map_err(|name| fail(&name, "it appears twice".to_owned()))
}

/// The marker of a finished save in a folder of the output.
fn marker_in(folder: &str) -> Document {
    Document { name: format!("{folder}{COMMIT_NAME}"), bytes: COMMITTED.to_vec() }
}

/// The store of a checkpoint in which some arrays have other elements.
#[derive(Debug)]
pub(crate) struct RewrittenStore {
    /// Its files; pieces count them from 0.
    pub(crate) files: Vec<OutputFile>,
    /// The tensors that are written.
    pub(crate) catalog: TensorCatalog,
    /// The files that come last.
    pub(crate) documents: Vec<Document>,
    /// The folder of the arrays, with a slash at its end.
    item: String,
    replaced: Replaced,
}

/// The files of a checkpoint that its rewritten store takes the place of.
#[derive(Debug)]
enum Replaced {
    /// Those of an OCDBT store, among them these data files.
    Store(BTreeSet<String>),
    /// Those of these arrays.
    Arrays(BTreeSet<String>),
}

impl RewrittenStore {
    /// Whether the store takes the place of a file of the checkpoint.
    pub(crate) fn replaces(&self, name: &str) -> bool {
        let Some(name) = name.strip_prefix(&*self.item) else { return false };
        match &self.replaced {
            Replaced::Store(files) => is_of_store(name) || files.contains(name),
            Replaced::Arrays(arrays) => is_below(arrays, name),
        }
    }
}

/// Whether a key or a path is below one of these.
fn is_below(arrays: &BTreeSet<String>, name: &str) -> bool {
    name.match_indices('/').any(|(at, _)| arrays.contains(&name[..at]))
}

/// Lays out the store of a checkpoint that was opened, given its folder and the name of one of its files: the arrays in
/// `entries` get chunks that are not compressed, and the others are copied.
///
/// # Errors
/// `Layout` for a store that cannot be read, and for one with too many values; `Storage`.
pub(crate) fn rewrite_store(
    storage: &Arc<dyn Storage>,
    root: &Path,
    file_name: &str,
    entries: &[LayoutEntry],
) -> Result<RewrittenStore, Error> {
    let item = opened_item(storage, root, file_name)?;
    let is_ocdbt = has_manifest(item.names());
    let values = read_values(storage, &item.path, is_ocdbt)?;
    let tree = if item.has(TREE_NAME) { read_tree(storage, &item.path.join(TREE_NAME))? } else { Tree::default() };
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut store, mut merged) = (NewStore::default(), BTreeSet::new());
    for array in list_arrays(storage, &item, &values, &tree)? {
        let name = array.path.join(".");
        let Ok(tensor_idx) = sorted.binary_search_by(|entry| (*entry.name).cmp(&*name)) else { continue };
        let (entry, fail) = (sorted[tensor_idx], |reason| fault_of(&item, &name, reason));
        let spec = array.spec.map_err(fail)?;
        let Some((base, _)) = array.key.rsplit_once('/') else { continue };
        let n_stored = array.chunks.len() as u64 - 1;
        let chunk = chunk_like(&spec, n_stored, entry).ok_or_else(|| fail("it is too large".to_owned()))?;
        let text = read_value(storage, &item.path, &values[array.key], MAX_SPEC_BYTES)?;
        let text = without_compression(&text, &chunk).map_err(fail)?;
        let fail = |reason: &str| fault_of(&item, &name, reason.to_owned());
        store.put(array.key.to_owned(), NewContent::Bytes(text)).map_err(fail)?;
        store.add_chunks(base, (tensor_idx, entry), &chunk, &spec.keys).map_err(fail)?;
        merged.insert(base.to_owned());
    }
    let (new, replaced) = if is_ocdbt {
        store.add_others(&item, values.iter().filter(|(key, _)| !is_below(&merged, key)))?;
        let files = values.values().filter_map(Stored::file).map(str::to_owned).collect();
        (store.into_ocdbt(&item.prefix, &shapes_of(&sorted), DATA_FILE_BYTES), Replaced::Store(files))
    } else {
        (store.into_files(&item.prefix, &shapes_of(&sorted)), Replaced::Arrays(merged))
    };
    let NewFiles { files, pieces, mut documents } = new;
    // Some versions write the marker only where folders cannot be renamed, as an output may be.
    if item.has(TREE_NAME) || is_ocdbt {
        let is_root = item.prefix.is_empty();
        let has_marker = storage.list_folder(root)?.iter().any(|entry| *entry.name == *COMMIT_NAME);
        documents.extend((!item.has(COMMIT_NAME)).then(|| marker_in(&item.prefix)));
        documents.extend((!is_root && !has_marker).then(|| marker_in("")));
    }
    let catalog = catalog_of(&sorted, pieces, |name, reason| fault_of(&item, name, reason))?;
    Ok(RewrittenStore { files, catalog, documents, item: item.prefix, replaced })
}

fn fault_of(item: &Item, array: &str, reason: String) -> Error {
    refuse(&item.path, format!("array `{}`: {reason}", display_name(array)))
}

/// The extent of the chunks of an array: what the source has, or of a shard the chunks inside, but no longer than the
/// array.
///
/// An array of which next to nothing is stored may claim any number of chunks, and is cut anew.
fn chunk_like(spec: &ArraySpec, n_stored: u64, entry: &LayoutEntry) -> Option<Vec<u64>> {
    let chunk = spec.coding.shard.as_ref().map_or(&spec.chunk, |shard| &shard.inner);
    let counts = spec.shape.0.iter().zip(&spec.chunk).map(|(size, chunk)| size.div_ceil(*chunk));
    let n_chunks = counts.fold(1_u64, u64::saturating_mul);
    if n_chunks > FREE_CHUNKS.saturating_add(CHUNKS_PER_STORED.saturating_mul(n_stored)) || n_stored == 0 {
        return whole_rows(entry);
    }
    Some(chunk.iter().zip(&spec.shape.0).map(|(chunk, size)| (*chunk).min((*size).max(1))).collect())
}

/// The extent of chunks of whole rows, all equally long but for the last.
fn whole_rows(entry: &LayoutEntry) -> Option<Vec<u64>> {
    let mut chunk: Vec<u64> = entry.shape.0.iter().map(|size| (*size).max(1)).collect();
    let n_bytes = chunk.iter().try_fold(1_u64, |n, size| n.checked_mul(*size)).and_then(|n| entry.dtype.bytes_of(n))?;
    if let Some(rows) = chunk.first_mut() {
        let n_chunks = n_bytes.div_ceil(CHUNK_BYTES).min(*rows);
        *rows = rows.div_ceil(n_chunks.max(1));
    }
    Some(chunk)
}

/// A value of a store that is written.
#[derive(Debug)]
enum NewContent {
    Bytes(Vec<u8>),
    Copy(CopiedBytes),
    /// Elements of a tensor, from this index on.
    Chunk {
        tensor_idx: usize,
        start: Vec<u64>,
        chunk: Arc<[u64]>,
        len_bytes: u64,
    },
}

impl NewContent {
    fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Copy(from) => from.len_bytes,
            Self::Chunk { len_bytes, .. } => *len_bytes,
        }
    }
}

/// The values of a store in the order in which they are written.
#[derive(Debug, Default)]
struct NewStore {
    values: Vec<(String, NewContent)>,
}

/// The files that hold a store, and the pieces of each tensor.
struct NewFiles {
    files: Vec<OutputFile>,
    pieces: Vec<Vec<Piece>>,
    documents: Vec<Document>,
}

impl NewFiles {
    fn new(n_tensors: usize) -> Self {
        Self { files: Vec::new(), pieces: vec![Vec::new(); n_tensors], documents: Vec::new() }
    }

    /// Adds a value to the file that is built, which is the next one.
    fn add_value(&mut self, frame: &mut FrameBuilder, content: NewContent, shapes: &[&Shape]) {
        match content {
            NewContent::Bytes(bytes) => frame.put(&bytes),
            NewContent::Copy(from) => frame.copy(&from),
            NewContent::Chunk { tensor_idx, start, chunk, len_bytes } => {
                let offset = frame.tensor(tensor_idx, len_bytes).start;
                let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
                // Both have one number for each dimension.
                self.pieces[tensor_idx].extend(chunk_piece(shapes[tensor_idx], &start, &chunk, (number, offset)));
            }
        }
    }
}

impl NewStore {
    fn put(&mut self, key: String, content: NewContent) -> Result<(), &'static str> {
        if key.len() > MAX_KEY_BYTES {
            return Err("its name is too long");
        }
        if self.values.len() >= MAX_WRITTEN_VALUES {
            return Err(TOO_MANY);
        }
        self.values.push((key, content));
        Ok(())
    }

    /// Adds the chunks of a tensor. All are equally long, also those that reach past the end.
    fn add_chunks(
        &mut self,
        base: &str,
        (tensor_idx, entry): (usize, &LayoutEntry),
        chunk: &[u64],
        keys: &ChunkKeys,
    ) -> Result<(), &'static str> {
        if entry.shape.0.contains(&0) {
            return Ok(());
        }
        let n_elements = chunk.iter().try_fold(1_u64, |n, size| n.checked_mul(*size));
        let len_bytes = n_elements.and_then(|n| entry.dtype.bytes_of(n)).ok_or("its chunks are too large")?;
        let grid: Vec<u64> = entry.shape.0.iter().zip(chunk).map(|(size, chunk)| size.div_ceil(*chunk)).collect();
        let n_chunks = grid.iter().fold(1_u64, |n, size| n.saturating_mul(*size));
        if n_chunks > MAX_WRITTEN_VALUES as u64 {
            return Err(TOO_MANY);
        }
        let chunk: Arc<[u64]> = chunk.into();
        for index in indices(&grid) {
            let start = index.iter().zip(&*chunk).map(|(index, size)| index * size).collect();
            let content = NewContent::Chunk { tensor_idx, start, chunk: Arc::clone(&chunk), len_bytes };
            self.put(format!("{base}/{}", keys.of(&index)), content)?;
        }
        Ok(())
    }

    /// Adds values that are copied, in the order of their bytes: most are neighbours in their files.
    fn add_others<'a>(
        &mut self,
        item: &Item,
        others: impl Iterator<Item = (&'a String, &'a Stored)>,
    ) -> Result<(), Error> {
        let mut others: Vec<(&String, &Stored)> = others.collect();
        others.sort_by_key(|(_, value)| match value {
            Stored::Bytes(_) => ("", 0),
            Stored::Range { file, offset, .. } => (&**file, *offset),
        });
        for (key, value) in others {
            let content = match value {
                Stored::Bytes(bytes) => NewContent::Bytes(bytes.to_vec()),
                Stored::Range { file, offset, len_bytes } => {
                    let path = item.path.join(file);
                    NewContent::Copy(CopiedBytes { path, offset: *offset, len_bytes: *len_bytes })
                }
            };
            self.put(key.clone(), content).map_err(|reason| fault_of(item, key, reason.to_owned()))?;
        }
        Ok(())
    }

    /// An OCDBT store: data files, then the file of its leaf and the manifest, which are documents.
    fn into_ocdbt(self, item: &str, shapes: &[&Shape], max_file_bytes: u64) -> NewFiles {
        let data_file = |number: usize| format!("d/{number:032x}");
        let (mut leaf, mut in_files) = (BTreeMap::new(), Vec::new());
        for (key, content) in self.values {
            match content {
                NewContent::Bytes(bytes) if bytes.len() <= MAX_INLINE_BYTES => {
                    leaf.insert(key, WrittenValue::Inline(bytes));
                }
                content => in_files.push((key, content)),
            }
        }
        let mut new = NewFiles::new(shapes.len());
        let sizes: Vec<u64> = in_files.iter().map(|(_, content)| content.len_bytes()).collect();
        let mut waiting = in_files.into_iter();
        for range in fill_shards(&sizes, max_file_bytes).into_iter().filter(|range| !range.is_empty()) {
            let (mut frame, file_idx) = (FrameBuilder::default(), new.files.len());
            for (key, content) in waiting.by_ref().take(range.len()) {
                let (offset, len_bytes) = (frame.position(), content.len_bytes());
                new.add_value(&mut frame, content, shapes);
                leaf.insert(key, WrittenValue::InFile { file_idx, offset, len_bytes });
            }
            new.files.push(frame.finish(format!("{item}{}", data_file(file_idx))));
        }
        let names: Vec<String> = (0..new.files.len()).map(data_file).collect();
        let (leaf_name, bytes) = (data_file(names.len()), write_leaf(&names, &leaf));
        let manifest = write_manifest(&leaf_name, &bytes, &leaf);
        new.documents.push(Document { name: format!("{item}{leaf_name}"), bytes });
        new.documents.push(Document { name: format!("{item}{MANIFEST_NAME}"), bytes: manifest });
        new
    }

    /// A file for each value.
    fn into_files(self, item: &str, shapes: &[&Shape]) -> NewFiles {
        let mut new = NewFiles::new(shapes.len());
        for (key, content) in self.values {
            let mut frame = FrameBuilder::default();
            new.add_value(&mut frame, content, shapes);
            new.files.push(frame.finish(format!("{item}{key}")));
        }
        new
    }
}

fn shapes_of<'a>(sorted: &[&'a LayoutEntry]) -> Vec<&'a Shape> {
    sorted.iter().map(|entry| &entry.shape).collect()
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::Dtype;

    use super::*;

    #[test]
    fn chunks_are_whole_rows_of_bounded_length() {
        let cut = |dims: &[u64]| {
            let entry = LayoutEntry { name: "w".into(), dtype: Dtype::F32, shape: Shape::new(dims) };
            whole_rows(&entry).unwrap()
        };
        assert_eq!(cut(&[]), [0_u64; 0]);
        assert_eq!(cut(&[0, 3]), [1, 3]);
        assert_eq!(cut(&[4096, 4096]), [4096, 4096]);
        assert_eq!(cut(&[4097, 4096]), [2049, 4096]);
        assert_eq!(cut(&[10, 1 << 30]), [1, 1 << 30]);
        assert_eq!(cut(&[1 << 30]), [1 << 24]);
    }

    #[test]
    fn a_store_takes_the_place_of_its_own_files_alone() {
        let store = |item: &str, replaced| RewrittenStore {
            files: Vec::new(),
            catalog: TensorCatalog::new(Vec::new()).unwrap(),
            documents: Vec::new(),
            item: item.to_owned(),
            replaced,
        };
        let of = store("default/", Replaced::Store(BTreeSet::from(["odd/data".to_owned()])));
        for name in ["manifest.ocdbt", "d/17", "ocdbt.process_0/d/3", "ocdbt_data/1", "odd/data"] {
            assert!(of.replaces(&format!("default/{name}")) && !of.replaces(name), "{name}");
        }
        for name in ["_METADATA", "_sharding", "array_metadatas/process_0", "commit_success.txt", "data"] {
            assert!(!of.replaces(&format!("default/{name}")), "{name}");
        }
        let of = store("", Replaced::Arrays(BTreeSet::from(["model/w".to_owned()])));
        assert!(of.replaces("model/w/.zarray") && of.replaces("model/w/0.0"));
        assert!(!of.replaces("model/wide/0") && !of.replaces("model/w") && !of.replaces("metadata.json"));
    }
}
