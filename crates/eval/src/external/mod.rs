//! Results of other evaluators, with what each item scored where they say it. Read only; running them is the caller's
//! affair.
//!
//! Read are lm-evaluation-harness, olmo-eval, Every Eval Ever, the CORE tables of nanochat and DCLM, and a plain list.

mod compare;
mod core_table;
mod every_eval;
mod folder;
mod harness;
mod items;
mod olmo;
mod read;
mod results;
mod score;

pub use compare::{ExternalComparison, POWER, Pairing, Verdict, adjust_results, compare_results};
pub use folder::{find_results, read_results_file};
pub use items::TaskItems;
pub use read::read_results;
pub use results::ExternalResults;
pub use score::{ExternalScore, RefusedScore, TaskDataset, known_direction, quote_python_numbers, unpaired_gain};
