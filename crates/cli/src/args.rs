//! What can be typed. Nothing is interpreted here; see `options` and `requests`.

mod clean;
mod eval;
mod extrapolate;
mod fetch;
mod forget;
mod generate;
mod help;
mod launch;
mod law;
mod merge;
mod mix;
mod parse;
mod serve;
mod study;
mod watch;
mod words;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, ColorChoice, Parser, Subcommand};
use thalweg_checkpoint::Params;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::output_format::RequestedFormat;
use thalweg_study::request::{
    FileOptions, HuggingFaceOptions, OutputOptions, RuleOptions, RunOptions, SchemeOptions, Selection, format, one_of,
    parse_bytes, parse_positive, parse_whole, word,
};
use thalweg_tensor::kernel::Simd;

pub(crate) use self::clean::CleanArgs;
pub(crate) use self::eval::EvalArgs;
pub(crate) use self::extrapolate::ExtrapolateArgs;
pub(crate) use self::fetch::FetchArgs;
pub(crate) use self::forget::{
    ForgetArgs, ForgetBuildArgs, ForgetCommand, ForgetCurveArgs, ForgetEntitiesArgs, ForgetReplayArgs, ForgetScoreArgs,
    ProbeTokensArgs,
};
pub(crate) use self::generate::{GenerateArgs, GenerateWhat};
use self::help::COMMON;
pub(crate) use self::help::program;
pub(crate) use self::launch::{KubernetesArgs, LaunchArgs, LaunchWhat, RayArgs, SlurmArgs, WorkArgs};
pub(crate) use self::law::{LawArgs, LawCommand, LawCurveArgs, LawMergeArgs};
pub(crate) use self::merge::{MergeArgs, ShardChoice, SharesArgs};
pub(crate) use self::mix::{MixArgs, MixCheckArgs, MixCommand, MixPlanArgs, MixSearchArgs, MixValidateArgs};
pub(crate) use self::parse::{lacking_options, parse_arguments};
pub(crate) use self::serve::{ServeArgs, ServeAtArgs};
pub(crate) use self::study::{AnnealArgs, ForecastArgs, InitArgs, RecoverArgs, ScoringArgs, SweepArgs};
pub(crate) use self::watch::{ServePort, WatchArgs};

/// Merge checkpoints of one pre-training run: exactly rounded, at disk speed, in bounded memory.
#[derive(Debug, Parser)]
#[command(name = "thalweg", version, long_version = long_version(), max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Version, commit, target and instruction set of the kernels.
fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let (version, target) = (env!("CARGO_PKG_VERSION"), env!("THALWEG_TARGET"));
        let commit = option_env!("THALWEG_COMMIT").unwrap_or("unknown");
        let kernels = match Simd::Auto.resolve() {
            Simd::Avx512 => "AVX-512",
            Simd::Avx2 => "AVX2",
            Simd::Portable | Simd::Auto => "portable",
        };
        format!("{version}\ncommit {commit}, target {target}, kernels {kernels}")
    });
    &TEXT
}

/// What a script learns from the exit code.
pub(crate) const EXIT_CODES: [(u8, &str); 4] = [
    (0, "done"),
    (1, "the answer is no, such as a difference that `verify` found"),
    (2, "an error"),
    (130, "interrupted; rerun the command to resume"),
];

const EXAMPLES: &str = "\
Examples:
  thalweg inspect runs/my-run                    what a run holds, and what would block a merge
  thalweg merge runs/my-run --last 10 -o merged  the plain mean of the newest ten checkpoints
  thalweg verify merged --inputs                 does it still match its receipt?
Exit codes: 0 done, 1 the answer is no (`verify` found a difference), 2 an error, 130 interrupted";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a checkpoint or a run, and what would block a merge
    Inspect(InspectArgs),
    /// Fetch revisions of a repository of the Hugging Face Hub
    Fetch(FetchArgs),
    /// Print the plan of a merge, or write it to a file; reads headers only
    Plan(PlanArgs),
    /// Merge a window of a run, or given checkpoints, into one
    Merge(MergeArgs),
    /// Run the shares of a plan on Slurm, Ray or Kubernetes
    Launch(LaunchArgs),
    /// Write a checkpoint in another format or element type
    Convert(ConvertArgs),
    /// Make many merges of one run, reading each source byte once
    Sweep(SweepArgs),
    /// Keep the merges of a run in training current
    Watch(WatchArgs),
    /// Show a study or a watched run on a page that stays current
    Serve(ServeArgs),
    /// Reread an output and compare it with its receipt
    Verify(VerifyArgs),
    /// Compare two checkpoints, tensor by tensor
    Diff(DiffArgs),
    /// Score checkpoints on a suite and compare them item by item
    Eval(EvalArgs),
    /// Forecast what an anneal would score, and which window to merge
    Forecast(ForecastArgs),
    /// Step along the line of merges, if that beats a plain mean
    Extrapolate(Box<ExtrapolateArgs>),
    /// Fit how the loss falls with the number of merged experts
    Law(LawArgs),
    /// Find mixtures of training data by merging
    Mix(MixArgs),
    /// Find entities that training forgets, and whether merges keep them
    Forget(ForgetArgs),
    /// Show how a run moves: distances, cosines and principal components
    Explain(ExplainArgs),
    /// Find loss spikes, and the checkpoint to resume from
    Recover(RecoverArgs),
    /// Write a start point for continued training or fine-tuning
    Init(InitArgs),
    /// Train a small model, or a grid of them, from a config
    Train(TrainArgs),
    /// Train, anneal and merge a small model in minutes, ending in a page
    Demo(DemoArgs),
    /// Rebuild the page of a demo or study from its record
    Report(ReportArgs),
    /// Remove what interrupted uploads left behind in an object store
    Clean(CleanArgs),
    /// Print shell completions or man pages
    Generate(GenerateArgs),
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Print the result, or the error, as JSON; all else goes to standard error
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,
    /// Print only results and errors
    #[arg(short, long, global = true, help_heading = COMMON)]
    pub(crate) quiet: bool,
    /// Print more details
    #[arg(short, long, global = true, help_heading = COMMON, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Worker threads [default: all cores]
    #[arg(long, short = 'j', global = true, help_heading = COMMON, value_name = "N", value_parser = parse_positive::<usize>)]
    pub(crate) threads: Option<usize>,
    /// Colour of messages
    #[arg(long, global = true, help_heading = COMMON, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// Instruction set of the kernels, for measurements: results do not depend on it
    #[arg(long, global = true, help_heading = COMMON, value_parser = words::simd(), hide = true)]
    pub(crate) simd: Option<Simd>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A checkpoint (folder, index or one file) or a run folder
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How checkpoints are read.
#[derive(Debug, Args, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReadArgs {
    /// Key of the state dict in files that hold several, such as model or state.ema; `.` is the whole file
    // The heading is set for each argument: one for the struct would also cover the arguments after it.
    #[arg(long, value_name = "KEY", help_heading = "Reading")]
    pub(crate) key: Option<String>,
    /// Which parameters to read where a checkpoint has both: the module's weights or the optimizer's masters [default:
    /// master]
    #[arg(long, value_parser = one_of(["module", "master"], word::<Params>), value_name = "WHICH", help_heading = "Reading")]
    pub(crate) params: Option<Params>,
    /// Other names for tensors, so that formats can be mixed: a file with one rule on each line, such as
    /// `layers.*.wq -> model.layers.*.q_proj.weight`; `*` matches anything
    #[arg(long, value_name = "FILE", help_heading = "Reading")]
    pub(crate) rename: Option<PathBuf>,
}

/// What the user says about a run, and how its checkpoints are read.
#[derive(Debug, Args, Clone, Default, PartialEq, Eq)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

/// How a merge is carried out.
#[derive(Debug, Args, Clone, PartialEq, Eq)]
#[command(next_help_heading = "Execution")]
pub(crate) struct ExecutionArgs {
    /// Upper limit of resident memory
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = DEFAULT_MEMORY)]
    pub(crate) memory: u64,
    /// Replace an output that a merge wrote and that holds nothing else, once its successor is durable
    #[arg(long)]
    pub(crate) force: bool,
    /// Start over instead of resuming an interrupted merge
    #[arg(long)]
    pub(crate) discard_partial: bool,
}

/// What is merged: a run with a selection, or checkpoints.
#[derive(Debug, Args, Clone, PartialEq, Eq)]
pub(crate) struct SourceArgs {
    /// A run folder; or checkpoints, ordered by step if all have one, else given oldest first; or a recipe (.toml,
    /// .yml), then the output folder
    #[arg(value_name = "RUN|CKPT...")]
    pub(crate) inputs: Vec<PathBuf>,
    /// A checkpoint with its coefficient, which may be negative; split at the last colon; repeatable
    #[arg(short = 'm', long = "model", value_name = "CKPT[:COEF]", help_heading = "Selection of checkpoints")]
    pub(crate) models: Vec<String>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) scheme: SchemeOptions,
    #[command(flatten)]
    pub(crate) rule: RuleOptions,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    #[command(flatten)]
    pub(crate) huggingface: HuggingFaceOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg plan runs/my-run --last 10                  what would be merged
  thalweg plan runs/my-run --last 10 -o plan.json     the document that `merge --plan` reads
  thalweg plan recipe.yml merged                      what a recipe means")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Write the plan document here
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Output folder that the plan names [default: merged]
    #[arg(long, value_name = "OUT")]
    pub(crate) merged: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg convert run/step-1000 -o hf                       a distributed checkpoint as safetensors
  thalweg convert run/global_step1000 -o hf --dtype bf16    the masters of DeepSpeed, rounded once
  thalweg convert hf -o dcp --format dcp                    back, for a trainer
  thalweg convert titan/step-1000 -o hf --to-huggingface --hf-assets assets/Llama-3.1-8B
  thalweg convert run/step-1000 -o one --format torch --consolidate")]
pub(crate) struct ConvertArgs {
    /// A checkpoint (folder, index or one file)
    pub(crate) source: PathBuf,
    /// Folder of the new checkpoint
    #[arg(short, long, alias = "output", value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
    /// Format of the new checkpoint; same keeps all other files of the source too
    #[arg(long, value_parser = format(), default_value = "safetensors")]
    pub(crate) format: RequestedFormat,
    /// Write one file, however large
    #[arg(long, conflicts_with = "out_shard_size")]
    pub(crate) consolidate: bool,
    #[command(flatten)]
    pub(crate) files: FileOptions,
    #[command(flatten)]
    pub(crate) huggingface: HuggingFaceOptions,
    /// Print what would be done and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Trains a Llama of about a million parameters on short stories that are built in, at a constant
learning rate; forks a real anneal from it; merges windows of the checkpoints in memory; scores
everything on held-out text, choosing by one part and reporting on another; writes DIR/report.html.
Nothing is fetched.

Takes two to three minutes on two cores. Ctrl-C stops it; rerun the command to resume it.

Examples:
  thalweg demo                          into thalweg-demo/
  thalweg demo --quick -o /tmp/demo     under a minute, too small to say much
  thalweg demo --seed 2 -o demo-2       another run")]
pub(crate) struct DemoArgs {
    /// Folder for everything
    #[arg(short, long, alias = "output", value_name = "DIR", default_value = "thalweg-demo")]
    pub(crate) out: PathBuf,
    /// A smaller model and a shorter run
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seed of the run
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folder of a demo, a study or a watcher; or one that holds several, whose runs are compared
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    /// The page [default: DIR/report.html]
    #[arg(short, long, alias = "output", value_name = "FILE.html")]
    pub(crate) out: Option<PathBuf>,
    /// Add a section: what `law merge`, `mix search`, `mix validate`, `forget curve` or `extrapolate` printed with
    /// --json; repeatable
    #[arg(long = "with", value_name = "FILE.json")]
    pub(crate) with: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = TRAIN_HELP)]
pub(crate) struct TrainArgs {
    /// A config: `kind = "thalweg-train"`, TOML
    pub(crate) config: PathBuf,
    /// Folder of the run, or of all runs of a grid [default: the config's name without
    /// `.toml`]
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

const TRAIN_HELP: &str = "\
Rerun the command to resume an interrupted run: it ends with the same bytes.
`[start] from = \"RUN/step-1000\"` forks a run; with a merged checkpoint and `moments` it resumes from
the merge. `examples/train` holds configs with every section.";

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A folder that `merge` or `sweep` made
    pub(crate) path: PathBuf,
    /// Also read the sources again
    #[arg(long)]
    pub(crate) inputs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A checkpoint
    pub(crate) a: PathBuf,
    /// Another
    pub(crate) b: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
    /// Upper limit of resident memory
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = DEFAULT_MEMORY)]
    pub(crate) memory: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A run folder; or checkpoints, ordered by step if all have one, else given oldest first
    #[arg(value_name = "RUN|CKPT...", required = true)]
    pub(crate) inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Draw the trajectory here
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Folder for a page, a table and a record of it
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Upper limit of resident memory
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = DEFAULT_MEMORY)]
    pub(crate) memory: u64,
}
