//! What other programs found, as Python sees it: read, compared item by item, and put beside a model.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_checkpoint::ReadOptions;
use thalweg_eval::external::{
    ExternalComparison, ExternalResults, ExternalScore, Pairing, adjust_results, compare_results as compare,
    find_results, read_results as read, read_results_file,
};
use thalweg_study::hub_results::write_hub_results;
use thalweg_tensor::counted;

use crate::error::{Failure, Result};
use crate::session::{Session, Watch, run_watched};

/// One score of a model.
#[pyclass(frozen, module = "thalweg", name = "Score")]
#[derive(Debug, Clone)]
pub(crate) struct PyScore {
    score: ExternalScore,
}

#[pymethods]
impl PyScore {
    /// The task and its metric, such as `piqa/acc_norm`.
    #[getter]
    fn task(&self) -> &str {
        &self.score.task
    }

    /// The value.
    #[getter]
    fn value(&self) -> f64 {
        self.score.value
    }

    /// Its standard error, if it is known.
    #[getter]
    fn standard_error(&self) -> Option<f64> {
        self.score.standard_error
    }

    /// Number of items, if it is known.
    #[getter]
    fn n(&self) -> Option<u64> {
        self.score.n
    }

    /// Whether more is better.
    #[getter]
    fn higher_is_better(&self) -> bool {
        self.score.higher_is_better
    }

    fn __repr__(&self) -> String {
        let error = self.score.standard_error.map_or_else(String::new, |error| format!(" +- {error:.4}"));
        format!("Score({:?}, {:.4}{error})", self.score.task, self.score.value)
    }
}

/// What another program found for one model.
#[pyclass(frozen, module = "thalweg", name = "Results")]
#[derive(Debug)]
pub(crate) struct PyResults {
    results: ExternalResults,
}

#[pymethods]
impl PyResults {
    /// The scores.
    #[getter]
    fn scores(&self) -> Vec<PyScore> {
        self.results.scores.iter().map(|score| PyScore { score: score.clone() }).collect()
    }

    /// Scores that cannot be used, with the reason.
    #[getter]
    fn refused(&self) -> Vec<(String, String)> {
        self.results.refused.iter().map(|one| (one.task.clone(), one.why.clone())).collect()
    }

    /// Notes about the items.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.results.notes.clone()
    }

    /// Number of items of each score whose items are known.
    #[getter]
    fn items<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyDict>> {
        let counts = PyDict::new(py);
        for (task, items) in &self.results.items {
            counts.set_item(task, items.values.len())?;
        }
        Ok(counts)
    }

    /// Writes the scores to `.eval_results` in a model's folder, where the Hugging Face Hub reads them.
    fn write_card(&self, py: Python<'_>, model: PathBuf) -> Result<PathBuf> {
        let session = Session::for_headers()?;
        let watch = Watch::default();
        run_watched(py, None, &watch, || {
            let model = session.resolver(&watch, ReadOptions::default()).output_folder(&model)?;
            Ok(write_hub_results(&*session.storage, &model, &self.results)?)
        })
    }

    fn __len__(&self) -> usize {
        self.results.scores.len()
    }

    fn __repr__(&self) -> String {
        let (n_scores, n_with_items) = (self.results.scores.len(), self.results.items.len());
        format!("Results({}, {n_with_items} with items)", counted(n_scores, "score"))
    }
}

/// The gain of one model over another on one score.
#[pyclass(frozen, module = "thalweg", name = "Comparison")]
#[derive(Debug)]
pub(crate) struct PyComparison {
    found: ExternalComparison,
}

#[pymethods]
impl PyComparison {
    /// The task and its metric, such as `piqa/acc_norm`.
    #[getter]
    fn task(&self) -> &str {
        &self.found.task
    }

    /// Positive is better, whatever the direction of the score.
    #[getter]
    fn gain(&self) -> f64 {
        self.found.gain
    }

    /// Standard error of the gain, if it is known.
    #[getter]
    fn standard_error(&self) -> Option<f64> {
        self.found.standard_error
    }

    /// 95 % interval of the gain.
    #[getter]
    fn interval_95(&self) -> Option<(f64, f64)> {
        self.found.interval_95.map(|[low, high]| (low, high))
    }

    /// The smallest true difference that such a comparison finds 80 % of the time.
    #[getter]
    fn smallest_difference(&self) -> Option<f64> {
        self.found.smallest_difference
    }

    /// Number of items that were compared, if it is known.
    #[getter]
    fn n(&self) -> Option<u64> {
        self.found.n
    }

    /// Whether the same items were compared; otherwise the two scores are taken as independent.
    #[getter]
    fn paired(&self) -> bool {
        self.found.pairing != Pairing::Unpaired
    }

    /// Number of items that only one of the two has; `None` where items are not paired.
    #[getter]
    fn n_left_out(&self) -> Option<usize> {
        match self.found.pairing {
            Pairing::ByItem { n_left_out } => Some(n_left_out),
            Pairing::Unpaired => None,
        }
    }

    /// Two-sided p-value.
    #[getter]
    fn p_value(&self) -> Option<f64> {
        self.found.p_value
    }

    /// The same after Holm's adjustment for all scores of the comparison.
    #[getter]
    fn p_holm(&self) -> Option<f64> {
        self.found.p_holm
    }

    /// `better`, `worse` or `cannot be told apart`; `None` without an uncertainty.
    #[getter]
    fn verdict(&self) -> Option<String> {
        self.found.verdict().map(|verdict| verdict.to_string())
    }

    fn __repr__(&self) -> String {
        let verdict = self.verdict().unwrap_or_else(|| "no uncertainty".to_owned());
        format!("Comparison({:?}, gain={:+.4}, {verdict})", self.found.task, self.found.gain)
    }
}

/// Reads what another program found: a file, a folder, or what `lm_eval.simple_evaluate` returned.
#[pyfunction]
pub(crate) fn read_results(py: Python<'_>, source: &Bound<'_, PyAny>) -> Result<PyResults> {
    if source.is_instance_of::<PyDict>() {
        let as_json = py.import("thalweg._scores")?.getattr("as_json")?;
        let text: String = as_json.call1((source, py.None()))?.extract()?;
        let read_text = || read(text.as_bytes(), Path::new("results"));
        let results = py.detach(read_text).map_err(|error| Failure::usage(error.to_string()))?;
        return Ok(PyResults { results });
    }
    let path: PathBuf = source.extract()?;
    let session = Session::for_headers()?;
    let watch = Watch::default();
    let results = run_watched(py, None, &watch, || {
        let Some(file) = find_results(&*session.storage, &path)? else {
            let what = format!("`{}` has no results", path.display());
            return Err(Failure::usage_with_hint(
                what,
                "name a file of results, or the folder that the evaluator wrote",
            ));
        };
        Ok(read_results_file(&*session.storage, &file)?)
    })?;
    Ok(PyResults { results })
}

/// Compares results with those of a baseline, item by item where both say what each item scored.
#[pyfunction]
pub(crate) fn compare_results(
    py: Python<'_>,
    baseline: &Bound<'_, PyAny>,
    other: &Bound<'_, PyAny>,
) -> Result<Vec<PyComparison>> {
    let open = |given: &Bound<'_, PyAny>| match given.cast::<PyResults>() {
        Ok(results) => Ok(results.clone().unbind()),
        Err(_) => Ok::<_, Failure>(Py::new(py, read_results(py, given)?)?),
    };
    let (baseline, other) = (open(baseline)?, open(other)?);
    let (a, b) = (&baseline.get().results, &other.get().results);
    let mut found = py.detach(|| compare(a, b));
    adjust_results(&mut found.iter_mut().collect::<Vec<_>>());
    Ok(found.into_iter().map(|found| PyComparison { found }).collect())
}
