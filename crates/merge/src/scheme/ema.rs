//! EMA, the exponential moving average, as the recursion A_1 = M_1, A_i = a M_i + (1 - a) A_(i-1).
//!
//! Li et al. 2025 (arXiv 2505.12082), eq. 4. The recursion starts from the first model, so unrolled the oldest
//! coefficient is (1-a)^(n-1) and the sum is 1. Section 4.2 of the paper writes a(1-a)^(n-i) for every model, whose
//! sum is below 1 (n = 3, a = 0.5: 0.875): a model merged this way shrinks. The order of the published scores agrees
//! with the recursion, not with the shorthand. The shorthand divided by its sum is the scheme `ema-normalised`,
//! a different object: at a = 0.2 and n = 10 the oldest checkpoint gets 3 % there and 13 % here.
//!
//! Use it as the paper does, with a = 0.1 or 0.2. Early, it lies between the others (see `wma`); late, close to them.

use num_bigint::BigInt;
use num_traits::One;

use super::SchemeError;
use crate::coefficients::check_divisor_bits;
use crate::{Coefficients, Ratio};

/// Coefficients of the exponential moving average over `n` checkpoints, oldest first.
///
/// c_1 = (1-a)^(n-1), c_i = a(1-a)^(n-i): Li et al. 2025 (arXiv 2505.12082), eq. 4 unrolled.
/// `alpha` (a) is the share of the newest checkpoint, an exact ratio, 0 < a <= 1.
///
/// # Errors
/// `EmptyWindow` if `n` is 0; `AlphaOutOfRange` unless 0 < alpha <= 1; `DivisorTooLarge` if `alpha` has so many
/// digits that the exact divisor would be of no use.
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, scheme::ema_coefficients};
///
/// assert_eq!(ema_coefficients(3, &"0.5".parse()?)?, Coefficients::new([1, 1, 2], 4)?);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn ema_coefficients(n: usize, alpha: &Ratio) -> Result<Coefficients, SchemeError> {
    let (mut numerators, divisor) = geometric_numerators(n, alpha)?;
    // Here numerators[i] is b^(n-1-i) q^i with a = p/q and b = q - p; the seed takes what is left of the sum.
    for numerator in numerators.iter_mut().skip(1) {
        *numerator = &*numerator * alpha.numerator() / alpha.denominator();
    }
    Coefficients::new(numerators, divisor)
}

/// Coefficients of the finite exponential sum divided by its total, oldest first.
///
/// c_i = a(1-a)^(n-i) / (1 - (1-a)^n): the weights of Li et al. 2025 (arXiv 2505.12082), section 4.2, normalised.
/// Not the recursion of their eq. 4; see [`ema_coefficients`].
///
/// # Errors
/// As [`ema_coefficients`].
///
/// # Example
/// ```
/// use thalweg_merge::{Coefficients, scheme::ema_normalised_coefficients};
///
/// assert_eq!(ema_normalised_coefficients(3, &"0.5".parse()?)?, Coefficients::new([1, 2, 4], 7)?);
/// # Ok::<(), thalweg_merge::scheme::SchemeError>(())
/// ```
pub fn ema_normalised_coefficients(n: usize, alpha: &Ratio) -> Result<Coefficients, SchemeError> {
    let (numerators, _) = geometric_numerators(n, alpha)?;
    Coefficients::new(numerators, BigInt::one())?.normalized()
}

/// (1-a)^(n-1-i) for i = 0..n over the common divisor q^(n-1), which comes second.
fn geometric_numerators(n: usize, alpha: &Ratio) -> Result<(Vec<BigInt>, BigInt), SchemeError> {
    if n == 0 {
        return Err(SchemeError::EmptyWindow);
    }
    if alpha.is_negative() || alpha.is_zero() || alpha.numerator() > alpha.denominator() {
        return Err(SchemeError::AlphaOutOfRange { alpha: alpha.clone() });
    }
    check_divisor_bits(n, alpha.denominator().bits().saturating_mul(n as u64))?;
    let rest = alpha.denominator() - alpha.numerator();
    let powers = |base: &BigInt| -> Vec<BigInt> {
        std::iter::successors(Some(BigInt::one()), |power| Some(power * base)).take(n).collect()
    };
    let (of_rest, of_denominator) = (powers(&rest), powers(alpha.denominator()));
    let numerators = of_rest.iter().rev().zip(&of_denominator).map(|(b, q)| b * q).collect();
    Ok((numerators, of_denominator[n - 1].clone()))
}
