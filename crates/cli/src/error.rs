//! Errors as the user meets them.

use std::path::{Path, PathBuf};

use thalweg_tensor::shell_path;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What a library refused.
    #[error(transparent)]
    Study(thalweg_study::Error),
    /// A request that does not make sense as it was typed.
    #[error("{what}")]
    Usage { what: String, hint: Option<String>, details: Vec<String> },
    #[error("cannot write to standard output: {}", thalweg_storage::error::describe_io_error(.0))]
    StandardOutput(std::io::Error),
    #[error("cannot install the handler for Ctrl-C: {0}")]
    Signal(std::io::Error),
    /// A path that does not exist, where one of nearly the same name does.
    #[error("{error}")]
    Near { error: Box<Self>, near: PathBuf },
    /// What failed after a stop was asked for.
    #[error(transparent)]
    Stopped(Box<Self>),
}

impl<E: Into<thalweg_study::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Study(error.into())
    }
}

impl Error {
    /// The same, for a command of which a stop was asked.
    pub(crate) fn when_stopped(self) -> Self {
        if self.exit_code() == 130 { self } else { Self::Stopped(Box::new(self)) }
    }

    /// The same, for a path that most likely means `near`.
    pub(crate) fn when_near(self, near: PathBuf) -> Self {
        Self::Near { error: Box::new(self), near }
    }

    /// The path at which the user expects something and nothing is.
    pub(crate) fn missing_path(&self) -> Option<&Path> {
        use thalweg_checkpoint::Error as Checkpoint;
        use thalweg_study::Error as Study;
        use thalweg_trajectory::Error as Run;
        match self {
            Self::Study(
                Study::Trajectory(Run::NotFound { path })
                | Study::Checkpoint(Checkpoint::NotFound { path })
                | Study::Merge(thalweg_merge::Error::Checkpoint(Checkpoint::NotFound { path })),
            ) => Some(path.as_path()),
            Self::Study(Study::Trajectory(Run::NotCached { name, revision: None })) => Some(Path::new(name)),
            _ => None,
        }
        .or_else(|| self.storage().filter(|error| error.is_not_found()).and_then(thalweg_storage::Error::path))
    }

    /// What the storage refused.
    fn storage(&self) -> Option<&thalweg_storage::Error> {
        use thalweg_study::Error as Study;
        match self {
            Self::Study(
                Study::Storage(error)
                | Study::Checkpoint(thalweg_checkpoint::Error::Storage(error))
                | Study::Trajectory(thalweg_trajectory::Error::Storage(error))
                | Study::Eval(thalweg_eval::Error::Storage(error))
                | Study::Merge(thalweg_merge::Error::Storage(error))
                | Study::Lab(thalweg_lab::Error::Storage(error)),
            ) => Some(error),
            _ => None,
        }
    }

    /// The same, as what an evaluator met.
    pub(crate) fn of_evaluator(self) -> thalweg_study::Error {
        match self {
            Self::Study(error) if error.is_interrupt() => error,
            error => thalweg_study::Error::Evaluator { what: error.to_string(), hint: error.hint() },
        }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: None, details: Vec::new() }
    }

    pub(crate) fn usage_with_hint(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: Some(hint.into()), details: Vec::new() }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Study(error) if error.is_interrupt() => Some("rerun the command to resume".to_owned()),
            Self::Study(error) => error.hint(),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Near { near, .. } => Some(format!("did you mean `{}`?", shell_path(near))),
            Self::Stopped(error) => error.hint(),
            Self::StandardOutput(_) | Self::Signal(_) => None,
        }
    }

    /// Lines that follow the first: what exists, what differs.
    pub(crate) fn details(&self) -> Vec<String> {
        match self {
            Self::Study(error) => error.details(),
            Self::Usage { details, .. } => details.clone(),
            Self::Near { error, .. } | Self::Stopped(error) => error.details(),
            _ => Vec::new(),
        }
    }

    /// The name of the situation, for programs: that of the innermost variant.
    pub(crate) fn reason(&self) -> String {
        if let Self::Near { error, .. } | Self::Stopped(error) = self {
            return error.reason();
        }
        let text = format!("{self:?}");
        let mut rest = &*text;
        loop {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            // A variant with one nameless value, which is another enum's variant.
            match after.strip_prefix('(').filter(|inner| inner.starts_with(char::is_uppercase)) {
                Some(inner) => rest = inner,
                // As in Python, a request that makes no sense is one kind of error wherever it is found out.
                None if name == "Request" => return "Usage".to_owned(),
                None => return name.to_owned(),
            }
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(_) => 130,
            Self::Study(error) if error.is_interrupt() => 130,
            _ => 2,
        }
    }
}
