//! From a run with a spike to what is resumed from: the proposal with its policy, the merge, and their record.
//!
//! Which spikes there are, and which checkpoints come before them, is in `recover`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_lab::config::MomentsPolicy;
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, MergeOutcome, execute_merge};
use thalweg_merge::output_format::{OptimizerPolicy, OutputFormat, RequestedFormat};
use thalweg_merge::plan::MergePlan;
use thalweg_merge::receipt::RECEIPT_NAME;
use thalweg_merge::scheme::Scheme;
use thalweg_storage::Storage;
use thalweg_storage::guard::{check_file, output_path};
use thalweg_storage::publish::publish_file;
use thalweg_trajectory::{Trajectory, TrajectoryNote};

use crate::Error;
use crate::recover::{RecoveryPlan, SpikeSearch, plan_recovery, spike_row, spikes_of_run};
use crate::request::{OutputOptions, Resolver};
use crate::select::source_ref;
use crate::start_policy::{DataPolicy, START, START_NAME, StatePolicy};

/// Where a merge goes, unless the user says.
pub const UNWRITTEN: &str = "OUT";

/// How training is to resume from before a spike.
#[derive(Debug, Clone)]
pub struct RestartRequest {
    /// The scheme of the merge.
    pub scheme: Scheme,
    /// The optimizer's moments.
    pub moments: MomentsPolicy,
    /// The batches from the newest source to the end of the spike.
    pub data: DataPolicy,
    /// How the merge is written.
    pub output: OutputOptions,
    /// The folder of the merge; `None` if it is not written.
    pub out: Option<PathBuf>,
}

/// What is resumed from after a spike.
#[derive(Debug)]
pub struct Restart {
    /// The checkpoints, and what to know.
    pub plan: RecoveryPlan,
    /// How training continues from them.
    pub policy: StatePolicy,
    /// The merge, once it is written; one checkpoint is not a merge.
    pub outcome: Option<MergeOutcome>,
}

/// The spikes of a run's log, and what was looked at for them.
///
/// # Errors
/// `Request` where there is no log that can be used.
pub fn search_run(trajectory: &Trajectory) -> Result<SpikeSearch, Error> {
    spikes_of_run(trajectory).ok_or_else(|| no_log(trajectory))
}

/// Why a run has no log: there is none, or those that were found cannot be used.
fn no_log(trajectory: &Trajectory) -> Error {
    let path = trajectory.path().display();
    let unreadable = |note: &TrajectoryNote| match note {
        TrajectoryNote::LogUnreadable { reason, hint } => Some((reason.clone(), hint.clone())),
        _ => None,
    };
    let (faults, hints): (Vec<String>, Vec<Option<String>>) = trajectory.notes().iter().filter_map(unreadable).unzip();
    if faults.is_empty() {
        return Error::request_with_hint(
            format!("`{path}` has no step log, which is needed to find spikes"),
            "name it with `--log`: JSON lines, CSV, trainer_state.json, console output or TensorBoard event files",
        );
    }
    Error::request_with_hint(
        format!("`{path}` has no step log that can be used: {}", faults.join("; ")),
        hints.into_iter().flatten().next().unwrap_or_else(|| "name another log with `--log`".to_owned()),
    )
}

impl Restart {
    /// Proposes what to resume from, as if `request.out` held the merge. Merges nothing.
    ///
    /// # Errors
    /// As [`plan_recovery`]; those of opening the newest source.
    pub fn propose(
        request: &RestartRequest,
        (trajectory, search): (&Trajectory, &SpikeSearch),
        resolver: &Resolver<'_>,
        run: &RunContext<'_>,
    ) -> Result<Self, Error> {
        let plan = plan_recovery(trajectory, search)?;
        let moments = match request.moments {
            MomentsPolicy::Average if plan.sources.len() == 1 => {
                resolver.note("the average of one checkpoint's moments is its own: `newest`");
                MomentsPolicy::Newest
            }
            asked => asked,
        };
        let checkpoint = match (plan.sources.as_slice(), &request.out) {
            ([only], _) => only.path.clone(),
            (_, Some(out)) => output_path(&*run.storage, out)?,
            (_, None) => UNWRITTEN.into(),
        };
        let policy = StatePolicy::for_recovery(&plan, checkpoint, moments, request.data);
        let policy = match plan.sources.last() {
            None => policy,
            Some(newest) => {
                let newest = run.pool.open(&newest.path, resolver.reading())?;
                // A merge has the format of its newest source and its state, where that format can be written.
                let safetensors = OutputFormat::Safetensors;
                let format = match (policy.is_merge(), request.output.format) {
                    (true, Some(RequestedFormat::Named(asked))) if asked == safetensors => safetensors.to_string(),
                    (true, _) => OutputFormat::of(&newest).unwrap_or_default().to_string(),
                    (false, _) => newest.format_name().to_owned(),
                };
                let optimizer = match request.output.optimizer {
                    _ if format == safetensors.to_string() => OptimizerPolicy::Drop,
                    Some(asked) if policy.is_merge() => asked,
                    _ => OptimizerPolicy::Newest,
                };
                policy.with_files(format, optimizer)
            }
        };
        Ok(Self { plan, policy, outcome: None })
    }

    /// The plan of the merge into `out`; `None` for one checkpoint, which is not a merge.
    ///
    /// # Errors
    /// Those of an output.
    pub fn merge_plan(
        &self,
        request: &RestartRequest,
        out: &Path,
        resolver: &Resolver<'_>,
    ) -> Result<Option<MergePlan>, Error> {
        if !self.policy.is_merge() {
            return Ok(None);
        }
        let window: Vec<_> = self.plan.sources.iter().map(source_ref).collect();
        let output = resolver.scheme_output(&window, &request.scheme, &request.output, out)?;
        Ok(Some(MergePlan::new(vec![output])?))
    }

    /// Merges, where there is more than one source and a place, and puts the policy beside the merge.
    ///
    /// # Errors
    /// As a merge; where something else is at the place of the policy.
    pub fn write(
        self,
        request: &RestartRequest,
        options: ExecuteOptions,
        resolver: &Resolver<'_>,
        run: &RunContext<'_>,
    ) -> Result<Self, Error> {
        let Some(out) = request.out.as_deref().filter(|_| self.policy.is_merge()) else { return Ok(self) };
        check_policy_place(&*run.storage, out)?;
        let Some(merge) = self.merge_plan(request, out, resolver)? else { return Ok(self) };
        let policy = self.policy.with_files_of(&merge);
        let outcome = execute_merge(&merge, options, run)?.pop();
        publish_policy(&*run.storage, &policy, out)?;
        Ok(Self { policy, outcome, ..self })
    }
}

impl StatePolicy {
    /// A policy with the format of the merge that it is for.
    #[must_use]
    pub fn with_files_of(self, merge: &MergePlan) -> Self {
        match merge.outputs.first() {
            Some(output) => self.with_files(output.format.to_string(), output.policy.optimizer),
            None => self,
        }
    }
}

/// Refuses before the merge if the policy could not be written into its folder.
///
/// # Errors
/// `Storage`.
pub fn check_policy_place(storage: &dyn Storage, folder: &Path) -> Result<(), Error> {
    Ok(check_file(storage, &folder.join(START_NAME), START.file(), &[])?)
}

/// Writes the policy of a start point into its folder.
///
/// # Errors
/// `Storage`; `ReportForm`.
pub fn publish_policy(storage: &dyn Storage, policy: &StatePolicy, folder: &Path) -> Result<(), Error> {
    let text = policy.to_json()?;
    Ok(publish_file(storage, &folder.join(START_NAME), text.as_bytes(), START.file())?)
}

/// The files of the step log as JSON: a string for one, a list for several.
pub fn log_document(trajectory: &Trajectory) -> Value {
    match trajectory.log_paths() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    }
}

/// The document of `thalweg recover --json`: the spikes, what was looked at, and the restart where there is a spike.
pub fn recovery_document(trajectory: &Trajectory, search: &SpikeSearch, restart: Option<&Restart>) -> Value {
    let mut document = json!({
        "kind": "thalweg-recover",
        "version": 1,
        "spikes": search.spikes.iter().map(spike_row).collect::<Vec<_>>(),
        "sources": [],
        "searched": {
            "log": log_document(trajectory),
            "n_losses": search.n_losses,
            "first_step": search.range.map(|(first, _)| first),
            "last_step": search.range.map(|(_, last)| last),
            "threshold": search.threshold,
        },
    });
    if let Some(Restart { plan, policy, outcome }) = restart {
        document["sources"] = json!(policy.sources);
        document["spike"] = json!(spike_row(&plan.spike));
        document["notes"] = plan.notes.iter().map(ToString::to_string).collect();
        document["policy"] = json!(policy);
        document["instructions"] = json!(policy.instructions());
        document["receipt"] = json!(outcome.as_ref().map(|outcome| outcome.path.join(RECEIPT_NAME)));
    }
    document
}
