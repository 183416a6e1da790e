//! A length in steps, tokens or checkpoints.

use std::fmt;

use crate::{Step, Tokens};

/// A distance or a place on the axis of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// In steps.
    Steps(Step),
    /// In tokens.
    Tokens(Tokens),
}

impl Extent {
    /// The one that is given; steps come first.
    pub fn given(steps: Option<u64>, tokens: Option<u64>) -> Option<Self> {
        let steps = steps.map(|steps| Self::Steps(Step(steps)));
        steps.or_else(|| tokens.map(|tokens| Self::Tokens(Tokens(tokens))))
    }

    pub(crate) fn amount(self) -> u64 {
        match self {
            Self::Steps(steps) => steps.0,
            Self::Tokens(tokens) => tokens.0,
        }
    }

    pub(crate) fn with_amount(self, amount: u64) -> Self {
        match self {
            Self::Steps(_) => Self::Steps(Step(amount)),
            Self::Tokens(_) => Self::Tokens(Tokens(amount)),
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "step {steps}"),
            Self::Tokens(tokens) => write!(f, "{tokens} tokens"),
        }
    }
}
