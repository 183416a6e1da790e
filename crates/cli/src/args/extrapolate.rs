//! What can be typed for an extrapolation.

use std::path::PathBuf;

use clap::Args;
use thalweg_study::extrapolate::Direction;
use thalweg_study::request::{OutputOptions, Selection, one_of, parse_whole, word};

use super::{ExecutionArgs, RunArgs, ScoringArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg extrapolate runs/my-run --suite choose.toml --confirm report.toml -o out
  thalweg extrapolate runs/my-run --last 48 --window 8 --suite choose.toml -o out
  thalweg extrapolate runs/my-run --last 24 --direction secant --suite choose.toml
  thalweg extrapolate runs/my-run --last 24 --alpha 1 --suite choose.toml -o out

Means of disjoint windows are taken as points of a line, and steps along it are scored: 0, 1/2 and 1
lag (the delay of averaging), the vertex of the parabola through them, and the plain means of half
and twice the window, six models at most. This resembles Extra-Merge, whose rule for coefficients
has no public code.

Exit code 1 means that no step beats a plain mean; nothing is written then.
docs/extrapolate.md has the method and what we found.")]
pub(crate) struct ExtrapolateArgs {
    /// A run folder
    pub(crate) run_path: PathBuf,
    /// Folder of the merge [default: report only]
    #[arg(short, long, alias = "output", value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Checkpoints in each point [default: a sixth of those selected]
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub(crate) window: Option<usize>,
    /// Points on the line [default: as many as the checkpoints make]
    #[arg(long, value_name = "M", value_parser = parse_whole::<usize>)]
    pub(crate) points: Option<usize>,
    /// The line: leading principal component of the points, or from the oldest to the newest
    #[arg(long, value_parser = one_of(["pc1", "secant"], word::<Direction>), default_value = "pc1", value_name = "LINE")]
    pub(crate) direction: Direction,
    /// Take a step of this many lags, 0 to 2, whatever its score [default: found by scores]
    #[arg(long, value_name = "A")]
    pub(crate) alpha: Option<f64>,
    /// A second suite, which only confirms: its role is report, and it shares no row with `--suite`
    #[arg(long, value_name = "FILE")]
    pub(crate) confirm: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}
