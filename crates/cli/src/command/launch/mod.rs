//! `thalweg launch`: texts that let a job scheduler run the shares of a plan. The scheduler does the rest.

mod kubernetes;
mod ray;
mod slurm;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_merge::plan::MergePlan;
use thalweg_merge::share::MAX_SHARES;

use crate::args::{LaunchArgs, LaunchWhat, WorkArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::read_plan;
use crate::messages::{document_of, with_fields};

pub(crate) fn run(args: &LaunchArgs, world: &World<'_>) -> Result<Outcome, Error> {
    match &args.scheduler {
        LaunchWhat::Slurm(args) => slurm::run(args, world),
        LaunchWhat::Ray(args) => ray::run(args, world),
        LaunchWhat::Kubernetes(args) => kubernetes::run(args, world),
    }
}

/// This program, for a script to start.
fn own_program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|error| Error::usage(format!("the program's own path: {error}")))
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
        let n_shares = args.shards;
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

    /// Where a script goes: as asked for, or else beside the plan.
    fn script(&self, out: Option<&Path>, ending: &str, world: &World<'_>) -> Result<PathBuf, Error> {
        out.map_or_else(|| Ok(self.path.with_extension(ending)), |path| Ok(world.storage.canonical_path(path)?))
    }

    fn document(&self, scheduler: &str, more: &Value) -> Value {
        let about = json!({"scheduler": scheduler, "plan": self.path, "shards": self.n_shares});
        with_fields(document_of("thalweg-launch", &about), more)
    }

    /// Paths of the plan, its sources and its outputs.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let sources =
            self.plan.outputs.iter().flat_map(|output| output.sources.iter().map(|source| source.path.as_path()));
        let outputs = self.plan.outputs.iter().map(|output| output.path.as_path());
        std::iter::once(self.path.as_path()).chain(sources).chain(outputs)
    }
}
