//! Requests: what a user or a program asks for, in the words of the command line, turned into plans.
//!
//! A face fills a [`MergeRequest`]: the command line parses its parts, which say how their options are typed and what
//! the help says about them; others set options by name. A [`Resolver`] makes the plan of it. Which checkpoints are
//! merged, in which order, with which coefficients and policies, is decided here and in nothing above. Messages name
//! options as the command line spells them (`--interval-tokens`); other faces translate that.

mod merge;
mod merge_request;
mod options;
mod output;
mod own_name;
mod recipe;
mod resolver;
mod rule_options;
mod rules;
mod run;
mod selection;
mod sources;
mod values;
mod weights;

pub use merge_request::MergeRequest;
pub use options::OPTION_NAMES;
pub use output::{FileOptions, HuggingFaceOptions, OutputOptions};
pub use resolver::{Resolver, read_rename_map};
pub use rule_options::RuleOptions;
pub use run::RunOptions;
pub use selection::Selection;
pub use sources::{GivenModel, SourceOrder, choose_checkpoints, label, look_at};
pub(crate) use sources::{note_equal_steps, note_unknown_step};
pub use values::{format, one_of, parse_bytes, parse_positive, parse_whole, word};
pub use weights::{SchemeOptions, parse_scheme_word};
pub(crate) use weights::{SchemeWindow, parse_scheme_window};
