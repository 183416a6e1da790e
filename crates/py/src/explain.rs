//! The geometry of a trajectory, as Python sees it: how far checkpoints are from each other, and along what they move.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::geometry::Geometry;
use thalweg_merge::plan::SourceRef;
use thalweg_study::explain::{TrajectoryGeometry, geometry_answer, geometry_title, line_answer, measure_geometry};
use thalweg_study::record::StudyRecord;
use thalweg_study::request::{MergeRequest, SourceOrder, choose_checkpoints};
use thalweg_study::write_study::write_study;
use thalweg_tensor::counted;

use crate::arguments::{RunArgument, SourcesArgument};
use crate::error::{Failure, Result};
use crate::options::{RenameArgument, merge_request, read_options};
use crate::run::{PyRunCheckpoint, refuse_others};
use crate::session::{Session, SizeArgument, Watch, run_watched};
use crate::sweep::PyStudy;

/// Distances and directions of n checkpoints, oldest first: of a whole model, a layer, or a class of tensors.
#[pyclass(frozen, module = "thalweg", name = "Geometry", get_all)]
#[derive(Debug, Clone)]
pub(crate) struct PyGeometry {
    /// Euclidean norm of each checkpoint, n values.
    norms: Vec<f64>,
    /// Distances between all pairs of checkpoints, n x n.
    distances: Vec<Vec<f64>>,
    /// Length of the displacement from each checkpoint to the next, n - 1 values.
    displacements: Vec<f64>,
    /// Cosine of each displacement with the next, n - 2 values; `None` where one is zero.
    displacement_cosines: Vec<Option<f64>>,
    /// Coordinates of the checkpoints on the first two principal components.
    plane: Vec<(f64, f64)>,
    /// Share of the variance about the mean that each leading principal component explains.
    component_shares: Vec<f64>,
    /// The same for a random walk of n steps in high dimension.
    random_walk_shares: Vec<f64>,
    /// The same for white noise about a fixed point.
    white_noise_shares: Vec<f64>,
    /// Progress along the first component, from oldest to newest, per interval.
    drift_per_interval: f64,
    /// Intervals by which the plain mean trails the newest checkpoint.
    averaging_lag: f64,
    /// Distance of the plain mean to the newest checkpoint.
    mean_to_newest: f64,
}

#[pymethods]
impl PyGeometry {
    fn __repr__(&self) -> String {
        let (checkpoints, distance) = (counted(self.norms.len(), "checkpoint"), self.mean_to_newest);
        format!("Geometry({checkpoints}, mean_to_newest={distance:.4})")
    }
}

impl From<&Geometry> for PyGeometry {
    fn from(geometry: &Geometry) -> Self {
        let geometry = geometry.clone();
        Self {
            norms: geometry.norms,
            distances: geometry.distances,
            displacements: geometry.displacements,
            displacement_cosines: geometry.displacement_cosines,
            plane: geometry.plane.into_iter().map(Into::into).collect(),
            component_shares: geometry.component_shares,
            random_walk_shares: geometry.random_walk_shares,
            white_noise_shares: geometry.white_noise_shares,
            drift_per_interval: geometry.drift_per_interval,
            averaging_lag: geometry.averaging_lag,
            mean_to_newest: geometry.mean_to_newest,
        }
    }
}

/// The geometry of a trajectory, of the whole model and by groups of tensors.
#[pyclass(frozen, module = "thalweg", name = "TrajectoryGeometry")]
#[derive(Debug)]
pub(crate) struct PyTrajectoryGeometry {
    geometry: TrajectoryGeometry,
    chosen: Vec<SourceRef>,
    run_path: String,
}

#[pymethods]
impl PyTrajectoryGeometry {
    /// The checkpoints, oldest first.
    #[getter]
    fn checkpoints(&self) -> Vec<PyRunCheckpoint> {
        self.chosen.iter().cloned().map(PyRunCheckpoint::named).collect()
    }

    /// The conclusions, in sentences.
    #[getter]
    fn answer(&self) -> String {
        let (word, sentences) = geometry_answer(&self.geometry.row(&self.chosen));
        let line = self.geometry.points.as_ref().and_then(line_answer);
        [vec![format!("{word}.")], sentences, line.into_iter().collect()].concat().join(" ")
    }

    /// Which checkpoints cannot be measured, because they hold NaN or infinity; `None` if all can.
    #[getter]
    fn fault(&self) -> Option<String> {
        self.geometry.fault(&self.chosen)
    }

    /// Of all parameters together.
    #[getter]
    fn whole(&self) -> PyGeometry {
        (&self.geometry.whole).into()
    }

    /// By number of the layer.
    #[getter]
    fn layers(&self) -> BTreeMap<u64, PyGeometry> {
        self.geometry.layers.iter().map(|(layer, geometry)| (*layer, geometry.into())).collect()
    }

    /// By class of tensor, such as `mlp.up_proj.weight`.
    #[getter]
    fn tensor_classes(&self) -> BTreeMap<String, PyGeometry> {
        self.geometry.classes.iter().map(|(class, geometry)| (class.clone(), geometry.into())).collect()
    }

    /// The geometry as JSON, as `thalweg explain --json` prints it.
    fn to_json(&self) -> String {
        self.geometry.document(&self.chosen).to_string()
    }

    /// Writes it as a study with a page, as `thalweg explain -o` does.
    #[pyo3(signature = (folder, *, title=None))]
    fn write_study(&self, py: Python<'_>, folder: PathBuf, title: Option<String>) -> Result<PyStudy> {
        if let Some(fault) = self.fault() {
            let what = format!("the trajectory cannot be drawn: {fault}");
            return Err(Failure::usage_with_hint(what, "choose other checkpoints"));
        }
        let title = title.unwrap_or_else(|| geometry_title(&self.run_path));
        let mut record = StudyRecord::new(title, &self.run_path, "thalweg.explain (Python)");
        record.geometry = Some(self.geometry.row(&self.chosen));
        let session = Session::for_headers()?;
        let watch = Watch::default();
        run_watched(py, None, &watch, || {
            let folder = session.resolver(&watch, ReadOptions::default()).output_folder(&folder)?;
            session.storage.create_folder(&folder)?;
            write_study(&*session.storage, &folder, &record)?;
            PyStudy::new(folder, &record)
        })
    }

    fn __repr__(&self) -> String {
        format!("TrajectoryGeometry({}: {})", counted(self.chosen.len(), "checkpoint"), self.answer())
    }
}

/// The geometry of checkpoints of a run, `explain(run, last=10)`, or of given ones, `explain(sources=[a, b, c])`.
///
/// Distances, directions and principal components, from inner products alone: each checkpoint is read once. The other
/// keywords are those of `select`, and of `plan` for how checkpoints are read.
#[pyfunction]
#[pyo3(signature = (
    run=None, *, sources=None, key=None, params=None, rename=None, threads=None, memory=None, progress=None, **options
))]
#[pyo3(text_signature = "(run=None, *, sources=None, key=None, params=None, rename=None, threads=None, memory=None, \
    progress=None, last=None, count=None, interval_steps=None, interval_tokens=None, duration_steps=None, \
    duration_tokens=None, end_step=None, end_tokens=None, from_step=None, to_step=None, every=None, steps=None, \
    tokens_per_step=None, log=None, log_columns=None, log_every=None, stable=None, checkpoint_pattern=None)")]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn explain(
    py: Python<'_>,
    run: Option<RunArgument>,
    sources: Option<SourcesArgument>,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
    threads: Option<usize>,
    memory: Option<SizeArgument>,
    progress: Option<Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PyTrajectoryGeometry> {
    let request = merge_request(None, None, options)?;
    let (selection, about) = (request.selection.clone(), request.run.clone());
    refuse_others(&request, &MergeRequest { selection, run: about, ..MergeRequest::default() })?;
    let sources = sources.map(SourcesArgument::paths).transpose()?.unwrap_or_default();
    let inputs: Vec<PathBuf> = run.into_iter().map(|run| run.0).chain(sources).collect();
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
    let session = Session::new(threads, memory.bytes("memory")?)?;
    let watch = Watch::default();
    run_watched(py, progress.as_ref(), &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        let resolver = session.resolver(&watch, reading);
        let from = (&request.selection, &request.run);
        let chosen = choose_checkpoints(&inputs, from, SourceOrder::BySteps { keep_option: None }, &resolver)?;
        let geometry = measure_geometry(&resolver.geometry_plan(&chosen)?, &session.context(&watch))?;
        let run_path = inputs.first().map_or_else(String::new, |path| path.display().to_string());
        Ok(PyTrajectoryGeometry { geometry, chosen, run_path })
    })
}
