//! `thalweg launch`: texts that let a job scheduler run the shares of a plan. The scheduler does the rest.

mod kubernetes;
mod ray;
mod slurm;

use std::path::{Path, PathBuf};

use thalweg_merge::plan::MergePlan;
use thalweg_merge::share::MAX_SHARES;

use crate::args::{LaunchArgs, LaunchWhat, WorkArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::read_plan;

pub(crate) fn run(args: &LaunchArgs, world: &World<'_>) -> Result<Outcome, Error> {
    match &args.scheduler {
        LaunchWhat::Slurm(args) => slurm::run(args, world),
        LaunchWhat::Ray(args) => ray::run(args, world),
        LaunchWhat::Kubernetes(args) => kubernetes::run(args, world),
    }
}

/// A plan for a scheduler to run.
struct Work {
    /// Its file, as an absolute path: jobs begin in other folders.
    path: PathBuf,
    plan: MergePlan,
    n_shares: usize,
}

impl Work {
    fn open(args: &WorkArgs, world: &World<'_>) -> Result<Self, Error> {
        let n_shares = args.shards.get();
        if n_shares > MAX_SHARES {
            return Err(Error::usage(format!(
                "{n_shares} shares are more than the {MAX_SHARES} that a merge can have"
            )));
        }
        let plan = read_plan(&args.plan, world)?;
        let path = world.storage.canonical_path(&args.plan)?;
        let work = Self { path, plan, n_shares };
        for path in work.paths() {
            let Some(text) = path.to_str() else {
                return Err(Error::usage(format!("the path `{}` is not Unicode text", path.display())));
            };
            // Comments of a script and lines of a manifest end where the line does.
            if text.contains(char::is_control) {
                return Err(Error::usage_with_hint(
                    format!(
                        "the path `{}` holds a line break or another control character",
                        thalweg_tensor::display_name(text)
                    ),
                    "give it a name that can be part of a script",
                ));
            }
        }
        Ok(work)
    }

    /// Paths of the plan, its sources and its outputs.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let sources =
            self.plan.outputs.iter().flat_map(|output| output.sources.iter().map(|source| source.path.as_path()));
        let outputs = self.plan.outputs.iter().map(|output| output.path.as_path());
        std::iter::once(self.path.as_path()).chain(sources).chain(outputs)
    }
}
