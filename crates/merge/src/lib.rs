//! Plans, alignment, the weighted sum over checkpoints, receipts.
//!
//! Floor 2: joins any list of checkpoints. It does not know runs, losses, tasks or models.
//!
//! Start with [`engine::execute_merge`]; what multiplies what is decided in [`scheme`] alone.

mod aliases;
pub mod align;
pub mod card;
pub mod coefficients;
mod combination;
pub mod combine;
pub mod compose;
pub mod contents;
pub mod context;
pub mod diff;
pub mod difference;
pub mod engine;
mod equal_buffers;
mod equal_sources;
pub mod error;
pub mod estimate;
mod execute_options;
mod format_error;
mod frame;
pub mod geometry;
pub mod gram;
pub mod huggingface;
pub mod in_memory;
mod journal;
mod kept;
mod kept_files;
mod kept_tensors;
mod ledger;
mod listing;
pub mod made;
pub mod masters;
mod memory;
mod merge_layout;
mod moments;
mod name_rule;
mod newest;
mod open_source;
mod outcome;
mod output;
pub mod output_format;
mod output_kind;
pub mod own;
pub mod pattern;
pub mod pending;
pub mod plan;
pub mod points;
pub mod rational;
pub mod receipt;
mod receipt_check;
pub mod recent;
pub mod recipe;
pub mod resume;
pub mod router;
mod row_order;
pub mod rule;
pub mod scheme;
pub mod seen;
mod seen_source;
pub mod share;
pub mod side_files;
mod stage;
pub mod tensor_class;
mod tensor_stats;
mod unit;
mod unsound_copies;
pub mod verify;
mod view;
pub mod waiver;
mod workers;

pub use coefficients::Coefficients;
pub use error::Error;
pub use rational::{NumberError, Ratio};
