//! What can stop a training run, and what to do about it.

use std::path::PathBuf;

use thalweg_tensor::display_name;

/// Why a run did not start, or did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A stop was asked for; the state is on disk and the same command resumes from it.
    #[error("interrupted after step {step}")]
    Interrupted {
        /// The last step that is kept.
        step: u64,
    },
    /// The text of a config breaks the rules.
    #[error("`{}`: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where the text itself is at fault.
        message: String,
        /// The next move, if one is known.
        hint: Option<String>,
    },
    /// A value of a config that cannot be met.
    #[error("`{key}`: {message}")]
    Value {
        /// The key, with dots.
        key: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A line of a corpus that is not a document.
    #[error("`{}`, line {line}: {message}", path.display())]
    CorpusLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A file of a corpus that cannot be unpacked.
    #[error("`{}` cannot be unpacked: {message}", path.display())]
    CorpusFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A corpus without enough text for one sequence.
    #[error(
        "the data `{}` have {n_tokens} tokens, fewer than one sequence of {sequence_length} with its target",
        display_name(name)
    )]
    CorpusTooSmall {
        /// Its name.
        name: String,
        /// Tokens of one pass.
        n_tokens: u64,
        /// Tokens of a sequence.
        sequence_length: usize,
    },
    /// A tokenizer that cannot be read or does not serve.
    #[error("tokenizer `{}`: {message}", path.display())]
    Tokenizer {
        /// Its file, or its built-in name.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The tokenizer knows more tokens than the model.
    #[error("the tokenizer has {n_tokens} tokens, but the model has `vocab_size` {vocab_size}")]
    VocabularyTooSmall {
        /// Tokens of the tokenizer.
        n_tokens: usize,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// The loss or the gradient became NaN or infinite.
    #[error("step {step}: the {what} is not finite, so the run stops before this step")]
    NotFinite {
        /// The step that was not taken.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The newest checkpoint, which is whole.
        newest: Option<PathBuf>,
    },
    /// A folder that holds something else than this run.
    #[error("`{}` holds a run with a different config: `{key}` is {found} there but {wanted} here", path.display())]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// The first key that differs.
        key: String,
        /// There.
        found: String,
        /// Here.
        wanted: String,
    },
    /// A folder that is not empty and not a run of the lab.
    #[error("`{}` is not empty and holds no training run", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// A state that a run cannot resume from.
    #[error("cannot resume from `{}`: {message}", path.display())]
    State {
        /// The state's folder or file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A checkpoint to start from that does not serve.
    #[error("cannot start from `{}`: {message}", path.display())]
    Start {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        message: String,
        /// The next move, if one is known.
        hint: Option<&'static str>,
    },
    /// The step log is shorter than the state says, or cannot be read.
    #[error("the log `{}` has {found_bytes} bytes, but the state was saved after {wanted_bytes}", path.display())]
    LogTooShort {
        /// The log.
        path: PathBuf,
        /// What it has.
        found_bytes: u64,
        /// What it must have.
        wanted_bytes: u64,
    },
    /// Cells of a grid that did not end.
    #[error("{} of {n_cells} cells did not finish; the first is `{}`: {}", failed.len(), failed.first().map_or("", |cell| &cell.0), failed.first().map_or("", |cell| &cell.1))]
    Cells {
        /// How many cells there are.
        n_cells: usize,
        /// Name and error of each that failed.
        failed: Vec<(String, String)>,
    },
    /// A worker thread ended by a mistake of ours.
    #[error("a worker thread ended unexpectedly: this is a bug in thalweg")]
    WorkerDied,
    /// The system refuses to start threads.
    #[error("cannot start threads: {0}")]
    Threads(rayon::ThreadPoolBuildError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] thalweg_model::Error),
    /// An average could not be taken, or a receipt not be read.
    #[error(transparent)]
    Merge(#[from] thalweg_merge::Error),
    /// A scheme of an average is not one.
    #[error(transparent)]
    Scheme(#[from] thalweg_merge::scheme::SchemeError),
    /// Numbers could not be read or written; the cause says the file, and that the disk is full where it is.
    #[error("{}", source.source.as_ref().map_or_else(|| source.to_string(), ToString::to_string))]
    Access {
        /// What failed.
        source: thalweg_tensor::AccessError,
    },
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] thalweg_checkpoint::Error),
    /// Storage refused.
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
}

impl Error {
    /// The next move, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Interrupted { .. } => Some("rerun the command to resume".to_owned()),
            Self::Config { hint, .. } => hint.clone(),
            Self::Start { hint, .. } => hint.map(str::to_owned),
            Self::NotFinite { newest, .. } => Some(newest.as_ref().map_or_else(
                || "lower the learning rate; no checkpoint has been written yet".to_owned(),
                |path| format!("`{}` is the newest checkpoint; start another run from it", path.display()),
            )),
            Self::OtherRun { .. } => Some(
                "name another folder with `-o`; to continue with other settings, fork with `[start] from`".to_owned(),
            ),
            Self::NotARun { .. } => Some("name another folder with `-o`".to_owned()),
            Self::VocabularyTooSmall { .. } => Some("leave `vocab_size` out to use the tokenizer's".to_owned()),
            Self::Merge(error) => error.hint(),
            Self::Scheme(error) => error.hint(),
            Self::Checkpoint(error) => error.hint().map(str::to_owned),
            Self::Storage(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }

    pub(crate) fn value(key: &'static str, message: impl Into<String>) -> Self {
        Self::Value { key, message: message.into() }
    }
}
