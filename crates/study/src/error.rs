//! What can go wrong in a study.

use std::path::{Path, PathBuf};

use thalweg_trajectory::Step;

/// Why a study or its report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Training.
    #[error(transparent)]
    Lab(#[from] thalweg_lab::Error),
    /// Scoring and comparing.
    #[error(transparent)]
    Eval(#[from] thalweg_eval::Error),
    /// Merging.
    #[error(transparent)]
    Merge(#[from] thalweg_merge::Error),
    /// A run, or a name of one, that does not open.
    #[error(transparent)]
    Trajectory(#[from] thalweg_trajectory::Error),
    /// A request that does not make sense as it was made.
    #[error("{what}")]
    Request {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A recipe.
    #[error("recipe `{}`: {source}", path.display())]
    Recipe {
        /// Its file.
        path: PathBuf,
        /// Every problem of it.
        source: thalweg_merge::recipe::RecipeError,
    },
    /// A scheme that does not read.
    #[error(transparent)]
    Scheme(#[from] thalweg_merge::scheme::SchemeError),
    /// A checkpoint that does not open.
    #[error(transparent)]
    Checkpoint(#[from] thalweg_checkpoint::Error),
    /// A model that does not fit its description.
    #[error(transparent)]
    Model(#[from] thalweg_model::Error),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
    /// A line of a file that is read line by line.
    #[error("{file}, line {line}: {what}")]
    LineForm {
        /// The file between back-ticks, or a name of the text.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: String,
        /// What such a line looks like, or what writes it.
        hint: &'static str,
    },
    /// Another program that scores.
    #[error("{what}")]
    Evaluator {
        /// What went wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Another program that was asked for scores and has not answered in time. Its answer is taken once it comes.
    #[error("{what}")]
    EvaluatorLate {
        /// What was asked, and how far it is.
        what: String,
    },
    /// The system refuses to start threads.
    #[error("cannot start threads: {0}")]
    Threads(rayon::ThreadPoolBuildError),
    /// A state that should be impossible: a bug in thalweg.
    #[error("a bug in thalweg: {what}")]
    Bug {
        /// What should have held.
        what: &'static str,
    },
    /// What was found cannot be expressed as JSON.
    #[error("cannot write the document as JSON: {0}")]
    Unwritable(serde_json::Error),
    /// The text is not JSON, or not JSON of this form.
    #[error("cannot read {}: {source}", path.as_deref().map_or_else(|| "the report".to_owned(), |path| format!("`{}`", path.display())))]
    ReportForm {
        /// Its file, where that is known.
        path: Option<PathBuf>,
        /// Where the reading stopped.
        #[source]
        source: serde_json::Error,
    },
    /// JSON of another kind, or of a version that this program does not know.
    #[error("{} is `{kind}` version {version}, but {what} is `{expected_kind}` version {expected_version}", show_document(path.as_deref()))]
    ReportKind {
        /// Its file, where that is known.
        path: Option<PathBuf>,
        /// What was expected, such as `the record of a study`.
        what: &'static str,
        /// The kind of such a document.
        expected_kind: &'static str,
        /// The version that this program reads.
        expected_version: u64,
        /// The kind that it names.
        kind: String,
        /// The version that it names.
        version: u64,
    },
    /// A log without a spike, where one is to be left behind.
    #[error("the step log shows no spike")]
    NoSpike,
    /// No checkpoint to go back to.
    #[error("there is no finished checkpoint before the spike at step {onset}{}", show_oldest(*oldest))]
    NothingBeforeSpike {
        /// First step of the spike.
        onset: Step,
        /// The oldest finished checkpoint, if there is one.
        oldest: Option<Step>,
    },
    /// Every checkpoint before a spike is within another one.
    #[error("all {n_checkpoints} finished checkpoints before the spike at step {onset} are within an earlier spike")]
    AllWithinSpikes {
        /// First step of the spike.
        onset: Step,
        /// How many there are.
        n_checkpoints: usize,
    },
    /// A run whose checkpoints make no start point.
    #[error("a start point needs two checkpoints of the newest phase, but step {newest} is the only one there")]
    StartTooShort {
        /// The newest finished checkpoint.
        newest: Step,
    },
    /// A run without finished checkpoints.
    #[error("the run has no finished checkpoint")]
    NoCheckpoint,
}

fn show_document(path: Option<&Path>) -> String {
    path.map_or_else(|| "this".to_owned(), |path| format!("`{}`", path.display()))
}

fn show_oldest(oldest: Option<Step>) -> String {
    oldest.map_or_else(String::new, |step| format!("; the oldest is step {step}"))
}

impl From<thalweg_trajectory::TextError> for Error {
    fn from(error: thalweg_trajectory::TextError) -> Self {
        Self::Trajectory(error.into())
    }
}

impl Error {
    pub(crate) fn request(what: impl Into<String>) -> Self {
        Self::Request { what: what.into(), hint: None }
    }

    pub(crate) fn request_with_hint(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Request { what: what.into(), hint: Some(hint.into()) }
    }

    /// The same with the file of the document that it is about.
    pub(crate) fn in_file(mut self, file: &Path) -> Self {
        if let Self::ReportForm { path: path @ None, .. } | Self::ReportKind { path: path @ None, .. } = &mut self {
            *path = Some(file.to_owned());
        }
        self
    }

    /// Lines that follow the first: what exists, what differs.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::Trajectory(error) => error.details(),
            Self::Checkpoint(error)
            | Self::Merge(thalweg_merge::Error::Checkpoint(error))
            | Self::Eval(thalweg_eval::Error::Checkpoint(error)) => error.details(),
            _ => Vec::new(),
        }
    }

    /// What to do next, where there is one plain answer.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lab(error) => error.hint(),
            Self::Eval(error) => error.hint().map(|hint| hint.to_string()),
            Self::Merge(error) => error.hint(),
            Self::Scheme(error) => error.hint(),
            Self::Checkpoint(error) => error.hint().map(str::to_owned),
            Self::Trajectory(error) => error.hint(),
            Self::Recipe { source, .. } => source.hint(),
            Self::Evaluator { hint, .. } | Self::Request { hint, .. } => hint.clone(),
            Self::Storage(error) => error.hint().map(str::to_owned),
            Self::Model(_)
            | Self::Threads(_)
            | Self::Unwritable(_)
            | Self::EvaluatorLate { .. }
            | Self::Bug { .. }
            | Self::NoCheckpoint => None,
            Self::LineForm { hint, .. } => Some((*hint).to_owned()),
            Self::NoSpike => Some("name another log with `--log`".to_owned()),
            Self::AllWithinSpikes { .. } => Some(
                "check the log: lines of a different loss under the same name, such as a validation loss, \
                 look like spikes; remove them, or name the column of the training loss with `--log-columns loss=NAME`"
                    .to_owned(),
            ),
            Self::NothingBeforeSpike { .. } => {
                Some("start the run again, with a lower learning rate or a longer warmup".to_owned())
            }
            Self::StartTooShort { .. } => Some("choose checkpoints yourself, for example `--last 3`".to_owned()),
            Self::ReportForm { .. } => Some("rerun the command that made it: it resumes".to_owned()),
            Self::ReportKind { expected_kind, kind, .. } if kind == expected_kind => {
                Some("another version of thalweg wrote it: create it again, or use that version".to_owned())
            }
            Self::ReportKind { what, .. } => Some(format!("give {what}")),
        }
    }

    /// Whether another program may still answer.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::EvaluatorLate { .. })
    }

    /// Whether the user asked for a stop. Finished work is kept.
    pub fn is_interrupt(&self) -> bool {
        matches!(
            self,
            Self::Lab(thalweg_lab::Error::Interrupted { .. })
                | Self::Eval(thalweg_eval::Error::Interrupted)
                | Self::Merge(thalweg_merge::Error::Interrupted)
        )
    }
}
