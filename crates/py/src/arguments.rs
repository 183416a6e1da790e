//! Arguments that are easily given in another form: the error says which form is taken and what to write.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::error::{Failure, Result};
use crate::options::SourceArgument;

/// The folder of a run.
pub(crate) struct RunArgument(pub(crate) PathBuf);

impl FromPyObject<'_, '_> for RunArgument {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        given.extract().map(Self).or_else(|error: PyErr| {
            if !error.is_instance_of::<PyTypeError>(given.py()) {
                return Err(error);
            }
            let kind = kind_of(given)?;
            let hint = match &*kind {
                "`list`" | "`tuple`" => "name checkpoints with `sources=[...]`, which `plan` and `explain` take",
                "`Plan`" => "a plan is merged by `thalweg.merge(plan)`",
                _ => "give its path as text or `pathlib.Path`, or what `open_run` returned",
            };
            Err(Failure::usage_with_hint(format!("a run is one folder, not {kind}"), hint).into())
        })
    }
}

/// Checkpoints, each alone or with its coefficient.
pub(crate) struct SourcesArgument(pub(crate) Vec<SourceArgument>);

impl FromPyObject<'_, '_> for SourcesArgument {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        const FORM: &str =
            "write `sources=[PATH, PATH]`, or pairs with coefficients: `sources=[(PATH, 2), (PATH, -1)]`";
        let refuse = |what: String| PyErr::from(Failure::usage_with_hint(what, FORM));
        let is_one = given.is_instance_of::<PyString>() || given.is_instance_of::<PyBytes>();
        if is_one || given.is_instance_of::<PyDict>() {
            return Err(refuse(format!("`sources` is a list of checkpoints, not {}", kind_of(given)?)));
        }
        let Ok(items) = given.try_iter() else {
            return Err(refuse(format!("`sources` is a list of checkpoints, not {}", kind_of(given)?)));
        };
        let mut sources = Vec::new();
        for (i, item) in items.enumerate() {
            let item = item?;
            let Ok(source) = item.extract() else {
                let kind = kind_of(item.as_borrowed())?;
                return Err(refuse(format!("`sources[{i}]` is a path, or a path and its coefficient, not {kind}")));
            };
            sources.push(source);
        }
        Ok(Self(sources))
    }
}

impl SourcesArgument {
    /// The paths alone, for what has no use for coefficients.
    pub(crate) fn paths(self) -> Result<Vec<PathBuf>> {
        let path = |source| match source {
            SourceArgument::Path(path) => Ok(path),
            SourceArgument::Weighed(path, _) => {
                let what = format!("`{}` has a coefficient, which has no effect here", path.display());
                Err(Failure::usage_with_hint(what, "give the paths alone: `sources=[PATH, PATH]`"))
            }
        };
        self.0.into_iter().map(path).collect()
    }
}

/// Several values, or one alone.
pub(crate) struct ListArgument<T>(pub(crate) Vec<T>);

impl<'a, 'py, T: FromPyObjectOwned<'py>> FromPyObject<'a, 'py> for ListArgument<T> {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match given.extract::<T>() {
            Ok(one) => Ok(Self(vec![one])),
            Err(_) => given.extract().map(Self),
        }
    }
}

/// The name of its type, in back-ticks.
pub(crate) fn kind_of(given: Borrowed<'_, '_, PyAny>) -> PyResult<String> {
    Ok(format!("`{}`", given.get_type().name()?))
}
