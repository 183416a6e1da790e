//! What can be typed about forgetting.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use thalweg_study::forget::ReplayPolicy;
use thalweg_study::request::{one_of, parse_whole, word};

use super::RunArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg forget entities --corpus a.jsonl --reference b.jsonl --titles titles.txt -o entities.jsonl
  thalweg forget build --corpus a.jsonl --entities entities.jsonl --like a/step-1000 -o probes.jsonl
  thalweg forget score b --probes probes.jsonl --windows sma:5 -o scores.json
  thalweg forget curve scores.json
  thalweg forget replay --policy focused --config b.toml --from a/step-1000 --memory a.jsonl \\
    --entities entities.jsonl --interval 20 -o replay

A run is trained on corpus A, then on B: which entities of A does it forget, and does a merge keep
them? docs/forget.md has the measures and what we found.")]
pub(crate) struct ForgetArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) what: ForgetCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ForgetCommand {
    /// Count titles in two corpora: find entities that are frequent in the first and rare in the second
    Entities(ForgetEntitiesArgs),
    /// Cut samples around entities out of a corpus: the probes of `forget score`
    Build(ForgetBuildArgs),
    /// Test whether checkpoints, and merges that end at them, recall the entities
    Score(Box<ForgetScoreArgs>),
    /// Show recall over the steps of a run: what was forgotten, and what merges keep
    Curve(ForgetCurveArgs),
    /// Plan replay of the earlier corpus by a policy, with a control of equal length, as configs of `thalweg train`
    Replay(ForgetReplayArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A title counts where it is a whole word and the longest match. Titles are kept if they are in the
upper half by frequency in the corpus and in the lower half in the reference; ties are kept.")]
pub(crate) struct ForgetEntitiesArgs {
    /// The corpus that is learned first: JSON lines with `text`, optionally compressed with zstd; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) corpus: Vec<PathBuf>,
    /// The corpus that follows; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) reference: Vec<PathBuf>,
    /// Titles, one on each line: texts, or JSON objects with `title` and `type`
    #[arg(long, value_name = "FILE")]
    pub(crate) titles: PathBuf,
    /// The file of the entities
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// How long prompts and continuations are.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct ProbeTokensArgs {
    /// Tokens of a prompt [default: those of the probes, else 32]
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub(crate) prompt_tokens: Option<usize>,
    /// Tokens that are decoded after it [default: those of the probes, else 32]
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub(crate) decode_tokens: Option<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Tasks of kind `entity_spans` read the same file. Samples without entities are drawn from the whole
corpus; M(f) and perplexity are measured on them.")]
pub(crate) struct ForgetBuildArgs {
    /// The corpus that the entities are from; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) corpus: Vec<PathBuf>,
    /// What `forget entities` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) entities: PathBuf,
    /// A checkpoint whose tokenizer cuts the text
    #[arg(long, value_name = "CKPT")]
    pub(crate) like: Option<PathBuf>,
    /// The tokenizer.json to use instead
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokens: ProbeTokensArgs,
    /// Maximum number of samples with an entity
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = parse_whole::<usize>)]
    pub(crate) samples: usize,
    /// Number of samples of the whole corpus
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = parse_whole::<usize>)]
    pub(crate) general: usize,
    /// Seed of the random sampling
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
    /// The file of the probes
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg forget score runs/my-run --probes probes.jsonl
  thalweg forget score runs/my-run --probes probes.jsonl --windows sma:5,sma:10 -o scores.json
  thalweg forget score a b merged --probes probes.jsonl --recalled-by a

M_ex: the prompt ends before the entity; share of continuations that contain it. M_in: the prompt
ends with the entity; share of the decoded tokens that match the text. PPL_ent and
M(f)_ent are perplexity and greedy accuracy on samples with an entity, PPL and M(f) on the others.
Merges are made in memory. --outputs gives M_ex alone; `forget build` writes the prompts as `prompt`.")]
pub(crate) struct ForgetScoreArgs {
    /// A run folder, or checkpoints
    #[arg(value_name = "RUN|CKPT", required_unless_present = "outputs")]
    pub(crate) inputs: Vec<PathBuf>,
    /// What another evaluator decoded, instead of checkpoints: JSON lines with `model`, `step`, `id` and `output`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["inputs", "windows", "ends"])]
    pub(crate) outputs: Option<PathBuf>,
    /// Probes: what `forget build` wrote, or any file of kind `entity_spans`
    #[arg(long, value_name = "FILE")]
    pub(crate) probes: PathBuf,
    /// Merges to score as well, SCHEME:N, at each end
    #[arg(long, value_name = "SCHEME:N,...", value_delimiter = ',')]
    pub(crate) windows: Vec<String>,
    /// Checkpoints, and ends of windows: newest; some steps; or every:STEPS, back from the newest [default: all]
    #[arg(long, value_name = "ENDS", value_delimiter = ',')]
    pub(crate) ends: Vec<String>,
    /// Count only entities that this checkpoint recalls (its M_ex is 1)
    #[arg(long, value_name = "CKPT")]
    pub(crate) recalled_by: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokens: ProbeTokensArgs,
    /// The tokenizer.json to use [default: that of the checkpoint]
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// File for the record with values by item, for `forget curve`
    #[arg(short, long, alias = "output", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg forget curve scores.json
  thalweg forget curve --arm control=control.json --arm focused=focused.json \\
      --schedule focused/schedule.json

Scores right after a replay are the peaks of a sawtooth; --schedule marks them, and those midway.")]
pub(crate) struct ForgetCurveArgs {
    /// What `forget score -o` wrote
    #[arg(value_name = "SCORES.json", required_unless_present = "arm", conflicts_with = "arm")]
    pub(crate) scores: Option<PathBuf>,
    /// Named scores instead of SCORES.json, such as one file for each replay policy, on the same probes; repeatable
    #[arg(long, value_name = "NAME=SCORES.json")]
    pub(crate) arm: Vec<String>,
    /// A `schedule.json` of `forget replay`, for the arm named after its policy; repeatable
    #[arg(long, value_name = "FILE", requires = "arm")]
    pub(crate) schedule: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
All policies cost the same: one step in every --interval is replay.
  uniform    a batch of random samples of the earlier corpus
  focused    a batch of random samples that contain an entity
  intensive  as focused, but --epochs epochs of one batch after as many intervals
  similar    the samples most like the later corpus, by BM25

The runs form a chain: each resumes from the one before. Score the steps midway between replays,
where recall is not at a peak, and `control`, which has as many steps but no replay.")]
pub(crate) struct ForgetReplayArgs {
    /// What is replayed
    #[arg(long, value_name = "POLICY")]
    #[arg(value_parser = one_of(["uniform", "focused", "intensive", "similar"], word::<ReplayPolicy>))]
    pub(crate) policy: ReplayPolicy,
    /// The config of `thalweg train` for the later corpus; its `steps` are those of the run with replay
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The checkpoint at the end of the earlier corpus, with its training state
    #[arg(long, value_name = "CKPT")]
    pub(crate) from: PathBuf,
    /// The earlier corpus: JSON lines with `text`, optionally compressed with zstd; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) memory: Vec<PathBuf>,
    /// What `forget entities` wrote, for the policies focused and intensive
    #[arg(long, value_name = "FILE")]
    pub(crate) entities: Option<PathBuf>,
    /// One step in this many is replay
    #[arg(long, value_name = "STEPS", default_value_t = 20, value_parser = parse_whole::<u64>)]
    pub(crate) interval: u64,
    /// Epochs in each burst of the policy intensive
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_whole::<u64>)]
    pub(crate) epochs: u64,
    /// Most times a sample may be drawn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_whole::<u32>)]
    pub(crate) max_replays: u32,
    /// Seed of the random sampling
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub(crate) seed: u64,
    /// The folder of the configs and the replayed samples
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: PathBuf,
}
