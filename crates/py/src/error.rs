//! Errors of the libraries as exceptions of Python: one class for each crate, the variant as `kind`, facts as
//! attributes.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::hint::as_keywords;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Merge(thalweg_merge::Error),
    Checkpoint(thalweg_checkpoint::Error),
    Trajectory(thalweg_trajectory::Error),
    Scheme(thalweg_merge::scheme::SchemeError),
    Study(thalweg_study::Error),
    Storage(thalweg_storage::Error),
    /// A request that does not make sense.
    Usage {
        what: String,
        hint: Option<String>,
    },
    /// An exception of Python, on its way back.
    Python(PyErr),
}

macro_rules! from_library {
    ($($variant:ident($error:ty)),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from_library!(
    Checkpoint(thalweg_checkpoint::Error),
    Trajectory(thalweg_trajectory::Error),
    Scheme(thalweg_merge::scheme::SchemeError),
    Storage(thalweg_storage::Error),
    Python(PyErr)
);

impl From<thalweg_study::Error> for Failure {
    fn from(error: thalweg_study::Error) -> Self {
        use thalweg_study::Error;
        match error {
            Error::Request { what, hint } => Self::Usage { what, hint },
            Error::Merge(error) => error.into(),
            Error::Checkpoint(error) => error.into(),
            Error::Trajectory(error) => error.into(),
            Error::Scheme(error) => error.into(),
            Error::Storage(error) => error.into(),
            error => Self::Study(error),
        }
    }
}

impl From<thalweg_eval::Error> for Failure {
    fn from(error: thalweg_eval::Error) -> Self {
        thalweg_study::Error::from(error).into()
    }
}

impl From<thalweg_merge::Error> for Failure {
    fn from(error: thalweg_merge::Error) -> Self {
        match error {
            thalweg_merge::Error::Checkpoint(error) => Self::Checkpoint(error),
            thalweg_merge::Error::Storage(error) => Self::Storage(error),
            thalweg_merge::Error::Scheme(error) => Self::Scheme(error),
            error => Self::Merge(error),
        }
    }
}

impl Failure {
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: None }
    }

    pub(crate) fn usage_with_hint(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: Some(hint.into()) }
    }

    /// The exception's class, its message, its hint, and the name of the variant.
    fn parts(&self) -> (&'static str, String, Option<String>, String) {
        let kind = |error: &dyn std::fmt::Debug| variant_name(&format!("{error:?}"));
        match self {
            Self::Merge(error) => ("MergeError", error.to_string(), error.hint(), kind(error)),
            Self::Checkpoint(error) => {
                ("CheckpointError", error.to_string(), error.hint().map(str::to_owned), kind(error))
            }
            Self::Trajectory(error) => ("TrajectoryError", error.to_string(), error.hint(), kind(error)),
            Self::Scheme(error) => ("SchemeError", error.to_string(), error.hint(), kind(error)),
            Self::Study(error) => ("StudyError", error.to_string(), error.hint(), kind(error)),
            Self::Storage(error) => ("StorageError", error.to_string(), error.hint().map(str::to_owned), kind(error)),
            Self::Usage { what, hint } => ("UsageError", what.clone(), hint.clone(), "Usage".to_owned()),
            Self::Python(error) => ("Error", error.to_string(), None, "Python".to_owned()),
        }
    }

    /// Lines that follow the message: what exists, what differs.
    fn details(&self) -> Vec<String> {
        match self {
            Self::Trajectory(error) => error.details(),
            Self::Checkpoint(error) => error.details(),
            Self::Study(error) => error.details(),
            _ => Vec::new(),
        }
    }

    /// The file, folder or checkpoint that it is about.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Checkpoint(error) => error.path(),
            Self::Trajectory(error) => error.path(),
            Self::Storage(error) => error.path(),
            Self::Study(thalweg_study::Error::Recipe { path, .. }) => Some(path),
            _ => None,
        }
    }

    fn to_exception(&self, py: Python<'_>) -> PyResult<PyErr> {
        let (class, what, hint, kind) = self.parts();
        let facts = PyDict::new(py);
        if let Some(path) = self.path() {
            facts.set_item("path", path)?;
        }
        match self {
            Self::Merge(error) => facts_of_merge(error, &facts)?,
            Self::Trajectory(error) => facts_of_trajectory(error, &facts)?,
            _ => {}
        }
        let class = py.import("thalweg._errors")?.getattr(class)?;
        let hint = hint.as_deref().map(as_keywords);
        let exception = class.call1((as_keywords(&what), hint, kind, self.details(), facts))?;
        Ok(PyErr::from_value(exception))
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Python(error) => error,
            failure => Python::attach(|py| failure.to_exception(py).unwrap_or_else(|error| error)),
        }
    }
}

/// The facts of a merge's error that a program can act on.
fn facts_of_merge(error: &thalweg_merge::Error, facts: &Bound<'_, PyDict>) -> PyResult<()> {
    use thalweg_merge::Error;
    let path = |path: &PathBuf| facts.set_item("path", path);
    match error {
        Error::NotAligned { differences, .. } => {
            let lines: Vec<String> = differences.iter().map(|one| as_keywords(&one.to_string())).collect();
            facts.set_item("differences", lines)
        }
        Error::NonFinite { tensor, path: source, element_idx, .. } => {
            facts.set_item("tensor", tensor)?;
            facts.set_item("element", element_idx)?;
            path(source)
        }
        Error::NonFloatDiffers { tensor, dtype, .. } => {
            facts.set_item("tensor", tensor)?;
            facts.set_item("dtype", dtype.name())
        }
        Error::Overflow { tensor, element_idx, value, dtype } => {
            facts.set_item("tensor", tensor)?;
            facts.set_item("element", element_idx)?;
            facts.set_item("value", value)?;
            facts.set_item("dtype", dtype.name())
        }
        Error::MemoryTooSmall { limit_bytes, least_bytes, n_threads } => {
            facts.set_item("limit_bytes", limit_bytes)?;
            facts.set_item("least_bytes", least_bytes)?;
            facts.set_item("n_threads", n_threads.get())
        }
        Error::DiskFull { path: output, needed_bytes, free_bytes } => {
            facts.set_item("needed_bytes", needed_bytes)?;
            facts.set_item("free_bytes", free_bytes)?;
            path(output)
        }
        Error::OutputExists { path: output, .. } | Error::ForeignStage { path: output, .. } => path(output),
        Error::SourcesChanged { changes } => facts.set_item("changes", changes),
        _ => Ok(()),
    }
}

/// The facts of a trajectory's error that a program can act on.
fn facts_of_trajectory(error: &thalweg_trajectory::Error, facts: &Bound<'_, PyDict>) -> PyResult<()> {
    use thalweg_trajectory::Error;
    match error {
        Error::TooFew { wanted, found, .. } => {
            facts.set_item("wanted", wanted)?;
            facts.set_item("found", found)
        }
        Error::DuplicateStep { step, names } => {
            facts.set_item("step", step.0)?;
            facts.set_item("names", names)
        }
        _ => Ok(()),
    }
}

/// The first name in what `derive(Debug)` prints: the variant.
fn variant_name(debug: &str) -> String {
    debug.chars().take_while(|c| c.is_alphanumeric()).collect()
}
