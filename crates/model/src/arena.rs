//! A flat arena as named tensors: what checkpoints are written from and what merges are written into.
//!
//! Any arena of a layout will do: parameters, moments of an optimizer, averages.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use thalweg_tensor::{
    AccessError, Dtype, Piece, Shape, TensorCatalog, TensorEntry, TensorSink, TensorSource, to_index,
};

use crate::layout::ParamLayout;

/// Bytes of an F32.
const WIDTH: usize = 4;

/// An arena that is read as F32 tensors with Hugging Face names.
#[derive(Debug)]
pub struct ArenaSource<'a> {
    catalog: TensorCatalog,
    /// By number in the catalog.
    tensors: Vec<&'a [f32]>,
}

/// An arena that is filled through F32 tensors with Hugging Face names.
#[derive(Debug)]
pub struct ArenaSink<'a> {
    catalog: TensorCatalog,
    /// By number in the catalog. Writers of different tensors never wait for each other.
    tensors: Vec<Mutex<&'a mut [f32]>>,
}

/// Names, shapes and the places of `layout`, sorted by name. A piece's offset is its byte in the arena.
pub(crate) fn arena_catalog(layout: &ParamLayout) -> TensorCatalog {
    let entry = |spec: &crate::ParamSpec| TensorEntry {
        name: spec.name.as_str().into(),
        dtype: Dtype::F32,
        shape: Shape::new(spec.shape.iter().map(|&n| n as u64).collect::<Vec<_>>()),
        pieces: Box::new([Piece::whole(0, (spec.range.start * WIDTH) as u64)]),
    };
    // Names of a layout are unique, so the catalog cannot be refused.
    TensorCatalog::new(layout.specs().iter().map(entry).collect()).unwrap_or_default()
}

/// Reads `arena` as the tensors of `layout`.
///
/// # Panics
/// When the arena is not as long as the layout.
pub fn arena_source<'a>(layout: &ParamLayout, arena: &'a [f32]) -> ArenaSource<'a> {
    assert_eq!(arena.len(), layout.n_params(), "the arena has another length than the layout");
    let catalog = arena_catalog(layout);
    let range = |entry: &TensorEntry| layout.find(&entry.name).map_or(0..0, |spec| spec.range.clone());
    let tensors = catalog.entries().iter().map(|entry| &arena[range(entry)]).collect();
    ArenaSource { catalog, tensors }
}

/// Fills `arena` through the tensors of `layout`.
///
/// # Panics
/// When the arena is not as long as the layout.
pub fn arena_sink<'a>(layout: &ParamLayout, mut arena: &'a mut [f32]) -> ArenaSink<'a> {
    assert_eq!(arena.len(), layout.n_params(), "the arena has another length than the layout");
    let catalog = arena_catalog(layout);
    let mut tensors: Vec<(usize, &mut [f32])> = Vec::with_capacity(layout.specs().len());
    for spec in layout.specs() {
        let (tensor, rest) = std::mem::take(&mut arena).split_at_mut(spec.range.len());
        arena = rest;
        tensors.push((catalog.find(&spec.name).unwrap_or_default(), tensor));
    }
    tensors.sort_by_key(|(tensor_idx, _)| *tensor_idx);
    ArenaSink { catalog, tensors: tensors.into_iter().map(|(_, tensor)| Mutex::new(tensor)).collect() }
}

fn out_of_range(what: &str) -> AccessError {
    AccessError { path: "memory".to_owned(), message: format!("{what} outside the arena"), source: None }
}

impl TensorSource for ArenaSource<'_> {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
        let range = to_index(elements.start)..to_index(elements.end);
        let numbers = self.tensors.get(tensor_idx).and_then(|tensor| tensor.get(range));
        let numbers =
            numbers.filter(|numbers| numbers.len() * WIDTH == out.len()).ok_or_else(|| out_of_range("a read"))?;
        for (out, number) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(numbers) {
            *out = number.to_le_bytes();
        }
        Ok(())
    }
}

impl TensorSink for ArenaSink<'_> {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn write_elements(&self, tensor_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let fault = || out_of_range("a write");
        let (numbers, rest) = bytes.as_chunks::<WIDTH>();
        let first = to_index(first_element);
        let end = first.checked_add(numbers.len()).filter(|_| rest.is_empty()).ok_or_else(fault)?;
        let tensor = self.tensors.get(tensor_idx).ok_or_else(fault)?;
        // A writer that panicked left whole numbers behind, each of which the reader will check.
        let mut tensor = tensor.lock().unwrap_or_else(PoisonError::into_inner);
        for (out, number) in tensor.get_mut(first..end).ok_or_else(fault)?.iter_mut().zip(numbers) {
            *out = f32::from_le_bytes(*number);
        }
        Ok(())
    }
}
