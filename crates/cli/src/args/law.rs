//! What can be typed for laws: how the loss falls with what is merged.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use thalweg_study::request::parse_whole;

use super::{RunArgs, ScoringArgs};

#[derive(Debug, Args)]
pub(crate) struct LawArgs {
    /// Which law
    #[command(subcommand)]
    pub(crate) what: LawCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LawCommand {
    /// Fit L + A/(k + b) to losses against the number of merged experts, and forecast
    Merge(LawMergeArgs),
    /// Score merges of subsets of experts, reading each expert once: the curve for `law merge`
    Curve(Box<LawCurveArgs>),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg law merge curve.jsonl                     the law, its rivals, the gain of one more
  thalweg law merge curve.jsonl --predict 16 --predict 32
  thalweg law merge curve.jsonl --target 2.05       how many experts reach this loss
  thalweg law merge curve.jsonl --least-gain 0.005  when to stop adding experts
  thalweg law merge windows.jsonl --checkpoints     the best number of newest checkpoints of a run

Each line of the file is one loss: {\"k\": 4, \"loss\": 2.31}, with `subset`, `domain`, `seed` and `n`
(model size) as needed; docs/law.md describes them. k = 0 is the base. Exit code 1 means that the
losses support no law.")]
pub(crate) struct LawMergeArgs {
    /// Losses, one JSON object on each line
    #[arg(value_name = "CURVE.jsonl")]
    pub(crate) curve: PathBuf,
    /// Forecast the loss of merging K models; repeatable
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = parse_whole::<u32>)]
    pub(crate) predict: Vec<u32>,
    /// Find how many models reach this loss
    #[arg(long, value_name = "LOSS")]
    pub(crate) target: Option<f64>,
    /// Find how many models come within this distance of the floor
    #[arg(long, value_name = "LOSS")]
    pub(crate) within: Option<f64>,
    /// Stop where one more model lowers the loss by less than this
    #[arg(long, value_name = "LOSS")]
    pub(crate) least_gain: Option<f64>,
    /// Number of models that could be merged [default: as the file says]
    #[arg(long, value_name = "M", value_parser = parse_whole::<u32>)]
    pub(crate) pool: Option<u32>,
    /// The three k of the closed form [default: k, 2k, 4k]
    #[arg(long, value_name = "K,K,K", value_delimiter = ',', value_parser = parse_whole::<u32>)]
    pub(crate) points: Vec<u32>,
    /// Size of the models, in billions of parameters, if the file has several [default: the largest]
    #[arg(long, value_name = "N")]
    pub(crate) size: Option<f64>,
    /// k counts the newest checkpoints of one run: the form has a drift and a best k (our own form, not the paper's)
    #[arg(long)]
    pub(crate) checkpoints: bool,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = parse_whole::<u32>)]
    pub(crate) resamples: u32,
    /// Seed of the bootstrap
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg law curve -m a -m b -m c -m d --base base --suite suite.toml -o curve.jsonl
  thalweg law curve -m a -m b -m c -m d --k 1,2,4 --suite suite.toml -o curve.jsonl
  thalweg law curve runs/my-run --newest 1,2,4,8,16 --suite suite.toml -o windows.jsonl

Subsets are merged by their plain mean, in memory: all of them up to ten experts, a balanced design for more.")]
pub(crate) struct LawCurveArgs {
    /// A run folder, with `--newest`
    #[arg(value_name = "RUN")]
    pub(crate) run_path: Option<PathBuf>,
    /// An expert; repeatable
    #[arg(short = 'm', long = "model", value_name = "CKPT")]
    pub(crate) models: Vec<String>,
    /// What the experts were trained from: scored as k = 0
    #[arg(long, value_name = "CKPT", conflicts_with = "newest")]
    pub(crate) base: Option<PathBuf>,
    /// Score merges of the newest N checkpoints of the run, for each N
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = parse_whole::<usize>)]
    pub(crate) newest: Vec<usize>,
    /// End at this step of the run [default: the newest]
    #[arg(long, value_name = "S", requires = "newest", value_parser = parse_whole::<u64>)]
    pub(crate) end_step: Option<u64>,
    /// Numbers of experts to merge [default: all]
    #[arg(long, value_name = "K,K,...", value_delimiter = ',', conflicts_with = "newest", value_parser = parse_whole::<usize>)]
    pub(crate) k: Vec<usize>,
    /// Merge at most R subsets of each k, balanced over the experts [default: all up to ten experts, else two for each
    /// expert]
    #[arg(long, value_name = "R", conflicts_with = "newest", value_parser = parse_whole::<usize>)]
    pub(crate) subsets: Option<usize>,
    /// Seed of the design
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "newest", value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
    /// The file of the curve
    #[arg(short, long, alias = "output", value_name = "CURVE.jsonl")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
