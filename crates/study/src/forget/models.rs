//! Which models are asked: checkpoints as they are, and merges of windows that end at them.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::{OutputPlan, SourceRef};
use thalweg_merge::scheme::Scheme;
use thalweg_trajectory::{PathKind, Trajectory};

use crate::Error;
use crate::request::{
    Resolver, RunOptions, Selection, SourceOrder, choose_checkpoints, label, look_at, parse_scheme_window,
};
use crate::select::source_ref;
use crate::sweep::{EndedWindow, EndedWindows, WindowShape, ends};

/// What is scored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForgetRequest {
    /// A run, or checkpoints.
    pub inputs: Vec<PathBuf>,
    /// What the user says about the run.
    pub run: RunOptions,
    /// Merges as `SCHEME:N`, such as `sma:5`, at each end that has as many checkpoints.
    pub windows: Vec<String>,
    /// Ends, as a sweep names them; every finished checkpoint, if left out.
    pub ends: Vec<String>,
}

/// A model to be scored.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgetModel {
    /// What tables call it.
    pub name: String,
    /// The step that it ends at.
    pub step: Option<u64>,
    /// `SCHEME:N`; nothing for a checkpoint.
    pub window: Option<String>,
    /// The sum that it is; a copy for a checkpoint.
    pub output: OutputPlan,
}

impl Resolver<'_> {
    /// Checkpoints and merges, by the step that they end at.
    ///
    /// # Errors
    /// `Request` for windows of single checkpoints; those of opening a run.
    pub fn forget_models(&self, request: &ForgetRequest) -> Result<Vec<ForgetModel>, Error> {
        let windows = request.windows.iter().map(|text| parse_scheme_window(text)).collect::<Result<Vec<_>, _>>()?;
        let trajectory = self.only_run(&request.inputs, &request.run)?;
        let Some(trajectory) = trajectory else {
            if !windows.is_empty() || !request.ends.is_empty() {
                return Err(Error::request_with_hint(
                    "`--windows` and `--ends` need a run, but checkpoints were named one by one",
                    "name only the run folder",
                ));
            }
            let order = SourceOrder::BySteps { keep_option: None };
            let chosen = choose_checkpoints(&request.inputs, (&Selection::default(), &request.run), order, self)?;
            return chosen.iter().map(|source| self.raw_model(source)).collect();
        };
        let named = if request.ends.is_empty() { vec!["steps".to_owned()] } else { request.ends.clone() };
        let ends = ends(&named, &trajectory)?;
        let steps: Vec<Option<u64>> = ends.iter().map(crate::sweep::End::step).collect();
        let newest = trajectory.finished().next_back().map(|one| one.step.0);
        let is_end = |step: u64| steps.iter().any(|end| end.map_or(Some(step) == newest, |end| end == step));
        let finished = trajectory.finished().filter(|one| is_end(one.step.0));
        let mut models = finished.map(|one| self.raw_model(&source_ref(one))).collect::<Result<Vec<_>, _>>()?;
        for (window, text) in windows.iter().zip(&request.windows) {
            let shape = WindowShape { n_checkpoints: window.n_checkpoints, interval: None };
            let EndedWindows { windows: found, skipped, last_error } =
                self.ended_windows(&ends, &[shape], &trajectory)?;
            if let Some(error) = last_error.filter(|_| found.is_empty()) {
                return Err(error.into());
            }
            skipped.iter().for_each(|skipped| self.note(skipped));
            for EndedWindow { sources, .. } in found {
                models.push(self.merged_model(&sources, &window.scheme, text)?);
            }
        }
        // Stable: a checkpoint comes before the merges that end at it.
        models.sort_by_key(|model| model.step);
        if models.is_empty() {
            return Err(Error::NoCheckpoint);
        }
        Ok(models)
    }

    /// The run, where one is named alone.
    fn only_run(&self, inputs: &[PathBuf], run: &RunOptions) -> Result<Option<Trajectory>, Error> {
        let [only] = inputs else { return Ok(None) };
        match look_at(only, run, self)? {
            (PathKind::Checkpoint, _) => Ok(None),
            (PathKind::Run | PathKind::RunWithCheckpoint, path) => Ok(Some(self.open_run(&path, run)?)),
        }
    }

    /// A checkpoint as it is.
    ///
    /// # Errors
    /// None in practice: one checkpoint always has a coefficient.
    pub(super) fn raw_model(&self, source: &SourceRef) -> Result<ForgetModel, Error> {
        let one = Scheme::Sma.coefficients(1)?;
        let output = self.unwritten(&source.path.to_string_lossy(), std::slice::from_ref(source), &one);
        Ok(ForgetModel { name: label(source), step: source.step, window: None, output })
    }

    /// A checkpoint that was named.
    pub(super) fn named_model(&self, path: &Path) -> Result<ForgetModel, Error> {
        let path = self.resolve_checkpoint(path)?;
        let step = self.step_of(&path);
        self.raw_model(&SourceRef { path, step, tokens: None })
    }

    fn merged_model(&self, sources: &[SourceRef], scheme: &Scheme, text: &str) -> Result<ForgetModel, Error> {
        let steps: Vec<Option<u64>> = sources.iter().map(|source| source.step).collect();
        let step = steps.last().copied().flatten();
        let name = step.map_or_else(|| text.to_owned(), |step| format!("{text} at step {step}"));
        let output = self.unwritten(&name, sources, &scheme.coefficients_for(&steps)?);
        Ok(ForgetModel { name, step, window: Some(text.to_owned()), output })
    }
}
