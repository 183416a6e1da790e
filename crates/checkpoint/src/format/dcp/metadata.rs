//! The `.metadata` of a distributed checkpoint: which tensors there are, which boxes they are cut into, and which bytes
//! of which file hold each box.
//!
//! It is a pickle that the training job wrote. It is read as data; the names in it are never looked up.

use std::collections::HashMap;

use thalweg_tensor::{CoverFault, Dtype, Shape, display_name};

use super::error::{ChunkFault, DcpError};
use crate::format::model_key::{is_other_key, is_usual_key};
use crate::format::safetensors::MAX_RANK;
use crate::format::torch::tensor::{StorageType, dtype_of};
use crate::index::check_file_name;
use crate::pickle::{NameList, ObjectView, Pickle, Value};

/// Classes that writers of distributed checkpoints pickle. Any other name in a file stays opaque.
pub(super) const METADATA_NAMES: NameList = &[
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
    ("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.planner", "SavePlan"),
    ("torch.distributed.checkpoint.planner", "WriteItem"),
    ("torch.distributed.checkpoint.planner", "WriteItemType"),
    ("torch.distributed.checkpoint.planner", "TensorWriteData"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "PureWindowsPath"),
];

/// An entry of the metadata.
#[derive(Debug, Clone)]
pub(in crate::format) struct Entry<'a> {
    /// The name under which everything is stored.
    pub(in crate::format) fqn: &'a str,
    /// Keys and positions in the saved state that lead to it; only the name if the metadata has no path.
    pub(super) path: Vec<&'a str>,
    /// The same path as the metadata has it.
    stated_path: Option<Value<'a>>,
    /// The description of a tensor; `None` for other objects.
    tensor: Option<ObjectView<'a>>,
}

/// A step on the way to an entry of a saved state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPart {
    /// The key of a dictionary.
    Key(String),
    /// A position in a list.
    Index(u64),
}

impl Entry<'_> {
    pub(super) fn is_tensor(&self) -> bool {
        self.tensor.is_some()
    }

    /// The path that the metadata states, if it states one that leads to this name.
    pub(super) fn parts(&self) -> Vec<PathPart> {
        let part = |part: Value<'_>| match part.as_text() {
            Some(key) => Some(PathPart::Key(key.to_owned())),
            None => part.as_u64().map(PathPart::Index),
        };
        self.stated_path.and_then(|path| path.items().map(part).collect()).unwrap_or_default()
    }
}

/// Most chunks of all tensors together. Lists may be shared, so the length of the metadata does not bound them.
const MAX_CHUNKS: usize = 4_000_000;

/// Everything that the metadata lists.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    /// For each name, the boxes in storage: index and place.
    stored: HashMap<&'a str, Vec<(Value<'a>, Value<'a>)>>,
    n_chunks_left: std::cell::Cell<usize>,
}

/// A tensor and its boxes.
#[derive(Debug)]
pub(super) struct StoredTensor<'a> {
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
    pub(super) chunks: Vec<StoredChunk<'a>>,
}

/// A box and where its archive is.
#[derive(Debug)]
pub(super) struct StoredChunk<'a> {
    pub(super) start: Vec<u64>,
    pub(super) extent: Vec<u64>,
    pub(super) file: &'a str,
    pub(super) offset: u64,
    pub(super) len_bytes: u64,
}

/// Lists what the metadata names.
pub(super) fn list_entries(pickle: &Pickle) -> Result<Directory<'_>, DcpError> {
    let root = object_of(pickle.root(), "Metadata", "the metadata")?;
    let states = required(root, "state_dict_metadata")?;
    if !states.is_dict() {
        return Err(DcpError::Malformed { what: "`state_dict_metadata`" });
    }
    let mut paths: HashMap<&str, Value<'_>> = HashMap::new();
    if let Some(planner) = root.attribute("planner_data").filter(|planner| planner.is_dict()) {
        paths.extend(planner.entries().filter_map(|(key, path)| Some((key.as_text()?, path))));
    }
    let mut entries = Vec::with_capacity(states.entries().len());
    let mut positions = HashMap::with_capacity(states.entries().len());
    for (key, state) in states.entries() {
        let fqn = key.as_text().ok_or(DcpError::Malformed { what: "a name in `state_dict_metadata`" })?;
        if positions.insert(fqn, entries.len()).is_some() {
            return Err(DcpError::DuplicateName { name: fqn.to_owned() });
        }
        let stated = paths.get(fqn).and_then(|path| Some((path_of(fqn, *path)?, *path)));
        let (path, stated_path) = stated.map_or_else(|| (guess_path(fqn), None), |(parts, path)| (parts, Some(path)));
        entries.push(Entry { fqn, path, stated_path, tensor: tensor_of(state, fqn)? });
    }
    settle_guesses(&mut entries);
    let storage = required(root, "storage_data")?;
    let mut stored: HashMap<&str, Vec<(Value<'_>, Value<'_>)>> = HashMap::new();
    for (index, info) in storage.entries() {
        let fqn = index.as_object().and_then(|index| index.attribute("fqn")).and_then(Value::as_text);
        let fqn = fqn.ok_or(DcpError::Malformed { what: "an index in `storage_data`" })?;
        stored.entry(fqn).or_default().push((index, info));
    }
    Ok(Directory { entries, stored, n_chunks_left: std::cell::Cell::new(MAX_CHUNKS) })
}

/// The call of a listed class of this name; for anything else, an error that names what was found.
fn object_of<'a>(value: Value<'a>, class: &str, what: &str) -> Result<ObjectView<'a>, DcpError> {
    if let Some(object) = value.as_object().filter(|object| *object.global.name == *class) {
        return Ok(object);
    }
    match value.opaque_name().or_else(|| value.as_object().map(|object| object.global)) {
        Some(name) => Err(DcpError::Foreign { what: what.to_owned(), name: name.display() }),
        None => Err(DcpError::Kind { what: what.to_owned(), expected: class.to_owned(), found: value.kind() }),
    }
}

fn required<'a>(object: ObjectView<'a>, what: &'static str) -> Result<Value<'a>, DcpError> {
    object.attribute(what).ok_or(DcpError::Malformed { what })
}

fn tensor_of<'a>(state: Value<'a>, fqn: &str) -> Result<Option<ObjectView<'a>>, DcpError> {
    if state.as_object().is_some_and(|object| &*object.global.name == "BytesStorageMetadata") {
        return Ok(None);
    }
    object_of(state, "TensorStorageMetadata", &format!("the entry `{}`", display_name(fqn))).map(Some)
}

/// Splits a name into the parts that a path lists; joined by dots, they are the name.
fn path_of<'a>(fqn: &'a str, path: Value<'_>) -> Option<Vec<&'a str>> {
    let mut parts = Vec::new();
    let mut rest = Some(fqn);
    for part in path.items() {
        let now = rest?;
        let tail = match part.as_text() {
            Some(text) => now.strip_prefix(text)?,
            None => now.strip_prefix(&*part.as_int()?.to_string())?,
        };
        parts.push(now.strip_suffix(tail)?);
        rest = match tail.strip_prefix('.') {
            Some(tail) => Some(tail),
            None if tail.is_empty() => None,
            None => return None,
        };
    }
    (rest.is_none() && !parts.is_empty()).then_some(parts)
}

/// Drops the guess that a first part such as `model` is a key, unless all tensors beside those below it are
/// something else, such as an optimizer's: a model may have a module of that name.
fn settle_guesses(entries: &mut [Entry<'_>]) {
    let below_other = |entry: &Entry<'_>| entry.path.len() > 1 && is_other_key(entry.path[0]);
    let mut tensors = entries.iter().filter(|entry| entry.is_tensor());
    if tensors.clone().any(below_other) && tensors.all(|entry| entry.path.len() > 1) {
        return;
    }
    for entry in entries.iter_mut().filter(|entry| entry.stated_path.is_none()) {
        if !below_other(entry) {
            entry.path = vec![entry.fqn];
        }
    }
}

/// The path of a name, if the metadata has none: only a first part that trainers use as a key counts as one.
fn guess_path(fqn: &str) -> Vec<&str> {
    /// Where Megatron-Core keeps moments and masters, one key for each kind.
    const OPTIMIZER: &str = "optimizer.state.";
    if let Some((kind, rest)) = fqn.strip_prefix(OPTIMIZER).and_then(|rest| rest.split_once('.')) {
        return vec![&fqn[..9], &fqn[10..15], kind, rest];
    }
    match fqn.split_once('.') {
        Some((first, rest)) if is_usual_key(first) && !rest.is_empty() => vec![first, rest],
        _ => vec![fqn],
    }
}

impl<'a> Directory<'a> {
    /// File, first byte and length of an entry that is not a tensor.
    pub(super) fn place_of_object(&self, fqn: &str) -> Result<(&'a str, u64, u64), ChunkFault> {
        match self.stored.get(fqn).map(Vec::as_slice).unwrap_or_default() {
            [(_, info)] => read_place(*info),
            [] => Err(ChunkFault::NotStored { at: Shape::new([]) }),
            _ => Err(ChunkFault::StoredTwice { at: Shape::new([]) }),
        }
    }

    /// The boxes of a tensor. The caller adds the tensor's name to a fault.
    pub(super) fn read_tensor(&self, entry: &Entry<'a>) -> Result<StoredTensor<'a>, ChunkFault> {
        let malformed = |what| ChunkFault::Malformed { what };
        let tensor = entry.tensor.ok_or(malformed("description"))?;
        let dtype = dtype_in(tensor)?;
        let shape = Shape::new(numbers(tensor.attribute("size")).ok_or(malformed("size"))?);
        let chunks = tensor.attribute("chunks").filter(|chunks| chunks.is_sequence()).ok_or(malformed("chunks"))?;
        let n_chunks = chunks.items().len();
        let n_left = self.n_chunks_left.get().checked_sub(n_chunks).ok_or(ChunkFault::TooMany { limit: MAX_CHUNKS })?;
        self.n_chunks_left.set(n_left);
        let stored = self.stored.get(entry.fqn).map(Vec::as_slice).unwrap_or_default();
        let mut places: Vec<(Vec<u64>, Value<'a>)> = Vec::with_capacity(stored.len());
        for (index, info) in stored {
            let offset = index.as_object().and_then(|index| index.attribute("offset"));
            places.push((numbers(offset).ok_or(malformed("index in `storage_data`"))?, *info));
        }
        places.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = places.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(ChunkFault::StoredTwice { at: Shape::new(&*pair[0].0) });
        }
        let place_of = |start: &Vec<u64>| places.binary_search_by(|place| place.0.cmp(start)).map(|at| places[at].1);
        let mut read = Vec::with_capacity(n_chunks.min(places.len()));
        for chunk in chunks.items() {
            let chunk = chunk.as_object().filter(|chunk| &*chunk.global.name == "ChunkStorageMetadata");
            let chunk = chunk.ok_or(malformed("chunk"))?;
            let start = numbers(chunk.attribute("offsets")).ok_or(malformed("offsets of a chunk"))?;
            let extent = numbers(chunk.attribute("sizes")).ok_or(malformed("sizes of a chunk"))?;
            // A rank without rows writes an empty chunk, which begins where the tensor ends.
            if extent.contains(&0) {
                continue;
            }
            // Each place belongs to one chunk, so a list that repeats a chunk is longer than the list of places.
            let Ok(info) = place_of(&start) else {
                return Err(ChunkFault::NotStored { at: Shape::new(start) });
            };
            if read.len() >= places.len() {
                return Err(ChunkFault::Cover(CoverFault::Overlap { at: start.into() }));
            }
            let (file, offset, len_bytes) = read_place(info)?;
            read.push(StoredChunk { start, extent, file, offset, len_bytes });
        }
        Ok(StoredTensor { dtype, shape, chunks: read })
    }
}

/// The element type: the first member of the tuple that the properties are pickled as, or the first argument of the
/// call that makes them.
fn dtype_in(tensor: ObjectView<'_>) -> Result<Dtype, ChunkFault> {
    let malformed = ChunkFault::Malformed { what: "properties" };
    let properties = tensor.attribute("properties").and_then(Value::as_object);
    let state = properties.and_then(ObjectView::state);
    let dtype = state.and_then(|state| state.items().next().or_else(|| state.get("dtype")));
    let dtype = dtype.or_else(|| properties.filter(|_| state.is_none())?.arg(0));
    let Some(global) = dtype.and_then(Value::as_global) else { return Err(malformed) };
    match dtype_of(global) {
        Some(StorageType::Known(dtype)) => Ok(dtype),
        _ => Err(ChunkFault::UnknownDtype { name: global.display() }),
    }
}

fn numbers(value: Option<Value<'_>>) -> Option<Vec<u64>> {
    value.filter(|value| value.is_sequence() && value.items().len() <= MAX_RANK)?.items().map(Value::as_u64).collect()
}

/// File, first byte and length of an archive in storage.
fn read_place<'a>(info: Value<'a>) -> Result<(&'a str, u64, u64), ChunkFault> {
    let malformed = |what| ChunkFault::Malformed { what };
    let Some(info) = info.as_object().filter(|info| &*info.global.name == "_StorageInfo") else {
        let name = info.opaque_name().map(crate::pickle::Global::display);
        return Err(name.map_or(malformed("entry in `storage_data`"), |name| ChunkFault::Foreign { name }));
    };
    if let Some(steps) = info.attribute("transform_descriptors").filter(|steps| steps.items().len() > 0) {
        let first = steps.items().next().and_then(Value::as_text).unwrap_or("?").to_owned();
        return Err(ChunkFault::Transformed { how: first });
    }
    let file = info.attribute("relative_path").and_then(Value::as_text).ok_or(malformed("`relative_path`"))?;
    check_file_name(file).map_err(|fault| ChunkFault::ForbiddenFile { file: file.to_owned(), fault })?;
    let number = |what| info.attribute(what).and_then(Value::as_u64).ok_or(malformed(what));
    Ok((file, number("offset")?, number("length")?))
}
