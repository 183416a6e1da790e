//! What can stop an evaluation: always which file, which line or item, what was expected and what was found.

use std::path::PathBuf;

use thalweg_tensor::{display_name, nearest_name};

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A stop was asked for.
    #[error("interrupted")]
    Interrupted,
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
    /// A checkpoint could not be opened.
    #[error(transparent)]
    Checkpoint(#[from] thalweg_checkpoint::Error),
    /// The model cannot be described, loaded or run.
    #[error("`{}`: {source}", path.display())]
    Model {
        /// The checkpoint.
        path: PathBuf,
        /// Why not; boxed, for it is large.
        source: Box<thalweg_model::Error>,
    },
    /// The suite is not what a suite must be.
    #[error("suite `{}`: {what}", path.display())]
    SuiteInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file of rows or of text where a suite was expected.
    #[error("`{}` is not a suite, which is a TOML file that names files of rows or of text", path.display())]
    NotASuite {
        /// The file.
        path: PathBuf,
    },
    /// A key or a name in a suite that nothing knows.
    #[error("suite `{}`: {place} has no {what} `{}`", path.display(), display_name(found))]
    UnknownName {
        /// The file.
        path: PathBuf,
        /// Where it is: `the suite`, or a task by its name.
        place: String,
        /// `key`, `kind` or `measure`.
        what: &'static str,
        /// What was found.
        found: String,
        /// All known names.
        known: Vec<&'static str>,
    },
    /// A row of a data file is not what its task needs.
    #[error("`{}`, line {line}: {what}", path.display())]
    RowInvalid {
        /// The data file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A data file that cannot be decoded.
    #[error("`{}`: {what}", path.display())]
    DataInvalid {
        /// The data file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A set without a single item to score.
    #[error("task `{task}`: `{}` has no {what}", path.display())]
    EmptySet {
        /// The task.
        task: String,
        /// The data file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A suite was given a role other than the one it is used in.
    #[error("suite `{name}` is for {found} but is used for {wanted}")]
    WrongRole {
        /// The suite.
        name: String,
        /// What it is used for.
        wanted: &'static str,
        /// What it says.
        found: &'static str,
    },
    /// What is chosen by a set must not be reported on it.
    #[error("`{}` is in both suites: task `{selection_task}` chooses by it and task `{report_task}` reports on it", path.display())]
    SharedSet {
        /// The data file.
        path: PathBuf,
        /// The task that chooses.
        selection_task: String,
        /// The task that reports.
        report_task: String,
    },
    /// The tokenizer does not read.
    #[error("tokenizer `{}`: {what}", path.display())]
    TokenizerInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A checkpoint without a tokenizer.
    #[error("`{}` has no `tokenizer.json`", path.display())]
    TokenizerMissing {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A checkpoint without a configuration.
    #[error("`{}` has no `config.json`", path.display())]
    ConfigMissing {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Tokenizer and model are not of one family.
    #[error(
        "the tokenizer does not fit the model: `{}` has token ids up to {largest_id}, but `{}` has a vocabulary of {vocab_size}",
        tokenizer.display(), checkpoint.display()
    )]
    TokenizerMismatch {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Its largest id.
        largest_id: u32,
        /// The model's `vocab_size`.
        vocab_size: usize,
    },
    /// Nothing to put before a document.
    #[error("`{}` does not say which token starts a text: no post-processor, `bos_token_id` or `eos_token_id`", path.display())]
    NoStartToken {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The suite wants more context than the model has positions.
    #[error("suite `{suite}` scores with a context of {context_length} tokens, but `{}` has {max_positions} positions", path.display())]
    ContextTooLong {
        /// The suite.
        suite: String,
        /// The checkpoint.
        path: PathBuf,
        /// What the suite says.
        context_length: usize,
        /// What the model has.
        max_positions: usize,
    },
    /// A loss that is not a number.
    #[error("`{}`: the loss of item `{}` of task `{task}` is not finite", path.display(), display_name(item))]
    NonFiniteLoss {
        /// The checkpoint.
        path: PathBuf,
        /// The task.
        task: String,
        /// The item.
        item: String,
    },
    /// Parameters that are NaN or infinite: a score of such a model means nothing.
    #[error(
        "`{}`: tensor `{}` holds {kind} at element {element_idx}, so its score would be meaningless",
        path.display(), display_name(tensor)
    )]
    NonFiniteParams {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Row-major index of the first such element.
        element_idx: u64,
        /// `NaN` or `infinity`.
        kind: &'static str,
    },
    /// Bytes of a checkpoint could not be read.
    #[error(transparent)]
    Access(#[from] thalweg_tensor::AccessError),
    /// Too little memory, said before any is taken.
    #[error(
        "scoring `{}` needs {} of memory, but only {} is allowed",
        path.display(),
        thalweg_tensor::show_size(*needed_bytes),
        thalweg_tensor::show_size(*limit_bytes)
    )]
    MemoryTooSmall {
        /// The checkpoint.
        path: PathBuf,
        /// Parameters and workspace.
        needed_bytes: u64,
        /// What there is.
        limit_bytes: u64,
    },
    /// Scores that were not taken on the same items.
    #[error("task `{task}` cannot be compared by items: {what}")]
    NotPaired {
        /// The task.
        task: String,
        /// What differs.
        what: String,
    },
    /// The results of another program are in no known form.
    #[error("results `{}`: {what}", path.display())]
    ResultsForm {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The results of another program do not read.
    #[error("results `{}`: {what}", path.display())]
    ResultsInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Results in the plainest form, as a program writes them for `--eval-command`.
pub const RESULTS_EXAMPLE: &str =
    r#"[{"task": "piqa", "value": 0.71, "stderr": 0.01, "n": 1838, "higher_is_better": true}]"#;

impl Error {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Checkpoint(error) => error.hint().map(str::to_owned),
            Self::Storage(error) => error.hint().map(str::to_owned),
            Self::Model { source, .. } => source.hint(),
            Self::NotASuite { path } => Some(format!(
                "put it into a suite: `kind = \"thalweg-suite\"`, `version = 1`, `context_length = \"auto\"`, then \
                 `[[task]]`, `name = \"mine\"`, `kind = \"text\"`, `file = \"{}\"`; docs/adding/task.md has other kinds",
                path.file_name().unwrap_or_default().display()
            )),
            Self::UnknownName { found, known, .. } => Some(nearest_name(found, known.iter().copied()).map_or_else(
                || format!("known are {}", known.join(", ")),
                |nearest| format!("did you mean `{nearest}`?"),
            )),
            Self::ConfigMissing { .. } => Some(
                "copy the model's Hugging Face `config.json` beside the checkpoint, or score with another program: \
                 `--eval-command 'score.py {checkpoint} {out}'`"
                    .to_owned(),
            ),
            Self::TokenizerMissing { .. } => {
                Some("copy it beside the checkpoint, or name one with `--tokenizer FILE`".to_owned())
            }
            Self::TokenizerMismatch { .. } => {
                Some("use the `tokenizer.json` that the model was trained with".to_owned())
            }
            Self::NoStartToken { .. } => Some("name it in the suite: `start = \"<|endoftext|>\"`".to_owned()),
            Self::ContextTooLong { max_positions, .. } => {
                Some(format!("set `context_length = {max_positions}` or less in the suite, or `\"auto\"`"))
            }
            Self::NonFiniteParams { .. } => {
                Some("leave this checkpoint out; the run diverged, or the file is damaged".to_owned())
            }
            Self::NonFiniteLoss { .. } => Some(
                "every parameter is finite, so the model overflows on this item: leave the checkpoint out".to_owned(),
            ),
            Self::EmptySet { what, .. } if what.contains("where") => {
                Some("remove a condition from the task's `where`, or set `file` to a file with other rows".to_owned())
            }
            Self::EmptySet { .. } => Some("set the task's `file` to a file that has rows".to_owned()),
            Self::WrongRole { wanted, .. } => {
                Some(format!("name a suite with `role = \"{wanted}\"`, or change the role in this one"))
            }
            Self::ResultsForm { .. } => {
                Some(format!("write a list such as `{RESULTS_EXAMPLE}`, or the results of lm-evaluation-harness"))
            }
            Self::SharedSet { .. } => {
                Some("choose on a validation part and report on a test part (`where` can select them)".to_owned())
            }
            _ => None,
        }
    }
}
