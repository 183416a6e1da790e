//! A tensor in memory, as Python sees it.
//!
//! Does no arithmetic: NumPy, torch and JAX take the bytes through DLPack where they are.

use std::sync::Arc;

use pyo3::exceptions::{PyBufferError, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use thalweg_tensor::Dtype;

use crate::dlpack::{self, CapsuleKind};
use crate::error::{Failure, Result};
use crate::memory::AlignedBytes;
use crate::tensor_data::TensorData;

/// A tensor in memory. `numpy()`, `torch()` and DLPack share its bytes and keep them alive.
#[pyclass(frozen, module = "thalweg", name = "Tensor")]
#[derive(Debug)]
pub(crate) struct PyTensor {
    pub(crate) data: Arc<TensorData>,
}

#[pymethods]
impl PyTensor {
    /// Element type by its safetensors name, such as `BF16`.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.data.dtype.name()
    }

    /// Dimensions, outermost first; `()` for a scalar.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.data.shape.0.iter())
    }

    /// Number of bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.data.bytes.as_slice().len()
    }

    /// A copy of the bytes, little-endian, row-major.
    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.data.bytes.as_slice())
    }

    /// The device of the bytes as DLPack numbers it: the CPU.
    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }

    /// The tensor as a DLPack capsule, without a copy unless `copy=True`.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None, **_kwargs))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
        _kwargs: Option<Bound<'py, PyDict>>,
    ) -> Result<Bound<'py, PyAny>> {
        // The CPU has no streams.
        let _ = stream;
        if dl_device.is_some_and(|device| device != dlpack::CPU) {
            let what = "the bytes are in memory of the CPU; move the tensor after taking it";
            return Err(PyBufferError::new_err(what).into());
        }
        let data = if copy == Some(true) { Arc::new(self.copied()?) } else { Arc::clone(&self.data) };
        let kind = match max_version {
            Some((major, _)) if major >= 1 => CapsuleKind::Versioned { is_copied: copy == Some(true) },
            _ => CapsuleKind::Legacy,
        };
        dlpack::capsule(py, data, kind)
    }

    /// The tensor as a NumPy array over the same bytes. NumPy has no bfloat16.
    fn numpy<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>> {
        if !is_known_to_numpy(self.data.dtype) {
            return Err(Failure::usage_with_hint(
                format!("NumPy has no element type for {}", self.data.dtype),
                "use `torch()`, or make the plan with `dtype=\"f32\"`",
            ));
        }
        let this = Py::new(py, Self { data: Arc::clone(&self.data) })?;
        Ok(py.import("numpy")?.call_method1("from_dlpack", (this,))?)
    }

    /// The tensor as a torch tensor over the same bytes.
    fn torch<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>> {
        let this = Py::new(py, Self { data: Arc::clone(&self.data) })?;
        Ok(py.import("torch")?.call_method1("from_dlpack", (this,))?)
    }

    fn __repr__(&self) -> String {
        format!("Tensor({}, {})", self.data.dtype, self.data.shape)
    }
}

impl PyTensor {
    pub(crate) fn new(data: TensorData) -> Self {
        Self { data: Arc::new(data) }
    }

    fn copied(&self) -> Result<TensorData> {
        let bytes = self.data.bytes.as_slice();
        let mut copy = AlignedBytes::new(bytes.len())
            .ok_or_else(|| Failure::Python(PyMemoryError::new_err(format!("{} bytes for a copy", bytes.len()))))?;
        copy.as_mut_slice().copy_from_slice(bytes);
        Ok(TensorData { bytes: copy, dtype: self.data.dtype, shape: self.data.shape.clone() })
    }
}

fn is_known_to_numpy(dtype: Dtype) -> bool {
    use Dtype::{Bool, C64, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, Bool | U8 | I8 | I16 | U16 | F16 | I32 | U32 | F32 | F64 | I64 | U64 | C64)
}
