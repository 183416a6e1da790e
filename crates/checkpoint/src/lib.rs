//! Opens checkpoints of any format as sources of tensors; stages, commits and verifies new ones.
//!
//! Floor 1: this crate knows files and tensors. It does not know merging, runs or models.

mod block_scaled;
mod catalog_cache;
mod checkpoint;
mod commit;
mod config;
mod config_compare;
mod config_meaning;
mod crc_checked;
mod crc_ranges;
pub mod error;
mod folder;
pub mod format;
mod frame_builder;
mod gather;
pub mod index;
mod json;
mod kept_ends;
mod layout;
mod lazy_pieces;
mod needed_files;
mod note;
mod open;
mod optimizer_state;
mod own_names;
pub mod pickle;
mod pool;
mod read_options;
mod rename;
mod shard_digest;
mod side_file_compare;
mod side_files;
mod spans;
mod stage;
mod state_names;
mod stranger;
mod template;
mod to_huggingface;
mod tokenizer;
mod unpacked;
mod zip_directory;
mod zip_layout;

pub use block_scaled::{BlockScaled, ScaledFault, ScaledWeight};
pub use catalog_cache::{CatalogCache, KnownHeaders};
pub use checkpoint::{Checkpoint, ConfigFile, ShardFile};
pub use commit::{CommitRules, Manifest, commit_checkpoint};
pub use config::{MAX_CONFIG_BYTES, parse_config, quantisation_of, updated_config, without_quantisation};
pub use config_compare::{ConfigDifference, compare_configs};
pub use config_meaning::is_same_value;
pub use error::{Error, Fault};
pub use folder::{FolderFiles, write_folder};
pub use format::dcp::write::layout_dcp;
pub use format::dcp::{DcpExtras, DcpObject, PathPart, dcp_extras};
pub use format::deepspeed::frozen::is_frozen_share;
pub use format::megatron_dist::{MegatronExtras, layout_megatron_dist, megatron_common};
pub use format::model_key::KeyKind;
pub use format::npz::write::layout_npz;
pub use format::orbax::write::{OrbaxExtras, layout_orbax};
pub use format::strip_file_end;
pub use format::torch::write::layout_torch;
pub use gather::GATHER_SCRATCH_BYTES;
pub use layout::{
    Checksum, CopiedBytes, Document, FrameContent, FramePart, LayoutEntry, OutputFile, OutputLayout, layout_output,
};
pub use lazy_pieces::{Look, OpenPiece, PieceRefusal};
pub use needed_files::needed_files;
pub use note::{Note, StepWitness, UnstoredChunks};
pub use open::{
    is_checkpoint, open_all_with_cache, open_checkpoint, open_checkpoint_with, open_checkpoints, open_other_copy,
    open_with_cache,
};
pub use optimizer_state::{MOMENT_NAMES, is_master_name, is_moment, is_moment_name, is_optimizer_state};
pub use own_names::{JOURNAL_NAME, LOCK_NAME, RECEIPT_NAME, is_unfinished_output};
pub use pool::CheckpointPool;
pub use read_options::{Params, ReadOptions};
pub use rename::{NameCollision, RenameError, RenameMap, RenameRule};
pub use shard_digest::shard_digest;
pub use side_file_compare::SideFileComparison;
pub use side_files::{
    CONFIG_FILE_NAME, MAX_SIDE_FILE_BYTES, SideFile, SideFileKind, StayReason, has_weights_end, side_files_of,
};
pub use stage::{FrameCopies, FrameCopy, StagedCheckpoint};
pub use state_names::is_state_name;
pub use template::{
    KeptName, Template, can_be_template, frame_ranges, kept_files, layout_like, left_out_weights, open_whole,
    orbax_extras, unchanged_copies,
};
pub use to_huggingface::{
    ConfigFault, HuggingFaceAssets, LlamaHeads, Naming, ToHuggingFaceError, check_llama_config, check_torchtitan_names,
    huggingface_name, llama_heads, naming_of, open_assets,
};
pub use tokenizer::{TokenizerDifference, compare_tokenizer_files};
pub use zip_directory::ZipError;
