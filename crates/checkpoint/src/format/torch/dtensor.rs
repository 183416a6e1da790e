//! Distributed tensors as PyTorch pickles them: one rank's parts with the placement of the whole.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use thalweg_storage::ReadAt;
use thalweg_tensor::{Dtype, to_index};

use super::tensor::{Found, read_tensor};
use super::{TorchFile, read_at};
use crate::format::placement::{MeshRanks, Placement};
use crate::pickle::{NameList, ObjectView, Value};

/// Classes that the placement of a distributed tensor is pickled as.
pub(crate) const DTENSOR_NAMES: NameList = &[
    ("torch.distributed.tensor._dtensor_spec", "DTensorSpec"),
    ("torch.distributed.tensor._dtensor_spec", "TensorMeta"),
    ("torch.distributed.tensor._dtensor_spec", "ShardOrderEntry"),
    ("torch.distributed.device_mesh", "DeviceMesh"),
    ("torch.distributed._mesh_layout", "_MeshLayout"),
    ("torch.distributed._mesh_layout", "_FlatLayout"),
    ("torch.distributed.tensor.placement_types", "Shard"),
    ("torch.distributed.tensor.placement_types", "Replicate"),
    ("torch.distributed.tensor.placement_types", "_StridedShard"),
    ("torch.distributed._shard.sharded_tensor.shard", "Shard"),
];

/// One rank's part of a tensor, and the description of the whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DistributedTensor<'a> {
    /// The part.
    pub(crate) local: Value<'a>,
    shape: Value<'a>,
    spec: Option<ObjectView<'a>>,
}

/// Mesh and placements, as the part itself states them.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) mesh_shape: Vec<u64>,
    pub(crate) ranks: Rc<MeshRanks>,
    pub(crate) placements: Vec<Placement>,
}

/// The ranks of meshes read before, with the shape of their tensor: all tensors of a file share one.
#[derive(Debug, Default)]
pub(crate) struct KnownMeshes {
    by_id: HashMap<u32, (Rc<MeshRanks>, Vec<u64>)>,
}

impl KnownMeshes {
    fn read(&mut self, map: Value<'_>, file: &dyn ReadAt, archive: &TorchFile) -> Option<(Rc<MeshRanks>, Vec<u64>)> {
        if let Some(known) = self.by_id.get(&map.id()) {
            return Some(known.clone());
        }
        let (ranks, shape) = read_ranks(map, file, archive)?;
        let read = (Rc::new(MeshRanks::new(ranks)), shape);
        self.by_id.insert(map.id(), read.clone());
        Some(read)
    }
}

impl<'a> DistributedTensor<'a> {
    /// The value as a distributed tensor, if it is one.
    pub(crate) fn of(value: Value<'a>) -> Option<Self> {
        let object = value.as_object().filter(|object| &*object.global.name == "_rebuild_from_type_v2")?;
        object.arg(1)?.as_global().filter(|class| &*class.name == "DTensor")?;
        let shape = object.arg(2)?.items().find(|arg| arg.is_tuple())?;
        let state = object.arg(3)?;
        let attribute = |name| state.get(name).or_else(|| state.items().find_map(|part| part.get(name)));
        let spec = attribute("_spec").and_then(Value::as_object);
        Some(Self { local: attribute("_local_tensor")?, shape, spec })
    }

    /// The shape of the whole.
    pub(crate) fn shape(&self) -> Option<Vec<u64>> {
        numbers(self.shape)
    }

    /// How the whole is placed on its mesh; the ranks of the mesh are read from their storage.
    pub(crate) fn spread(&self, file: &dyn ReadAt, archive: &TorchFile, meshes: &mut KnownMeshes) -> Option<Spread> {
        let spec = self.spec?;
        let placements = spec.attribute("placements")?.items().map(read_placement).collect::<Option<Vec<_>>>()?;
        let mesh = spec.attribute("mesh")?.as_object()?;
        let map = mesh.attribute("_rank_map").or_else(|| mesh.attribute("mesh"))?;
        let (ranks, map_shape) = meshes.read(map, file, archive)?;
        let axes = mesh.attribute("_layout").and_then(Value::as_object).and_then(|layout| layout.attribute("axes"));
        let axis_size = |axis: Value<'_>| {
            axis.as_object()?
                .attribute("shape")?
                .items()
                .map(Value::as_u64)
                .try_fold(1_u64, |n, size| n.checked_mul(size?))
        };
        let mesh_shape = match axes {
            Some(axes) => axes.items().map(axis_size).collect::<Option<Vec<_>>>()?,
            None => map_shape,
        };
        Some(Spread { mesh_shape, ranks, placements })
    }
}

/// What the rank that wrote a distributed tensor holds of it, which is nothing, one part or several; `None` for other
/// values.
pub(crate) fn local_parts(value: Value<'_>) -> Option<Vec<Value<'_>>> {
    if let Some(tensor) = DistributedTensor::of(value) {
        return Some(vec![tensor.local]);
    }
    // What FSDP writes without a mesh.
    let object = value.as_object().filter(|object| &*object.global.name == "_rebuild_from_type_v2")?;
    object.arg(1)?.as_global().filter(|class| &*class.name == "ShardedTensor")?;
    let shards = object.arg(3)?.items().next()?;
    shards.items().map(|shard| shard.as_object()?.attribute("tensor")).collect()
}

fn numbers(value: Value<'_>) -> Option<Vec<u64>> {
    value.items().map(Value::as_u64).collect()
}

fn read_placement(value: Value<'_>) -> Option<Placement> {
    let object = value.as_object()?;
    let number = |name| object.attribute(name).and_then(Value::as_u64);
    let dim = || number("dim").or_else(|| object.arg(0)?.as_u64()).map(to_index);
    Some(match &*object.global.name {
        "Replicate" => Placement::Replicate,
        "Shard" => Placement::Shard { dim: dim()? },
        "_StridedShard" => Placement::StridedShard { dim: dim()?, split_factor: number("split_factor")? },
        _ => return None,
    })
}

/// The ranks of a mesh and the shape of their tensor.
fn read_ranks(value: Value<'_>, file: &dyn ReadAt, archive: &TorchFile) -> Option<(Vec<u64>, Vec<u64>)> {
    /// Most ranks: more than any training job has.
    const MAX_RANKS: u64 = 1 << 20;
    let Found::Tensor(spec) = read_tensor(value).ok()? else { return None };
    let n_ranks = spec.shape.n_elements().filter(|n| *n <= MAX_RANKS)?;
    let piece = archive.locate(file, 0, &spec).ok()?;
    if piece.strides().is_some() {
        return None;
    }
    let bytes = read_at(file, piece.offset, spec.dtype.bytes_of(n_ranks)?).ok()?;
    let number = |at: Range<usize>| -> Option<u64> {
        let bytes = bytes.get(at)?;
        match spec.dtype {
            Dtype::I32 => u64::try_from(i32::from_le_bytes(bytes.try_into().ok()?)).ok(),
            Dtype::I64 => u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok(),
            _ => None,
        }
    };
    let width = to_index(spec.dtype.bytes()?);
    let ranks = (0..to_index(n_ranks)).map(|i| number(i * width..(i + 1) * width)).collect::<Option<Vec<_>>>()?;
    Some((ranks, spec.shape.0.to_vec()))
}
