//! Opens checkpoints of any format as sources of tensors; stages, commits and verifies new ones.
//!
//! Floor 1: this crate knows files and tensors. It does not know merging, runs or models.

mod catalog_cache;
mod checkpoint;
mod config;
pub mod error;
pub mod format;
pub mod index;
mod note;
mod open;
mod side_files;

pub use catalog_cache::CatalogCache;
pub use checkpoint::{Checkpoint, ConfigFile, ShardFile};
pub use config::{ConfigDifference, MAX_CONFIG_BYTES, compare_configs, parse_config};
pub use error::Error;
pub use note::Note;
pub use open::{open_checkpoint, open_checkpoints, open_with_cache};
pub use side_files::{CONFIG_FILE_NAME, MAX_SIDE_FILE_BYTES, SideFile, SideFileKind, side_file_kind};
