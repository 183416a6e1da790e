//! Arguments of `launch`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use thalweg_study::request::{parse_positive, parse_whole};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg plan runs/my-run --last 20 --merged /shared/merged -o plan.json
  thalweg launch slurm plan.json -n 32 --submit -- -p cpu -c 16 -t 2:00:00
  thalweg launch ray plan.json -n 32 --cpus 8 && python3 plan.ray.py
  thalweg launch kubernetes plan.json -n 32 --image registry/thalweg:1 \\
      --claim checkpoints > jobs.yaml

The paths of the plan must mean the same on every machine. docs/scale.md has the arithmetic.")]
pub(crate) struct LaunchArgs {
    /// On what
    #[command(subcommand)]
    pub(crate) scheduler: LaunchWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LaunchWhat {
    /// Write, and optionally submit, a Slurm script: an array of shares and a last step that depends on it
    Slurm(SlurmArgs),
    /// Write a Python script that runs the shares as Ray tasks, and then the last step
    Ray(RayArgs),
    /// Print two Kubernetes Jobs: an indexed one of shares, and a suspended one for the last step
    Kubernetes(KubernetesArgs),
}

/// What every scheduler needs to know.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// A plan that `thalweg plan -o` wrote
    #[arg(value_name = "PLAN")]
    pub(crate) plan: PathBuf,
    /// Number of shares
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_positive::<usize>)]
    pub(crate) shards: usize,
}

#[derive(Debug, Args)]
pub(crate) struct SlurmArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// The script [default: the plan's name with `.slurm.sh`]
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Submit it with sbatch
    #[arg(long)]
    pub(crate) submit: bool,
    /// Options of sbatch for the shares and the last step, such as `-p cpu -c 16 -t 2:00:00`
    #[arg(last = true, value_name = "SBATCH OPTIONS", allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RayArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// The script [default: the plan's name with `.ray.py`]
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Cores of each task, and threads of each share
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_positive::<usize>)]
    pub(crate) cpus: usize,
    /// How often a share that failed or whose worker died is run again
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_whole::<u32>)]
    pub(crate) retries: u32,
}

#[derive(Debug, Args)]
pub(crate) struct KubernetesArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Image of a container that holds `thalweg`
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: String,
    /// Claim of the volume that holds plan, sources and output
    #[arg(long, value_name = "NAME", default_value = "checkpoints")]
    pub(crate) claim: String,
    /// Where the volume is mounted: the plan's paths must be valid there [default: the common parent folder of the
    /// plan, its sources and its outputs]
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: Option<PathBuf>,
    /// Name of the jobs
    #[arg(long, value_name = "NAME", default_value = "thalweg-merge")]
    pub(crate) name: String,
}
