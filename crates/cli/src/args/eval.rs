//! What can be typed for `eval`.

use std::path::PathBuf;

use clap::Args;
use thalweg_eval::StartRule;

use super::ReadArgs;
use super::words::start_rule;
use crate::options::Seconds;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg eval step1000 merged --suite suite.toml     scores, and the gain of the second
  thalweg eval ckpts/* --suite suite.toml --baseline last --cache scores --json
  thalweg eval a b --eval-command 'lm_eval --model hf --tasks piqa --output_path {out} \\
      --model_args pretrained={checkpoint},softmax_dtype=float32'
  thalweg eval --results results-base results-merged  compare what other programs found

Gains are signed so that positive is better. `docs/adding/task.md` describes suites.")]
pub(crate) struct EvalArgs {
    /// Checkpoints: folders, indexes or single files with `config.json` and `tokenizer.json` beside them. With
    /// --results, files or folders of results
    #[arg(value_name = "CKPT", required = true)]
    pub(crate) checkpoints: Vec<PathBuf>,
    /// The suite (TOML): sets, how they are scored, and in how much context
    #[arg(long, value_name = "FILE", required_unless_present_any = ["eval_command", "results"])]
    pub(crate) suite: Option<PathBuf>,
    /// Compare all others with this checkpoint, or with the first or last one given [default: first]
    #[arg(long, value_name = "CKPT|first|last")]
    pub(crate) baseline: Option<PathBuf>,
    /// Keep scores in this folder, and reuse those already there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["eval_command", "results"])]
    pub(crate) cache: Option<PathBuf>,
    /// Use this tokenizer.json instead of each checkpoint's own
    #[arg(long, value_name = "FILE", conflicts_with_all = ["eval_command", "results"])]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Put the start token before every text (always), where the tokenizer's own files do (auto), or never
    /// before a context (never) [default: as the suite says, else always]
    #[arg(long, value_parser = start_rule(), value_name = "WHEN", conflicts_with_all = ["eval_command", "results"])]
    pub(crate) start_token: Option<StartRule>,
    /// Score with another program, run by the shell; {checkpoint} and {out} become paths. It writes
    /// results in one of the forms of --results, or a list of {task, value, stderr, n, higher_is_better}
    #[arg(long, value_name = "COMMAND", conflicts_with = "suite")]
    pub(crate) eval_command: Option<String>,
    /// Stop the command and all its child processes if it takes longer than this for one checkpoint [default: no limit]
    #[arg(long, value_name = "TIME", requires = "eval_command")]
    pub(crate) eval_timeout: Option<Seconds>,
    /// Compare what other programs found: lm-evaluation-harness (with --log_samples item by item), olmo-eval, Every
    /// Eval Ever, CORE tables of nanochat and DCLM
    #[arg(long, conflicts_with_all = ["suite", "eval_command"])]
    pub(crate) results: bool,
    /// Write the last results given to `.eval_results` in this model's folder, where the Hugging Face Hub reads them
    #[arg(long, value_name = "MODEL", requires = "results")]
    pub(crate) card: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
}
