//! Coefficients given by hand.
//!
//! c_i as given, signed decimals or fractions taken exactly: eq. 1 of Li et al. 2025 (arXiv 2505.12082) with any w_i.
//! A sum other than 1 scales the model, so it is refused unless [`SumRule`] says how to handle it.
//!
//! Use it for extrapolation, for differences of checkpoints, and for experimental controls.

use super::SchemeError;
use crate::{Coefficients, Ratio};

/// What happens to hand-given coefficients that do not sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SumRule {
    /// They are refused.
    #[default]
    MustBeOne,
    /// They are used as they are given, and scale the model.
    AsGiven,
    /// They are divided by their exact sum.
    DivideBySum,
}

/// Coefficients given by hand, oldest first.
///
/// # Errors
/// `EmptyWindow` without numbers, `AllZero` if every one is 0, `SumNotOne` if they must sum to 1 and do not, `SumZero`
/// if they are to be divided by a sum of 0.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, Ratio, scheme::{SumRule, custom_coefficients}};
///
/// let given: Vec<Ratio> = ["0.75", "0.25", "1.5"].iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
/// assert_eq!(custom_coefficients(&given, SumRule::AsGiven)?, Coefficients::new([3, 1, 6], 4)?);
/// assert_eq!(custom_coefficients(&given, SumRule::DivideBySum)?, Coefficients::new([3, 1, 6], 10)?);
/// assert!(custom_coefficients(&given, SumRule::MustBeOne).is_err());
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn custom_coefficients(given: &[Ratio], sum_rule: SumRule) -> Result<Coefficients, SchemeError> {
    let coefficients = Coefficients::from_ratios(given)?;
    match sum_rule {
        SumRule::MustBeOne if !coefficients.is_affine() => {
            Err(SchemeError::SumNotOne { sum: Box::new(coefficients.sum()) })
        }
        SumRule::MustBeOne | SumRule::AsGiven => Ok(coefficients),
        SumRule::DivideBySum => coefficients.normalized(),
    }
}
