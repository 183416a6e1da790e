//! Errors as the user meets them.

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Merge(#[from] thalweg_merge::Error),
    #[error(transparent)]
    Eval(#[from] thalweg_eval::Error),
    #[error(transparent)]
    Checkpoint(#[from] thalweg_checkpoint::Error),
    #[error(transparent)]
    Trajectory(#[from] thalweg_trajectory::Error),
    #[error(transparent)]
    Lab(#[from] thalweg_lab::Error),
    #[error(transparent)]
    Study(#[from] thalweg_study::Error),
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
    #[error(transparent)]
    Scheme(#[from] thalweg_merge::scheme::SchemeError),
    /// A request that does not make sense as it was typed.
    #[error("{what}")]
    Usage { what: String, hint: Option<String>, details: Vec<String> },
    #[error("cannot write to standard output: {}", thalweg_storage::error::describe_io_error(.0))]
    StandardOutput(std::io::Error),
    #[error("cannot install the handler for Ctrl-C: {0}")]
    Signal(std::io::Error),
    #[error("cannot start threads: {0}")]
    Threads(rayon::ThreadPoolBuildError),
    /// What failed after a stop was asked for.
    #[error(transparent)]
    Stopped(Box<Self>),
}

impl From<thalweg_trajectory::TextError> for Error {
    fn from(error: thalweg_trajectory::TextError) -> Self {
        Self::Trajectory(error.into())
    }
}

impl Error {
    /// The same, for a command of which a stop was asked.
    pub(crate) fn when_stopped(self) -> Self {
        if self.exit_code() == 130 { self } else { Self::Stopped(Box::new(self)) }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: None, details: Vec::new() }
    }

    pub(crate) fn usage_with_hint(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: Some(hint.into()), details: Vec::new() }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Merge(error) => error.hint(),
            Self::Eval(error) => error.hint(),
            Self::Checkpoint(error) => error.hint().map(str::to_owned),
            Self::Trajectory(error) => error.hint(),
            Self::Scheme(error) => error.hint(),
            Self::Lab(error) => error.hint(),
            Self::Study(error) if error.is_interrupt() => Some("rerun the command to resume".to_owned()),
            Self::Study(error) => error.hint(),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Storage(error) => error.hint().map(str::to_owned),
            Self::Stopped(error) => error.hint(),
            Self::StandardOutput(_) | Self::Signal(_) | Self::Threads(_) => None,
        }
    }

    /// Lines that follow the first: what exists, what differs.
    pub(crate) fn details(&self) -> Vec<String> {
        match self {
            Self::Trajectory(error) => error.details(),
            Self::Study(error) => error.details(),
            Self::Checkpoint(error)
            | Self::Merge(thalweg_merge::Error::Checkpoint(error))
            | Self::Eval(thalweg_eval::Error::Checkpoint(error)) => error.details(),
            Self::Usage { details, .. } => details.clone(),
            Self::Stopped(error) => error.details(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Merge(thalweg_merge::Error::Interrupted)
            | Self::Eval(thalweg_eval::Error::Interrupted)
            | Self::Lab(thalweg_lab::Error::Interrupted { .. })
            | Self::Stopped(_) => 130,
            Self::Study(error) if error.is_interrupt() => 130,
            _ => 2,
        }
    }
}
