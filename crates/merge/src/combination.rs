//! What one output wants of the sources.

use thalweg_tensor::kernel::NonFinitePolicy;

use crate::coefficients::Coefficients;
use crate::plan::{NonFloatPolicy, OutputDtype, RouterPolicy};
use crate::rule::PlanRule;

/// One of the K combinations: what is multiplied by what.
#[derive(Debug, Clone)]
pub struct Combination {
    /// Positions of its sources among all that are open, oldest first.
    pub source_idxs: Vec<usize>,
    /// One coefficient for each of them.
    pub coefficients: Coefficients,
    /// Position of the newest among all that are open.
    pub newest_idx: usize,
    /// Element type of the result.
    pub dtype: OutputDtype,
    /// Integers and booleans.
    pub non_float: NonFloatPolicy,
    /// Routers.
    pub router: RouterPolicy,
    /// NaN and infinities.
    pub non_finite: NonFinitePolicy,
    /// The rule of the experts, if there is one; the coefficients are then theirs.
    pub rule: Option<PlanRule>,
}
