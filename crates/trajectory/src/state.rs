//! Whether a checkpoint of a run can be used, and the words for why not.

use std::fmt;

/// Why a checkpoint of a run cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A save or copy that has not ended, or broke off.
    Unfinished,
    /// Its files contradict the format, or each other.
    Damaged,
    /// A format that thalweg does not read.
    OtherFormat,
    /// The file is a pointer to the weights, not the weights.
    Pointer,
    /// More than one checkpoint could be meant.
    Ambiguous,
    /// The system refuses to read it.
    Unreadable,
    /// A merge that was written into the run, or one that is being written.
    Merge,
    /// Of the run before it was rolled back.
    Superseded,
}

impl Fault {
    /// Its name in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Damaged => "damaged",
            Self::OtherFormat => "other-format",
            Self::Pointer => "pointer",
            Self::Ambiguous => "ambiguous",
            Self::Unreadable => "unreadable",
            Self::Merge => "merge",
            Self::Superseded => "superseded",
        }
    }

    /// What a message puts before the reason; empty if the reason is enough.
    fn words(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished: ",
            Self::Damaged => "damaged: ",
            Self::OtherFormat => "another format: ",
            Self::Pointer => "a pointer file: ",
            Self::Ambiguous => "ambiguous: ",
            Self::Unreadable => "cannot be read: ",
            Self::Merge => "",
            Self::Superseded => "superseded: ",
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
        /// The kind of fault.
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

    /// The kind of fault; `None` if it can be used.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Finished => None,
            Self::Unusable { fault, .. } => Some(*fault),
        }
    }

    /// Why it cannot be used, with the kind of fault first; `None` if it can be used.
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
