//! What can be typed for `fetch`.

use clap::Args;
use thalweg_study::request::Selection;

#[derive(Debug, Args)]
#[command(after_help = "\
Runs such as those of OLMo, Pythia and Amber are published as branches or tags of one
repository. Only what a merge reads is fetched, into the cache that Hugging Face's libraries
share. An interrupted fetch resumes.

Examples:
  thalweg fetch EleutherAI/pythia-70m --revisions 'step*' --last 10 --dry-run
  thalweg fetch EleutherAI/pythia-70m --revisions 'step*' --last 10
  thalweg merge EleutherAI/pythia-70m --last 10 -o merged
  thalweg fetch allenai/OLMo-2-0425-1B --revisions 'stage1-*' --count 5 --interval-tokens 21B
  thalweg fetch org/model --revisions main

HF_TOKEN or `hf auth login` gives access to gated and private repositories. HF_ENDPOINT selects
another hub, HF_HUB_CACHE another cache.")]
pub(crate) struct FetchArgs {
    /// A repository of the Hugging Face Hub; ORG/NAME@REV is one revision of it
    #[arg(value_name = "ORG/NAME")]
    pub(crate) repository: String,
    /// Names of branches and tags; `*` matches anything; repeatable [default: all, by their steps]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) revisions: Vec<String>,
    /// Which names have a step, such as step{step}-unsharded; {step} is the step, * matches anything
    #[arg(long, value_name = "PATTERN")]
    pub(crate) checkpoint_pattern: Option<String>,
    /// Also fetch code beside the tensors (`*.py`)
    #[arg(long)]
    pub(crate) code: bool,
    /// Print what would be fetched, and its size
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) selection: Selection,
}
