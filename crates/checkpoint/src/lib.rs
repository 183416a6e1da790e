//! Opens checkpoints of any format as sources of tensors; stages, commits and verifies new ones.
//!
//! Floor 1: this crate knows files and tensors. It does not know merging, runs or models.

mod catalog_cache;
mod checkpoint;
mod commit;
mod config;
pub mod error;
pub mod format;
mod gather;
pub mod index;
mod json;
mod layout;
mod note;
mod open;
mod pool;
mod side_files;
mod stage;
mod verify;

pub use catalog_cache::{CatalogCache, KnownHeaders};
pub use checkpoint::{Checkpoint, ConfigFile, ShardFile};
pub use commit::{Manifest, commit_checkpoint};
pub use config::{ConfigDifference, MAX_CONFIG_BYTES, compare_configs, parse_config, updated_config};
pub use error::Error;
pub use gather::GATHER_SCRATCH_BYTES;
pub use layout::{LayoutEntry, OutputFile, OutputLayout, layout_output};
pub use note::Note;
pub use open::{open_checkpoint, open_checkpoints, open_with_cache};
pub use pool::CheckpointPool;
pub use side_files::{CONFIG_FILE_NAME, MAX_SIDE_FILE_BYTES, SideFile, SideFileKind, side_file_kind};
pub use stage::{StagedCheckpoint, check_free_space};
pub use verify::{
    Expectations, ExpectedFile, ExpectedTensor, Verdict, VerifyFault, VerifyReport, digest_tensors, shard_digest,
    verify_checkpoint,
};
