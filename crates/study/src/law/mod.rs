//! Merging laws: how the loss falls with the number of experts, or of checkpoints, that are averaged.
//!
//! L(k) = L_inf + A / (k + b), after Wang et al. 2025 (arXiv 2509.24244), with b free on (-1/2, 30) instead of near 0.
//! [`read_curve`] reads losses, [`fit_merge_law`] fits them, and [`run_curve`] makes such losses: it merges subsets of
//! experts in memory and scores each.

mod curve;
mod experts;
mod fit;
mod forms;
mod outlook;
mod simplex;
mod sizes;
mod subsets;
mod three_points;

pub use curve::{Curve, CurveRecord, Member, Unit, read_curve, read_curve_file};
pub use experts::{CurveOptions, CurveOutcome, ExpertCurve, run_curve};
pub use fit::{
    Axis, BootstrapRow, CurvePoint, DomainRow, LawQuestion, LevelRow, MergeLaw, PredictionRow, fit_merge_law,
};
pub use forms::{Form, FormRow};
pub use outlook::{MarginalRow, ReachRow, StopRow, TargetRow};
pub use sizes::{JointLaw, SizeRow};
pub use subsets::{SubsetChoice, choose_subsets};
pub use three_points::{ThreePointLaw, ThreePointPrediction, ThreePointRow, three_point_law};
