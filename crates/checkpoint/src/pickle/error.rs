//! What can be wrong with a pickle, and where.

use thalweg_tensor::display_name;

/// Why a pickle cannot be read, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {position} of the pickle: {fault}")]
pub struct PickleError {
    /// First byte of the operation, counted from the start of the pickle.
    pub position: usize,
    /// What is wrong there.
    pub fault: PickleFault,
}

/// What is wrong with an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleFault {
    /// The bytes end before the pickle does.
    #[error("the bytes end inside the pickle")]
    Truncated,
    /// A length that reaches past the end.
    #[error("{wanted_bytes} bytes are announced, but {found_bytes} follow")]
    LengthPastEnd {
        /// What the operation says.
        wanted_bytes: u64,
        /// What is left.
        found_bytes: usize,
    },
    /// A length below zero.
    #[error("it announces a length of {found}")]
    NegativeLength {
        /// What the operation says.
        found: i64,
    },
    /// A protocol newer than this reader.
    #[error("protocol {found} is not supported; the newest supported is 5")]
    Protocol {
        /// What the pickle says.
        found: u8,
    },
    /// A byte that is not an operation.
    #[error("0x{found:02x} is not a pickle operation")]
    UnknownOpcode {
        /// The byte.
        found: u8,
    },
    /// An operation that no checkpoint needs and that this reader leaves out on purpose.
    #[error("operation {name} is refused: {reason}")]
    Refused {
        /// Its name in Python's `pickletools`.
        name: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// An operation that would call something in a way that no checkpoint needs.
    #[error("operation {name} would call `{}`, which is refused", display_name(callee))]
    RefusedCall {
        /// Its name in Python's `pickletools`.
        name: &'static str,
        /// What it would call.
        callee: String,
    },
    /// A value is taken from an empty stack.
    #[error("the stack is empty where a value is needed")]
    StackUnderflow,
    /// A group is closed that was not opened.
    #[error("a group is closed that was never opened")]
    NoMark,
    /// A memo entry that was not set.
    #[error("memo entry {index} is used before it is set")]
    MemoMissing {
        /// Its number.
        index: u32,
    },
    /// A value of the wrong kind.
    #[error("{wanted} expected, {found} found")]
    WrongKind {
        /// What the operation needs.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A string that does not say what it must.
    #[error("`{}` is not {wanted}", display_name(found))]
    BadText {
        /// What it must be.
        wanted: &'static str,
        /// The beginning of the string.
        found: String,
    },
    /// A limit is exceeded.
    #[error("the pickle needs more than {limit} {what}")]
    TooMuch {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl PickleError {
    /// Whether the pickle merely ends too early: with more bytes it might be read.
    pub fn is_truncated(&self) -> bool {
        matches!(self.fault, PickleFault::Truncated | PickleFault::LengthPastEnd { .. })
    }
}
