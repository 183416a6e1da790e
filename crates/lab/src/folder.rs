//! Folders that appear whole or not at all: checkpoints of a run and the states beside them.

use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::{FolderFiles, StagedCheckpoint, write_folder};
use thalweg_storage::Storage;
use thalweg_storage::guard::OwnKind;
use thalweg_tensor::{Dtype, Shape, TensorSink, TensorSource};

use crate::Error;

/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// What the folders of a run are called in messages.
pub(crate) const WHAT: &str = "what training writes";
/// Such a file is written only after the folder was found to be that of this run.
pub(crate) const RUN_FILE: OwnKind<'_> = OwnKind::in_own_folder("a file of a run");

/// Writes the tensors of `source` and the files as the folder `target`, replacing one of the same kind.
///
/// # Errors
/// `Checkpoint`, also when the disk is full or the target is not ours; the target then stays as it was.
pub(crate) fn write_source(
    storage: &Arc<dyn Storage>,
    target: &Path,
    source: &dyn TensorSource,
    files: FolderFiles<'_>,
) -> Result<(), Error> {
    write_folder(storage, target, source.catalog(), files, &mut |staged| copy_tensors(source, staged))
}

fn copy_tensors(source: &dyn TensorSource, staged: &StagedCheckpoint) -> Result<(), Error> {
    let mut buffer = Vec::new();
    for (tensor_idx, entry) in source.catalog().entries().iter().enumerate() {
        let element_bytes = entry.dtype.bytes().unwrap_or(1);
        let (n_elements, step) = (entry.n_elements(), PIECE_BYTES / element_bytes);
        for first in (0..n_elements).step_by(thalweg_tensor::to_index(step)) {
            let end = n_elements.min(first + step);
            buffer.resize(thalweg_tensor::to_index((end - first) * element_bytes), 0);
            source.read_elements(tensor_idx, first..end, &mut buffer).map_err(|source| Error::Access { source })?;
            staged.write_elements(tensor_idx, first, &buffer).map_err(|source| Error::Access { source })?;
        }
    }
    Ok(())
}

/// Whether something exists at `path`.
pub(crate) fn exists(storage: &dyn Storage, path: &Path) -> Result<bool, Error> {
    match storage.file_info(path) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A flat arena as one tensor.
#[derive(Debug, Clone)]
pub(crate) struct FlatTensor<'a> {
    pub(crate) name: String,
    pub(crate) data: FlatData<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum FlatData<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

/// Flat arenas as a source, each one tensor of one dimension.
#[derive(Debug)]
pub(crate) struct FlatSource<'a> {
    catalog: thalweg_tensor::TensorCatalog,
    /// By number in the catalog.
    data: Vec<FlatData<'a>>,
}

impl<'a> FlatSource<'a> {
    pub(crate) fn new(mut tensors: Vec<FlatTensor<'a>>) -> Self {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let entry = |tensor: &FlatTensor<'_>| {
            let (dtype, n) = match tensor.data {
                FlatData::F32(data) => (Dtype::F32, data.len()),
                FlatData::F64(data) => (Dtype::F64, data.len()),
            };
            let pieces = Box::new([thalweg_tensor::Piece::whole(0, 0)]);
            let shape = Shape::new([n as u64]);
            thalweg_tensor::TensorEntry { name: tensor.name.as_str().into(), dtype, shape, pieces }
        };
        // Names of averages are unique and none is that of a moment, so the catalog cannot be refused.
        let catalog = thalweg_tensor::TensorCatalog::new(tensors.iter().map(entry).collect()).unwrap_or_default();
        Self { catalog, data: tensors.into_iter().map(|tensor| tensor.data).collect() }
    }
}

impl TensorSource for FlatSource<'_> {
    fn catalog(&self) -> &thalweg_tensor::TensorCatalog {
        &self.catalog
    }

    fn read_elements(
        &self,
        tensor_idx: usize,
        elements: std::ops::Range<u64>,
        out: &mut [u8],
    ) -> Result<(), thalweg_tensor::AccessError> {
        let range = thalweg_tensor::to_index(elements.start)..thalweg_tensor::to_index(elements.end);
        match self.data.get(tensor_idx) {
            Some(FlatData::F32(data)) => {
                let pairs = out.chunks_exact_mut(4).zip(&data[range]);
                pairs.for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes()));
            }
            Some(FlatData::F64(data)) => {
                let pairs = out.chunks_exact_mut(8).zip(&data[range]);
                pairs.for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes()));
            }
            None => {
                let message = format!("there is no arena number {tensor_idx}");
                return Err(thalweg_tensor::AccessError { path: "memory".to_owned(), message, source: None });
            }
        }
        Ok(())
    }
}

/// Reads a flat tensor of singles; `None` if there is none of that name, type and length.
pub(crate) fn read_flat_f32(source: &dyn TensorSource, name: &str, n: usize) -> Result<Option<Vec<f32>>, Error> {
    Ok(read_flat(source, name, n, Dtype::F32)?
        .map(|bytes| bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

/// Reads a flat tensor of doubles; `None` if there is none of that name, type and length.
pub(crate) fn read_flat_f64(source: &dyn TensorSource, name: &str, n: usize) -> Result<Option<Vec<f64>>, Error> {
    Ok(read_flat(source, name, n, Dtype::F64)?
        .map(|bytes| bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()))
}

fn read_flat(source: &dyn TensorSource, name: &str, n: usize, dtype: Dtype) -> Result<Option<Vec<u8>>, Error> {
    let catalog = source.catalog();
    let Some(tensor_idx) = catalog.find(name) else { return Ok(None) };
    let entry = &catalog.entries()[tensor_idx];
    if entry.dtype != dtype || entry.n_elements() != n as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; thalweg_tensor::to_index(entry.n_bytes())];
    source.read_elements(tensor_idx, 0..n as u64, &mut bytes).map_err(|source| Error::Access { source })?;
    Ok(Some(bytes))
}
