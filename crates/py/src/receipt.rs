//! The record of a merge that happened, as Python sees it.

use std::path::PathBuf;

use pyo3::prelude::*;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::receipt::MergeReceipt;
use thalweg_tensor::counted;

use crate::error::{Failure, Result};

/// The record of a merge that happened: what `thalweg.json` in its folder says.
#[pyclass(frozen, module = "thalweg", name = "Receipt")]
#[derive(Debug, Clone)]
pub(crate) struct PyReceipt {
    /// The folder of the output.
    #[pyo3(get)]
    path: PathBuf,
    /// Whether the output was there already, from the same plan over unchanged sources.
    #[pyo3(get)]
    was_done: bool,
    /// The scheme, as requested.
    #[pyo3(get)]
    scheme: String,
    /// Digest of all merged tensors; `None` without digests.
    #[pyo3(get)]
    digest: Option<String>,
    /// Euclidean distance from the newest source; `None` if that was not read.
    #[pyo3(get)]
    distance_to_newest: Option<f64>,
    /// Largest change of an element from the newest source; `None` if that was not read.
    #[pyo3(get)]
    max_abs_change: Option<f64>,
    /// Wall time.
    #[pyo3(get)]
    seconds: f64,
    /// Bytes of tensors read from the sources.
    #[pyo3(get)]
    bytes_read: u64,
    /// Bytes of the output's files.
    #[pyo3(get)]
    bytes_written: u64,
    /// Largest resident memory of the process, if the system reports it.
    #[pyo3(get)]
    peak_memory_bytes: Option<u64>,
    json: String,
}

#[pymethods]
impl PyReceipt {
    /// The receipt as JSON.
    fn to_json(&self) -> &str {
        &self.json
    }

    fn __repr__(&self) -> String {
        let bytes = counted(self.bytes_written, "byte");
        format!("Receipt({:?}, scheme={:?}, {bytes} written)", self.path, self.scheme)
    }
}

impl PyReceipt {
    pub(crate) fn new(outcome: MergeOutcome) -> Result<Self> {
        let receipt: MergeReceipt = outcome.receipt;
        let json = serde_json::to_string_pretty(&receipt)
            .map_err(|error| Failure::usage(format!("the receipt cannot be shown as JSON: {error}")))?;
        Ok(Self {
            path: outcome.path,
            was_done: outcome.was_done,
            distance_to_newest: receipt.distance_to_newest(),
            max_abs_change: receipt.max_abs_change(),
            scheme: receipt.plan.scheme,
            digest: receipt.digest,
            seconds: receipt.seconds,
            bytes_read: receipt.bytes_read,
            bytes_written: receipt.bytes_written,
            peak_memory_bytes: receipt.peak_memory_bytes,
            json,
        })
    }
}
