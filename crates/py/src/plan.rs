//! Plans, as Python sees them: what is merged, with which coefficients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use thalweg_merge::plan::{MergePlan, PLAN_FILE, PlanSource};
use thalweg_storage::Storage;
use thalweg_storage::publish::publish_file;
use thalweg_trajectory::{hub_cache_root, resolve_checkpoint_reference, resolve_reference};

use crate::error::{Failure, Result};
use crate::session::{Session, Watch, run_watched};

/// The largest plan file that is read.
const MAX_PLAN_BYTES: u64 = 256 << 20;

fn cache_root() -> Option<PathBuf> {
    hub_cache_root(&|name| std::env::var_os(name))
}

/// The path of a run or checkpoint that the user names: a path, or a name in the local Hugging Face cache.
pub(crate) fn find_path(storage: &Arc<dyn Storage>, path: &Path) -> Result<PathBuf> {
    Ok(resolve_reference(storage, &path.to_string_lossy(), cache_root().as_deref())?)
}

/// The absolute path of a checkpoint that the user names.
pub(crate) fn find_checkpoint(storage: &Arc<dyn Storage>, path: &Path) -> Result<PathBuf> {
    let found = resolve_checkpoint_reference(storage, &path.to_string_lossy(), cache_root().as_deref())?;
    Ok(storage.canonical_path(&found)?)
}

/// A source of a plan with its coefficient.
#[pyclass(frozen, module = "thalweg", name = "PlanSource")]
#[derive(Debug)]
pub(crate) struct PyPlanSource {
    source: PlanSource,
    divisor: String,
}

#[pymethods]
impl PyPlanSource {
    /// Its path.
    #[getter]
    fn path(&self) -> PathBuf {
        self.source.path.clone()
    }

    /// Optimizer steps done, if known.
    #[getter]
    fn step(&self) -> Option<u64> {
        self.source.step
    }

    /// Training tokens consumed, if known.
    #[getter]
    fn tokens(&self) -> Option<u64> {
        self.source.tokens
    }

    /// What its parameters are multiplied by, exactly: a `fractions.Fraction`.
    #[getter]
    fn coefficient<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = format!("{}/{}", self.source.numerator, self.divisor);
        py.import("fractions")?.getattr("Fraction")?.call1((text,))
    }

    fn __repr__(&self) -> String {
        let step = self.source.step.map_or_else(|| "None".to_owned(), |step| step.to_string());
        format!("PlanSource({:?}, step={step}, coefficient={:.6})", self.source.path, self.source.coefficient)
    }
}

/// A complete description of a merge, before it happens.
#[pyclass(frozen, module = "thalweg", name = "Plan")]
#[derive(Debug)]
pub(crate) struct PyPlan {
    pub(crate) plan: MergePlan,
    notes: Vec<String>,
}

#[pymethods]
impl PyPlan {
    /// Reads a plan from the JSON that `to_json` or `thalweg plan` wrote.
    #[staticmethod]
    fn from_json(text: &str) -> Result<Self> {
        Ok(Self::new(MergePlan::from_json(text)?, Vec::new()))
    }

    /// Reads a plan file.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> Result<Self> {
        let watch = Watch::default();
        let session = Session::new(None, 0)?;
        run_watched(py, None, &watch, || {
            let bytes = session.storage.read_file(&path, MAX_PLAN_BYTES)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| Failure::usage(format!("`{}` is not a plan: it is not UTF-8 text", path.display())))?;
            Self::from_json(&text)
        })
    }

    /// Writes the plan to a file, which only replaces a plan. `thalweg merge --plan FILE` executes it.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Result<()> {
        let watch = Watch::default();
        let session = Session::new(None, 0)?;
        run_watched(py, None, &watch, || {
            thalweg_storage::guard::check_document(&*session.storage, &path, PLAN_FILE)?;
            publish_file(&*session.storage, &path, self.plan.to_json()?.as_bytes(), PLAN_FILE)?;
            Ok(())
        })
    }

    /// The plan as JSON.
    fn to_json(&self) -> Result<String> {
        Ok(self.plan.to_json()?)
    }

    /// The scheme, as it was asked for.
    #[getter]
    fn scheme(&self) -> Vec<String> {
        self.plan.outputs.iter().map(|output| output.scheme.clone()).collect()
    }

    /// The sources of the first output, oldest first.
    #[getter]
    fn sources(&self) -> Vec<PyPlanSource> {
        let sources = self.plan.outputs.iter().take(1).flat_map(|output| {
            output.sources.iter().map(|source| PyPlanSource { source: source.clone(), divisor: output.divisor.clone() })
        });
        sources.collect()
    }

    /// What there was to say while the plan was made.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn __repr__(&self) -> String {
        let outputs = self.plan.outputs.iter().map(|output| {
            let steps: Vec<u64> = output.sources.iter().filter_map(|source| source.step).collect();
            let span = match (steps.first(), steps.last()) {
                (Some(first), Some(last)) => format!(", steps {first} to {last}"),
                _ => String::new(),
            };
            format!("{} of {} checkpoints{span}", output.scheme, output.sources.len())
        });
        format!("Plan({})", outputs.collect::<Vec<_>>().join("; "))
    }
}

impl PyPlan {
    pub(crate) fn new(plan: MergePlan, notes: Vec<String>) -> Self {
        Self { plan, notes }
    }
}
