//! Arguments of `merge`, and of a merge by many processes.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use thalweg_merge::share::Share;

use super::{ExecutionArgs, SourceArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg merge runs/my-run --last 10 -o merged
  thalweg merge runs/my-run --count 10 --interval-tokens 8B --scheme ema --alpha 0.2 -o merged
  thalweg merge step1000 step2000 step3000 --scheme wma -o merged
  thalweg merge -m step2000:1.5 -m step1000:-0.5 -o extrapolated
  thalweg merge runs/titan --last 10 -o hf --to-huggingface --hf-assets assets/Llama-3.1-8B
  thalweg merge --append merged -m runs/my-run/step11000 -o merged-11
  thalweg merge --plan plan.json
  thalweg merge --plan plan.json --shard 2/8     one of eight shares; all machines share a disk
  thalweg merge --plan plan.json --finish        once all are done
  thalweg merge recipe.yml merged

An interrupted merge leaves OUT.thalweg-partial; rerun the command to resume it.")]
pub(crate) struct MergeArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Folder of the merged checkpoint
    #[arg(short, long, alias = "output", value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Execute a plan that `plan -o` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["inputs", "models"])]
    pub(crate) plan: Option<PathBuf>,
    /// Add the checkpoint of `-m` to this merge, a mean; the bytes equal those of a merge from scratch
    #[arg(long, value_name = "OLD", conflicts_with_all = ["inputs", "plan"], requires = "models")]
    pub(crate) append: Option<PathBuf>,
    /// Append from these exact sums, which `--keep-sums` wrote, instead of reading the old checkpoints again
    #[arg(long, value_name = "DIR")]
    pub(crate) sums: Option<PathBuf>,
    /// Also keep the exact sum of a mean here, as doubles, for `--append --sums`: 8 or 16 bytes per parameter
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shard", "finish"])]
    pub(crate) keep_sums: Option<PathBuf>,
    /// Execute the plan even if its sources changed since it was made
    #[arg(long, requires = "plan")]
    pub(crate) allow_changed: bool,
    /// Print the plan and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Compare the merge, and the newest source, with this checkpoint, such as an annealed one
    #[arg(long, value_name = "CKPT", conflicts_with_all = ["shard", "finish"])]
    pub(crate) against: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
    #[command(flatten)]
    pub(crate) shares: SharesArgs,
}

/// Which part of the work this process does, where many do it.
#[derive(Debug, Args, Clone, Default, PartialEq, Eq)]
#[command(next_help_heading = "Many processes")]
pub(crate) struct SharesArgs {
    /// Do only share I of N, with 0 <= I < N; auto takes both from the Slurm array, the Kubernetes job or the
    /// MPI rank of this process, auto/N only I
    #[arg(long, value_name = "I/N|auto", conflicts_with_all = ["finish", "dry_run"])]
    pub(crate) shard: Option<ShardChoice>,
    /// Check that every share is present and complete, and publish
    #[arg(long, conflicts_with_all = ["dry_run", "discard_partial"])]
    pub(crate) finish: bool,
}

/// The share that the user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardChoice {
    Given(Share),
    /// What the environment says; with a number, only of which share this process is.
    Auto(Option<usize>),
}

impl FromStr for ShardChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a share; write I/N with 0 <= I < N, such as 2/8, or auto, or auto/N");
        let number = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<usize>().ok().filter(|_| is_plain).ok_or_else(wrong)
        };
        match text.split_once('/') {
            None if text == "auto" => Ok(Self::Auto(None)),
            None => Err(wrong()),
            Some((index, count)) => {
                let count = number(count)?;
                // Any share of this number of shares.
                Share::new(0, count).ok_or_else(wrong)?;
                match index {
                    "auto" => Ok(Self::Auto(Some(count))),
                    index => Share::new(number(index)?, count).map(Self::Given).ok_or_else(wrong),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_from_zero() {
        assert_eq!("0/1".parse(), Ok(ShardChoice::Given(Share::new(0, 1).unwrap())));
        assert_eq!("7/8".parse(), Ok(ShardChoice::Given(Share::new(7, 8).unwrap())));
        assert_eq!("auto".parse(), Ok(ShardChoice::Auto(None)));
        assert_eq!("auto/32".parse(), Ok(ShardChoice::Auto(Some(32))));
        for wrong in
            ["8/8", "0/0", "1", "", "/", "a/b", "-1/4", "+1/4", "1/4/4", "auto/0", "auto/", "1/99999999999", "Auto"]
        {
            let refused = wrong.parse::<ShardChoice>().unwrap_err();
            assert!(refused.contains("0 <= I < N"), "{wrong}: {refused}");
        }
    }
}
