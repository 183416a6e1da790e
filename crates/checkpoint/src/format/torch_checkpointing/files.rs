//! The file of one rank for one item: a state dict of torch.save, or safetensors with the rank's pieces under plain
//! names.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use thalweg_storage::ReadAt;
use thalweg_tensor::{Dtype, Piece, Shape};

use super::metadata::{PathPart, name_of};
use crate::Error;
use crate::format::safetensors::read_header_text;
use crate::format::torch::dtensor::{DTENSOR_NAMES, DistributedTensor};
use crate::format::torch::error::TorchError;
use crate::format::torch::tensor::{Found, read_tensor};
use crate::format::torch::{NameBudget, TorchFile};
use crate::pickle::Value;

/// Deepest nesting of containers.
const MAX_DEPTH: usize = 64;
/// Most values that are visited.
const MAX_VALUES: usize = 4_000_000;

/// A file of one rank, opened.
#[derive(Debug)]
pub(super) enum ItemFile {
    Torch(Box<TorchItem>),
    Safetensors(BTreeMap<Box<str>, LocalTensor>),
}

/// A state dict, with the members of its dictionaries by their keys: every tensor of an item is looked for.
#[derive(Debug)]
pub(super) struct TorchItem {
    pub(super) archive: TorchFile,
    members: RefCell<HashMap<u32, HashMap<PathPart, u32>>>,
}

impl TorchItem {
    fn member<'a>(&self, value: Value<'a>, part: &PathPart) -> Option<Value<'a>> {
        let mut known = self.members.borrow_mut();
        let members = known.entry(value.id()).or_insert_with(|| {
            // Of a key that is set twice the last value counts, as in Python.
            value.entries().filter_map(|(key, member)| Some((part_of(key)?, member.id()))).collect()
        });
        if let Some(member) = members.get(part) {
            return Some(value.with_id(*member));
        }
        match part {
            PathPart::Key(_) => None,
            PathPart::Number(number) => value.items().nth(usize::try_from(*number).ok()?),
        }
    }
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
        TorchFile::open(file, 0..file.info().len_bytes, &[DTENSOR_NAMES])
            .map(|archive| Self::Torch(Box::new(TorchItem { archive, members: RefCell::default() })))
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
            Self::Torch(item) => {
                let value = path.iter().try_fold(item.archive.pickle.root(), |value, part| item.member(value, part));
                let value = value.ok_or_else(|| "is not in the file of its rank".to_owned())?;
                local_tensor(&item.archive, file, file_idx, value)
            }
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

/// A tensor and the way to it.
type PathAndValue<'a> = (Vec<PathPart>, Value<'a>);

/// A container on the way to a value.
struct Level<'a> {
    id: u32,
    members: Box<dyn Iterator<Item = (PathPart, Value<'a>)> + 'a>,
}

fn part_of(key: Value<'_>) -> Option<PathPart> {
    let text = key.as_text().map(|key| PathPart::Key(key.to_owned()));
    text.or_else(|| Some(PathPart::Number(i64::try_from(key.as_int()?).ok()?)))
}

fn members<'a>(value: Value<'a>) -> Box<dyn Iterator<Item = (PathPart, Value<'a>)> + 'a> {
    if value.is_dict() {
        return Box::new(value.entries().filter_map(|(key, member)| Some((part_of(key)?, member))));
    }
    Box::new((0..).zip(value.items()).map(|(position, member)| (PathPart::Number(position), member)))
}

/// Every value below the root that is a tensor, with its path.
///
/// # Errors
/// `TooMuch`: containers may be shared, so that a small file names any number of tensors.
pub(super) fn list_tensors(archive: &TorchFile) -> Result<Vec<PathAndValue<'_>>, TorchError> {
    let root = archive.pickle.root();
    let mut budget = NameBudget::new(root);
    let (mut tensors, mut path) = (Vec::new(), Vec::new());
    let mut levels = vec![Level { id: root.id(), members: members(root) }];
    let mut n_values = 0;
    loop {
        let n_levels = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(tensors) };
        path.truncate(n_levels - 1);
        let Some((part, member)) = level.members.next() else {
            levels.pop();
            continue;
        };
        path.push(part);
        n_values += 1;
        if n_values > MAX_VALUES {
            return Err(TorchError::TooMuch { what: "values", limit: MAX_VALUES });
        }
        if member.is_dict() || member.is_sequence() {
            if levels.len() >= MAX_DEPTH {
                return Err(TorchError::TooMuch { what: "levels", limit: MAX_DEPTH });
            }
            if levels.iter().all(|level| level.id != member.id()) {
                levels.push(Level { id: member.id(), members: members(member) });
            }
            continue;
        }
        let n_reason_bytes = match read_tensor(member) {
            _ if DistributedTensor::of(member).is_some() => 0,
            Ok(Found::Other) => continue,
            Ok(Found::Unreadable(reason)) => reason.len(),
            _ => 0,
        };
        budget.keep(path.iter().map(PathPart::n_bytes).sum::<usize>() + n_reason_bytes)?;
        tensors.push((path.clone(), member));
    }
}
