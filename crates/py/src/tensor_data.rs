//! The bytes of a tensor in memory.

use pyo3::exceptions::PyMemoryError;
use thalweg_tensor::{Dtype, Shape, TensorEntry, to_index};

use crate::error::{Failure, Result};
use crate::memory::AlignedBytes;

/// A tensor whose bytes are in memory, shared by every view that was taken of it.
#[derive(Debug)]
pub(crate) struct TensorData {
    pub(crate) bytes: AlignedBytes,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
}

impl TensorData {
    /// Memory for a tensor, zero at first.
    pub(crate) fn new(entry: &TensorEntry) -> Result<Self> {
        let bytes = AlignedBytes::new(to_index(entry.n_bytes())).ok_or_else(|| {
            Failure::Python(PyMemoryError::new_err(format!("{} bytes for tensor {:?}", entry.n_bytes(), entry.name)))
        })?;
        Ok(Self { bytes, dtype: entry.dtype, shape: entry.shape.clone() })
    }
}
