//! What can be wrong with a checkpoint of torch_checkpointing.

use thalweg_tensor::{CoverFault, display_name};

use crate::index::FileNameFault;
use crate::pickle::PickleError;

/// Why a checkpoint is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcError {
    /// A pickle that cannot be read.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// The metadata is plain data in every version that is read.
    #[error("it refers to `{name}`, but torch_checkpointing metadata can hold only plain data")]
    Foreign {
        /// The name as it can be printed.
        name: String,
    },
    /// A version that is not read.
    #[error("its version is `{}`, but only 2.0 and 1.0 are supported", display_name(found))]
    Version {
        /// What it says.
        found: String,
    },
    /// A part that is missing or of the wrong kind.
    #[error("its {what} is not in the form that torch_checkpointing writes")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// A file outside the folder.
    #[error("it names the file `{}`, {fault}", display_name(file))]
    ForbiddenFile {
        /// The name.
        file: String,
        /// Which rule it breaks.
        fault: FileNameFault,
    },
    /// An item in files that hold no tensors.
    #[error("item `{}` is saved as `{}`, which holds no tensors", display_name(item), display_name(found))]
    Serialization {
        /// The item.
        item: String,
        /// What the metadata says.
        found: String,
    },
    /// The item is ambiguous or does not exist.
    #[error(transparent)]
    Key(#[from] crate::format::key_fault::KeyFault),
    /// Pieces of tensors without metadata that describes them.
    #[error(
        "item `{}` is split over {n_ranks} files, and there is no `metadata.pkl` to say how they fit together",
        display_name(item)
    )]
    NoMetadata {
        /// The item.
        item: String,
        /// Its files.
        n_ranks: usize,
    },
    /// An item without tensors.
    #[error("item `{}` holds no tensors", display_name(item))]
    NoTensors {
        /// The item.
        item: String,
    },
    /// A tensor that cannot be read.
    #[error("tensor `{}`: {reason}", display_name(tensor))]
    Tensor {
        /// Its name.
        tensor: String,
        /// Why not.
        reason: String,
    },
    /// Boxes that do not make up the tensor.
    #[error("tensor `{}`: {fault}", display_name(tensor))]
    Cover {
        /// Its name.
        tensor: String,
        /// What is wrong.
        fault: CoverFault,
    },
}

impl TcError {
    /// What to do next, if anything helps.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoMetadata { .. } => Some(
                "copy `metadata.pkl` from the first checkpoint that the same process saved: it also describes the later ones",
            ),
            Self::Key(_) => Some(crate::format::key_fault::KeyFault::HINT),
            _ => None,
        }
    }
}
