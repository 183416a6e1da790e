//! Small real pre-training runs: data, schedule, optimizer, loop.
//!
//! Floor 3: writes ordinary run folders, which every other part of thalweg reads. It knows neither sweeps nor reports.

mod averages;
pub mod config;
pub mod corpus;
pub mod data;
pub mod error;
pub mod event_file;
mod folder;
pub mod grid;
pub mod mixture;
pub mod model_spec;
pub mod optimizer;
mod random;
pub mod run_folder;
pub mod schedule;
mod start;
mod state;
pub mod step_log;
pub mod tokens;
pub mod train;
pub mod train_job;
mod trainer;
mod validate;

pub use config::TrainConfig;
pub use data::TrainData;
pub use error::Error;
pub use train::{TrainOutcome, train};
pub use train_job::{TrainJob, TrainWatcher};
