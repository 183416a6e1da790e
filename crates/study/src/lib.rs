//! From trajectory to decision: comparisons beyond noise, and the page that says what came out.
//!
//! Floor 4: joins everything below. It neither prints, nor reads arguments, nor asks the time.
//!
//! [`record::StudyRecord`] is the record of a study, one JSON file; [`page::render_study`] makes the page from it, and
//! the same record always gives the same bytes. The entries are [`request::Resolver::merge_plan`],
//! [`sweep::run_sweep`], [`forecast::run::run_forecast`], [`extrapolate::run_extrapolation`], [`law::fit_merge_law`],
//! [`recover::plan_recovery`] and [`demo::run_demo`]. `examples/leave_one_out.rs` asks a question that none of them
//! answers.

pub mod append;
pub mod attachment;
pub mod begin_record;
pub mod compare_runs;
pub mod demo;
mod document;
pub mod engine_evaluator;
pub mod error;
pub mod evaluator;
pub mod explain;
pub mod extrapolate;
pub mod fetch;
pub mod forecast;
pub mod forecast_items;
pub mod forget;
pub mod hub_results;
pub mod law;
mod least_squares;
mod markup;
pub mod mix;
pub mod page;
pub mod propose;
pub mod read_study;
pub mod record;
pub mod recorded;
pub mod recover;
pub mod request;
mod resample;
pub mod restart;
pub mod select;
mod start_files;
pub mod start_policy;
pub mod start_window;
pub mod study_answer;
pub mod study_summary;
mod study_view;
pub mod sums;
pub mod surroundings;
mod svg;
pub mod sweep;
pub mod table;
mod tensor_groups;
pub mod text;
mod train_config;
pub mod values;
pub mod watch;
pub mod window_fit;
pub mod write_study;

pub use error::Error;
