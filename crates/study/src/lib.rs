//! From trajectory to decision: comparisons beyond noise, and the page that says what came out.
//!
//! Floor 4: joins everything below. It neither prints, nor reads arguments, nor asks the time.
//!
//! [`report::Report`] is the record of a study, one JSON file; [`page::render_page`] makes the page from it, and the
//! same record always gives the same bytes.

pub mod begin_record;
pub mod compare;
pub mod demo;
pub mod engine_evaluator;
pub mod error;
pub mod evaluator;
pub mod forecast;
mod markup;
pub mod page;
pub mod propose;
pub mod record;
pub mod recover;
pub mod report;
pub mod request;
mod resample;
pub mod select;
mod start_files;
pub mod start_policy;
pub mod start_window;
pub mod study_answer;
mod study_view;
pub mod summary;
mod svg;
pub mod sweep;
pub mod table;
mod text;
mod verdict;
pub mod window_fit;
pub mod write_study;

pub use error::Error;
pub use report::Report;
pub use study_view::shell_word;
