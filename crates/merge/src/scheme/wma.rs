//! WMA, the weighted moving average: checkpoints count in proportion to their number, the newest most.
//!
//! w_i = i / (N(N+1)/2): Li et al. 2025 (arXiv 2505.12082), eq. 5 with raw weights w_i = i. The paper allows any
//! increasing sequence; this is the one it uses.
//!
//! Best early in training: at 204B tokens of the published run it scores highest (47.89; EMA with a = 0.2 47.65, SMA
//! 47.01, EMA with a = 0.1 46.04). One model; the differences vanish later.

use num_bigint::BigInt;

use super::SchemeError;
use crate::Coefficients;

/// Coefficients of the weighted moving average over `n` checkpoints, oldest first: i / (n(n+1)/2), i = 1..n.
///
/// Li et al. 2025 (arXiv 2505.12082), eq. 5.
///
/// # Errors
/// `EmptyWindow` if `n` is 0.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, scheme::wma_coefficients};
///
/// assert_eq!(wma_coefficients(3)?, Coefficients::new([1, 2, 3], 6)?);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn wma_coefficients(n: usize) -> Result<Coefficients, SchemeError> {
    let divisor: BigInt = BigInt::from(n) * (BigInt::from(n) + 1) / 2;
    Coefficients::new((1..=n).map(BigInt::from), if n == 0 { BigInt::from(1) } else { divisor })
}
