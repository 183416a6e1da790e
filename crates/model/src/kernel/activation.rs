//! The non-linearity between the two projections of an MLP: plain, or gated by a second projection (SwiGLU and its
//! kin).

use rayon::prelude::*;

use super::reduce::vectorised;
use super::{BLOCK_ROWS, Real};

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x Phi(x)`, exact.
    Gelu,
    /// The tanh form of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// Whether the first projection holds one column for each inner unit, or a gate and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// `act(x)`; rows of `n` columns.
    Plain,
    /// `act(gate) * up`; rows of `n` gates, then `n` values.
    Gated,
}

impl Gating {
    /// Columns of the first projection for each inner unit.
    pub const fn n_columns(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Gated => 2,
        }
    }
}

/// Value and derivative at `x`.
#[inline(always)]
fn silu<T: Real>(x: T) -> (T, T) {
    let s = T::ONE / (T::ONE + (-x).exp());
    (x * s, s * (T::ONE + x * (T::ONE - s)))
}

#[inline(always)]
fn gelu<T: Real>(x: T) -> (T, T) {
    let half = T::from_f64(0.5);
    let phi = half * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf());
    let density = (-(x * x) * half).exp() * T::from_f64(0.398_942_280_401_432_7);
    (x * phi, phi + x * density)
}

#[inline(always)]
fn gelu_tanh<T: Real>(x: T) -> (T, T) {
    let (half, c, k) = (T::from_f64(0.5), T::from_f64(0.797_884_560_802_865_4), T::from_f64(0.044_715));
    let inner = c * (x + k * x * x * x);
    // tanh(u) = 1 - 2 / (e^2u + 1)
    let t = T::ONE - (T::ONE + T::ONE) / ((inner + inner).exp() + T::ONE);
    let d_inner = c * (T::ONE + T::from_f64(3.0) * k * x * x);
    (half * x * (T::ONE + t), half * (T::ONE + t) + half * x * (T::ONE - t * t) * d_inner)
}

#[inline(always)]
fn relu<T: Real>(x: T) -> (T, T) {
    if x > T::ZERO { (x, T::ONE) } else { (x * T::ZERO, T::ZERO) }
}

/// Runs `$body` with `$f` bound to the function of `$activation`, compiled once for each.
macro_rules! with_function {
    ($activation:expr, $f:ident, $body:expr) => {
        match $activation {
            Activation::Silu => vectorised(
                #[inline(always)]
                || {
                    let $f = silu::<T>;
                    $body
                },
            ),
            Activation::Gelu => vectorised(
                #[inline(always)]
                || {
                    let $f = gelu::<T>;
                    $body
                },
            ),
            Activation::GeluTanh => vectorised(
                #[inline(always)]
                || {
                    let $f = gelu_tanh::<T>;
                    $body
                },
            ),
            Activation::Relu => vectorised(
                #[inline(always)]
                || {
                    let $f = relu::<T>;
                    $body
                },
            ),
        }
    };
}

/// `out = act(x)` or `act(gate) * up`. Shapes: out `[rows, n]`, x `[rows, n]` or `[rows, 2 n]`.
pub fn activation_forward<T: Real>(out: &mut [T], x: &[T], n: usize, activation: Activation, gating: Gating) {
    let width = n * gating.n_columns();
    out.par_chunks_mut(BLOCK_ROWS * n).zip(x.par_chunks(BLOCK_ROWS * width)).for_each(|(out, x)| {
        with_function!(activation, f, {
            for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(width)) {
                match gating {
                    Gating::Plain => {
                        for (out, &x) in out.iter_mut().zip(x) {
                            *out = f(x).0;
                        }
                    }
                    Gating::Gated => {
                        let (gate, up) = x.split_at(n);
                        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                            *out = f(g).0 * u;
                        }
                    }
                }
            }
        });
    });
}

/// Turns `x`, the input of [`activation_forward`], into its gradient, given the gradient of the output.
pub fn activation_backward<T: Real>(x: &mut [T], d_out: &[T], n: usize, activation: Activation, gating: Gating) {
    let width = n * gating.n_columns();
    x.par_chunks_mut(BLOCK_ROWS * width).zip(d_out.par_chunks(BLOCK_ROWS * n)).for_each(|(x, d_out)| {
        with_function!(activation, f, {
            for (x, d_out) in x.chunks_exact_mut(width).zip(d_out.chunks_exact(n)) {
                match gating {
                    Gating::Plain => {
                        for (x, &d) in x.iter_mut().zip(d_out) {
                            *x = d * f(*x).1;
                        }
                    }
                    Gating::Gated => {
                        let (gate, up) = x.split_at_mut(n);
                        for ((g, u), &d) in gate.iter_mut().zip(up).zip(d_out) {
                            let (value, slope) = f(*g);
                            *g = d * *u * slope;
                            *u = d * value;
                        }
                    }
                }
            }
        });
    });
}
