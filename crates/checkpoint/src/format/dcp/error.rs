//! What can be wrong with the metadata of a distributed checkpoint and with its chunks.

use thalweg_tensor::{CoverFault, Dtype, Shape, display_name};

use crate::format::key_fault::KeyFault;
use crate::index::FileNameFault;
use crate::pickle::PickleError;

/// Why metadata is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DcpError {
    /// A pickle that cannot be read.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// A value that would have to be built by calling something.
    #[error("{what} is an object of `{name}`, which thalweg does not construct")]
    Foreign {
        /// Which value.
        what: String,
        /// The name as it can be printed.
        name: String,
    },
    /// A value of another kind.
    #[error("{what} is {found}, not an object of `{expected}`")]
    Kind {
        /// Which value.
        what: String,
        /// The class.
        expected: String,
        /// What it is.
        found: &'static str,
    },
    /// A part that is missing or of the wrong kind.
    #[error("{what} is not in the form that PyTorch writes")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// A name that appears twice.
    #[error("the name `{}` appears twice", display_name(name))]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// No tensors, or none of the model.
    #[error("it lists no tensors")]
    NoTensors,
    /// A back end of Megatron-Core that is not read.
    #[error("its sharded back end is `{found}`, version {version}; only `torch_dist` version 1 is supported")]
    Backend {
        /// What `metadata.json` names, as JSON.
        found: String,
        /// Its version, as JSON.
        version: String,
    },
    /// The key is ambiguous or does not exist.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// A tensor with faulty chunks.
    #[error("tensor `{}`: {fault}", display_name(tensor))]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        fault: ChunkFault,
    },
}

impl DcpError {
    /// What to do next, if anything helps.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Key(_) => Some(KeyFault::HINT),
            Self::Backend { found, .. } => Some(match found.trim_matches('"') {
                "zarr" => {
                    "start the training with Megatron-Core 0.15, the last that reads `zarr`, and with \
                     `--ckpt-convert-format torch_dist --ckpt-convert-save DIR`"
                }
                "fsdp_dtensor" => {
                    "convert it with Megatron-LM's `tools/checkpoint/checkpoint_inspector.py \
                     convert-fsdp-dtensor-to-torch-dist FROM TO`"
                }
                _ => "load it with the release of Megatron-Core that wrote it, and save it as `torch_dist`",
            }),
            _ => None,
        }
    }
}

/// What is wrong with the chunks of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkFault {
    /// A part that is missing or of the wrong kind.
    #[error("its {what} is not in the form that PyTorch writes")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// An element type that cannot be represented.
    #[error("its elements are `{name}`, which safetensors does not have")]
    UnknownDtype {
        /// The name as it can be printed.
        name: String,
    },
    /// Chunks that do not make up the tensor.
    #[error("{0}")]
    Cover(CoverFault),
    /// More chunks than the limit.
    #[error("the tensors together have more than {limit} chunks")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A chunk without a place.
    #[error("the metadata lists a chunk at {at} but not the file that holds it")]
    NotStored {
        /// First index of the chunk.
        at: Shape,
    },
    /// A chunk with two places.
    #[error("the metadata gives two locations for the chunk at {at}")]
    StoredTwice {
        /// First index of the chunk.
        at: Shape,
    },
    /// A place that would have to be built by calling something.
    #[error("the location of a chunk is an object of `{name}`, which thalweg does not construct")]
    Foreign {
        /// The name as it can be printed.
        name: String,
    },
    /// A chunk that is compressed or encrypted.
    #[error(
        "its chunks were transformed by `{}` before they were written, which thalweg cannot undo",
        display_name(how)
    )]
    Transformed {
        /// What changed them.
        how: String,
    },
    /// A file outside the folder.
    #[error("a chunk is in `{}`, {fault}", display_name(file))]
    ForbiddenFile {
        /// The name.
        file: String,
        /// Which rule it breaks.
        fault: FileNameFault,
    },
    /// Something else is stored where a chunk should be.
    #[error("the chunk at byte {offset} {reason}")]
    Content {
        /// First byte.
        offset: u64,
        /// What it is.
        reason: String,
    },
    /// A chunk of another element type.
    #[error("the metadata says {expected}, but the chunk at byte {offset} holds {found}")]
    Dtype {
        /// First byte.
        offset: u64,
        /// Of the metadata.
        expected: Dtype,
        /// Of the chunk.
        found: Dtype,
    },
    /// A chunk of another shape.
    #[error("the metadata says that the chunk at byte {offset} has shape {expected}, but its shape is {found}")]
    Shape {
        /// First byte.
        offset: u64,
        /// Of the metadata.
        expected: Shape,
        /// Of the chunk.
        found: Shape,
    },
}
