//! What can be typed for `watch`.

use std::path::PathBuf;

use clap::Args;
use thalweg_study::request::{OutputOptions, parse_positive, parse_whole};

use super::{AnnealArgs, ExecutionArgs, RunArgs, ScoringArgs, ServeAtArgs};
use crate::notify::HookUrl;
use crate::options::Seconds;

/// A port, or `None` for the one that is tried by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServePort(pub(crate) Option<u16>);

fn parse_port(text: &str) -> Result<ServePort, String> {
    if text == "default" {
        return Ok(ServePort(None));
    }
    text.parse().map(|port| ServePort(Some(port))).map_err(|_| format!("`{text}` is not a port; write 0 to 65535"))
}

fn parse_truth(text: &str) -> Result<(u64, PathBuf), String> {
    let refuse =
        || format!("`{text}` does not name a step and a checkpoint; write STEP:CKPT, such as 9000:annealed/step-9000");
    let (step, path) = text.split_once(':').ok_or_else(refuse)?;
    let step = parse_whole(step).map_err(|_| refuse())?;
    if path.is_empty() { Err(refuse()) } else { Ok((step, path.into())) }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg watch runs/my-run --windows sma:10,wma:10 -o merged    beside the trainer, until Ctrl-C
  thalweg watch runs/my-run --windows sma:10 --suite suite.toml --hold -o merged
  thalweg watch runs/my-run --windows sma:10 --suite suite.toml --serve -o merged
  thalweg watch runs/my-run --windows sma:10 --suite suite.toml --forecast \\
      --anneal-tokens 100B -o merged
  thalweg watch runs/my-run --windows sma:10,ema:0.2:20 --every 1000 --once -o merged
  thalweg watch runs/my-run --windows sma:10 --eval-requests evals \\
      --eval-command 'score {checkpoint} {out}' -o merged

Each merge is the one that `thalweg merge RUN --last N` would have made at that end. All missing
merges are made by reading the run once. Merges that are already in DIR are kept; DIR/watch.jsonl
lists them.
With scores, the newest end goes first. Rerun the command after a stop: it resumes.
With --once, exit code 2 means that some merges could not be made; the others are kept.")]
pub(crate) struct WatchArgs {
    /// A run folder
    pub(crate) run_path: PathBuf,
    /// Windows to keep current: a scheme and a number of checkpoints, such as sma:10 or ema:0.2:10
    #[arg(long, value_name = "SCHEME:N,...", value_delimiter = ',', required = true)]
    pub(crate) windows: Vec<String>,
    /// Folder that will hold one folder for each merge, and the record
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Make what is missing, score the newest end, and exit
    #[arg(long)]
    pub(crate) once: bool,
    /// Windows end at steps that are multiples of V [default: at every finished checkpoint]
    #[arg(long, value_name = "V", value_parser = parse_positive::<u64>, conflicts_with = "ends")]
    pub(crate) every: Option<u64>,
    /// Where windows end: newest; some steps; `steps` for every checkpoint; or every:STEPS, back from the newest
    #[arg(long, value_name = "ENDS", value_delimiter = ',')]
    pub(crate) ends: Vec<String>,
    /// Ignore windows that end before this step
    #[arg(long, value_name = "S", value_parser = parse_whole::<u64>)]
    pub(crate) from_step: Option<u64>,
    /// Steps between neighbours in a window [default: consecutive checkpoints]
    #[arg(long, value_name = "V", conflicts_with = "interval_tokens", value_parser = parse_whole::<u64>)]
    pub(crate) interval_steps: Option<u64>,
    /// Tokens between neighbours in a window
    #[arg(long, value_name = "V", value_parser = parse_whole::<u64>)]
    pub(crate) interval_tokens: Option<u64>,
    /// Time between checks of the run
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) poll: Seconds,
    /// Time between status lines while nothing changes
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) heartbeat: Seconds,
    /// Keep checkpoints that later windows need in DIR/held, by hard links, when the trainer prunes them
    #[arg(long)]
    pub(crate) hold: bool,
    /// Between checkpoints, sum in DIR/prepared what the next windows share: their merges then read only that sum and
    /// the new checkpoint
    #[arg(long)]
    pub(crate) prepare: bool,
    /// Have a worker elsewhere run the command: requests and results are files in this folder (docs/watch.md)
    #[arg(long, value_name = "DIR", requires = "eval_command")]
    pub(crate) eval_requests: Option<PathBuf>,
    /// Once this file exists, make what is left and exit; workers are told that no request will follow
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub(crate) until: Option<PathBuf>,
    /// At each end that is scored, forecast what an anneal that ended there would score
    #[arg(long, help_heading = "Forecast")]
    pub(crate) forecast: bool,
    /// A real anneal that ended at this step: it is scored, and its forecast is compared with it; repeatable
    #[arg(long, value_name = "STEP:CKPT", value_parser = parse_truth, requires = "forecast", help_heading = "Forecast")]
    pub(crate) truth: Vec<(u64, PathBuf)>,
    /// Send a message when the forecast of the first score reaches this value
    #[arg(long, value_name = "VALUE", requires = "forecast", help_heading = "Messages")]
    pub(crate) target: Option<f64>,
    /// Send a JSON message to this address (http only) on a spike, a new best score and a forecast that reaches
    /// --target
    #[arg(long, value_name = "URL", help_heading = "Messages")]
    pub(crate) notify: Option<HookUrl>,
    /// Pipe the same message to a shell command, for example to curl
    #[arg(long, value_name = "CMD", help_heading = "Messages")]
    pub(crate) notify_command: Option<String>,
    /// Serve a page while watching, at port 4840 or this one; `--serve=0` takes any free port
    #[arg(
        long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "default",
        value_parser = parse_port, conflicts_with = "once", help_heading = "Page"
    )]
    pub(crate) serve: Option<ServePort>,
    #[command(flatten)]
    pub(crate) at: ServeAtArgs,
    #[command(flatten)]
    pub(crate) anneal: AnnealArgs,
    #[command(flatten)]
    pub(crate) scoring: ScoringArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}
