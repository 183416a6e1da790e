//! Coefficients given by hand.
//!
//! c_i as given, signed decimals or fractions taken exactly: eq. 1 of Li et al. 2025 (arXiv 2505.12082) with any w_i.
//! They need not sum to 1; [`Normalize::BySum`] divides them by their exact sum.
//!
//! Taken for extrapolation, for differences of checkpoints, and for controls of an experiment.

use super::SchemeError;
use crate::{Coefficients, Ratio};

/// Whether hand-given coefficients are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Normalize {
    /// Used as they are given.
    #[default]
    AsGiven,
    /// Divided by their exact sum.
    BySum,
}

/// Coefficients given by hand, oldest first.
///
/// # Errors
/// `EmptyWindow` without numbers, `AllZero` if every one is 0, `SumZero` if they are to be divided by a sum of 0.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, Ratio, scheme::{Normalize, custom_coefficients}};
///
/// let given: Vec<Ratio> = ["0.75", "0.25", "1.5"].iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
/// assert_eq!(custom_coefficients(&given, Normalize::AsGiven)?, Coefficients::new([3, 1, 6], 4)?);
/// assert_eq!(custom_coefficients(&given, Normalize::BySum)?, Coefficients::new([3, 1, 6], 10)?);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn custom_coefficients(given: &[Ratio], normalize: Normalize) -> Result<Coefficients, SchemeError> {
    let coefficients = Coefficients::from_ratios(given)?;
    match normalize {
        Normalize::AsGiven => Ok(coefficients),
        Normalize::BySum => coefficients.normalized(),
    }
}
