//! Decoder transformers on the CPU: one description for many families, forward, backward, and the naming of parameters.
//!
//! Floor 1: this crate knows tensors. It does not know files, formats, tasks or optimizers. All arithmetic is in
//! [`kernel`]: another back end would replace that module and leave layers, names and configuration as they are.
//!
//! Results have the same bits for any number of threads. They differ between instruction sets (`gemm` and the loops
//! here fuse and group differently for each vector width), as any two libraries differ.

pub mod arena;
pub mod config;
pub mod decode;
mod error;
pub mod family;
pub mod float;
mod kept_tokens;
#[expect(unsafe_code, reason = "the product of matrices is called through pointers; the block says why it is sound")]
pub mod kernel;
pub mod layout;
pub mod model;
pub mod run;
mod transformer;
pub mod workspace;

pub use arena::{ArenaSink, ArenaSource, arena_sink, arena_source};
pub use config::ModelConfig;
pub use decode::Decoder;
pub use error::Error;
pub use family::Family;
pub use float::Float;
pub use kernel::Real;
pub use layout::{ParamLayout, ParamRole, ParamSpec};
pub use model::Model;
pub use run::{Batch, LossOptions, NO_TARGET, StepLoss};
pub use workspace::{BatchShape, Purpose, Workspace};
