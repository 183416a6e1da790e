//! `thalweg recover`: spikes of a step log, and the checkpoint to resume from.

use std::fmt::Write;

use serde_json::json;
use thalweg_lab::config::MomentsPolicy;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::output_format::{OptimizerPolicy, OutputFormat};
use thalweg_merge::plan::MergePlan;
use thalweg_merge::receipt::RECEIPT_NAME;
use thalweg_merge::scheme::Scheme;
use thalweg_storage::guard::output_path;
use thalweg_study::recover::{RecoveryPlan, SpikeSearch, plan_recovery, spike_row, spikes_of_run};
use thalweg_study::request::parse_scheme_word;
use thalweg_study::select::source_ref;
use thalweg_study::start_policy::{DataPolicy, StatePolicy};
use thalweg_tensor::counted;
use thalweg_trajectory::{Trajectory, TrajectoryNote};

use crate::args::{DataChoice, FormatChoice, MomentsChoice, RecoverArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe, execute};
use crate::messages::Messages;
use crate::policy::{check_policy_place, describe_policy, publish_policy, with_files_of};
use crate::run::{log_json, log_words};

/// Where a merge goes, unless the user says.
const UNWRITTEN: &str = "OUT";

pub(crate) fn run(args: &RecoverArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let scheme = parse_scheme_word(&args.scheme)?;
    let resolver = world.resolver();
    let trajectory = resolver.open_run(&args.run_path, &(&args.run).into())?;
    let Some(search) = spikes_of_run(&trajectory) else {
        return Err(no_log(&trajectory));
    };
    if search.spikes.is_empty() {
        messages.json(&document(&trajectory, &search, None));
        messages.text(&looked_at(&trajectory, &search));
        return Ok(Outcome::No);
    }
    let plan = plan_recovery(&trajectory, &search)?;
    let moments = moments_policy(args.moments, &plan, messages);
    let proposal = propose(args, &plan, moments, world)?;
    let (proposal, outcome) = write((args, &scheme), &plan, proposal, world)?;
    messages.json(&document(&trajectory, &search, Some((&plan, &proposal, outcome.as_ref()))));
    let mut text = looked_at(&trajectory, &search);
    describe_proposal(&mut text, args, &scheme, &plan, &proposal);
    text.extend(outcome.iter().map(describe));
    messages.text(&text);
    plan.notes.iter().for_each(|note| messages.note(note));
    if plan.sources.len() == 1 && args.out.is_some() {
        messages.note("nothing was written: one checkpoint is not a merge");
    }
    Ok(Outcome::Done)
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
        return Error::usage_with_hint(
            format!("`{path}` has no step log, which is needed to find spikes"),
            "name it with `--log`: JSON lines, CSV, trainer_state.json, console output or TensorBoard event files",
        );
    }
    Error::usage_with_hint(
        format!("`{path}` has no step log that can be used: {}", faults.join("; ")),
        hints.into_iter().flatten().next().unwrap_or_else(|| "name another log with `--log`".to_owned()),
    )
}

/// A single checkpoint has only its moments, so there is nothing to average.
fn moments_policy(choice: MomentsChoice, plan: &RecoveryPlan, messages: &Messages) -> MomentsPolicy {
    match choice {
        MomentsChoice::Reset => MomentsPolicy::Reset,
        MomentsChoice::Newest => MomentsPolicy::Newest,
        MomentsChoice::Average if plan.sources.len() > 1 => MomentsPolicy::Average,
        MomentsChoice::Average => {
            messages.note("the average of one checkpoint's moments is its own: `newest`");
            MomentsPolicy::Newest
        }
    }
}

fn propose(
    args: &RecoverArgs,
    plan: &RecoveryPlan,
    moments: MomentsPolicy,
    world: &World<'_>,
) -> Result<StatePolicy, Error> {
    let data = match args.data {
        DataChoice::Skip => DataPolicy::Skip,
        DataChoice::Replay => DataPolicy::Replay,
    };
    let checkpoint = match (plan.sources.as_slice(), &args.out) {
        ([only], _) => only.path.clone(),
        (_, Some(out)) => output_path(&*world.storage, out)?,
        (_, None) => UNWRITTEN.into(),
    };
    let policy = StatePolicy::for_recovery(plan, checkpoint, moments, data);
    let Some(newest) = plan.sources.last() else { return Ok(policy) };
    let newest = world.pool.open(&newest.path, &world.reading)?;
    // A merge has the format of its newest source and its state, where that format can be written.
    let format = match (policy.is_merge(), args.output.format) {
        (true, Some(FormatChoice::Safetensors)) => OutputFormat::Safetensors.to_string(),
        (true, _) => OutputFormat::of(&newest).unwrap_or_default().to_string(),
        (false, _) => newest.format_name().to_owned(),
    };
    let optimizer = match args.output.optimizer {
        _ if format == OutputFormat::Safetensors.to_string() => OptimizerPolicy::Drop,
        Some(asked) if policy.is_merge() => asked.into(),
        _ => OptimizerPolicy::Newest,
    };
    Ok(policy.with_files(format, optimizer))
}

/// Merges, where there is more than one source and a place, and puts the policy beside the merge.
fn write(
    (args, scheme): (&RecoverArgs, &Scheme),
    plan: &RecoveryPlan,
    policy: StatePolicy,
    world: &World<'_>,
) -> Result<(StatePolicy, Option<MergeOutcome>), Error> {
    let Some(out) = args.out.as_ref().filter(|_| policy.is_merge()) else { return Ok((policy, None)) };
    check_policy_place(out, world)?;
    let window: Vec<_> = plan.sources.iter().map(source_ref).collect();
    let merge = MergePlan::new(vec![world.resolver().scheme_output(&window, scheme, &(&args.output).into(), out)?])?;
    let policy = with_files_of(policy, &merge);
    let outcome = execute(&merge, &args.execution, world)?.pop();
    publish_policy(&policy, out, world)?;
    Ok((policy, outcome))
}

type Proposal<'a> = (&'a RecoveryPlan, &'a StatePolicy, Option<&'a MergeOutcome>);

fn document(trajectory: &Trajectory, search: &SpikeSearch, proposal: Option<Proposal<'_>>) -> serde_json::Value {
    let mut document = json!({
        "kind": "thalweg-recover",
        "version": 1,
        "spikes": search.spikes.iter().map(spike_row).collect::<Vec<_>>(),
        "sources": [],
        "searched": {
            "log": log_json(trajectory),
            "n_losses": search.n_losses,
            "first_step": search.range.map(|(first, _)| first),
            "last_step": search.range.map(|(_, last)| last),
            "threshold": search.threshold,
        },
    });
    if let Some((plan, policy, outcome)) = proposal {
        document["sources"] = json!(policy.sources);
        document["spike"] = json!(spike_row(&plan.spike));
        document["notes"] = plan.notes.iter().map(ToString::to_string).collect();
        document["policy"] = json!(policy);
        document["instructions"] = json!(policy.instructions());
        document["receipt"] = json!(outcome.map(|outcome| outcome.path.join(RECEIPT_NAME)));
    }
    document
}

/// The spikes, or that there is none, with what was looked at.
fn looked_at(trajectory: &Trajectory, search: &SpikeSearch) -> String {
    let log = log_words(trajectory).unwrap_or_default();
    let range = search.range.map_or_else(String::new, |(first, last)| format!(", steps {first} to {last}"));
    let mut text = format!("step log {log}: {}{range}\n", counted(search.n_losses, "loss"));
    if search.spikes.is_empty() {
        let threshold = search.threshold;
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "no spike: no loss is {threshold} standard deviations of the log's noise above its level");
        return text;
    }
    for spike in &search.spikes {
        let end = spike.end.map_or_else(|| "it did not recover".to_owned(), |end| format!("recovered at step {end}"));
        let (onset, peak, signal) = (spike.onset, spike.peak, spike.signal);
        let _ = writeln!(text, "spike: onset at step {onset}, peak at step {peak}, {end}; seen in the {signal}");
    }
    text
}

fn describe_proposal(
    text: &mut String,
    args: &RecoverArgs,
    scheme: &Scheme,
    plan: &RecoveryPlan,
    policy: &StatePolicy,
) {
    let onset = plan.spike.onset;
    // Writing to a String cannot fail.
    let _ = match plan.sources.as_slice() {
        [only] => writeln!(text, "\nresume from `{}`, the only checkpoint before step {onset}", only.path.display()),
        sources => writeln!(text, "\nresume from the {scheme} of {} checkpoints before step {onset}:", sources.len()),
    };
    for source in &plan.sources {
        let _ = writeln!(text, "{:>12}  {}", source.step, source.path.display());
    }
    if let [_, .., newest] = plan.sources.as_slice() {
        let measured = "which did no worse in our experiments (docs/results/recovery.md)";
        let _ = writeln!(text, "or from step {} alone, {measured}", newest.step);
    }
    if args.out.is_none() && policy.is_merge() {
        let _ = writeln!(text, "`-o {UNWRITTEN}` writes the merge");
    }
    describe_policy(text, policy);
}
