//! `thalweg init`: a start point for continued training or fine-tuning, with its policy.

use serde_json::json;
use thalweg_merge::engine::MergeOutcome;
use thalweg_merge::plan::SourceRef;
use thalweg_merge::receipt::RECEIPT_NAME;
use thalweg_storage::guard::output_path;
use thalweg_study::request::{Resolver, Selection};
use thalweg_study::restart::{check_policy_place, publish_policy};
use thalweg_study::select::source_ref;
use thalweg_study::start_policy::{StartSource, StatePolicy};
use thalweg_study::start_window::default_start_window;
use thalweg_trajectory::Trajectory;

use crate::args::InitArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe, execute};
use crate::policy::describe_policy;
use crate::run::learning_rate_at;

pub(crate) fn run(args: &InitArgs, world: &World<'_>) -> Result<Outcome, Error> {
    // A mistyped scheme is reported before the run is read.
    args.scheme.window_scheme()?;
    let resolver = world.resolver();
    let trajectory = resolver.open_run(&args.run_path, &args.run.options)?;
    let window = window(&args.selection, &trajectory, &resolver)?;
    check_policy_place(&*world.storage, &args.out)?;
    let merge = resolver.window_plan(&window, &args.scheme, &args.output, &args.out)?;
    let outcome = execute(&merge, &args.execution, world)?.pop();
    let policy = policy(args, &trajectory, &window, world)?.with_files_of(&merge);
    publish_policy(&*world.storage, &policy, &args.out)?;
    let mut text: String = outcome.iter().map(describe).collect();
    describe_policy(&mut text, &policy);
    Ok(world.answer(&document(&policy, outcome.as_ref()), &text))
}

fn window(selection: &Selection, trajectory: &Trajectory, resolver: &Resolver<'_>) -> Result<Vec<SourceRef>, Error> {
    if !selection.is_empty() {
        return Ok(resolver.select(trajectory, selection)?);
    }
    let window = default_start_window(trajectory)?;
    if let (Some(first), Some(last)) = (window.first(), window.last()) {
        resolver.note(format!(
            "window: {}, steps {} to {}",
            thalweg_tensor::counted(window.len(), "checkpoint"),
            first.step,
            last.step
        ));
    }
    Ok(window.iter().map(source_ref).collect())
}

fn policy(
    args: &InitArgs,
    trajectory: &Trajectory,
    window: &[SourceRef],
    world: &World<'_>,
) -> Result<StatePolicy, Error> {
    let sources: Vec<_> = window.iter().map(|one| StartSource { path: one.path.clone(), step: one.step }).collect();
    let newest = window.last().and_then(|newest| newest.step);
    let rate = newest.and_then(|step| learning_rate_at(trajectory, step));
    Ok(StatePolicy::for_start(args.purpose, sources, output_path(&*world.storage, &args.out)?, rate))
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
