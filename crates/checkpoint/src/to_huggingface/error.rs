//! Why a checkpoint does not become one of Hugging Face.

use thalweg_tensor::{CoverFault, Shape, counted, display_name};

use super::naming::Naming;
use crate::rename::NameCollision;

/// Why a checkpoint does not become one of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToHuggingFaceError {
    /// The names are Hugging Face's.
    #[error("it already has Hugging Face names, such as `{}`", display_name(tensor))]
    AlreadyThere {
        /// A tensor.
        tensor: String,
    },
    /// A name that torchtitan's Llama does not have.
    #[error("tensor `{}` {}, but only torchtitan's Llama can be translated", display_name(tensor), naming.what())]
    OtherNames {
        /// The tensor.
        tensor: String,
        /// Whose names these are.
        naming: Naming,
    },
    /// Two tensors that would get one name, from two versions of torchtitan.
    #[error(transparent)]
    Collision(#[from] NameCollision),
    /// Queries or keys that do not have the rows of their heads.
    #[error(
        "tensor `{}` has shape {shape}, but {n_heads} heads of {head_dim} rows have {} rows",
        display_name(tensor),
        u128::from(*n_heads) * u128::from(*head_dim)
    )]
    Rows {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Shape,
        /// Heads that the config states.
        n_heads: u64,
        /// Rows of a head that the config states.
        head_dim: u64,
    },
    /// Pieces that cannot be cut.
    #[error("tensor `{}`: {fault}", display_name(tensor))]
    Pieces {
        /// The tensor.
        tensor: String,
        /// Why not.
        fault: CoverFault,
    },
}

impl ToHuggingFaceError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AlreadyThere { .. } => "leave out `--to-huggingface`; `--format safetensors` writes safetensors",
            Self::OtherNames { naming, .. } => naming.hint(),
            Self::Collision(_) => {
                "leave one of them out first, with `thalweg convert SRC -o OUT --drop NAME`, and translate the result"
            }
            Self::Rows { .. } | Self::Pieces { .. } => "give the `config.json` of this model",
        }
    }
}

/// Something in a config that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The config of another architecture.
    #[error("`model_type` is {found}, `\"llama\"` expected")]
    NotLlama {
        /// What it says.
        found: String,
    },
    /// A number that is missing or not a positive whole number.
    #[error("`{key}` is {found}, a positive number expected")]
    NotANumber {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
    },
    /// An odd head, whose rows cannot be paired.
    #[error("a head has {head_dim} rows, an even number expected")]
    OddHead {
        /// Its rows.
        head_dim: u64,
    },
    /// A number that is not that of the tensors.
    #[error("`{key}` is {stated}, but {found} by tensor `{}`", display_name(tensor))]
    Differs {
        /// The key.
        key: &'static str,
        /// What the config says.
        stated: String,
        /// What the tensor says.
        found: u64,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the config's model has.
    #[error("its model has a tensor `{}`, which the checkpoint lacks", display_name(tensor))]
    Lacks {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the config's model does not have.
    #[error("its model has {}, but the checkpoint has a tensor `{}`", counted(*stated, "layer"), display_name(tensor))]
    TooMany {
        /// `num_hidden_layers`.
        stated: u64,
        /// The tensor.
        tensor: String,
    },
    /// A key that asks for tensors that torchtitan's Llama does not have.
    #[error("`{key}` is {found}, which torchtitan's Llama does not have")]
    NotInTorchtitan {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
    },
}
