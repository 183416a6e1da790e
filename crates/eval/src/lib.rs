//! Suites of tasks, scoring, uncertainty, paired comparison and score records.
//!
//! Floor 2: scores any model that can be loaded from tensors. It does not know merging or training.
//!
//! Read [`suite`], [`prepared`], [`engine`], [`compare`] in this order: a suite is data, prepared in the tokens of one
//! tokenizer, scored for each checkpoint, and checkpoints are compared item by item.

pub mod cache;
pub mod compare;
pub mod context;
mod data;
pub mod engine;
mod error;
pub mod external;
mod fields;
pub mod measure;
pub mod packed;
pub mod prepared;
pub mod recall;
pub mod record;
pub mod role;
pub mod row;
mod sound;
pub mod suite;
mod tokenizer_files;
pub mod tokens;
pub mod uncertainty;
mod window;

pub use cache::ScoreCache;
pub use compare::{Comparison, Scope, adjust_for_many, compare_scores};
pub use context::EvalContext;
pub use engine::{ScoreBuffers, Subject, cached_scores, score_suite, score_suite_with};
pub use error::{Error, RESULTS_EXAMPLE};
pub use measure::{Measure, TaskKind};
pub use prepared::{PreparedSuite, max_positions};
pub use record::{Score, TaskScores};
pub use role::{ReportSuite, SelectionSuite, check_apart};
pub use sound::check_sound;
pub use suite::{StartRule, Suite};
pub use tokenizer_files::TokenizerFiles;
pub use tokens::EvalTokenizer;
