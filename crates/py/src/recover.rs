//! Recovery from loss spikes, as Python sees it: the spikes of a log, and what to resume from.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::engine::{ExecuteOptions, PartialStage};
use thalweg_merge::plan::MergePlan;
use thalweg_storage::publish::Replace;
use thalweg_study::recover::spike_row;
use thalweg_study::request::{MergeRequest, parse_scheme_word};
use thalweg_study::restart::{Restart, RestartRequest, UNWRITTEN, recovery_document, search_run};
use thalweg_tensor::counted;
use thalweg_trajectory::Spike;

use crate::arguments::RunArgument;
use crate::error::{Failure, Result};
use crate::options::{RenameArgument, merge_request, read_options};
use crate::plan::PyPlan;
use crate::receipt::PyReceipt;
use crate::run::{PyRunCheckpoint, refuse_others};
use crate::session::{Session, SizeArgument, Watch, run_watched};

/// A spike of a loss.
#[pyclass(frozen, module = "thalweg", name = "Spike", get_all)]
#[derive(Debug, Clone)]
pub(crate) struct PySpike {
    /// Its first step.
    onset: u64,
    /// The step of its highest loss.
    peak: u64,
    /// The first step at which the loss is back; `None` if it did not recover.
    end: Option<u64>,
    /// Where it was seen, such as `loss`.
    signal: String,
}

#[pymethods]
impl PySpike {
    fn __repr__(&self) -> String {
        let end = self.end.map_or_else(|| "None".to_owned(), |end| end.to_string());
        format!("Spike(onset={}, peak={}, end={end}, signal={:?})", self.onset, self.peak, self.signal)
    }
}

impl From<&Spike> for PySpike {
    fn from(spike: &Spike) -> Self {
        let row = spike_row(spike);
        Self { onset: row.onset, peak: row.peak, end: row.end, signal: row.signal }
    }
}

/// The spikes of a run, and what to resume from.
#[pyclass(frozen, module = "thalweg", name = "Recovery")]
#[derive(Debug)]
pub(crate) struct PyRecovery {
    /// The spikes, oldest first.
    #[pyo3(get)]
    spikes: Vec<PySpike>,
    /// The spike to recover from; `None` if the log has none.
    #[pyo3(get)]
    spike: Option<PySpike>,
    /// The checkpoints to resume from, oldest first: none, one to take as it is, or two or three to merge.
    #[pyo3(get)]
    sources: Vec<PyRunCheckpoint>,
    /// What to tell each trainer: its name, and one thing to do in each line.
    #[pyo3(get)]
    instructions: Vec<(String, Vec<String>)>,
    /// Notes about the recovery.
    #[pyo3(get)]
    notes: Vec<String>,
    /// The receipt of the merge, if it was written.
    #[pyo3(get)]
    receipt: Option<PyReceipt>,
    merge: Option<MergePlan>,
    json: String,
}

#[pymethods]
impl PyRecovery {
    /// The plan of the merge of `sources`; `None` for fewer than two.
    #[getter]
    fn plan(&self) -> Option<PyPlan> {
        self.merge.clone().map(|plan| PyPlan::new(plan, Vec::new()))
    }

    /// The recovery as JSON, as `thalweg recover --json` prints it.
    fn to_json(&self) -> &str {
        &self.json
    }

    fn __repr__(&self) -> String {
        match &self.spike {
            None => "Recovery(no spike)".to_owned(),
            Some(spike) => {
                let (checkpoints, onset) = (counted(self.sources.len(), "checkpoint"), spike.onset);
                format!("Recovery({checkpoints} before the spike at step {onset})")
            }
        }
    }
}

/// The loss spikes of a run, and what to resume from: up to three checkpoints before the spike, and how.
///
/// With `out`, their merge is written there, with the policy of the restart beside it. `moments` are `"newest"`,
/// `"reset"` or `"average"`; `data`, the batches up to the end of the spike, are `"skip"` or `"replay"`. The other
/// keywords are those of `open_run`, of `plan` about the output, and of `merge`.
#[pyfunction]
#[pyo3(signature = (
    run, out=None, *, scheme="sma", moments="newest", data="skip", key=None, params=None, rename=None, threads=None,
    memory=None, progress=None, force=false, discard_partial=false, **options
))]
#[pyo3(text_signature = "(run, out=None, *, scheme='sma', moments='newest', data='skip', key=None, params=None, \
    rename=None, threads=None, memory=None, progress=None, force=False, discard_partial=False, tokens_per_step=None, \
    log=None, log_columns=None, log_every=None, stable=None, checkpoint_pattern=None, dtype=None, \
    out_shard_size=None, drop=None, code=None, digest=None, no_model_card=None, to_huggingface=None, \
    hf_assets=None, format=None, optimizer=None, non_float=None, router=None, allow_config=None, \
    take_newest=None, allow_non_finite=None, side_files_from=None)")]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn recover(
    py: Python<'_>,
    run: RunArgument,
    out: Option<PathBuf>,
    scheme: &str,
    moments: &str,
    data: &str,
    key: Option<String>,
    params: Option<String>,
    rename: Option<RenameArgument>,
    threads: Option<usize>,
    memory: Option<SizeArgument>,
    progress: Option<Bound<'_, PyAny>>,
    force: bool,
    discard_partial: bool,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PyRecovery> {
    let given = merge_request(None, None, options)?;
    let (about, output) = (given.run.clone(), given.output.clone());
    refuse_others(&given, &MergeRequest { run: about, output, ..MergeRequest::default() })?;
    let request = RestartRequest {
        scheme: parse_scheme_word(scheme)?,
        moments: serde_json::from_value(moments.into())
            .map_err(|_| unknown("moments", moments, "`\"newest\"`, `\"reset\"` or `\"average\"`"))?,
        data: serde_json::from_value(data.into()).map_err(|_| unknown("data", data, "`\"skip\"` or `\"replay\"`"))?,
        output: given.output,
        out,
    };
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
    let session = Session::new(threads, memory.bytes("memory")?)?;
    let execute = ExecuteOptions {
        replace: if force { Replace::Force } else { Replace::Never },
        partial: if discard_partial { PartialStage::Discard } else { PartialStage::Resume },
    };
    let watch = Watch::default();
    run_watched(py, progress.as_ref(), &watch, || {
        let reading = read_options(&session, (key, params, rename))?;
        let (resolver, cx) = (session.resolver(&watch, reading), session.context(&watch));
        let trajectory = resolver.open_run(&run.0, &given.run)?;
        let search = search_run(&trajectory)?;
        let spikes: Vec<PySpike> = search.spikes.iter().map(PySpike::from).collect();
        let restart = match spikes.is_empty() {
            true => None,
            false => {
                let restart = Restart::propose(&request, (&trajectory, &search), &resolver, &cx)?;
                Some(restart.write(&request, execute, &resolver, &cx)?)
            }
        };
        let json = recovery_document(&trajectory, &search, restart.as_ref()).to_string();
        let Some(restart) = restart else { return Ok(PyRecovery::without_spike(json)) };
        let place = request.out.clone().unwrap_or_else(|| UNWRITTEN.into());
        let instructions = restart.policy.instructions();
        Ok(PyRecovery {
            spikes,
            spike: Some((&restart.plan.spike).into()),
            sources: restart.plan.sources.iter().map(PyRunCheckpoint::of_run).collect(),
            instructions: instructions.into_iter().map(|one| (one.trainer.to_owned(), one.lines)).collect(),
            notes: watch.notes().into_iter().chain(restart.plan.notes.iter().map(ToString::to_string)).collect(),
            merge: restart.merge_plan(&request, &place, &resolver)?,
            receipt: restart.outcome.map(PyReceipt::new).transpose()?,
            json,
        })
    })
}

impl PyRecovery {
    fn without_spike(json: String) -> Self {
        Self {
            spikes: Vec::new(),
            spike: None,
            sources: Vec::new(),
            instructions: Vec::new(),
            notes: Vec::new(),
            receipt: None,
            merge: None,
            json,
        }
    }
}

fn unknown(keyword: &str, value: &str, known: &str) -> Failure {
    Failure::usage_with_hint(format!("`{keyword}={value:?}` is not known"), format!("write {known}"))
}
