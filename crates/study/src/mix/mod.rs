//! Mixtures of training data, found by merging (DeMix: Li et al. 2026, arXiv 2602.00747).
//!
//! One model per candidate data set is trained from one base; the model that a mixture would give is predicted by the
//! weighted average of these components. [`plan_components`] says what to train, [`check_components`] whether averages
//! can be trusted, [`search_mixtures`] merges and scores mixtures, [`validate_proxies`] compares them with real runs.
//!
//! There are two coordinate systems, and both are always named: `coefficients`, by which components are multiplied, and
//! `data_shares`, what a run would train on.

mod check;
mod plan;
mod rank;
mod ridge;
mod search;
mod space;
mod trials;
mod validate;

pub use check::{CheckOutcome, CheckRequest, ComponentRow, MidpointRow, Verdict, check_components};
pub use plan::{ComponentPlan, MixPlan, PlanRequest, plan_components};
pub use rank::{mean_ranks, spearman};
pub use ridge::{QuadraticFit, fit_quadratic};
pub use search::{MixRegion, Objective, PredictorRow, RegionRow, SearchOptions, SearchOutcome, search_mixtures};
pub use space::{Component, MixSpace};
pub use trials::{TrialRecord, read_trials};
pub use validate::{Validation, ValidationRow, validate_proxies};
