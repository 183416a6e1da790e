//! Whether a checkpoint of a run can be used, and in what word it is said if it cannot.

use std::fmt;

/// Why a checkpoint of a run cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A save or copy that has not ended, or broke off.
    Unfinished,
    /// Its files contradict the format, or each other.
    Damaged,
    /// A format that is not read.
    OtherFormat,
    /// The file is a pointer to the weights, not the weights.
    Pointer,
    /// More than one checkpoint could be meant.
    Ambiguous,
    /// The system refuses to give its bytes.
    Unreadable,
    /// A merge that was written into the run, or one that is being written.
    Merge,
}

impl Fault {
    /// The word for documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Damaged => "damaged",
            Self::OtherFormat => "other-format",
            Self::Pointer => "pointer",
            Self::Ambiguous => "ambiguous",
            Self::Unreadable => "unreadable",
            Self::Merge => "merge",
        }
    }

    /// The words before the reason; empty where the reason says it all.
    fn words(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished: ",
            Self::Damaged => "damaged: ",
            Self::OtherFormat => "another format: ",
            Self::Pointer => "a pointer file: ",
            Self::Ambiguous => "ambiguous: ",
            Self::Unreadable => "cannot be read: ",
            Self::Merge => "",
        }
    }
}

/// Whether a checkpoint can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointState {
    /// All its files are there and whole.
    Finished,
    /// It cannot be used.
    Unusable {
        /// Of which kind the reason is.
        fault: Fault,
        /// What is wrong.
        reason: String,
        /// What would help.
        hint: Option<String>,
    },
}

impl CheckpointState {
    /// Whether it can be used.
    pub fn is_finished(&self) -> bool {
        *self == Self::Finished
    }

    /// Of which kind the fault is; `None` if it can be used.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Finished => None,
            Self::Unusable { fault, .. } => Some(*fault),
        }
    }

    /// Why it cannot be used, the kind first; `None` if it can.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Finished => None,
            Self::Unusable { fault, reason, .. } => Some(format!("{}{reason}", fault.words())),
        }
    }

    /// What would make it usable.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Finished => None,
            Self::Unusable { hint, .. } => hint.as_deref(),
        }
    }
}

impl fmt::Display for CheckpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().as_deref().unwrap_or("finished").fmt(f)
    }
}
