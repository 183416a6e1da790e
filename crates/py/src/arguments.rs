//! Arguments that are easily given in another form: the error says which form is taken and what to write.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyString, PyTuple};

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
            let place = format!("sources[{i}]");
            let form = "a path, or a path and its coefficient";
            sources.push(match item.cast::<PyTuple>() {
                Err(_) => SourceArgument::Path(path_at(&item, (&place, form), refuse)?),
                Ok(pair) if pair.len() == 2 => {
                    let path = path_at(&pair.get_item(0)?, (&format!("{place}[0]"), "a path"), refuse)?;
                    SourceArgument::Weighed(path, pair.get_item(1)?.unbind())
                }
                Ok(other) => {
                    return Err(refuse(format!("`{place}` is {form}, not a `tuple` of length {}", other.len())));
                }
            });
        }
        Ok(Self(sources))
    }
}

/// The path at a place; only what is not a path at all is refused in our words.
fn path_at(
    given: &Bound<'_, PyAny>,
    (place, form): (&str, &str),
    refuse: impl Fn(String) -> PyErr,
) -> PyResult<PathBuf> {
    given.extract().or_else(|error: PyErr| match error.is_instance_of::<PyTypeError>(given.py()) {
        true => Err(refuse(format!("`{place}` is {form}, not {}", kind_of(given.as_borrowed())?))),
        false => Err(error),
    })
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
        match extract_one(&given) {
            Ok(one) => Ok(Self(vec![one])),
            // Of a value alone, the first error says what is wrong with it.
            Err(error) if given.is_instance_of::<PyString>() || given.len().is_err() => Err(error),
            Err(_) => {
                let items: Vec<Bound<'py, PyAny>> = given.extract()?;
                items.iter().map(extract_one).collect::<PyResult<_>>().map(Self)
            }
        }
    }
}

/// One value. `True` is a number in Python, but it is not meant as one.
fn extract_one<'py, T: FromPyObjectOwned<'py>>(given: &Bound<'py, PyAny>) -> PyResult<T> {
    if given.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err("`bool` is given where a number or a text is expected"));
    }
    given.extract::<T>().map_err(Into::into)
}

/// The name of its type, in back-ticks.
pub(crate) fn kind_of(given: Borrowed<'_, '_, PyAny>) -> PyResult<String> {
    Ok(format!("`{}`", given.get_type().name()?))
}
