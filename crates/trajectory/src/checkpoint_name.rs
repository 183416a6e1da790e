//! What the name of a checkpoint says.

use crate::{Step, Tokens};

/// Tokens as a name states them: rounded, so known to within one unit of the last digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameTokens {
    /// The stated number.
    pub tokens: Tokens,
    /// The value of one unit of its last digit: `4B` 1,000,000,000; `1.5B` 100,000,000.
    pub unit: u64,
}

impl NameTokens {
    /// Whether a count from elsewhere may be what the name rounded.
    pub fn agrees_with(self, tokens: Tokens) -> bool {
        self.tokens.0.abs_diff(tokens.0) <= self.unit
    }
}

/// What the number in a name counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameCount {
    /// Optimizer steps.
    Steps,
    /// Epochs. They serve as steps only if no name in the folder has a step.
    Epochs,
}

/// What the name of a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointName {
    /// The step, or the epoch if the name has no step.
    pub step: Step,
    /// Whether `step` is a step or an epoch.
    pub counts: NameCount,
    /// Tokens, if the name has them.
    pub tokens: Option<NameTokens>,
    /// What comes before the step, such as `stage1`: steps of different stages cannot be ordered.
    pub stage: Option<String>,
    /// The epoch beside the step, in names that are known.
    pub epoch: Option<u64>,
}

impl CheckpointName {
    pub(crate) fn plain(step: Step) -> Self {
        Self { step, counts: NameCount::Steps, tokens: None, stage: None, epoch: None }
    }
}
