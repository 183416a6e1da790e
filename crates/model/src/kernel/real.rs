//! `Real`: the two float types of the engine, with exponentials that a compiler can vectorise.
//!
//! `f32` is what models run in. `f64` exists for gradient checks, so its functions are the accurate ones and speed does
//! not matter.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use gemm_common::Parallelism;

/// A float type the kernels are compiled for.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + SubAssign
    + Mul<Output = Self>
    + MulAssign
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;

    /// The nearest number of this type.
    fn from_f64(x: f64) -> Self;
    /// The same number as `f64`.
    fn to_f64(self) -> f64;
    /// e to this power. For `f32` within 2 units of the last place and never infinite: arguments are clamped to
    /// -87.3..88.
    fn exp(self) -> Self;
    /// The error function. For `f32` within 2^-23, the unit of the last place of 1.
    fn erf(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// How matrices of this type are multiplied on this processor.
    fn product() -> Product<Self>;
}

/// `dst = alpha dst + beta lhs rhs`: rows, columns, summed length; pointer, stride of columns, stride of rows of `dst`,
/// and whether it is read; the same of `lhs` and `rhs`; `alpha`, `beta`, what is conjugated, and the threads.
pub(super) type Product<T> = unsafe fn(
    usize,
    usize,
    usize,
    *mut T,
    isize,
    isize,
    bool,
    *const T,
    isize,
    isize,
    *const T,
    isize,
    isize,
    T,
    T,
    bool,
    bool,
    bool,
    Parallelism,
);

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    fn from_f64(x: f64) -> Self {
        x
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn exp(self) -> Self {
        Self::exp(self)
    }

    fn erf(self) -> Self {
        libm::erf(self)
    }

    fn ln(self) -> Self {
        Self::ln(self)
    }

    fn sqrt(self) -> Self {
        Self::sqrt(self)
    }

    fn product() -> Product<Self> {
        gemm_f64::gemm::f64::get_gemm_fn()
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is asked")]
    fn from_f64(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        exp_f32(self)
    }

    #[inline(always)]
    fn erf(self) -> Self {
        erf_f32(self)
    }

    fn ln(self) -> Self {
        Self::ln(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self::sqrt(self)
    }

    fn product() -> Product<Self> {
        gemm_f32::gemm::f32::get_gemm_fn()
    }
}

/// Cephes' `expf` without branches: 2^n times a polynomial on -ln 2 / 2 .. ln 2 / 2. A NaN stays one, because
/// comparisons with it are false.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.0;
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the significand.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let p =
        ((((1.987_569_1e-4 * r + 1.398_2e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r + 0.5;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (p * (r * r) + r + 1.0) * scale
}

/// Two polynomials after N. Juffa: near zero in x^2, beyond 0.93 as 1 - e^p(|x|), each computed for every x, because a
/// choice is cheaper than a branch.
#[inline(always)]
fn erf_f32(x: f32) -> f32 {
    const BORDER: f32 = 0.927_734_4;
    let (t, s) = (x.abs(), x * x);
    // Beyond 4 the result is 1, and the polynomial would run away.
    let u = if t > 4.0 { 4.0 } else { t };
    let low = -1.728_534_7e-5 * u + 3.831_971_3e-4;
    let high = -3.883_964_4e-3 * u + 2.425_462_2e-2;
    let p = (((low * (u * u) + high) * u - 1.067_778_8e-1) * u - 6.348_467e-1) * u - 1.287_175_1e-1;
    let far = (1.0 - exp_f32(p * u - u)).copysign(x);
    let q = ((((-5.967_617e-4 * s + 4.991_194e-3) * s - 2.676_813_5e-2) * s + 1.128_199_3e-1) * s - 3.761_253_4e-1) * s
        + 1.283_791_7e-1;
    let near = q * x + x;
    if t > BORDER { far } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is asked")]
    #[test]
    fn exp_of_f32_is_within_two_units_of_the_last_place() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            assert!((f64::from(x.exp_real()) - exact).abs() <= 2.0 * ulp, "exp({x})");
        }
    }

    #[test]
    fn erf_of_f32_is_within_the_last_place_of_one() {
        for i in -60_000..=60_000 {
            let x = i as f32 * 1e-4;
            assert!((f64::from(Real::erf(x)) - libm::erf(f64::from(x))).abs() <= f64::from(f32::EPSILON), "erf({x})");
        }
    }

    #[test]
    fn not_a_number_stays_one() {
        assert!(f32::NAN.exp_real().is_nan() && Real::erf(f32::NAN).is_nan());
    }

    trait ExpReal {
        fn exp_real(self) -> f32;
    }

    impl ExpReal for f32 {
        fn exp_real(self) -> f32 {
            <f32 as Real>::exp(self)
        }
    }
}
