//! Options of rules for experts.

use std::path::PathBuf;

use thalweg_merge::rule::RuleError;

use crate::Error;

/// Options of a rule, as text where they are numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleOptions {
    /// The rule's name.
    pub rule: Option<String>,
    /// The model that the experts were trained from.
    pub base: Option<PathBuf>,
    /// `paper` or `mergekit`; `paper` if left out.
    pub convention: Option<String>,
    /// Share of the elements that are kept: one for all experts, or one for each.
    pub density: Vec<String>,
    /// What the merged delta is multiplied by.
    pub lambda: Option<String>,
    /// Breadcrumbs: share of the largest elements that are dropped.
    pub gamma: Option<String>,
    /// DELLA: range of the probabilities.
    pub epsilon: Option<String>,
    /// DARE and DELLA: what the mask is drawn from.
    pub seed: Option<u64>,
    /// `yes` or `no`: whether the sum is divided by the coefficients that took part.
    pub divide: Option<String>,
    /// `none`, `inverse` or `l1`: how kept elements make up for dropped ones.
    pub rescale: Option<String>,
}

impl From<RuleError> for Error {
    fn from(error: RuleError) -> Self {
        match error.hint() {
            Some(hint) => Self::request_with_hint(error.to_string(), hint),
            None => Self::request(error.to_string()),
        }
    }
}
