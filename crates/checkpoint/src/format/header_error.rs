//! Why a header of safetensors is refused.

use std::fmt;

use thalweg_tensor::{Dtype, Shape, display_name};

/// The longest header that is read, in bytes: the reference implementation's limit.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The most dimensions a tensor may have. The format sets no limit; PyTorch and NumPy stop at 64.
pub(crate) const MAX_RANK: usize = 64;

/// Why a header is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Not even the length of the header.
    #[error("the file has {found_bytes} bytes, fewer than the 8 of the header length")]
    NoLength {
        /// Length of the file.
        found_bytes: u64,
    },
    /// The header is longer than any that is read.
    #[error("the header claims {found_bytes} bytes, more than the {MAX_HEADER_BYTES} allowed")]
    TooLong {
        /// Claimed length.
        found_bytes: u64,
    },
    /// The file ends inside the header.
    #[error("the header claims {wanted_bytes} bytes, but the file ends after {found_bytes} of them")]
    PastEnd {
        /// Claimed length.
        wanted_bytes: u64,
        /// Bytes after the header length.
        found_bytes: u64,
    },
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 at byte {at_byte}")]
    NotUtf8 {
        /// Position in the header.
        at_byte: usize,
    },
    /// The header is not one JSON object followed by spaces.
    #[error("the header is not a JSON object: {found}")]
    NotAnObject {
        /// What is there instead.
        found: String,
    },
    /// The JSON text is broken or a value has the wrong type.
    #[error("{}{message}, at byte {at_byte} of the header", tensor_prefix(tensor.as_deref()))]
    Json {
        /// The tensor that was being read, if any.
        tensor: Option<String>,
        /// What is wrong, with what was expected.
        message: String,
        /// Position in the header.
        at_byte: usize,
    },
    /// A name appears twice.
    #[error("tensor `{}` appears twice in the header", display_name(tensor))]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// An element type that the format does not define.
    #[error("tensor `{}` has the unknown dtype `{}`", display_name(tensor), display_name(dtype))]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// What the header says.
        dtype: String,
    },
    /// More dimensions than anyone uses.
    #[error("tensor `{}` has {rank} dimensions, more than the {MAX_RANK} allowed", display_name(tensor))]
    RankTooHigh {
        /// The tensor.
        tensor: String,
        /// Number of dimensions.
        rank: usize,
    },
    /// The product of the shape, in bits or bytes, does not fit or does not fill whole bytes.
    #[error("tensor `{}` with shape {shape} and dtype {dtype} {fault}", display_name(tensor))]
    ImpossibleSize {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Shape,
        /// Its element type.
        dtype: Dtype,
        /// Too large, or not whole bytes.
        fault: SizeFault,
    },
    /// A range that runs backwards.
    #[error("tensor `{}` begins at byte {begin} but ends at byte {end}", display_name(tensor))]
    BackwardRange {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// Shape and dtype ask for another number of bytes than the range has.
    #[error(
        "tensor `{}` with shape {shape} and dtype {dtype} needs {expected_bytes} bytes, but its range has {found_bytes}",
        display_name(tensor)
    )]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Shape,
        /// Its element type.
        dtype: Dtype,
        /// Bytes by shape and dtype.
        expected_bytes: u64,
        /// Bytes by the offsets.
        found_bytes: u64,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "tensor `{}` begins at byte {found}, {expected} expected: the bytes in between belong to no tensor",
        display_name(tensor)
    )]
    Hole {
        /// The tensor after the hole.
        tensor: String,
        /// Where it should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensor `{}` begins at byte {found}, inside tensor `{}`, which ends at {expected}",
        display_name(tensor),
        display_name(other)
    )]
    Overlap {
        /// The later tensor.
        tensor: String,
        /// The tensor before it.
        other: String,
        /// Where the later one should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// The file ends before the last tensor does.
    #[error(
        "the file ends inside tensor `{}`: {wanted_bytes} bytes of data expected, {found_bytes} found",
        display_name(tensor)
    )]
    TruncatedData {
        /// The first tensor that is incomplete.
        tensor: String,
        /// Bytes of data that the header asks for.
        wanted_bytes: u64,
        /// Bytes of data in the file.
        found_bytes: u64,
    },
    /// The file has bytes after the last tensor.
    #[error("the tensors end after {wanted_bytes} bytes of data, but the file holds {found_bytes}")]
    TrailingData {
        /// Bytes of data that the header asks for.
        wanted_bytes: u64,
        /// Bytes of data in the file.
        found_bytes: u64,
    },
}

impl HeaderError {
    /// Whether the file is only too short: the mark of a save or copy that did not finish.
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Empty | Self::NoLength { .. } | Self::PastEnd { .. } | Self::TruncatedData { .. })
    }
}

fn tensor_prefix(tensor: Option<&str>) -> String {
    tensor.map_or_else(String::new, |name| format!("tensor `{}`: ", display_name(name)))
}

/// Why a size cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeFault {
    /// The product overflows 64 bits.
    Overflow,
    /// Packed elements end inside a byte.
    PartOfAByte,
}

impl fmt::Display for SizeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overflow => "has more bytes than 64 bits can count",
            Self::PartOfAByte => "does not fill whole bytes",
        })
    }
}
