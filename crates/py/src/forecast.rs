//! Forecasts, as Python sees them: what an anneal that was never run would score, by one's own function.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::plan::MergePlan;
use thalweg_merge::scheme::DecayCurve;
use thalweg_study::forecast::ForecastOutcome;
use thalweg_study::forecast::request::AnnealQuestion;
use thalweg_study::forecast::run::{ForecastOptions, run_forecast};
use thalweg_study::record::{ForecastRow, ProposalRow};
use thalweg_study::recorded::RecordedScores;
use thalweg_study::request::MergeRequest;
use thalweg_tensor::counted;
use thalweg_trajectory::{Extent, Step, Tokens, Trajectory};

use crate::arguments::RunArgument;
use crate::error::{Failure, Result};
use crate::merge::open_in_memory;
use crate::options::{merge_request, read_options, whole_numbers};
use crate::plan::PyPlan;
use crate::run::refuse_others;
use crate::scores::parse_scores;
use crate::session::{Session, SizeArgument, Watch, run_watched};

/// What one score would be after an anneal.
#[pyclass(frozen, module = "thalweg", name = "ForecastScore", get_all)]
#[derive(Debug, Clone)]
pub(crate) struct PyForecastScore {
    /// The task.
    task: String,
    /// What was measured.
    measure: String,
    /// The score of the newest checkpoint.
    raw: f64,
    /// The score of the merge that imitates the anneal.
    imitation: f64,
    /// The forecast.
    value: f64,
    /// 80 % interval.
    interval_80: (f64, f64),
    /// 95 % interval.
    interval_95: (f64, f64),
    /// What the forecast is based on.
    rests_on: String,
}

#[pymethods]
impl PyForecastScore {
    fn __repr__(&self) -> String {
        let Self { task, measure, value, interval_95: (low, high), .. } = self;
        format!("ForecastScore({task:?}, {measure:?}, {value:.4}, 95 %: {low:.4} to {high:.4})")
    }
}

impl From<ForecastRow> for PyForecastScore {
    fn from(row: ForecastRow) -> Self {
        let ForecastRow { task, measure, raw, imitation, value, interval_80, interval_95, rests_on, .. } = row;
        let (interval_80, interval_95) = (interval_80.into(), interval_95.into());
        Self { task, measure, raw, imitation, value, interval_80, interval_95, rests_on }
    }
}

/// The window to merge.
#[pyclass(frozen, module = "thalweg", name = "ProposedWindow", get_all)]
#[derive(Debug, Clone)]
pub(crate) struct PyProposedWindow {
    /// Number of checkpoints.
    n_checkpoints: usize,
    /// Steps between neighbours.
    interval_steps: u64,
    /// The scheme.
    scheme: String,
    /// What it is based on.
    rests_on: String,
}

#[pymethods]
impl PyProposedWindow {
    fn __repr__(&self) -> String {
        let Self { n_checkpoints, interval_steps, scheme, .. } = self;
        let (checkpoints, apart) = (counted(*n_checkpoints, "checkpoint"), counted(*interval_steps, "step"));
        format!("ProposedWindow({checkpoints}, {apart} apart, {scheme:?})")
    }
}

impl From<ProposalRow> for PyProposedWindow {
    fn from(row: ProposalRow) -> Self {
        let ProposalRow { n_checkpoints, interval_steps, scheme, rests_on, .. } = row;
        Self { n_checkpoints, interval_steps, scheme, rests_on }
    }
}

/// What an anneal that was never run would score.
#[pyclass(frozen, module = "thalweg", name = "Forecast", get_all)]
#[derive(Debug, Clone, Default)]
pub(crate) struct PyForecast {
    /// The scores that can be forecast.
    scores: Vec<PyForecastScore>,
    /// Scores that cannot, with the reason.
    refused: Vec<(String, String)>,
    /// Why nothing can be forecast; `None` if something can.
    reason: Option<String>,
    /// The window to merge; `None` if the scores do not support one.
    window: Option<PyProposedWindow>,
}

#[pymethods]
impl PyForecast {
    fn __repr__(&self) -> String {
        match &self.reason {
            Some(reason) => format!("Forecast(none: {reason})"),
            None => format!("Forecast({})", counted(self.scores.len(), "score")),
        }
    }
}

impl From<ForecastOutcome> for PyForecast {
    fn from(outcome: ForecastOutcome) -> Self {
        let refused: Vec<_> = outcome.refused.iter().map(|(score, why)| (score.clone(), why.to_string())).collect();
        let reason = refused.first().filter(|_| outcome.forecasts.is_empty()).map(|(_, why)| why.clone());
        let scores = outcome.forecasts.into_iter().map(PyForecastScore::from).collect();
        Self { scores, refused, reason, window: outcome.proposal.ok().map(PyProposedWindow::from) }
    }
}

/// Forecasts what an anneal would score, from the scores of four merges of a run.
///
/// `evaluate` is called with each merge, which it may load into a model, and returns its scores as for
/// `Trial.record`. `anneal`, `anneal_steps`, `anneal_tokens`, `anneal_floor` and `end_step` are the options of
/// `thalweg forecast`; the other keywords are those of `open_run`.
#[pyfunction]
#[pyo3(signature = (
    run, evaluate, *, anneal="linear", anneal_steps=None, anneal_tokens=None, anneal_floor=0.0, end_step=None,
    higher_is_better=None, threads=None, memory=None, **options
))]
#[pyo3(
    text_signature = "(run, evaluate, *, anneal='linear', anneal_steps=None, anneal_tokens=None, anneal_floor=0.0, \
    end_step=None, higher_is_better=None, threads=None, memory=None, tokens_per_step=None, log=None, \
    log_columns=None, log_every=None, stable=None, checkpoint_pattern=None)"
)]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn forecast(
    py: Python<'_>,
    run: RunArgument,
    evaluate: &Bound<'_, PyAny>,
    anneal: &str,
    anneal_steps: Option<Bound<'_, PyAny>>,
    anneal_tokens: Option<Bound<'_, PyAny>>,
    anneal_floor: f64,
    end_step: Option<Bound<'_, PyAny>>,
    higher_is_better: Option<&Bound<'_, PyAny>>,
    threads: Option<usize>,
    memory: Option<SizeArgument>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PyForecast> {
    let request = merge_request(None, None, options)?;
    refuse_others(&request, &MergeRequest { run: request.run.clone(), ..MergeRequest::default() })?;
    let steps = one("anneal_steps", anneal_steps)?.map(|steps| Extent::Steps(Step(steps)));
    let tokens = one("anneal_tokens", anneal_tokens)?.map(|tokens| Extent::Tokens(Tokens(tokens)));
    if steps.is_some() && tokens.is_some() {
        return Err(Failure::usage("`anneal_steps` and `anneal_tokens` both say how long the anneal is"));
    }
    let question = AnnealQuestion {
        end_step: one("end_step", end_step)?,
        length: steps.or(tokens),
        curve: curve(anneal)?,
        floor: anneal_floor,
    };
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned())).bytes("memory")?;
    let session = Session::new(threads, memory)?;
    let watch = Watch::default();
    let trajectory = run_watched(py, None, &watch, || {
        let reading = read_options(&session, (None, None, None))?;
        Ok(session.resolver(&watch, reading).open_run(&run.0, &request.run)?)
    })?;
    let mut asked = RecordedScores::default();
    loop {
        let answer = ask(py, &session, &question, &trajectory, &mut asked);
        let missing = asked.take_missing();
        if missing.is_empty() {
            return answer;
        }
        for (name, output) in missing {
            let plan = PyPlan::new(MergePlan::new(vec![output.of_model_alone()])?, Vec::new());
            let merge = open_in_memory(py, &plan, Session::new(threads, memory)?)?;
            let scores = evaluate.call1((merge,))?;
            asked.record(&name, parse_scores(py, &scores, higher_is_better)?);
        }
    }
}

fn ask(
    py: Python<'_>,
    session: &Session,
    question: &AnnealQuestion,
    trajectory: &Trajectory,
    asked: &mut RecordedScores,
) -> Result<PyForecast> {
    let watch = Watch::default();
    run_watched(py, None, &watch, || {
        let options = ForecastOptions {
            title: format!("Forecast for {}", trajectory.path().display()),
            command: "thalweg.forecast (Python)".to_owned(),
            own_cases: Vec::new(),
            truth: None,
            save_cases: None,
            folder: None,
            on_score: &mut |_, _| {},
        };
        let answer = run_forecast(question, trajectory, asked, options, &session.context(&watch))?;
        Ok(match answer.outcome {
            Ok(outcome) => outcome.into(),
            Err(refusal) => PyForecast { reason: Some(refusal.to_string()), ..PyForecast::default() },
        })
    })
}

fn one(keyword: &str, value: Option<Bound<'_, PyAny>>) -> Result<Option<u64>> {
    Ok(whole_numbers(keyword, value.map(|value| vec![value]))?.pop())
}

fn curve(name: &str) -> Result<DecayCurve> {
    match name {
        "linear" => Ok(DecayCurve::Linear),
        "cosine" => Ok(DecayCurve::Cosine),
        "1-sqrt" => Ok(DecayCurve::OneMinusSqrt),
        other => Err(Failure::usage_with_hint(
            format!("`anneal={other:?}` is not known"),
            "write `\"linear\"`, `\"cosine\"` or `\"1-sqrt\"`",
        )),
    }
}
