//! SMA, the simple moving average: every checkpoint counts equally.
//!
//! w_i = 1/N: Li et al. 2025 (arXiv 2505.12082), eq. 3. Equal to [`decay:linear`](super::decay) without a floor:
//! the plain mean of a stable phase imitates a linear decay to zero (arXiv 2507.17634, figure 2).
//!
//! The default choice: in the published comparison (one model, figure 4 there) the schemes differ
//! little late in training, and the plain mean is at or near the best.

use num_bigint::BigInt;

use super::SchemeError;
use crate::Coefficients;

/// Coefficients of the simple moving average over `n` checkpoints: 1/n each.
///
/// Li et al. 2025 (arXiv 2505.12082), eq. 3.
///
/// # Errors
/// `EmptyWindow` if `n` is 0.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, scheme::sma_coefficients};
///
/// assert_eq!(sma_coefficients(3)?, Coefficients::new([1, 1, 1], 3)?);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn sma_coefficients(n: usize) -> Result<Coefficients, SchemeError> {
    Coefficients::new(vec![1; n], BigInt::from(n.max(1)))
}
