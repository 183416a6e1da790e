//! Options of rules for experts.

use std::path::PathBuf;

use clap::Args;
use thalweg_merge::rule::{Convention, Rescale, RuleError};

use super::values::{one_of, parse_whole, word};
use crate::Error;

/// How experts that were trained from one base are merged. Numbers are text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Rule for experts")]
pub struct RuleOptions {
    /// Merge experts, given with -m, by their differences from --base: task-arithmetic, ties, dare, dare-ties, della,
    /// della-linear, breadcrumbs, breadcrumbs-ties, sce, slerp, multi-slerp, karcher, model-stock
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// The model that the experts were trained from
    #[arg(long, value_name = "CKPT")]
    pub base: Option<PathBuf>,
    /// Share of each expert's differences to keep: one for all, or one for each [default: 0.5]
    #[arg(long, value_name = "D,...", value_delimiter = ',')]
    pub density: Vec<String>,
    /// Factor of the merged difference [default: 1]
    #[arg(long, value_name = "L", allow_hyphen_values = true)]
    pub lambda: Option<String>,
    /// dare and della: seed of the random mask [default: 0]
    #[arg(long, value_name = "S", value_parser = parse_whole::<u64>)]
    pub seed: Option<u64>,
    /// breadcrumbs: share of the largest differences that are dropped [default: 0.01]
    #[arg(long, value_name = "G")]
    pub gamma: Option<String>,
    /// della: range of the probabilities [default: 0.1; mergekit: 0.15]
    #[arg(long, value_name = "E")]
    pub epsilon: Option<String>,
    /// Whose definition to follow where they differ: the paper's or mergekit's; docs/methods.md says where [default:
    /// paper]
    #[arg(long, value_parser = one_of(["paper", "mergekit"], word::<Convention>), value_name = "WHOSE")]
    pub convention: Option<Convention>,
    /// Divide the sum by the coefficients that took part [default: yes where the convention takes a mean]
    #[arg(long, value_parser = ["yes", "no"], value_name = "WHEN")]
    pub divide: Option<String>,
    /// How to rescale kept differences to make up for dropped ones: not at all, by their probability, or by the L1
    /// norm of each tensor [default: by rule and convention]
    #[arg(long, value_parser = one_of(["none", "inverse", "l1"], word::<Rescale>), value_name = "HOW")]
    pub rescale: Option<Rescale>,
}

impl From<RuleError> for Error {
    fn from(error: RuleError) -> Self {
        match error.hint() {
            Some(hint) => Self::request_with_hint(error.to_string(), hint),
            None => Self::request(error.to_string()),
        }
    }
}
