//! Comparisons, as Python sees them: two checkpoints, and an output with its receipt.

use std::path::PathBuf;

use pyo3::prelude::*;
use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::diff::{CheckpointDiff, Distance, diff_checkpoints};
use thalweg_merge::verify::{Verification, VerifyScope, verify_output};
use thalweg_tensor::counted;

use crate::error::Result;
use crate::options::{RenameArgument, read_options};
use crate::session::{Session, SizeArgument, Watch, run_watched};

/// How a tensor of two checkpoints differs.
#[pyclass(frozen, module = "thalweg", name = "TensorDiff")]
#[derive(Debug, Clone)]
pub(crate) struct PyTensorDiff {
    /// Its name, safe to print.
    #[pyo3(get)]
    name: String,
    /// Why the two cannot be compared; `None` if they can.
    #[pyo3(get)]
    fault: Option<String>,
    /// Elements whose bytes differ.
    #[pyo3(get)]
    n_differing: u64,
    /// Euclidean distance; NaN where either holds a NaN, or where only bytes were compared.
    #[pyo3(get)]
    distance: f64,
    /// Cosine of the two as vectors; `None` when one is zero.
    #[pyo3(get)]
    cosine: Option<f64>,
    /// Largest difference of an element; NaN like the distance.
    #[pyo3(get)]
    max_abs: f64,
    /// Largest difference in ULPs; 0 for types that are not floating, or that differ.
    #[pyo3(get)]
    max_ulps: u64,
}

#[pymethods]
impl PyTensorDiff {
    fn __repr__(&self) -> String {
        let (name, n_differing, distance) = (&self.name, self.n_differing, self.distance);
        match &self.fault {
            Some(fault) => format!("TensorDiff({name:?}, fault={fault:?})"),
            None => format!("TensorDiff({name:?}, n_differing={n_differing}, distance={distance:.6})"),
        }
    }
}

impl PyTensorDiff {
    fn new(name: String, distance: &Distance, fault: Option<String>) -> Self {
        Self {
            name,
            fault,
            n_differing: distance.n_differing,
            distance: distance.distance().unwrap_or(f64::NAN),
            cosine: distance.cosine(),
            max_abs: distance.max_abs().unwrap_or(f64::NAN),
            max_ulps: distance.max_ulps().unwrap_or(0),
        }
    }
}

/// How two checkpoints differ.
#[pyclass(frozen, module = "thalweg", name = "Diff")]
#[derive(Debug)]
pub(crate) struct PyDiff {
    diff: CheckpointDiff,
}

#[pymethods]
impl PyDiff {
    /// Whether both hold the same tensors with the same bytes.
    #[getter]
    fn equal(&self) -> bool {
        self.diff.is_equal()
    }

    /// All tensors of either, sorted by name.
    #[getter]
    fn tensors(&self) -> Vec<PyTensorDiff> {
        let rows = self.diff.tensors.iter().map(|tensor| {
            let distance = tensor.outcome.as_ref().copied().unwrap_or_default();
            PyTensorDiff::new(tensor.name.clone(), &distance, tensor.outcome.as_ref().err().cloned())
        });
        rows.collect()
    }

    /// Over all tensors that could be compared.
    #[getter]
    fn total(&self) -> PyTensorDiff {
        PyTensorDiff::new("total".to_owned(), &self.diff.total, None)
    }

    /// The comparison as JSON, as `thalweg diff --json` prints it.
    fn to_json(&self) -> String {
        self.diff.document().to_string()
    }

    fn __repr__(&self) -> String {
        let (tensors, total) = (counted(self.diff.tensors.len(), "tensor"), &self.diff.total);
        match self.diff.is_equal() {
            true => format!("Diff(equal, {tensors})"),
            false => format!("Diff({tensors}, distance={:.6})", total.distance().unwrap_or(f64::NAN)),
        }
    }
}

/// Compares two checkpoints tensor by tensor; each byte of either is read once.
#[pyfunction]
#[pyo3(signature = (a, b, *, key=None, params=None, rename=None, threads=None, memory=None, progress=None))]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn diff(
    py: Python<'_>,
    a: PathBuf,
    b: PathBuf,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
    threads: Option<usize>,
    memory: Option<SizeArgument>,
    progress: Option<&Bound<'_, PyAny>>,
) -> Result<PyDiff> {
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
    let session = Session::new(threads, memory.bytes("memory")?)?;
    let watch = Watch::default();
    let diff = run_watched(py, progress, &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        let resolver = session.resolver(&watch, reading);
        let (a, b) = (resolver.open_checkpoint(&a)?, resolver.open_checkpoint(&b)?);
        Ok(diff_checkpoints(&a, &b, &session.context(&watch))?)
    })?;
    Ok(PyDiff { diff })
}

/// What a verification found.
#[pyclass(frozen, module = "thalweg", name = "Verification")]
#[derive(Debug)]
pub(crate) struct PyVerification {
    found: Verification,
    scope: VerifyScope,
}

#[pymethods]
impl PyVerification {
    /// Whether the output, and the sources if requested, match the receipt.
    #[getter]
    fn equal(&self) -> bool {
        self.found.is_equal()
    }

    /// Whether the output matches the receipt.
    #[getter]
    fn output_equal(&self) -> bool {
        self.found.output_is_equal()
    }

    /// Whether the sources are those that were merged; `None` if not requested.
    #[getter]
    fn sources_equal(&self) -> Option<bool> {
        (self.scope == VerifyScope::OutputAndInputs).then(|| self.found.sources_are_equal())
    }

    /// Whether bytes were compared; without digests only sizes and headers are.
    #[getter]
    fn compared_bytes(&self) -> bool {
        self.found.compared_bytes
    }

    /// What is wrong with the output: files, tensors or facts with a fault each.
    #[getter]
    fn faults(&self) -> Vec<(String, String)> {
        self.found.faults().map(|(name, fault)| (name.to_owned(), fault.to_owned())).collect()
    }

    /// The sources with their state: `unchanged`, `missing`, `changed` or `unreadable`.
    #[getter]
    fn sources(&self) -> Vec<(PathBuf, &'static str)> {
        self.found.sources.iter().map(|source| (source.path.clone(), source.describe().0)).collect()
    }

    /// Files of tensors that the receipt does not list; other programs may load them.
    #[getter]
    fn strays(&self) -> Vec<String> {
        self.found.strays.clone()
    }

    /// The verification as JSON, as `thalweg verify --json` prints it.
    fn to_json(&self) -> String {
        self.found.document(self.scope).to_string()
    }

    fn __repr__(&self) -> String {
        let n_faults = self.found.faults().count();
        match self.found.is_equal() {
            true => format!("Verification(equal, {})", counted(self.found.files.len(), "file")),
            false => format!("Verification(not equal, {} in the output)", counted(n_faults, "fault")),
        }
    }
}

/// Rereads an output and compares it with its receipt; with `inputs`, also the sources.
#[pyfunction]
#[pyo3(signature = (path, *, inputs=false, threads=None, progress=None))]
pub(crate) fn verify(
    py: Python<'_>,
    path: PathBuf,
    inputs: bool,
    threads: Option<usize>,
    progress: Option<&Bound<'_, PyAny>>,
) -> Result<PyVerification> {
    let scope = if inputs { VerifyScope::OutputAndInputs } else { VerifyScope::Output };
    let session = Session::new(threads, SizeArgument::Text(DEFAULT_MEMORY.to_owned()).bytes("memory")?)?;
    let watch = Watch::default();
    let found = run_watched(py, progress, &watch, || {
        let path = session.resolver(&watch, ReadOptions::default()).find_checkpoint(&path)?;
        Ok(verify_output(&path, scope, &session.context(&watch))?)
    })?;
    Ok(PyVerification { found, scope })
}
