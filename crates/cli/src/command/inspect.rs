//! `thalweg inspect`: what a path holds, and what would block a merge. Exit 0 for whatever can be read.

use std::path::Path;

use thalweg_checkpoint::open_checkpoint_with;
use thalweg_study::request::look_at;
use thalweg_trajectory::PathKind;

use crate::args::InspectArgs;
use crate::command::inspect_checkpoint::show;
use crate::command::{Outcome, inspect_run};
use crate::error::Error;
use crate::host::World;

pub(crate) fn run(args: &InspectArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let path = match look_at(&args.path, &args.run.options, &world.resolver())? {
        (PathKind::Checkpoint, path) => path,
        (PathKind::Run, path) => {
            let shown = inspect_run::run(args, (&path, None), world);
            return match shown {
                Err(Error::Study(thalweg_study::Error::Trajectory(error))) if is_no_run(&error) => {
                    inspect_stranger(&path, error, world)
                }
                shown => shown,
            };
        }
        (PathKind::RunWithCheckpoint, path) => {
            // The run matters more, so a checkpoint beside it that cannot be read is only noted.
            let beside = open_checkpoint_with(&world.storage, &path, &world.reading);
            let beside = beside.map_err(|error| world.note(format!("the checkpoint beside the run: {error}"))).ok();
            return inspect_run::run(args, (&path, beside.as_ref()), world);
        }
    };
    show(&open_checkpoint_with(&world.storage, &path, &world.reading)?, world)
}

fn is_no_run(error: &thalweg_trajectory::Error) -> bool {
    matches!(error, thalweg_trajectory::Error::IsCheckpoint { .. } | thalweg_trajectory::Error::NotARun { .. })
}

/// A path that is not a run may be a checkpoint that cannot be read: then the error says why.
fn inspect_stranger(path: &Path, not_a_run: thalweg_trajectory::Error, world: &World<'_>) -> Result<Outcome, Error> {
    match open_checkpoint_with(&world.storage, path, &world.reading) {
        Ok(checkpoint) => show(&checkpoint, world),
        // That it looks like a run does not help here: the names that a run has do.
        Err(
            thalweg_checkpoint::Error::NotACheckpoint { converter: None, .. }
            | thalweg_checkpoint::Error::HoldsCheckpoints { .. },
        ) => Err(not_a_run.into()),
        Err(error) => Err(error.into()),
    }
}
