//! Sweeps, as Python sees them: the windows of a grid, and many merges in one reading of their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::engine::ExecuteOptions;
use thalweg_merge::in_memory::OpenMerge;
use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_study::record::StudyRecord;
use thalweg_study::recorded::RecordedScores;
use thalweg_study::request::{MergeRequest, OutputOptions, RunOptions};
use thalweg_study::sweep::{Keep, RawChoice, Sweep, SweepOptions, SweepRequest, SweepTrial, run_sweep};
use thalweg_study::write_study::PAGE_NAME;
use thalweg_tensor::{TensorCatalog, TensorSink, counted};
use thalweg_trajectory::Trajectory;

use crate::arguments::{ListArgument, RunArgument};
use crate::checkpoint::{PyTensorInfo, names, tensor_info};
use crate::error::{Failure, Result};
use crate::memory::MemorySink;
use crate::merge::{PyTarget, send_to};
use crate::options::{RenameArgument, merge_request, read_options, texts, whole_numbers};
use crate::plan::PyPlan;
use crate::scores::parse_scores;
use crate::session::{Session, SizeArgument, Watch, run_watched};

/// What is held of merges that are made together, where nothing else is asked for.
const DEFAULT_HOLD_BYTES: u64 = 8_000_000_000;
/// Sources that are read no faster come from a disk or a network, not from memory.
const SLOW_BYTES_PER_SECOND: f64 = 5e8;
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
    /// Those of all trials of the sweep.
    records: Arc<Mutex<RecordedScores>>,
}

#[pymethods]
impl PyTrial {
    /// The plan that writes it.
    #[getter]
    fn plan(&self) -> Result<PyPlan> {
        Ok(PyPlan::new(MergePlan::new(vec![self.output.clone()])?, Vec::new()))
    }

    /// Records what the trial scored, instead of what was recorded for it before: a number, a dict of tasks, a list of
    /// rows, or the results of lm-evaluation-harness.
    ///
    /// `higher_is_better` says it for all tasks, or as a dict for each. Known measures, such as `acc` and `loss`, need
    /// none.
    #[pyo3(signature = (scores, *, higher_is_better=None))]
    fn record(
        &self,
        py: Python<'_>,
        scores: &Bound<'_, PyAny>,
        higher_is_better: Option<&Bound<'_, PyAny>>,
    ) -> Result<()> {
        let scores = parse_scores(py, scores, higher_is_better)?;
        self.records.lock().unwrap_or_else(PoisonError::into_inner).record(&self.name, scores);
        Ok(())
    }

    /// What was recorded, by task and measure; empty before.
    #[getter]
    fn scores(&self) -> BTreeMap<String, f64> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let scores = records.find(&self.name).map(|scores| scores.tasks.iter()).into_iter().flatten();
        scores.map(|score| (format!("{}/{}", score.task, score.measure), score.value)).collect()
    }

    fn __repr__(&self) -> String {
        format!("Trial({:?})", self.name)
    }
}

/// A study that was written: what was found in a run, and the page that shows it.
#[pyclass(frozen, module = "thalweg", name = "Study")]
#[derive(Debug)]
pub(crate) struct PyStudy {
    /// Its folder.
    #[pyo3(get)]
    path: PathBuf,
    /// The page.
    #[pyo3(get)]
    page: PathBuf,
    /// The name of the merge that is best; `None` if none was chosen.
    #[pyo3(get)]
    best: Option<String>,
    json: String,
}

#[pymethods]
impl PyStudy {
    /// The record as JSON: what `study.json` holds.
    fn to_json(&self) -> String {
        self.json.clone()
    }

    fn __repr__(&self) -> String {
        format!(
            "Study({:?}, best={})",
            self.path,
            self.best.as_ref().map_or("None".to_owned(), |best| format!("{best:?}"))
        )
    }
}

impl PyStudy {
    pub(crate) fn new(path: PathBuf, record: &StudyRecord) -> Result<Self> {
        let best = record.choice.as_ref().map(|choice| choice.trial.clone());
        Ok(Self { page: path.join(PAGE_NAME), best, json: record.to_json()?, path })
    }
}

/// Many windows of one run, and the raw checkpoints beside them.
#[pyclass(frozen, module = "thalweg", name = "Sweep")]
#[derive(Debug)]
pub(crate) struct PySweep {
    trials: Vec<PyTrial>,
    found: Sweep,
    trajectory: Trajectory,
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

    /// Notes about the run and its windows.
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

    /// The best merge by the recorded scores; `by` is a task or `task/measure`, the first one if left out.
    #[pyo3(signature = (by=None))]
    fn best(&self, by: Option<&str>) -> Result<PyTrial> {
        let choice = self.records().choose(&self.found, by)?;
        let best = self.trials.iter().find(|trial| trial.name == choice.trial);
        best.cloned().ok_or_else(|| Failure::usage(format!("there is no trial `{}`", choice.trial)))
    }

    /// Writes the recorded scores as a study: `study.json`, `study.csv` and `report.html`, as `thalweg sweep` does.
    ///
    /// The trials that have scores are in it. `by` decides which merge is best, as for `best`; `keep` says which merges
    /// are written beside it: `"best"`, `"all"` or `"none"`.
    #[pyo3(signature = (folder, *, by=None, keep="best", title=None))]
    fn write_study(
        &self,
        py: Python<'_>,
        folder: PathBuf,
        by: Option<String>,
        keep: &str,
        title: Option<String>,
    ) -> Result<PyStudy> {
        let keep = keep_choice(keep)?;
        let watch = Watch::default();
        let mut records = self.records().clone();
        run_watched(py, self.progress.as_ref().map(|progress| progress.bind(py)), &watch, || {
            let resolver = self.session.resolver(&watch, ReadOptions::default());
            let folder = resolver.output_folder(&folder)?;
            let mut part = records.scored_part(&self.found)?;
            part.trials.iter_mut().for_each(|trial| trial.output.path = folder.join(&trial.name));
            let options = SweepOptions {
                title: title.unwrap_or_else(|| format!("Sweep of {}", self.trajectory.path().display())),
                command: "thalweg.Sweep.write_study (Python)".to_owned(),
                by,
                keep,
                execute: ExecuteOptions::default(),
                folder: folder.clone(),
                on_score: &mut |_, _| {},
            };
            let run = self.session.context(&watch);
            let outcome = run_sweep(&part, &self.trajectory, &mut records, options, &run)?;
            PyStudy::new(folder, &outcome.record)
        })
    }

    /// How many checkpoints the trials read between them.
    #[getter]
    fn _n_sources(&self) -> usize {
        let sources = self.trials.iter().flat_map(|trial| &trial.output.sources);
        sources.map(|source| &source.path).collect::<BTreeSet<_>>().len()
    }

    /// Merges trials, in one reading, to the addresses of each: as `Merge._fill`. Returns whether it was slow, as it is
    /// where sources come from a disk or a network.
    fn _fill(&self, py: Python<'_>, trials: Vec<(usize, Vec<PyTarget>)>) -> Result<bool> {
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
            let open = OpenMerge::open(&plan, &run)?;
            let started = run.host.elapsed_seconds();
            let bytes_read = open.merge_tensors(&wanted, &refs, &run)?;
            let seconds = run.host.elapsed_seconds() - started;
            Ok(bytes_read as f64 / seconds < SLOW_BYTES_PER_SECOND)
        })
    }

    fn __len__(&self) -> usize {
        self.trials.len()
    }

    fn __repr__(&self) -> String {
        let n_raws = self.trials.iter().filter(|trial| trial.is_raw).count();
        let merges = counted(self.trials.len() - n_raws, "merge");
        format!("Sweep({merges}, {})", counted(n_raws, "raw checkpoint"))
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
    run: RunArgument,
    counts: ListArgument<usize>,
    schemes: Option<ListArgument<String>>,
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
    let newest = SweepRequest::new(counts.0, DEFAULT_FOLDER);
    let request = SweepRequest {
        interval_steps: whole_numbers("interval_steps", interval_steps)?,
        interval_tokens: whole_numbers("interval_tokens", interval_tokens)?,
        schemes: schemes.map_or(newest.schemes, |schemes| schemes.0),
        ends: texts(ends)?.unwrap_or(newest.ends),
        raws: raw_choice(raws)?,
        output,
        ..newest
    };
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
    let session = Session::new(threads, memory.bytes("memory")?)?;
    let watch = Watch::default();
    let (trials, found, trajectory, catalog) = run_watched(py, None, &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        let resolver = session.resolver(&watch, reading);
        let trajectory = resolver.open_run(&run.0, &about)?;
        let found = resolver.sweep(&request, &trajectory)?;
        let trials = trials_of(&found);
        let Some(first) = trials.first() else { return Err(Failure::usage("the sweep has no windows")) };
        let plan = MergePlan::new(vec![first.output.of_model_alone()])?;
        let open = OpenMerge::open(&plan, &session.context(&watch))?;
        let catalog = open.catalogs().first().map(Arc::clone).unwrap_or_default();
        Ok((trials, found, trajectory, catalog))
    })?;
    Ok(PySweep { trials, found, trajectory, session, catalog, notes: watch.notes(), progress })
}

fn trials_of(found: &Sweep) -> Vec<PyTrial> {
    let records = Arc::default();
    let raws = found.raws.iter().map(|trial| (trial, true));
    let all = raws.chain(found.trials.iter().map(|trial| (trial, false)));
    let trial = |(trial, is_raw): (&SweepTrial, bool)| PyTrial {
        name: trial.name.clone(),
        is_raw,
        output: trial.output.clone(),
        records: Arc::clone(&records),
    };
    all.map(trial).collect()
}

impl PySweep {
    fn records(&self) -> RecordedScores {
        let records =
            self.trials.first().map(|trial| trial.records.lock().unwrap_or_else(PoisonError::into_inner).clone());
        records.unwrap_or_default()
    }
}

fn keep_choice(keep: &str) -> Result<Keep> {
    match keep {
        "best" => Ok(Keep::Best),
        "all" => Ok(Keep::All),
        "none" => Ok(Keep::None),
        other => Err(Failure::usage_with_hint(
            format!("`keep={other:?}` is not known"),
            "write `\"best\"`, `\"all\"` or `\"none\"`",
        )),
    }
}

/// What is said about the run and the outputs; options about one window or one scheme have no effect on a grid.
fn about_and_output(options: Option<&Bound<'_, PyDict>>) -> Result<(RunOptions, OutputOptions)> {
    let MergeRequest { selection, run, scheme, output, .. } = merge_request(None, None, options)?;
    let nothing = MergeRequest::default();
    match selection == nothing.selection && scheme == nothing.scheme {
        true => Ok((run, output)),
        false => Err(Failure::usage_with_hint(
            "an option about one window or one scheme has no effect on a sweep",
            "choose windows with `counts`, `ends`, `interval_steps` or `interval_tokens`, and coefficients with `schemes`",
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
