//! From trajectory to decision: comparisons beyond noise, and the page that says what came out.
//!
//! Floor 4: joins everything below. It neither prints, nor reads arguments, nor asks the time.
//!
//! [`report::Report`] is the record of a study, one JSON file; [`page::render_page`] makes the page from it, and the
//! same record always gives the same bytes.

pub mod compare;
pub mod demo;
pub mod error;
mod markup;
pub mod page;
pub mod record;
pub mod recover;
pub mod report;
pub mod start_policy;
pub mod start_window;
pub mod summary;
mod svg;
mod text;
mod verdict;

pub use error::Error;
pub use report::Report;
