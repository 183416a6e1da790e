//! What can be typed for laws: how the loss falls with what is merged.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::options::parse_whole;

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
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg law merge curve.jsonl                       the law, its rivals, and what one more expert gains
  thalweg law merge curve.jsonl --predict 16 --predict 32
  thalweg law merge curve.jsonl --target 2.05         how many experts reach this loss
  thalweg law merge curve.jsonl --least-gain 0.005    when to stop adding experts
  thalweg law merge windows.jsonl --checkpoints       k newest checkpoints of one run: the best k

Each line of the file is one loss: {\"k\": 4, \"loss\": 2.31}, with `subset`, `domain`, `seed`, `n` (model size)
as needed; `docs/law.md` describes them. k = 0 is the base. Exit code 1 says that the losses support no law.")]
pub(crate) struct LawMergeArgs {
    /// Losses, one JSON object on each line
    #[arg(value_name = "CURVE.jsonl")]
    pub(crate) curve: PathBuf,
    /// Forecast the loss of merging K models; repeatable
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = parse_whole::<u32>)]
    pub(crate) predict: Vec<u32>,
    /// How many models reach this loss
    #[arg(long, value_name = "LOSS")]
    pub(crate) target: Option<f64>,
    /// How many models come within this distance of the floor
    #[arg(long, value_name = "LOSS")]
    pub(crate) within: Option<f64>,
    /// Stop where one more model lowers the loss by less than this
    #[arg(long, value_name = "LOSS")]
    pub(crate) least_gain: Option<f64>,
    /// Models that there are to merge [default: as the file says]
    #[arg(long, value_name = "M", value_parser = parse_whole::<u32>)]
    pub(crate) pool: Option<u32>,
    /// The three k of the closed form [default: k, 2k, 4k]
    #[arg(long, value_name = "K,K,K", value_delimiter = ',', value_parser = parse_whole::<u32>)]
    pub(crate) points: Vec<u32>,
    /// Size of the models, in billions of parameters, if the file has several [default: the largest]
    #[arg(long, value_name = "N")]
    pub(crate) size: Option<f64>,
    /// k counts the newest checkpoints of one run: the form has a drift, and a best k. This form is ours
    #[arg(long)]
    pub(crate) checkpoints: bool,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = parse_whole::<u32>)]
    pub(crate) resamples: u32,
    /// Seed of the bootstrap
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
}
