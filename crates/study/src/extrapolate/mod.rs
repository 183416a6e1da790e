//! Extrapolation along the line of merged checkpoints, after Extra-Merge (Zhou et al. 2026, arXiv 2605.26484).
//!
//! The paper's coefficient rule is not public in code, so this is a reconstruction: means of disjoint windows, their
//! leading component beside that of a random walk, and a step along it whose length is found by scores. The result is
//! one affine merge of the same checkpoints, some with negative coefficients.

mod line;
mod request;
mod run;

pub use line::{Direction, Parabola};
pub use request::{ExtrapolationRequest, MergedPoints};
pub(crate) use request::{LEAST_POINTS, default_window};
pub use run::{
    AverageRow, CandidateRow, CoefficientRow, DecidingScore, ExtrapolationOptions, ExtrapolationOutcome, GainsRow,
    LineRow, run_extrapolation,
};
