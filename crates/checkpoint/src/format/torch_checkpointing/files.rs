//! The file of one rank for one item: a state dict of torch.save, or safetensors with the rank's pieces under plain names.

use std::collections::BTreeMap;
use std::path::Path;

use thalweg_storage::ReadAt;
use thalweg_tensor::{Dtype, Piece, Shape};

use super::metadata::{PathPart, name_of};
use crate::Error;
use crate::format::safetensors::read_header_text;
use crate::format::torch::TorchFile;
use crate::format::torch::dtensor::{DTENSOR_NAMES, DistributedTensor};
use crate::format::torch::error::TorchError;
use crate::format::torch::tensor::{Found, read_tensor};
use crate::pickle::Value;

/// Deepest nesting of containers.
const MAX_DEPTH: usize = 64;
/// Most values that are visited.
const MAX_VALUES: usize = 4_000_000;

/// A file of one rank, opened.
#[derive(Debug)]
pub(super) enum ItemFile {
    Torch(TorchFile),
    Safetensors(BTreeMap<Box<str>, LocalTensor>),
}

/// What one rank holds of a tensor.
#[derive(Debug, Clone)]
pub(super) struct LocalTensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
    /// As if it were a whole tensor.
    pub(super) piece: Piece,
}

impl ItemFile {
    pub(super) fn open_torch(file: &dyn ReadAt) -> Result<Self, TorchError> {
        TorchFile::open(file, 0..file.info().len_bytes, &[DTENSOR_NAMES]).map(Self::Torch)
    }

    pub(super) fn open_safetensors(file: &dyn ReadAt, path: &Path, file_idx: u32) -> Result<Self, Error> {
        let text = read_header_text(file, path)?;
        let header = text.parse(path)?;
        let local = |tensor: crate::format::safetensors::HeaderTensor| {
            let piece = Piece::whole(file_idx, text.data_start() + tensor.begin);
            (tensor.name, LocalTensor { dtype: tensor.dtype, shape: tensor.shape, piece })
        };
        Ok(Self::Safetensors(header.tensors.into_iter().map(local).collect()))
    }

    /// What the file holds at this path.
    pub(super) fn find(&self, file: &dyn ReadAt, file_idx: u32, path: &[PathPart]) -> Result<LocalTensor, String> {
        match self {
            Self::Safetensors(tensors) => {
                tensors.get(&*name_of(path)).cloned().ok_or_else(|| "is not in the file of its rank".to_owned())
            }
            Self::Torch(archive) => {
                let value = path.iter().try_fold(archive.pickle.root(), |value, part| member(value, part));
                let value = value.ok_or_else(|| "is not in the file of its rank".to_owned())?;
                local_tensor(archive, file, file_idx, value)
            }
        }
    }
}

fn member<'a>(value: Value<'a>, part: &PathPart) -> Option<Value<'a>> {
    match part {
        PathPart::Key(key) => value.get(key),
        PathPart::Number(number) => {
            let wanted = i128::from(*number);
            let found = value.entries().rev().find(|(key, _)| key.as_int() == Some(wanted)).map(|(_, member)| member);
            found.or_else(|| value.items().nth(usize::try_from(*number).ok()?))
        }
    }
}

/// The tensor that a value is, or that one rank holds of it.
pub(super) fn local_tensor(
    archive: &TorchFile,
    file: &dyn ReadAt,
    file_idx: u32,
    value: Value<'_>,
) -> Result<LocalTensor, String> {
    let local = DistributedTensor::of(value).map_or(value, |tensor| tensor.local);
    match read_tensor(local) {
        Ok(Found::Tensor(spec)) => {
            let piece = archive.locate(file, file_idx, &spec).map_err(|error| error.of("").to_string())?;
            Ok(LocalTensor { dtype: spec.dtype, shape: spec.shape, piece })
        }
        Ok(Found::Unreadable(reason)) => Err(reason),
        Ok(Found::Other) => Err(format!("is {}, not a tensor", local.kind())),
        Err(fault) => Err(fault.to_string()),
    }
}

/// Every value below the root that is a tensor, with its path.
pub(super) fn list_tensors(archive: &TorchFile) -> Vec<(Vec<PathPart>, Value<'_>)> {
    let mut tensors = Vec::new();
    let mut waiting = vec![(Vec::new(), archive.pickle.root())];
    let mut n_values = 0;
    while let Some((path, value)) = waiting.pop() {
        n_values += 1;
        if n_values > MAX_VALUES || path.len() > MAX_DEPTH {
            continue;
        }
        let below = |part| [&path[..], &[part]].concat();
        if value.is_dict() {
            waiting.extend(value.entries().filter_map(|(key, member)| {
                let text = key.as_text().map(|key| PathPart::Key(key.to_owned()));
                let number = || Some(PathPart::Number(i64::try_from(key.as_int()?).ok()?));
                Some((below(text.or_else(number)?), member))
            }));
        } else if value.is_sequence() {
            waiting
                .extend((0..).zip(value.items()).map(|(position, member)| (below(PathPart::Number(position)), member)));
        } else if DistributedTensor::of(value).is_some() || !matches!(read_tensor(value), Ok(Found::Other)) {
            tensors.push((path, value));
        }
    }
    tensors
}
