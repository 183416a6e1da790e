//! Plans, as Python sees them: what is merged, with which coefficients.

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_merge::engine::open_sources;
use thalweg_merge::plan::{MergePlan, PLAN_FILE, PlanSource};
use thalweg_merge::seen::see_sources;
use thalweg_storage::guard::check_document;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::counted;

use crate::arguments::{RunArgument, SourcesArgument};
use crate::error::{Failure, Result};
use crate::options::{RenameArgument, merge_request, read_options};
use crate::session::{Session, Watch, run_watched};

/// The output that a plan names by default, as that of `thalweg plan` does.
const DEFAULT_OUTPUT: &str = "merged";
/// The largest plan file that is read.
const MAX_PLAN_BYTES: u64 = 256 << 20;

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

    fn __fspath__(&self) -> OsString {
        self.source.path.clone().into()
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
        let session = Session::for_headers()?;
        run_watched(py, None, &watch, || {
            let bytes = session.storage.read_file(&path, MAX_PLAN_BYTES)?;
            let text = thalweg_storage::text_of(bytes)
                .map_err(|_| Failure::usage(format!("`{}` is not a plan: it is not UTF-8 text", path.display())))?;
            Self::from_json(&text)
        })
    }

    /// Writes the plan to a file, which only replaces a plan, with the sources as they are now: a merge of it refuses
    /// sources that changed since. `thalweg merge --plan FILE` executes it too.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Result<()> {
        let watch = Watch::default();
        let session = Session::for_headers()?;
        run_watched(py, None, &watch, || {
            check_document(&*session.storage, &path, PLAN_FILE)?;
            let mut plan = self.plan.clone();
            plan.seen_sources = see_sources(&open_sources(&plan, &session.context(&watch))?, &*session.storage)?;
            publish_file(&*session.storage, &path, plan.to_json()?.as_bytes(), PLAN_FILE)?;
            Ok(())
        })
    }

    /// The plan as JSON.
    fn to_json(&self) -> Result<String> {
        Ok(self.plan.to_json()?)
    }

    /// The scheme, as requested.
    #[getter]
    fn scheme(&self) -> Option<String> {
        self.plan.outputs.first().map(|output| output.scheme.clone())
    }

    /// The folder that `Merge.write` writes to if no other is named.
    #[getter]
    fn out(&self) -> Option<PathBuf> {
        self.plan.outputs.first().map(|output| output.path.clone())
    }

    /// The sources of the first output, oldest first.
    #[getter]
    fn sources(&self) -> Vec<PyPlanSource> {
        let sources = self.plan.outputs.iter().take(1).flat_map(|output| {
            output.sources.iter().map(|source| PyPlanSource { source: source.clone(), divisor: output.divisor.clone() })
        });
        sources.collect()
    }

    /// The checkpoint or folder whose config and tokenizer are copied to the output.
    #[getter]
    fn side_files_from(&self) -> Option<PathBuf> {
        let output = self.plan.outputs.first()?;
        let policy = &output.policy;
        let source = || output.sources.get(policy.side_files_from).map(|source| source.path.clone());
        policy.hf_assets.clone().or_else(source)
    }

    /// The digest of the plan: equal plans over equal sources give equal bytes.
    #[getter]
    fn digest(&self) -> Result<Option<String>> {
        Ok(self.plan.outputs.first().map(|output| output.digest()).transpose()?)
    }

    /// Notes from making the plan.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn __repr__(&self) -> String {
        let outputs = self.plan.outputs.iter().map(|output| {
            let steps: Vec<u64> = output.sources.iter().filter_map(|source| source.step).collect();
            let span = match (steps.first(), steps.last()) {
                (Some(first), Some(last)) if first == last => format!(", step {first}"),
                (Some(first), Some(last)) => format!(", steps {first} to {last}"),
                _ => String::new(),
            };
            format!("{} of {}{span}", output.scheme, counted(output.sources.len(), "checkpoint"))
        });
        format!("Plan({})", outputs.collect::<Vec<_>>().join("; "))
    }
}

impl PyPlan {
    pub(crate) fn new(plan: MergePlan, notes: Vec<String>) -> Self {
        Self { plan, notes }
    }
}

/// The plan of a merge. Reads names and headers only.
///
/// Merges checkpoints of a run, `plan(run, last=10)`, or given ones, `plan(sources=[(path, "3/2"), (path, "-1/2")])`.
/// The keywords are the options of `thalweg plan`; numbers may be text such as `"8B"`.
#[pyfunction]
#[pyo3(signature = (run=None, *, sources=None, out=None, key=None, params=None, rename=None, **options))]
#[pyo3(
    text_signature = "(run=None, *, sources=None, out=None, key=None, params=None, rename=None, last=None, count=None, \
    interval_steps=None, interval_tokens=None, duration_steps=None, duration_tokens=None, end_step=None, \
    end_tokens=None, from_step=None, to_step=None, every=None, steps=None, tokens_per_step=None, log=None, \
    log_columns=None, log_every=None, stable=None, checkpoint_pattern=None, scheme=None, alpha=None, \
    floor=None, sigma_rel=None, coefficients=None, from_averages=None, order=None, normalize=None, \
    allow_sum=None, rule=None, base=None, density=None, lambda_=None, seed=None, gamma=None, epsilon=None, \
    convention=None, divide=None, rescale=None, dtype=None, out_shard_size=None, drop=None, code=None, digest=None, no_model_card=None, \
    to_huggingface=None, hf_assets=None, format=None, optimizer=None, non_float=None, router=None, \
    allow_config=None, take_newest=None, allow_non_finite=None, side_files_from=None)"
)]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn plan(
    py: Python<'_>,
    run: Option<RunArgument>,
    sources: Option<SourcesArgument>,
    out: Option<PathBuf>,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PyPlan> {
    let request = merge_request(run.map(|run| run.0), sources.map(|sources| sources.0), options)?;
    let watch = Watch::default();
    let session = Session::for_headers()?;
    let plan = run_watched(py, None, &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        let out = out.unwrap_or_else(|| DEFAULT_OUTPUT.into());
        Ok(session.resolver(&watch, reading).merge_plan(&request, &out)?)
    })?;
    Ok(PyPlan::new(plan, watch.notes()))
}
