//! The policy of a start point: written beside its merge, and told to people.

use std::fmt::Write;
use std::path::Path;

use thalweg_merge::plan::MergePlan;
use thalweg_storage::guard::check_file;
use thalweg_storage::publish::publish_file;
use thalweg_study::start_policy::{START_FILE, START_NAME, StatePolicy, moments_name};
use thalweg_tensor::counted;

use crate::error::Error;
use crate::host::World;

/// A policy with the format of the merge that it is for.
pub(crate) fn with_files_of(policy: StatePolicy, merge: &MergePlan) -> StatePolicy {
    match merge.outputs.first() {
        Some(output) => policy.with_files(output.format.to_string(), output.policy.optimizer),
        None => policy,
    }
}

/// Refuses before the merge if the policy could not be written into its folder.
pub(crate) fn check_policy_place(folder: &Path, world: &World<'_>) -> Result<(), Error> {
    Ok(check_file(&*world.storage, &folder.join(START_NAME), START_FILE, &[])?)
}

/// Writes the policy of a start point into its folder.
pub(crate) fn publish_policy(policy: &StatePolicy, folder: &Path, world: &World<'_>) -> Result<(), Error> {
    let text = policy.to_json()?;
    Ok(publish_file(&*world.storage, &folder.join(START_NAME), text.as_bytes(), START_FILE)?)
}

/// The policy and what to do in each trainer.
pub(crate) fn describe_policy(text: &mut String, policy: &StatePolicy) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nmoments: {}", moments_name(policy.moments));
    let _ = writeln!(text, "learning rate: {}", policy.learning_rate.advice);
    let _ = match (policy.step(), policy.skip_data_steps) {
        (None, _) => writeln!(text, "steps: from 0"),
        (Some(step), 0) => writeln!(text, "steps: from {step}; data: replayed from there"),
        (Some(step), n) => {
            let skipped = counted(n, "step");
            writeln!(text, "steps: from {step}; data: skip {skipped} and resume with those of step {}", step + n + 1)
        }
    };
    for one in policy.instructions() {
        let _ = writeln!(text, "\n{}:", one.trainer);
        for line in &one.lines {
            let _ = writeln!(text, "  {line}");
        }
    }
}
