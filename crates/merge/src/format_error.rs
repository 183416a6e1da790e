//! Why an output cannot have the format, or the files, that were asked for.

use std::fmt;
use std::path::PathBuf;

use thalweg_checkpoint::Checkpoint;

use crate::output_kind::{OptimizerPolicy, OutputFormat};

/// What to do about a state that cannot be averaged.
pub(crate) const NEWEST_HINT: &str = "`--optimizer newest` takes the state of the newest checkpoint as it is";

/// A format request that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The newest source's format cannot be written.
    #[error("checkpoints in the format `{found}` can be read but not written")]
    NotWritten {
        /// The format of the newest source.
        found: &'static str,
    },
    /// A format that is written only with the files of a source in that format.
    #[error(
        "the format `{format}` is written only from checkpoints of that format, and the newest source has the format `{found}`"
    )]
    OnlyFromItself {
        /// That of the output.
        format: OutputFormat,
        /// That of the newest source.
        found: &'static str,
    },
    /// A format of one file, for which files of some size were asked.
    #[error("`{format}` is a single file, which `--out-shard-size` cannot split")]
    OneFile {
        /// That of the output.
        format: OutputFormat,
    },
    /// The training state has copies of the parameters that the merge does not reach.
    #[error(
        "the training state has copies of the parameters, such as `{master}`, that are not merged: a trainer that resumed \
         from them would undo the merge"
    )]
    StaleMasters {
        /// The first of them.
        master: String,
    },
    /// Tensors that share bytes and have different results.
    #[error("{} in the newest source, but {reason}: its files cannot hold both results", shared_bytes(a, b))]
    SharedBytes {
        /// One of them.
        a: String,
        /// The other one; the same name if a tensor repeats its elements.
        b: String,
        /// What differs.
        reason: String,
    },
    /// A format that is written only with the files of the newest source, which the output cannot have.
    #[error("`{format}` is written only with the files of the newest source, which the output cannot have: {why}")]
    NeedsOtherFiles {
        /// That of the output.
        format: OutputFormat,
        /// Why its files cannot be those of the newest source.
        why: KeepObstacle,
    },
    /// The newest source is cut into files of ranks, and the output cannot have those files.
    #[error(
        "the newest source is in {n_ranks} files of ranks, whose parts only the trainer can join; the output cannot have \
         the same files, because {why}"
    )]
    Parts {
        /// How many files of ranks it has.
        n_ranks: usize,
        /// Why the files cannot be those of the newest source.
        why: String,
    },
    /// The newest source is cut into files of ranks, which hold copies of the parameters that the merge does not reach.
    #[error(
        "the newest source is in {n_ranks} files of ranks, which hold copies of the parameters, such as `{master}`, that are \
         not merged; a trainer that resumed from them would undo the merge"
    )]
    StaleParts {
        /// How many files of ranks it has.
        n_ranks: usize,
        /// The first of the copies.
        master: String,
    },
    /// The output has not the files of the newest source, which hold the state of the optimizer.
    #[error("the output has no state of the optimizer, because it cannot have the files of its newest source: {why}")]
    NoOptimizer {
        /// What was asked for.
        asked: OptimizerPolicy,
        /// Why the files are not those of the newest source.
        why: KeepObstacle,
    },
    /// Moments that would be averaged with a negative coefficient.
    #[error(
        "`{}` has a negative coefficient: averaging with it could make the optimizer's second moments negative",
        source_path.display()
    )]
    NegativeMoments {
        /// The source.
        source_path: PathBuf,
    },
}

fn shared_bytes(a: &str, b: &str) -> String {
    if a == b {
        format!("elements of tensor `{a}` share bytes")
    } else {
        format!("tensors `{a}` and `{b}` share bytes")
    }
}

impl FormatError {
    /// The refusal of an output that cannot have the files of `newest`, for an obstacle, if these are files of ranks:
    /// other formats hold whole tensors.
    pub(crate) fn of_parts(newest: &Checkpoint, format: OutputFormat, obstacle: KeepObstacle) -> Option<Self> {
        let why = match obstacle {
            KeepObstacle::Format { .. } => format!("it is to be written as `{format}`"),
            _ => obstacle.to_string(),
        };
        let n_ranks = newest.findings().n_ranks;
        (n_ranks > 0).then_some(Self::Parts { n_ranks, why })
    }

    /// As [`of_parts`](Self::of_parts), for copies of the parameters that the merge does not reach.
    pub(crate) fn of_stale_parts(newest: &Checkpoint, master: &str) -> Option<Self> {
        let n_ranks = newest.findings().n_ranks;
        (n_ranks > 0).then(|| Self::StaleParts { n_ranks, master: master.to_owned() })
    }

    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotWritten { .. }
            | Self::OnlyFromItself { .. }
            | Self::NeedsOtherFiles { .. }
            | Self::SharedBytes { .. } => "`--format safetensors` writes the tensors of any checkpoint",
            Self::Parts { .. } => {
                "leave that out, and join the parts of the merge with the trainer's own tool; or merge rank by rank, giving \
                 the file of the same rank of each checkpoint"
            }
            Self::StaleParts { .. } => {
                "merge rank by rank, giving the file of the same rank of each checkpoint: the training state is then left out"
            }
            Self::OneFile { .. } => "leave out `--out-shard-size`",
            Self::StaleMasters { .. } => "leave the training state out with `--optimizer drop`",
            Self::NoOptimizer { asked: OptimizerPolicy::Average, .. } => "leave out `--optimizer average`",
            Self::NoOptimizer { .. } => "leave out `--optimizer newest`",
            Self::NegativeMoments { .. } => NEWEST_HINT,
        }
    }
}

/// Why an output cannot have the files of its newest source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepObstacle {
    /// The newest source has another format.
    Format {
        /// That format.
        found: &'static str,
    },
    /// Files of this format hold tensors and nothing else.
    OnlyTensors,
    /// Tensors are left out.
    Drop,
    /// Tensors of the newest source get other names.
    Rename,
    /// Tensors get another element type.
    Dtype,
    /// The state of the optimizer is left out.
    Optimizer,
    /// The files are to have another size.
    Shards,
}

impl fmt::Display for KeepObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format { found } => write!(f, "the newest source has the format `{found}`"),
            Self::OnlyTensors => f.write_str("its files hold tensors and nothing else"),
            Self::Drop => f.write_str("`--drop` leaves out tensors"),
            Self::Rename => f.write_str("`--rename` gives its tensors other names"),
            Self::Dtype => f.write_str("`--dtype` gives its tensors another element type"),
            Self::Optimizer => f.write_str("the state of the optimizer is left out"),
            Self::Shards => f.write_str("its files would have a different size"),
        }
    }
}
