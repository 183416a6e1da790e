//! `metadata.pkl` of torch_checkpointing: how the tensors of each item are placed on a mesh of ranks, and in which
//! files. A pickle of plain data; versions 2.0 and 1.0.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value as Json;
use thalweg_tensor::{Dtype, display_name, to_index};

use super::error::TcError;
use crate::format::placement::{MeshRanks, Placement, box_at, coordinate_of};
use crate::format::torch::tensor::{StorageType, dtype_named};
use crate::index::check_file_name;
use crate::pickle::{Pickle, Value};

/// Most ranks of one tensor.
const MAX_RANKS: usize = 1 << 20;
/// Most places of all tensors together. Lists of ranks are shared, so the length of the metadata does not bound them:
/// 2,000 tensors on 4,096 ranks have as many.
const MAX_PLACES: usize = 1 << 23;

/// A step on the way to a value inside an item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PathPart {
    Key(String),
    Number(i64),
}

impl PathPart {
    /// Bytes that it takes in memory, about.
    pub(super) fn n_bytes(&self) -> usize {
        match self {
            Self::Key(key) => size_of::<Self>() + key.len(),
            Self::Number(_) => size_of::<Self>(),
        }
    }
}

impl std::fmt::Display for PathPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// A file of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileLayout {
    /// Name below the folder.
    pub(super) name: String,
    pub(super) is_safetensors: bool,
}

/// A box of a tensor and the rank that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RankBox {
    pub(super) rank: u64,
    pub(super) start: Vec<u64>,
    pub(super) extent: Vec<u64>,
}

/// A tensor of an item.
#[derive(Debug)]
pub(super) struct ItemTensor {
    pub(super) path: Vec<PathPart>,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// Each box once, with the lowest rank that holds it.
    pub(super) boxes: Vec<RankBox>,
}

/// What the metadata says.
#[derive(Debug)]
pub(super) struct Metadata<'a> {
    /// For each item, the path of each tensor as JSON, and the groups of ranks that hold it.
    items: BTreeMap<String, Vec<(Vec<PathPart>, Value<'a>)>>,
    /// Layouts that are not the default, by item and rank.
    layouts: BTreeMap<(String, u64), FileLayout>,
}

const fn malformed(what: &'static str) -> TcError {
    TcError::Malformed { what }
}

fn text<'a>(value: Option<Value<'a>>, what: &'static str) -> Result<&'a str, TcError> {
    value.and_then(Value::as_text).ok_or(malformed(what))
}

pub(super) fn read_metadata(pickle: &Pickle) -> Result<Metadata<'_>, TcError> {
    let root = pickle.root();
    if let Some(name) = pickle.unlisted_names().next() {
        return Err(TcError::Foreign { name: name.display() });
    }
    let version = root.get("version").map(|version| version.as_text().unwrap_or("?"));
    let mut read = Metadata { items: BTreeMap::new(), layouts: BTreeMap::new() };
    match version {
        Some("2.0") => read.read_nested(root)?,
        Some("1.0") | None => read.read_flat(root)?,
        Some(found) => return Err(TcError::Version { found: found.to_owned() }),
    }
    Ok(read)
}

impl<'a> Metadata<'a> {
    /// Version 2.0: item by item.
    fn read_nested(&mut self, root: Value<'a>) -> Result<(), TcError> {
        for (item, info) in root.get("metadata").ok_or(malformed("`metadata`"))?.entries() {
            let item = text(Some(item), "name of an item")?;
            let paths = info.get("nested_path_to_metadata").ok_or(malformed("`nested_path_to_metadata`"))?;
            let tensors = self.items.entry(item.to_owned()).or_default();
            for (path, groups) in paths.entries() {
                tensors.push((parse_path(text(Some(path), "path")?)?, groups));
            }
            for (rank, layout) in info.get("rank_to_layout_info").into_iter().flat_map(Value::entries) {
                self.read_layout(item, rank, layout)?;
            }
        }
        Ok(())
    }

    /// Version 1.0: one flat dictionary, the item first in each path.
    fn read_flat(&mut self, root: Value<'a>) -> Result<(), TcError> {
        for (path, groups) in root.get("metadata").ok_or(malformed("`metadata`"))?.entries() {
            let path = parse_path(text(Some(path), "path")?)?;
            let Some((PathPart::Key(item), rest)) = path.split_first() else { return Err(malformed("path")) };
            self.items.entry(item.clone()).or_default().push((rest.to_vec(), groups));
        }
        for (rank, items) in root.get("rank_to_layout_info_mappings").into_iter().flat_map(Value::entries) {
            for (item, layout) in items.entries() {
                self.read_layout(text(Some(item), "name of an item")?, rank, layout)?;
            }
        }
        Ok(())
    }

    fn read_layout(&mut self, item: &str, rank: Value<'a>, layout: Value<'a>) -> Result<(), TcError> {
        if layout.is_none() {
            return Ok(());
        }
        let rank = rank.as_u64().ok_or(malformed("rank of a layout"))?;
        let name = text(layout.get("file_path"), "`file_path`")?;
        check_file_name(name).map_err(|fault| TcError::ForbiddenFile { file: name.to_owned(), fault })?;
        let format = layout.get("serialization_format");
        let kind = text(format.map(|format| format.get("type").unwrap_or(format)), "`serialization_format`")?;
        let is_safetensors = match kind {
            "SafetensorsSerialization" => true,
            "TorchSerialization" => false,
            _ => return Err(TcError::Serialization { item: item.to_owned(), found: kind.to_owned() }),
        };
        self.layouts.insert((item.to_owned(), rank), FileLayout { name: name.to_owned(), is_safetensors });
        Ok(())
    }

    /// The items that it describes.
    pub(super) fn items(&self) -> impl Iterator<Item = &str> {
        self.items.keys().map(String::as_str)
    }

    /// The file in which a rank keeps an item, if the file does not have the usual name.
    pub(super) fn layout(&self, item: &str, rank: u64) -> Option<&FileLayout> {
        self.layouts.get(&(item.to_owned(), rank))
    }

    /// The tensors of an item; `None` if it does not describe the item.
    pub(super) fn read_item(&self, item: &str) -> Option<Result<Vec<ItemTensor>, TcError>> {
        let mut meshes = Meshes::default();
        let tensors = self.items.get(item)?;
        Some(tensors.iter().map(|(path, groups)| read_tensor(path, *groups, &mut meshes)).collect())
    }
}

fn parse_path(text: &str) -> Result<Vec<PathPart>, TcError> {
    let Ok(Json::Array(parts)) = serde_json::from_str(text) else { return Err(malformed("path")) };
    let part = |part: Json| match part {
        Json::String(key) => Ok(PathPart::Key(key)),
        Json::Number(number) => number.as_i64().map(PathPart::Number).ok_or(malformed("path")),
        _ => Err(malformed("path")),
    };
    parts.into_iter().map(part).collect()
}

/// The name that a path has in files with plain names, and in a merge.
pub(super) fn name_of(path: &[PathPart]) -> String {
    path.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// Lists of ranks read before: thousands of tensors share one.
#[derive(Debug, Default)]
struct Meshes {
    known: HashMap<u32, Rc<MeshRanks>>,
    n_places: usize,
}

impl Meshes {
    fn ranks(&mut self, value: Value<'_>) -> Result<Rc<MeshRanks>, TcError> {
        if let Some(known) = self.known.get(&value.id()) {
            return Ok(Rc::clone(known));
        }
        let ranks = Rc::new(MeshRanks::new(numbers(Some(value), "list of ranks")?));
        self.known.insert(value.id(), Rc::clone(&ranks));
        Ok(ranks)
    }
}

fn numbers(value: Option<Value<'_>>, what: &'static str) -> Result<Vec<u64>, TcError> {
    let value = value.filter(|value| value.is_sequence() && value.items().len() <= MAX_RANKS).ok_or(malformed(what))?;
    value.items().map(Value::as_u64).collect::<Option<_>>().ok_or(malformed(what))
}

fn read_tensor(path: &[PathPart], groups: Value<'_>, meshes: &mut Meshes) -> Result<ItemTensor, TcError> {
    let fail = |reason: String| TcError::Tensor { tensor: name_of(path), reason };
    let mut whole: Option<(Dtype, Vec<u64>)> = None;
    let mut boxes: BTreeMap<(Vec<u64>, Vec<u64>), u64> = BTreeMap::new();
    let mut seen = HashSet::new();
    // A group that is listed again adds nothing.
    for group in groups.items().filter(|group| seen.insert(group.id())) {
        let sharding = group.get("sharding_metadata").ok_or(malformed("`sharding_metadata`"))?;
        let kind = text(sharding.get("type"), "type of a sharding")?;
        if kind != "DTensorShardingMetadata" {
            return Err(fail(format!("its pieces are described as `{}`, which is not supported", display_name(kind))));
        }
        let data = sharding.get("data").ok_or(malformed("sharding"))?;
        let shape = numbers(data.get("global_shape"), "`global_shape`")?;
        let dtype = read_dtype(text(data.get("dtype"), "`dtype`")?).map_err(fail)?;
        let known = whole.get_or_insert_with(|| (dtype, shape.clone()));
        if *known != (dtype, shape.clone()) {
            return Err(fail("its groups of ranks differ in shape or element type".to_owned()));
        }
        let mesh = data.get("mesh_spec").ok_or(malformed("`mesh_spec`"))?;
        let mesh_shape = numbers(mesh.get("mesh_shape"), "`mesh_shape`")?;
        let listed = meshes.ranks(mesh.get("mesh_data").ok_or(malformed("`mesh_data`"))?)?;
        let placements = data.get("placements").ok_or(malformed("`placements`"))?;
        let placements = placements.items().map(read_placement).collect::<Result<Vec<_>, _>>().map_err(fail)?;
        for rank in meshes.ranks(group.get("ranks").ok_or(malformed("`ranks`"))?)?.iter() {
            meshes.n_places += 1;
            if meshes.n_places > MAX_PLACES {
                return Err(fail(format!("with the tensors before it, it has more than {MAX_PLACES} places on ranks")));
            }
            let coordinate = coordinate_of(rank, &mesh_shape, &listed);
            let place = coordinate.and_then(|at| box_at(&shape, &mesh_shape, &at, &placements));
            let place = place.ok_or_else(|| fail(format!("its placement does not fit rank {rank} of its mesh")))?;
            if !place.1.contains(&0) {
                boxes.entry(place).and_modify(|lowest| *lowest = (*lowest).min(rank)).or_insert(rank);
            }
        }
    }
    let (dtype, shape) = whole.ok_or(malformed("list of groups"))?;
    let boxes = boxes.into_iter().map(|((start, extent), rank)| RankBox { rank, start, extent }).collect();
    Ok(ItemTensor { path: path.to_vec(), dtype, shape, boxes })
}

fn read_dtype(name: &str) -> Result<Dtype, String> {
    match name.strip_prefix("torch.").and_then(dtype_named) {
        Some(StorageType::Known(dtype)) => Ok(dtype),
        _ => Err(format!("its elements are `{}`, which safetensors does not have", display_name(name))),
    }
}

fn read_placement(value: Value<'_>) -> Result<Placement, String> {
    let number = |name| value.get(name).and_then(Value::as_u64);
    let dim = number("dim").map(to_index);
    match (value.get("type").and_then(Value::as_text), dim, number("split_factor")) {
        (Some("Replicate"), ..) => Ok(Placement::Replicate),
        (Some("Shard"), Some(dim), _) => Ok(Placement::Shard { dim }),
        (Some("StridedShard" | "_StridedShard"), Some(dim), Some(split_factor)) => {
            Ok(Placement::StridedShard { dim, split_factor })
        }
        (kind, ..) => Err(format!("its placement `{}` is not known", display_name(kind.unwrap_or("?")))),
    }
}
