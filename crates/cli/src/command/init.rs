//! `thalweg init`: a start point for continued training or fine-tuning, with its policy.

use serde_json::json;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::plan::SourceRef;
use thalweg_merge::receipt::RECEIPT_NAME;
use thalweg_storage::guard::output_path;
use thalweg_study::select::source_ref;
use thalweg_study::start_policy::{StartPurpose, StartSource, StatePolicy};
use thalweg_study::start_window::default_start_window;
use thalweg_trajectory::Trajectory;

use crate::args::{InitArgs, StartChoice};
use crate::command::Outcome;
use crate::command::merge::{describe, execute};
use crate::command::recover::{check_policy_place, describe_policy, publish_policy, with_files_of};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::resolve::{check_window_scheme, window_plan};
use crate::run::{is_selection_empty, learning_rate_at, open_trajectory, select};

pub(crate) fn run(args: &InitArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    // A mistyped scheme is reported before the run is read.
    check_window_scheme(&args.scheme)?;
    let trajectory = open_trajectory(&args.run_path, &args.run, world, messages)?;
    let window = window(args, &trajectory, messages)?;
    check_policy_place(&args.out, world)?;
    let merge = window_plan(&window, &args.scheme, (&args.output, &args.out), world, messages)?;
    let outcome = execute(&merge, &args.execution, world)?.pop();
    let policy = with_files_of(policy(args, &trajectory, &window, world)?, &merge);
    publish_policy(&policy, &args.out, world)?;
    messages.json(&document(&policy, outcome.as_ref()));
    let mut text: String = outcome.iter().map(describe).collect();
    describe_policy(&mut text, &policy);
    messages.text(&text);
    Ok(Outcome::Done)
}

fn window(args: &InitArgs, trajectory: &Trajectory, messages: &Messages) -> Result<Vec<SourceRef>, Error> {
    if !is_selection_empty(&args.selection) {
        return select(trajectory, &args.selection, messages);
    }
    let window = default_start_window(trajectory)?;
    if let (Some(first), Some(last)) = (window.first(), window.last()) {
        messages.note(format!("window: {} checkpoints, steps {} to {}", window.len(), first.step, last.step));
    }
    Ok(window.iter().map(source_ref).collect())
}

fn policy(
    args: &InitArgs,
    trajectory: &Trajectory,
    window: &[SourceRef],
    world: &World<'_>,
) -> Result<StatePolicy, Error> {
    let purpose = match args.purpose {
        StartChoice::Cpt => StartPurpose::Cpt,
        StartChoice::Sft => StartPurpose::Sft,
    };
    let sources: Vec<_> = window.iter().map(|one| StartSource { path: one.path.clone(), step: one.step }).collect();
    let newest = window.last().and_then(|newest| newest.step);
    let rate = newest.and_then(|step| learning_rate_at(trajectory, step));
    Ok(StatePolicy::for_start(purpose, sources, output_path(&*world.storage, &args.out)?, rate))
}

fn document(policy: &StatePolicy, outcome: Option<&MergeOutcome>) -> serde_json::Value {
    json!({
        "kind": "thalweg-init",
        "version": 1,
        "sources": policy.sources,
        "policy": policy,
        "instructions": policy.instructions(),
        "receipt": outcome.map(|outcome| outcome.path.join(RECEIPT_NAME)),
        "was_done": outcome.map(|outcome| outcome.was_done),
    })
}
