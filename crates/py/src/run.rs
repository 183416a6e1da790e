//! Runs and windows of them, as Python sees them.

use std::ffi::OsString;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_checkpoint::ReadOptions;
use thalweg_merge::plan::SourceRef;
use thalweg_study::request::MergeRequest;
use thalweg_tensor::counted;
use thalweg_trajectory::{Trajectory, TrajectoryCheckpoint};

use crate::arguments::RunArgument;
use crate::error::{Failure, Result};
use crate::options::{RenameArgument, merge_request, read_options};
use crate::session::{Session, Watch, run_watched};

/// A checkpoint of a run. It can be given wherever a path can.
#[pyclass(frozen, module = "thalweg", name = "RunCheckpoint")]
#[derive(Debug, Clone)]
pub(crate) struct PyRunCheckpoint {
    /// Its path.
    #[pyo3(get)]
    path: PathBuf,
    /// Optimizer steps done, if known.
    #[pyo3(get)]
    step: Option<u64>,
    /// Training tokens consumed, if known.
    #[pyo3(get)]
    tokens: Option<u64>,
    /// The phase of the run, if known.
    #[pyo3(get)]
    phase: Option<&'static str>,
    /// Why it cannot be used; `None` if it can.
    #[pyo3(get)]
    fault: Option<String>,
}

#[pymethods]
impl PyRunCheckpoint {
    fn __fspath__(&self) -> OsString {
        self.path.clone().into()
    }

    fn __repr__(&self) -> String {
        let shown = |number: Option<u64>| number.map_or_else(|| "None".to_owned(), |number| number.to_string());
        let fault = self.fault.as_ref().map_or_else(String::new, |fault| format!(", fault={fault:?}"));
        format!("RunCheckpoint({:?}, step={}, tokens={}{fault})", self.path, shown(self.step), shown(self.tokens))
    }
}

impl PyRunCheckpoint {
    pub(crate) fn of_run(checkpoint: &TrajectoryCheckpoint) -> Self {
        Self {
            path: checkpoint.path.clone(),
            step: Some(checkpoint.step.0),
            tokens: checkpoint.tokens.map(|tokens| tokens.0),
            phase: checkpoint.phase.map(|phase| phase.name()),
            fault: checkpoint.state.reason(),
        }
    }

    /// A checkpoint that a selection chose, with what the run knows of it.
    fn selected(source: SourceRef, trajectory: &Trajectory) -> Self {
        match trajectory.checkpoints().iter().find(|checkpoint| checkpoint.path == source.path) {
            Some(checkpoint) => Self::of_run(checkpoint),
            None => Self::named(source),
        }
    }

    /// A checkpoint of which no run says more.
    pub(crate) fn named(source: SourceRef) -> Self {
        Self { path: source.path, step: source.step, tokens: source.tokens, phase: None, fault: None }
    }
}

/// A run: its checkpoints by step, finished or not.
#[pyclass(frozen, module = "thalweg", name = "Run")]
#[derive(Debug)]
pub(crate) struct PyRun {
    trajectory: Trajectory,
    notes: Vec<String>,
}

#[pymethods]
impl PyRun {
    /// Its folder.
    #[getter]
    fn path(&self) -> PathBuf {
        self.trajectory.path().to_owned()
    }

    /// Its checkpoints by step, those that cannot be used too.
    #[getter]
    fn checkpoints(&self) -> Vec<PyRunCheckpoint> {
        self.trajectory.checkpoints().iter().map(PyRunCheckpoint::of_run).collect()
    }

    /// Notes about the run.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// The window of the run that the options ask for, oldest first: those of a selection, such as `last=10`.
    #[pyo3(signature = (**options))]
    #[pyo3(text_signature = "($self, *, last=None, count=None, interval_steps=None, interval_tokens=None, \
        duration_steps=None, duration_tokens=None, end_step=None, end_tokens=None, from_step=None, to_step=None, \
        every=None, steps=None)")]
    fn select(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> Result<Vec<PyRunCheckpoint>> {
        let request = merge_request(None, None, options)?;
        refuse_others(&request, &MergeRequest { selection: request.selection.clone(), ..MergeRequest::default() })?;
        let watch = Watch::default();
        let session = Session::for_headers()?;
        let sources = run_watched(py, None, &watch, || {
            let resolver = session.resolver(&watch, ReadOptions::default());
            Ok(resolver.select(&self.trajectory, &request.selection)?)
        })?;
        Ok(sources.into_iter().map(|source| PyRunCheckpoint::selected(source, &self.trajectory)).collect())
    }

    fn __fspath__(&self) -> OsString {
        self.path().into()
    }

    fn __len__(&self) -> usize {
        self.trajectory.checkpoints().len()
    }

    fn __repr__(&self) -> String {
        let (checkpoints, n_finished) = (counted(self.__len__(), "checkpoint"), self.trajectory.finished().count());
        format!("Run({:?}, {checkpoints}, {n_finished} finished)", self.trajectory.path())
    }
}

/// Refuses options that have no effect here: what is asked for must be `expected`, which has only those that have one.
pub(crate) fn refuse_others(request: &MergeRequest, expected: &MergeRequest) -> Result<()> {
    match request == expected {
        true => Ok(()),
        false => Err(Failure::usage_with_hint(
            "an option about coefficients or output has no effect here",
            "give it to `plan`, together with the run and the selection",
        )),
    }
}

/// Opens a run: a folder of checkpoints, with its log if there is one. The keywords say what is known about it.
#[pyfunction]
#[pyo3(signature = (path, *, key=None, params=None, rename=None, **options))]
#[pyo3(text_signature = "(path, *, key=None, params=None, rename=None, tokens_per_step=None, log=None, \
    log_columns=None, log_every=None, stable=None, checkpoint_pattern=None)")]
pub(crate) fn open_run(
    py: Python<'_>,
    path: RunArgument,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PyRun> {
    let request = merge_request(None, None, options)?;
    refuse_others(&request, &MergeRequest { run: request.run.clone(), ..MergeRequest::default() })?;
    let watch = Watch::default();
    let session = Session::for_headers()?;
    let trajectory = run_watched(py, None, &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        Ok(session.resolver(&watch, reading).open_run(&path.0, &request.run)?)
    })?;
    Ok(PyRun { trajectory, notes: watch.notes() })
}

/// The checkpoints that a merge with the same options would take, oldest first: `select(run, last=10)`.
#[pyfunction]
#[pyo3(signature = (run, **options))]
#[pyo3(text_signature = "(run, *, last=None, count=None, interval_steps=None, interval_tokens=None, \
    duration_steps=None, duration_tokens=None, end_step=None, end_tokens=None, from_step=None, to_step=None, \
    every=None, steps=None, tokens_per_step=None, log=None, log_columns=None, log_every=None, stable=None, \
    checkpoint_pattern=None)")]
pub(crate) fn select(
    py: Python<'_>,
    run: RunArgument,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<Vec<PyRunCheckpoint>> {
    let request = merge_request(None, None, options)?;
    let (selection, about) = (request.selection.clone(), request.run.clone());
    refuse_others(&request, &MergeRequest { selection, run: about, ..MergeRequest::default() })?;
    let watch = Watch::default();
    let session = Session::for_headers()?;
    let (trajectory, sources) = run_watched(py, None, &watch, || {
        let resolver = session.resolver(&watch, ReadOptions::default());
        let trajectory = resolver.open_run(&run.0, &request.run)?;
        let sources = resolver.select(&trajectory, &request.selection)?;
        Ok((trajectory, sources))
    })?;
    Ok(sources.into_iter().map(|source| PyRunCheckpoint::selected(source, &trajectory)).collect())
}
