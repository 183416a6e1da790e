//! What can be typed for the commands that lead from a run to a decision.

use std::path::PathBuf;

use clap::Args;
use thalweg_eval::StartRule;
use thalweg_lab::config::MomentsPolicy;
use thalweg_merge::scheme::DecayCurve;
use thalweg_study::request::{OutputOptions, SchemeOptions, Selection, one_of, parse_bytes, parse_whole, word};
use thalweg_study::start_policy::{DataPolicy, StartPurpose};
use thalweg_study::sweep::{Keep, RawChoice};

use super::words::start_rule;
use super::{ExecutionArgs, RunArgs, SharesArgs};
use crate::options::Seconds;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg sweep runs/my-run --counts 3,6,10 --schemes sma,wma,ema:0.2 -o sweep
  thalweg sweep runs/my-run --counts 10 --interval-tokens 4B,8B --ends every:1000 -o sweep
  thalweg sweep runs/my-run --counts 3,6,10 --suite choose.toml --report-suite report.toml -o sweep

With a suite, merges are scored in memory beside the newest raw checkpoint of each window;
DIR/report.html shows them, and scores are reused by later sweeps.")]
pub(crate) struct SweepArgs {
    /// A run folder
    pub(crate) run_path: PathBuf,
    /// Folder of the merges; with scores, also of the record and the page
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Checkpoints in a window
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "10", value_parser = parse_whole::<usize>)]
    pub(crate) counts: Vec<usize>,
    /// Steps between neighbours [default: consecutive checkpoints]
    #[arg(long, value_name = "V,V,...", value_delimiter = ',', conflicts_with = "interval_tokens", value_parser = parse_whole::<u64>)]
    pub(crate) interval_steps: Vec<u64>,
    /// Tokens between neighbours
    #[arg(long, value_name = "V,V,...", value_delimiter = ',', value_parser = parse_whole::<u64>)]
    pub(crate) interval_tokens: Vec<u64>,
    /// Schemes with their parameter
    #[arg(long, value_name = "S,S,...", value_delimiter = ',', default_value = "sma")]
    pub(crate) schemes: Vec<String>,
    /// Where windows end: newest; some steps; `steps` for every checkpoint; or every:STEPS, back from the newest
    #[arg(long, value_name = "ENDS", value_delimiter = ',', default_value = "newest")]
    pub(crate) ends: Vec<String>,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    /// Which merges to write [default: all without a suite, best with one]
    #[arg(long, value_parser = one_of(["all", "best", "none"], word::<Keep>), value_name = "WHICH")]
    pub(crate) keep: Option<Keep>,
    /// Raw checkpoints to score beside the merges: the newest of each window, or all of them
    #[arg(long, value_parser = one_of(["newest", "window"], word::<RawChoice>), default_value = "newest", value_name = "WHICH")]
    pub(crate) raws: RawChoice,
    /// Suite that is scored for the report only and does not affect the choice; must share no row with `--suite`
    #[arg(long, value_name = "FILE")]
    pub(crate) report_suite: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
    /// Refuse to score more models than this
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub(crate) budget_evaluations: Option<usize>,
    /// Refuse to read more than this
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) budget_bytes: Option<u64>,
    /// Print what would be made and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) shares: SharesArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg forecast runs/my-run --suite suite.toml            an anneal over the last tenth
  thalweg forecast runs/my-run --suite suite.toml --anneal 1-sqrt --anneal-tokens 100B -o forecast
  thalweg forecast old-run --suite suite.toml --end-step 9000 --anneal-steps 900 \\
      --truth old-run-annealed/step-9000 --save-cases cases.jsonl
  thalweg forecast runs/my-run --suite suite.toml --calibrate cases.jsonl

The anneal ends at the end step, on the tokens that the run has seen by then. Four models are
scored: the newest checkpoint, the mean of those within the anneal's span, of its second half, and
of five spread over it. Exit code 1 means that the run does not support a forecast, and why.")]
pub(crate) struct ForecastArgs {
    /// A run folder
    pub(crate) run_path: PathBuf,
    #[command(flatten)]
    pub(crate) anneal: AnnealArgs,
    /// Where it ends [default: the newest checkpoint]
    #[arg(long, value_name = "S", value_parser = parse_whole::<u64>)]
    pub(crate) end_step: Option<u64>,
    /// The annealed checkpoint, if there is one: scored too, and compared
    #[arg(long, value_name = "CKPT")]
    pub(crate) truth: Option<PathBuf>,
    /// Append the result to this file, for `--calibrate`; needs `--truth`
    #[arg(long, value_name = "FILE", requires = "truth")]
    pub(crate) save_cases: Option<PathBuf>,
    /// Folder for the record, page and scores
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Which anneal is asked about, and what is known about others.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Forecast")]
pub(crate) struct AnnealArgs {
    /// Shape of the anneal
    #[arg(long, default_value = "linear", value_name = "CURVE")]
    #[arg(value_parser = one_of(["linear", "cosine", "1-sqrt"], word::<DecayCurve>))]
    pub(crate) anneal: DecayCurve,
    /// Length of the anneal in steps [default: a tenth of the end step]
    #[arg(long, value_name = "D", conflicts_with = "anneal_tokens", value_parser = parse_whole::<u64>)]
    pub(crate) anneal_steps: Option<u64>,
    /// Length of the anneal in tokens
    #[arg(long, value_name = "D", value_parser = parse_whole::<u64>)]
    pub(crate) anneal_tokens: Option<u64>,
    /// Learning rate at the end of the anneal, as a share of the peak
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    pub(crate) anneal_floor: f64,
    /// Learn from these cases of past anneals too
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<PathBuf>,
}

impl AnnealArgs {
    /// Whether nothing was asked for.
    pub(crate) fn is_default(&self) -> bool {
        let Self { anneal, anneal_steps, anneal_tokens, anneal_floor, calibrate } = self;
        let no_length = anneal_steps.is_none() && anneal_tokens.is_none();
        *anneal == DecayCurve::Linear && no_length && *anneal_floor <= 0.0 && calibrate.is_none()
    }
}

/// By what models are scored.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Scoring")]
pub(crate) struct ScoringArgs {
    /// The suite (TOML) that decides
    #[arg(long, value_name = "FILE")]
    pub(crate) suite: Option<PathBuf>,
    /// Decide by this task, or TASK/MEASURE [default: the first of the suite]
    #[arg(long, value_name = "TASK")]
    pub(crate) by: Option<String>,
    /// Score each checkpoint with another program, which writes its results to {out}
    #[arg(long, value_name = "CMD", conflicts_with = "suite")]
    pub(crate) eval_command: Option<String>,
    /// Stop the command and all its child processes if it takes longer than this for one model [default: no limit]
    #[arg(long, value_name = "TIME", requires = "eval_command")]
    pub(crate) eval_timeout: Option<Seconds>,
    /// The tokenizer.json to use [default: that of the checkpoint]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Put the start token before every text (always), where the tokenizer's own files do (auto), or never
    /// before a context (never) [default: as the suite says, else always]
    #[arg(long, value_parser = start_rule(), value_name = "WHEN", conflicts_with = "eval_command")]
    pub(crate) start_token: Option<StartRule>,
    /// Folder in which scores are kept for reuse [default: `scores` in the output folder of sweep,
    /// watch and forecast]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

impl ScoringArgs {
    /// Whether they say what scores.
    pub(crate) fn is_given(&self) -> bool {
        self.suite.is_some() || self.eval_command.is_some()
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg recover runs/my-run                         find spikes, and what to resume from
  thalweg recover runs/my-run --log events.out.tfevents.1 -o restart

The exit code is 1 if the log shows no spike.")]
pub(crate) struct RecoverArgs {
    /// A run folder
    pub(crate) run_path: PathBuf,
    /// Write the merge of the proposed checkpoints here, with the policy beside it
    #[arg(short, long, alias = "output", value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// The optimizer's moments: zero, those of the newest source, or the sources' average
    #[arg(long, value_parser = one_of(["reset", "newest", "average"], word::<MomentsPolicy>), default_value = "newest")]
    pub(crate) moments: MomentsPolicy,
    /// The batches from the newest source to the end of the spike
    #[arg(long, value_parser = one_of(["skip", "replay"], word::<DataPolicy>), default_value = "skip")]
    pub(crate) data: DataPolicy,
    /// Scheme with its parameter, such as wma or ema:0.2
    #[arg(long, value_name = "SCHEME", default_value = "sma")]
    pub(crate) scheme: String,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg init runs/my-run --for cpt -o start
  thalweg init runs/my-run --for sft --count 10 --interval-tokens 8B -o start

Without a selection, up to ten of the newest checkpoints, of one phase and from the last fifth of
the run.")]
pub(crate) struct InitArgs {
    /// A run folder
    pub(crate) run_path: PathBuf,
    /// Continued pre-training, or fine-tuning
    #[arg(long = "for", value_parser = one_of(["cpt", "sft"], word::<StartPurpose>), value_name = "PURPOSE")]
    pub(crate) purpose: StartPurpose,
    /// Folder of the start point
    #[arg(short, long, alias = "output", value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) scheme: SchemeOptions,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}
