//! What one output wants of the sources.

use std::path::PathBuf;

use num_bigint::BigInt;
use num_traits::Zero;
use thalweg_tensor::kernel::NonFinitePolicy;

use crate::coefficients::Coefficients;
use crate::error::Error;
use crate::open_source::OpenSource;
use crate::plan::{NonFloatPolicy, OutputDtype, OutputPlan, RouterPolicy};
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
    /// Whether the sum of all sources but the last was prepared for every tensor that is summed.
    pub(crate) has_head: bool,
}

impl Combination {
    /// What an output's plan means for sources that are open.
    pub(crate) fn of_plan(plan: &OutputPlan, sources: &[OpenSource]) -> Result<Self, Error> {
        let position = |path: &PathBuf| {
            sources
                .iter()
                .position(|source| source.path == *path)
                .ok_or_else(|| Error::PlanInvalid { what: format!("`{}` was not opened", path.display()) })
        };
        let source_idxs = plan.sources.iter().map(|source| position(&source.path)).collect::<Result<Vec<_>, _>>()?;
        let newest_idx = source_idxs[plan.policy.newest];
        let non_finite =
            if plan.policy.allow_non_finite { NonFinitePolicy::Propagate } else { NonFinitePolicy::Refuse };
        let weights = plan.coefficients()?;
        let affine = plan.rule.as_ref().map(|rule| rule.affine_coefficients(&weights)).transpose()?.flatten();
        Ok(Self {
            newest_idx,
            // A rule that does not look at values is the exact sum.
            rule: plan.rule.clone().filter(|_| affine.is_none()),
            coefficients: affine.unwrap_or(weights),
            source_idxs,
            dtype: plan.dtype,
            non_float: plan.policy.non_float,
            router: plan.policy.router,
            non_finite,
            has_head: false,
        })
    }

    /// Sources with a coefficient that is not zero: the others are not read, because 0 x inf is NaN.
    pub(crate) fn terms(&self) -> (Vec<usize>, Vec<BigInt>) {
        let pairs = self.source_idxs.iter().zip(self.coefficients.numerators());
        pairs.filter(|(_, numerator)| !numerator.is_zero()).map(|(&idx, numerator)| (idx, numerator.clone())).unzip()
    }
}
