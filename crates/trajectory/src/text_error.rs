//! Why a number, a pattern or a range cannot be read.

use thalweg_tensor::display_name;

/// Text that does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Text that is not a count of steps or tokens.
    #[error("`{}` is not a number of steps or tokens: {reason}", display_name(text))]
    BadNumber {
        /// The text.
        text: String,
        /// Why not.
        reason: String,
    },
    /// Text that is not a pattern of names.
    #[error("`{}` is not a pattern of checkpoint names: {reason}", display_name(text))]
    BadPattern {
        /// The text.
        text: String,
        /// Why not.
        reason: &'static str,
    },
    /// Text that gives no columns.
    #[error("`{}` does not name a column", display_name(text))]
    BadColumns {
        /// The part that is wrong.
        text: String,
    },
    /// A stable phase that ends before it begins, or is not a range.
    #[error("`{}` is not a range of steps", display_name(text))]
    BadStable {
        /// The text.
        text: String,
    },
}

impl TextError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BadNumber { .. } => "write digits, followed by `k`, `M`, `B` or `T` for powers of 1,000",
            Self::BadPattern { .. } => "say where the step is: `--checkpoint-pattern 'step{step}-unsharded'`",
            Self::BadColumns { .. } => {
                "write `step=NAME`, `loss=NAME`, `lr=NAME`, `grad_norm=NAME` or `tokens=NAME`, with commas between"
            }
            Self::BadStable { .. } => "write the first and the last step of the stable phase as `FROM..TO`",
        }
    }
}
