//! A chunk of a distributed checkpoint is a complete torch.save archive of one tensor. Only the archive says where the
//! elements are, in what order, and of what type they really are.

use std::ops::Range;

use thalweg_storage::ReadAt;
use thalweg_tensor::{Piece, Shape, TensorEntry};

use super::error::ChunkFault;
use crate::format::torch::tensor::{Found, read_tensor};
use crate::format::torch::{LocateError, TorchFile};
use crate::kept_ends::KeptEnds;
use crate::lazy_pieces::{OpenPiece, PieceRefusal};

/// Where each archive ends: pieces say only where they begin.
#[derive(Debug)]
pub(super) struct Archives {
    /// File, first byte and length, sorted.
    places: Box<[(u32, u64, u64)]>,
}

impl Archives {
    pub(super) fn new(mut places: Vec<(u32, u64, u64)>) -> Self {
        places.sort_unstable();
        Self { places: places.into() }
    }
}

impl OpenPiece for Archives {
    fn open_piece(&self, entry: &TensorEntry, piece: &Piece, file: &dyn ReadAt) -> Result<Piece, PieceRefusal> {
        let offset = piece.offset;
        let refuse = |reason: String| PieceRefusal::Format(ChunkFault::Content { offset, reason }.to_string());
        let key = (piece.file_idx, offset);
        let found = self.places.binary_search_by_key(&key, |(file_idx, offset, _)| (*file_idx, *offset));
        let len_bytes = found.ok().and_then(|at| self.places.get(at)).map_or(0, |place| place.2);
        let end = offset.checked_add(len_bytes).filter(|end| *end <= file.info().len_bytes);
        let end = end.ok_or_else(|| refuse("reaches past the end of the file".to_owned()))?;
        let file = &KeptEnds::new(file, offset..end);
        // Without this check, a file that changes while it is read would be reported as damaged.
        let archive = TorchFile::open(file, offset..end, &[]).map_err(|error| match file.check_unchanged() {
            Ok(()) => refuse(format!("is not an archive of one tensor: {error}")),
            Err(changed) => PieceRefusal::Storage(changed),
        })?;
        let spec = match read_tensor(archive.pickle.root()) {
            Ok(Found::Tensor(spec)) => spec,
            Ok(Found::Unreadable(reason)) => return Err(refuse(format!("cannot be read: {reason}"))),
            Ok(Found::Other) => {
                return Err(refuse(format!("holds {}, not a tensor", archive.pickle.root().kind())));
            }
            Err(fault) => return Err(refuse(format!("holds a tensor that cannot be read: {fault}"))),
        };
        if spec.dtype != entry.dtype {
            let (expected, found) = (entry.dtype, spec.dtype);
            return Err(PieceRefusal::Format(ChunkFault::Dtype { offset, expected, found }.to_string()));
        }
        let extent = piece.extent(&entry.shape);
        if *spec.shape.0 != *extent {
            let (expected, found) = (Shape::new(extent), spec.shape);
            return Err(PieceRefusal::Format(ChunkFault::Shape { offset, expected, found }.to_string()));
        }
        let located = archive.locate(file, piece.file_idx, &spec).map_err(|error| match error {
            LocateError::Tensor(fault) => refuse(format!("holds a tensor that cannot be read: {fault}")),
            LocateError::Archive(error) => refuse(format!("is broken: {error}")),
        })?;
        // The archive describes the chunk as a whole tensor; here it is a box of a larger one.
        let mut place = piece.clone();
        place.offset = located.offset;
        let Some(strides) = located.strides() else { return Ok(place) };
        place
            .with_strides(&entry.shape, strides)
            .ok_or_else(|| refuse("does not have the dimensions that it states".to_owned()))
    }

    fn archives_in(&self, file_idx: u32) -> Vec<Range<u64>> {
        let first = self.places.partition_point(|place| place.0 < file_idx);
        let in_file = self.places[first..].iter().take_while(|place| place.0 == file_idx);
        in_file.map(|(_, offset, len_bytes)| *offset..offset.saturating_add(*len_bytes)).collect()
    }
}
