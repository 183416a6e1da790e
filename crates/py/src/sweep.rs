//! Sweeps, as Python sees them: the windows of a grid, and many merges in one reading of their sources.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::in_memory::OpenMerge;
use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_study::request::{MergeRequest, OutputOptions, RunOptions};
use thalweg_study::sweep::{RawChoice, Sweep, SweepRequest};
use thalweg_tensor::{TensorCatalog, TensorSink, parse_count};

use crate::checkpoint::{PyTensorInfo, names, tensor_info};
use crate::error::{Failure, Result};
use crate::memory::MemorySink;
use crate::merge::{PyTarget, send_to};
use crate::options::{RenameArgument, merge_request, read_options};
use crate::plan::PyPlan;
use crate::session::{Session, SizeArgument, Watch, run_watched};

/// What is held of merges that are made together, where nothing else is asked for.
const DEFAULT_HOLD_BYTES: u64 = 8_000_000_000;
/// The folder that the plans of trials name, as `thalweg sweep -o sweep` would.
const DEFAULT_FOLDER: &str = "sweep";

/// One merge of a sweep, or one raw checkpoint.
#[pyclass(frozen, module = "thalweg", name = "Trial")]
#[derive(Debug, Clone)]
pub(crate) struct PyTrial {
    /// Unique name, such as `step0000080-n3-sma`.
    #[pyo3(get)]
    name: String,
    /// Whether it is a raw checkpoint: a window of one.
    #[pyo3(get)]
    is_raw: bool,
    output: OutputPlan,
}

#[pymethods]
impl PyTrial {
    /// The plan that writes it.
    #[getter]
    fn plan(&self) -> Result<PyPlan> {
        Ok(PyPlan::new(MergePlan::new(vec![self.output.clone()])?, Vec::new()))
    }

    fn __repr__(&self) -> String {
        format!("Trial({:?})", self.name)
    }
}

/// Many windows of one run, and the raw checkpoints beside them.
#[pyclass(frozen, module = "thalweg", name = "Sweep")]
#[derive(Debug)]
pub(crate) struct PySweep {
    trials: Vec<PyTrial>,
    session: Session,
    catalog: Arc<TensorCatalog>,
    notes: Vec<String>,
    progress: Option<Py<PyAny>>,
}

#[pymethods]
impl PySweep {
    /// What it merges: raw checkpoints by step, then the merges in the order asked for.
    #[getter]
    fn plans(&self) -> Vec<PyTrial> {
        self.trials.clone()
    }

    /// What there was to say about the run and its windows.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// The names of the merged tensors, sorted.
    fn keys(&self) -> Vec<String> {
        names(&self.catalog)
    }

    /// Element type and shape of a merged tensor, without merging it.
    fn info(&self, name: &str) -> Result<PyTensorInfo> {
        tensor_info(&self.catalog, name)
    }

    /// Fills a module or state dict with each trial in turn, and yields the trial when it is there.
    ///
    /// Trials that fit into `hold` together are merged in one reading of their sources.
    #[pyo3(signature = (module_or_state_dict, *, strict=true, hold=None))]
    fn trials<'py>(
        slf: &Bound<'py, Self>,
        module_or_state_dict: &Bound<'py, PyAny>,
        strict: bool,
        hold: Option<SizeArgument>,
    ) -> Result<Bound<'py, PyAny>> {
        let hold = hold.map_or(Ok(DEFAULT_HOLD_BYTES), |hold| hold.bytes("hold"))?;
        let trials = slf.py().import("thalweg._load")?.getattr("trials")?;
        Ok(trials.call1((slf, module_or_state_dict, strict, hold))?)
    }

    /// Merges trials, in one reading, to the addresses of each: as `Merge._fill`.
    fn _fill(&self, py: Python<'_>, trials: Vec<(usize, Vec<PyTarget>)>) -> Result<()> {
        let (mut outputs, mut sinks) = (Vec::new(), Vec::new());
        for (trial_idx, targets) in trials {
            let trial = self.trials.get(trial_idx).ok_or_else(|| Failure::usage("there is no such trial"))?;
            let mut sink = MemorySink::new(&self.catalog);
            send_to(&mut sink, &self.catalog, targets)?;
            outputs.push(trial.output.of_model_alone());
            sinks.push(sink);
        }
        let plan = MergePlan::new(outputs)?;
        let watch = Watch::default();
        run_watched(py, self.progress.as_ref().map(|progress| progress.bind(py)), &watch, || {
            let refs: Vec<&dyn TensorSink> = sinks.iter().map(|sink| sink as &dyn TensorSink).collect();
            let run = self.session.context(&watch);
            let wanted = |t| sinks.iter().any(|sink| sink.wants(t));
            OpenMerge::open(&plan, &run)?.merge_tensors(&wanted, &refs, &run)?;
            Ok(())
        })
    }

    fn __len__(&self) -> usize {
        self.trials.len()
    }

    fn __repr__(&self) -> String {
        let n_raws = self.trials.iter().filter(|trial| trial.is_raw).count();
        format!("Sweep({} merges, {n_raws} raw checkpoints)", self.trials.len() - n_raws)
    }
}

/// The merges of a grid of windows and schemes of one run, for scoring each in one resident model.
///
/// `counts`, `schemes`, `ends`, `interval_steps`, `interval_tokens` and `raws` are the options of `thalweg sweep`; the
/// other keywords are those of `plan` about the run and the output.
#[pyfunction]
#[pyo3(signature = (
    run, counts, *, schemes=None, ends=None, interval_steps=None, interval_tokens=None, raws=None, key=None,
    params=None, rename=None, threads=None, memory=None, progress=None, **options
))]
#[pyo3(
    text_signature = "(run, counts, *, schemes=None, ends=None, interval_steps=None, interval_tokens=None, raws=None, \
    key=None, params=None, rename=None, threads=None, memory=None, progress=None, tokens_per_step=None, \
    log=None, log_columns=None, log_every=None, stable=None, checkpoint_pattern=None, dtype=None, \
    out_shard_size=None, drop=None, code=None, digest=None, no_model_card=None, to_huggingface=None, \
    hf_assets=None, format=None, optimizer=None, non_float=None, router=None, allow_config=None, \
    take_newest=None, allow_non_finite=None, side_files_from=None)"
)]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn sweep(
    py: Python<'_>,
    run: PathBuf,
    counts: Vec<usize>,
    schemes: Option<Vec<String>>,
    ends: Option<Vec<Bound<'_, PyAny>>>,
    interval_steps: Option<Vec<Bound<'_, PyAny>>>,
    interval_tokens: Option<Vec<Bound<'_, PyAny>>>,
    raws: Option<&str>,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
    threads: Option<usize>,
    memory: Option<SizeArgument>,
    progress: Option<Py<PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PySweep> {
    let (about, output) = about_and_output(options)?;
    let request = SweepRequest {
        counts,
        interval_steps: counted("interval_steps", interval_steps)?,
        interval_tokens: counted("interval_tokens", interval_tokens)?,
        schemes: schemes.unwrap_or_else(|| vec!["sma".to_owned()]),
        ends: texts(ends)?.unwrap_or_else(|| vec!["newest".to_owned()]),
        raws: raw_choice(raws)?,
        output,
        folder: DEFAULT_FOLDER.into(),
    };
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
    let session = Session::new(threads, memory.bytes("memory")?)?;
    let watch = Watch::default();
    let (trials, catalog) = run_watched(py, None, &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        let resolver = session.resolver(&watch, reading);
        let found = resolver.sweep(&request, &resolver.open_run(&run, &about)?)?;
        let trials = trials_of(found);
        let Some(first) = trials.first() else { return Err(Failure::usage("the sweep has no windows")) };
        let plan = MergePlan::new(vec![first.output.of_model_alone()])?;
        let open = OpenMerge::open(&plan, &session.context(&watch))?;
        let catalog = open.catalogs().first().map(Arc::clone).unwrap_or_default();
        Ok((trials, catalog))
    })?;
    Ok(PySweep { trials, session, catalog, notes: watch.notes(), progress })
}

fn trials_of(found: Sweep) -> Vec<PyTrial> {
    let raws = found.raws.into_iter().map(|trial| (trial, true));
    let all = raws.chain(found.trials.into_iter().map(|trial| (trial, false)));
    all.map(|(trial, is_raw)| PyTrial { name: trial.name, is_raw, output: trial.output }).collect()
}

/// What is said about the run and the outputs; options about one window or one scheme have no effect on a grid.
fn about_and_output(options: Option<&Bound<'_, PyDict>>) -> Result<(RunOptions, OutputOptions)> {
    let MergeRequest { selection, run, scheme, output, .. } = merge_request(None, None, options)?;
    let nothing = MergeRequest::default();
    match selection == nothing.selection && scheme == nothing.scheme {
        true => Ok((run, output)),
        false => Err(Failure::usage_with_hint(
            "an option about one window or one scheme has no effect on a sweep",
            "say which windows with `counts`, `ends`, `interval_steps` or `interval_tokens`, and how with `schemes`",
        )),
    }
}

fn raw_choice(raws: Option<&str>) -> Result<RawChoice> {
    match raws {
        None | Some("newest") => Ok(RawChoice::Newest),
        Some("window") => Ok(RawChoice::Window),
        Some(other) => Err(Failure::usage_with_hint(
            format!("`raws={other:?}` is not known"),
            "write `\"newest\"` or `\"window\"`",
        )),
    }
}

fn texts(values: Option<Vec<Bound<'_, PyAny>>>) -> Result<Option<Vec<String>>> {
    let text = |value: Bound<'_, PyAny>| Ok(value.str()?.to_string());
    values.map(|values| values.into_iter().map(text).collect()).transpose()
}

fn counted(keyword: &str, values: Option<Vec<Bound<'_, PyAny>>>) -> Result<Vec<u64>> {
    let refuse = |text: &str, why| Failure::usage(format!("`{keyword}`: `{text}`: {why}, such as 2000, 2K or 8B"));
    let values = texts(values)?.unwrap_or_default();
    values.iter().map(|text| parse_count(text).map_err(|why| refuse(text, why))).collect()
}
