//! A run as ordered checkpoints with a step log: discovery, windows, intervals, phases, spikes.
//!
//! Floor 2: this crate knows checkpoints as folders and files. It does not know merging or models.

mod available;
mod checkpoint_name;
pub mod error;
mod extent;
mod hub_cache;
pub mod layout;
mod name_pattern;
mod numbers;
mod own_output;
pub mod phase;
mod place;
pub mod run_config;
pub mod run_dir;
pub mod spike;
mod state;
pub mod step_log;
mod text_error;
pub mod trajectory;
pub mod units;
pub mod window;

pub use available::Available;
pub use error::Error;
pub use extent::Extent;
pub use hub_cache::{hub_cache_root, resolve_checkpoint_reference, resolve_reference};
pub use name_pattern::NamePattern;
pub use own_output::describe_own_output;
pub use phase::{Phase, PhaseSegment, PhaseSource, Phases, StableRange, detect_phases};
pub use place::{check_new_document, check_outside_checkpoints};
pub use run_config::RunConfig;
pub use run_dir::{PathKind, RunCheckpoint, RunDir, look_at_path};
pub use spike::{GradNormUse, Spike, SpikeOptions, SpikeSignal, back_at, detect_spikes, lasting_spike};
pub use state::{CheckpointState, Fault};
pub use step_log::{
    ColumnMap, LogEntry, LogError, LogField, LogNote, LogOptions, StepLog, TrainerState, parse_console, parse_csv,
    parse_database, parse_event_file, parse_json_lines, parse_trainer_progress, parse_trainer_state, parse_wandb_lines,
};
pub use text_error::TextError;
pub use trajectory::{
    TRAINER_STATE_NAME, TokensSource, Trajectory, TrajectoryCheckpoint, TrajectoryNote, TrajectoryOptions,
};
pub use units::{Step, Tokens, TokensPerStep};
pub use window::{Window, WindowEnd, WindowNote, WindowSpec, describe_phases, select_window};
