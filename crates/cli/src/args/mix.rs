//! What can be typed about mixtures of training data.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use thalweg_study::mix::Objective;
use thalweg_study::request::{one_of, parse_whole, word};

use super::{RunArgs, ScoringArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg mix plan --domains web,math,code --general web --tokens 30B --proxies 112 \\
      --proxy-tokens 12B
  thalweg mix check --base base --component web=a --component math=b --component code=c
  thalweg mix search --component web=a --component math=b --component code=c --general web \\
      --suite suite.toml -o trials.jsonl
  thalweg mix validate --trials trials.jsonl --references runs.jsonl

One component per data set is trained from one base; merging them predicts what a mixture would
give. docs/mix.md has the method and what we found.")]
pub(crate) struct MixArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) what: MixCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MixCommand {
    /// Plan what to train, what it costs, and how many mixtures make merging cheaper
    Plan(MixPlanArgs),
    /// Check whether averages of these components can be trusted; exit code 1 means no
    Check(Box<MixCheckArgs>),
    /// Merge and score mixtures in rounds to find the best region of mixtures
    Search(Box<MixSearchArgs>),
    /// Check whether merged mixtures rank like models that were trained on them
    Validate(MixValidateArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg mix plan --domains web,math,code --general web --tokens 30B --proxies 112 \\
      --proxy-tokens 12B
  thalweg mix plan --config lab.toml --base run/step-2000 --general stories --tokens 2M \\
      -o components

With `--config`, a config of `thalweg train` with all data sets, this also writes a config for each
component, which resumes from the base with its whole state and trains on the shares shown.")]
pub(crate) struct MixPlanArgs {
    /// Names of the data sets [default: those of `--config`]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',')]
    pub(crate) domains: Vec<String>,
    /// The general data set, which is part of every component [default: the first]
    #[arg(long, value_name = "NAME")]
    pub(crate) general: Option<String>,
    /// Share of general data in the other components; no mixture with less can be predicted
    #[arg(long, value_name = "B", default_value_t = 0.5)]
    pub(crate) beta: f64,
    /// Tokens of each component
    #[arg(long, value_name = "T", value_parser = parse_whole::<u64>)]
    pub(crate) tokens: u64,
    /// Mixtures to try
    #[arg(long, value_name = "N", default_value_t = 112, value_parser = parse_whole::<u64>)]
    pub(crate) proxies: u64,
    /// Tokens of a small run for one mixture, which a merge replaces [default: as a component]
    #[arg(long, value_name = "T", value_parser = parse_whole::<u64>)]
    pub(crate) proxy_tokens: Option<u64>,
    /// What scoring one merge costs, in tokens of training
    #[arg(long, value_name = "T", default_value = "0", value_parser = parse_whole::<u64>)]
    pub(crate) score_tokens: u64,
    /// A config of `thalweg train` with a `[[data]]` section for each data set
    #[arg(long, value_name = "FILE", requires = "base", requires = "out")]
    pub(crate) config: Option<PathBuf>,
    /// What the components resume from
    #[arg(long, value_name = "CKPT", requires = "config")]
    pub(crate) base: Option<PathBuf>,
    /// Folder of the configs
    #[arg(short, long, alias = "output", value_name = "DIR", requires = "config")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The size of a delta is the sum of |component - base| over the sum of |component| and |base|. Above
0.15, or where the mean of two components is worse than both, averages are risky; above 0.5 a
component was not trained from this base, and is refused. `--suite` scores the means of all pairs.")]
pub(crate) struct MixCheckArgs {
    /// What the components were trained from
    #[arg(long, value_name = "CKPT")]
    pub(crate) base: PathBuf,
    /// A component; repeatable
    #[arg(long, value_name = "NAME=CKPT", required = true)]
    pub(crate) component: Vec<String>,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg mix search --component web=a --component math=b --general web --suite suite.toml \\
      -o trials.jsonl
  thalweg mix search --component web=a --component math=b --general web --suite suite.toml \\
      --mixtures runs.jsonl -o trials.jsonl

`coefficients` multiply the components; `data_shares` are what a run would train on, after the
general data in every component. The predictor of each score is quadratic in the mixture, fitted by
ridge regression.")]
pub(crate) struct MixSearchArgs {
    /// A component; repeatable
    #[arg(long, value_name = "NAME=CKPT", required = true)]
    pub(crate) component: Vec<String>,
    /// The component that was trained on general data alone
    #[arg(long, value_name = "NAME")]
    pub(crate) general: String,
    /// Share of general data in the other components
    #[arg(long, value_name = "B", default_value_t = 0.5)]
    pub(crate) beta: f64,
    /// Mixtures of the first round; each later one has half as many
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = parse_whole::<usize>)]
    pub(crate) n: usize,
    /// Rounds
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = parse_whole::<usize>)]
    pub(crate) rounds: usize,
    /// What to minimise: the mean over the tasks of the rank, or of the loss itself
    #[arg(long, value_parser = one_of(["rank", "mean"], word::<Objective>), default_value = "rank", value_name = "WHAT")]
    pub(crate) objective: Objective,
    /// Score only these mixtures: JSON lines with `coefficients` or `data_shares`
    #[arg(long, value_name = "FILE")]
    pub(crate) mixtures: Option<PathBuf>,
    /// Seed of all random sampling
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
    /// The file of all scored mixtures
    #[arg(short, long, alias = "output", value_name = "TRIALS.jsonl")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each line of both files is one mixture: {\"data_shares\": {\"web\": 0.7, \"code\": 0.3}, \"measures\":
{\"code/nats_per_token\": 2.31}}. Mixtures are matched by their shares, to within 0.002.")]
pub(crate) struct MixValidateArgs {
    /// What `mix search` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) trials: PathBuf,
    /// Scores of runs that were trained on these mixtures
    #[arg(long, value_name = "FILE")]
    pub(crate) references: PathBuf,
    /// Seed of the bootstrap
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
}
