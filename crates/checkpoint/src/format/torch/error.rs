//! What can be wrong with a torch.save file.

use thalweg_tensor::display_name;

use super::archive::ArchiveError;
use super::tensor::TensorFault;
use crate::ZipError;
use crate::format::key_fault::KeyFault;
use crate::pickle::PickleError;

/// Why a torch.save file is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorchError {
    /// Not a torch.save file.
    #[error("it is not a torch.save file: {found}")]
    NotTorch {
        /// What it is.
        found: &'static str,
    },
    /// A zip archive that torch.save did not write, or that is broken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A pickle that cannot be read.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// The pickle does not end within the limit.
    #[error("its pickle is longer than the limit of {limit_bytes} bytes")]
    PickleTooLong {
        /// The limit.
        limit_bytes: u64,
    },
    /// A broken stream in the form that PyTorch wrote before 1.6.
    #[error("it is broken: {reason}")]
    Stream {
        /// What is wrong.
        reason: String,
    },
    /// A value that would have to be built by calling something.
    #[error("{what} is an object of `{name}`, which thalweg does not construct")]
    Foreign {
        /// Which value.
        what: &'static str,
        /// The name as it can be printed.
        name: String,
    },
    /// A tensor that breaks the rules.
    #[error("tensor `{}`: {fault}", display_name(tensor))]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        fault: TensorFault,
    },
    /// None of the tensors can be read.
    #[error("it holds no readable tensor: `{}`: {reason}", display_name(tensor))]
    NoneReadable {
        /// The first that cannot.
        tensor: String,
        /// Why not.
        reason: String,
    },
    /// A single tensor, which has no name.
    #[error("it holds one unnamed tensor, not a state dict")]
    BareTensor,
    /// Not a dictionary.
    #[error("it holds {found}, not a state dict")]
    NoStateDict {
        /// What it holds.
        found: &'static str,
    },
    /// No tensors anywhere.
    #[error("it holds no tensors")]
    NoTensors,
    /// It is not clear which part is meant.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// Nested too deep, or too many values.
    #[error("its state dict has more than {limit} {what}")]
    TooMuch {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A file of one rank.
    #[error("it is only one rank's part of a model (`{}`)", display_name(name))]
    OneRank {
        /// What says so.
        name: String,
    },
}

impl TorchError {
    /// Whether the file merely ends too early.
    pub fn is_truncated(&self) -> bool {
        match self {
            Self::Archive(ArchiveError::Zip(ZipError::NoEnd)) => true,
            Self::Pickle(error) => error.is_truncated(),
            _ => false,
        }
    }

    /// Whether the file is whole, but holds the part of one rank.
    pub(crate) fn is_part_of_ranks(&self) -> bool {
        matches!(self, Self::OneRank { .. })
    }

    /// What to do next, if anything helps.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Key(_) => KeyFault::HINT,
            Self::NotTorch { found } if found.contains("Git LFS") => "run `git lfs pull`",
            Self::Foreign { .. } => "save a state dict (`torch.save(model.state_dict(), path)`) instead of the object",
            Self::BareTensor | Self::NoStateDict { .. } => "save a dictionary of tensors, such as `model.state_dict()`",
            Self::Archive(ArchiveError::Zip(ZipError::NoEnd)) => {
                "wait until the save has finished, or copy the file again"
            }
            Self::OneRank { .. } => "save the whole state dict, or a distributed checkpoint of all ranks",
            _ => return None,
        })
    }
}
