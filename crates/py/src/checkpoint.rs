//! A checkpoint of any format, as Python sees it: names, element types, shapes, and tensors one by one.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_checkpoint::Checkpoint;
use thalweg_merge::context::Stage;
use thalweg_tensor::{TensorCatalog, TensorEntry, TensorSource, counted, display_name, nearest_name, to_index};

use crate::error::Result;
use crate::options::{RenameArgument, read_options};
use crate::session::{Session, Watch, run_watched};
use crate::tensor::PyTensor;
use crate::tensor_data::TensorData;

/// Bytes that are read between two looks at the wish to stop.
const READ_BYTES: u64 = 16 << 20;

/// Name, element type and shape of a tensor, without its bytes.
#[pyclass(frozen, module = "thalweg", name = "TensorInfo")]
#[derive(Debug)]
pub(crate) struct PyTensorInfo {
    entry: TensorEntry,
}

#[pymethods]
impl PyTensorInfo {
    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.entry.name
    }

    /// Element type by its safetensors name, such as `BF16`.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.entry.dtype.name()
    }

    /// Dimensions, outermost first; `()` for a scalar.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.entry.shape.0.iter())
    }

    /// Number of bytes.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.entry.n_bytes()
    }

    fn __repr__(&self) -> String {
        format!("TensorInfo({:?}, {}, {})", self.entry.name, self.entry.dtype, self.entry.shape)
    }
}

/// The names of a catalog's tensors.
pub(crate) fn names(catalog: &TensorCatalog) -> Vec<String> {
    catalog.entries().iter().map(|entry| entry.name.to_string()).collect()
}

/// The number of the tensor of this name; `KeyError` with the nearest name if there is none.
pub(crate) fn find_tensor(catalog: &TensorCatalog, name: &str) -> Result<usize> {
    catalog.find(name).ok_or_else(|| {
        let nearest = nearest_name(name, catalog.entries().iter().map(|entry| &*entry.name));
        let nearest =
            nearest.map_or_else(String::new, |nearest| format!("; did you mean `{}`?", display_name(nearest)));
        PyKeyError::new_err(format!("there is no tensor `{}`{nearest}", display_name(name))).into()
    })
}

/// Name, element type and shape of the tensor of this name.
pub(crate) fn tensor_info(catalog: &TensorCatalog, name: &str) -> Result<PyTensorInfo> {
    let tensor_idx = find_tensor(catalog, name)?;
    Ok(PyTensorInfo { entry: catalog.entries()[tensor_idx].clone() })
}

/// An open checkpoint: its headers have been read, its tensors are read on request.
#[pyclass(frozen, module = "thalweg", name = "Checkpoint")]
#[derive(Debug)]
pub(crate) struct PyCheckpoint {
    checkpoint: Arc<Checkpoint>,
}

#[pymethods]
impl PyCheckpoint {
    /// Its folder or file.
    #[getter]
    fn path(&self) -> PathBuf {
        self.checkpoint.path().to_owned()
    }

    /// The name of its format.
    #[getter]
    fn format(&self) -> &'static str {
        self.checkpoint.format_name()
    }

    /// The names of its tensors, sorted.
    fn keys(&self) -> Vec<String> {
        names(self.checkpoint.catalog())
    }

    /// Element type and shape of a tensor, without reading it.
    fn info(&self, name: &str) -> Result<PyTensorInfo> {
        tensor_info(self.checkpoint.catalog(), name)
    }

    /// Reads a tensor.
    fn tensor(&self, py: Python<'_>, name: &str) -> Result<PyTensor> {
        let tensor_idx = find_tensor(self.checkpoint.catalog(), name)?;
        let watch = Watch::default();
        let data = run_watched(py, None, &watch, || read_tensor(&self.checkpoint, tensor_idx, &watch))?;
        Ok(PyTensor::new(data))
    }

    fn __getitem__(&self, py: Python<'_>, name: &str) -> Result<PyTensor> {
        self.tensor(py, name)
    }

    fn __contains__(&self, name: &str) -> bool {
        self.checkpoint.catalog().find(name).is_some()
    }

    fn __len__(&self) -> usize {
        self.checkpoint.catalog().entries().len()
    }

    fn __repr__(&self) -> String {
        let (checkpoint, tensors) = (&self.checkpoint, counted(self.__len__(), "tensor"));
        format!("Checkpoint({:?}, format={:?}, {tensors})", checkpoint.path(), checkpoint.format_name())
    }
}

fn read_tensor(checkpoint: &Checkpoint, tensor_idx: usize, watch: &Watch) -> Result<TensorData> {
    let entry = &checkpoint.catalog().entries()[tensor_idx];
    let mut data = TensorData::new(entry)?;
    let n_elements = entry.n_elements();
    // Multiples of 64 elements fill whole bytes in every element type.
    let per_read = (READ_BYTES * 8 / u64::from(entry.dtype.bits())).next_multiple_of(64);
    watch.start(Stage::Copy, entry.n_bytes());
    for first in (0..n_elements).step_by(to_index(per_read)) {
        watch.check_interrupt()?;
        let end = n_elements.min(first + per_read);
        let place = |element| to_index(entry.dtype.bytes_of(element).unwrap_or(0));
        let out = &mut data.bytes.as_mut_slice()[place(first)..place(end)];
        let read = checkpoint.read_elements(tensor_idx, first..end, out);
        read.map_err(|source| thalweg_merge::Error::Access { tensor: display_name(&entry.name), source })?;
    }
    checkpoint.check_unchanged()?;
    Ok(data)
}

/// Opens a checkpoint of any format: a folder, a file, or a name in the local Hugging Face cache.
///
/// `key`, `params` and `rename` say how it is read, as for `plan`.
#[pyfunction]
#[pyo3(signature = (path, *, key=None, params=None, rename=None))]
pub(crate) fn open_checkpoint(
    py: Python<'_>,
    path: PathBuf,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
) -> Result<PyCheckpoint> {
    let watch = Watch::default();
    let session = Session::for_headers()?;
    let checkpoint = run_watched(py, None, &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        Ok(session.resolver(&watch, reading).open_checkpoint(&path)?)
    })?;
    Ok(PyCheckpoint { checkpoint: Arc::new(checkpoint) })
}
