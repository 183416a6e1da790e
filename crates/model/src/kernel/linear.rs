//! Linear layers: `y = x W^T + b`, W row-major as `[n_out, n_in]`, or as `[n_in, n_out]` where a family stores it so
//! (GPT-2).

use rayon::prelude::*;

use super::reduce::{sum_down_columns, vectorised};
use super::{Accumulate, BLOCK_ROWS, Mat, MatMut, Real, Threads, matmul};

/// How a weight matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// `[n_out, n_in]`: PyTorch's `Linear`.
    OutIn,
    /// `[n_in, n_out]`: the `Conv1D` of GPT-2.
    InOut,
}

/// Weight and bias of a linear layer, borrowed from an arena.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a, T> {
    /// `[n_out, n_in]`, or `[n_in, n_out]`.
    pub weight: &'a [T],
    /// Which of the two.
    pub orientation: Orientation,
    /// `[n_out]`.
    pub bias: Option<&'a [T]>,
    /// Columns of `x`.
    pub n_in: usize,
    /// Columns of `y`.
    pub n_out: usize,
}

impl<'a, T> Linear<'a, T> {
    /// The weight as `[n_out, n_in]`.
    fn matrix(&self) -> Mat<'a, T> {
        match self.orientation {
            Orientation::OutIn => Mat::packed(self.weight, [self.n_out, self.n_in]),
            Orientation::InOut => Mat::packed(self.weight, [self.n_in, self.n_out]).t(),
        }
    }
}

/// `y = x W^T + b`, or `y += x W^T + b`. Shapes: y `[rows, n_out]`, x `[rows, n_in]`.
pub fn linear_forward<T: Real>(y: &mut [T], accumulate: Accumulate, x: &[T], layer: Linear<'_, T>, threads: Threads) {
    let Linear { bias, n_in, n_out, .. } = layer;
    let n_rows = x.len() / n_in;
    let accumulate = match bias {
        None => accumulate,
        Some(bias) => {
            y.par_chunks_mut(BLOCK_ROWS * n_out).for_each(|rows| {
                for row in rows.chunks_exact_mut(n_out) {
                    match accumulate {
                        Accumulate::Replace => row.copy_from_slice(bias),
                        Accumulate::Add => vectorised(
                            #[inline(always)]
                            || row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b),
                        ),
                    }
                }
            });
            Accumulate::Add
        }
    };
    matmul(
        MatMut::packed(y, [n_rows, n_out]),
        accumulate,
        Mat::packed(x, [n_rows, n_in]),
        layer.matrix().t(),
        T::ONE,
        threads,
    );
}

/// Gradient for the input: `dx = dy W`, or added to it.
pub fn linear_backward_input<T: Real>(
    dx: &mut [T],
    accumulate: Accumulate,
    dy: &[T],
    layer: Linear<'_, T>,
    threads: Threads,
) {
    let Linear { n_in, n_out, .. } = layer;
    let n_rows = dy.len() / n_out;
    matmul(
        MatMut::packed(dx, [n_rows, n_in]),
        accumulate,
        Mat::packed(dy, [n_rows, n_out]),
        layer.matrix(),
        T::ONE,
        threads,
    );
}

/// Gradient for the weight, added to it: `dW += dy^T x`, stored as the weight is.
pub fn linear_backward_weight<T: Real>(d_weight: &mut [T], dy: &[T], x: &[T], layer: Linear<'_, T>, threads: Threads) {
    let Linear { n_in, n_out, .. } = layer;
    let n_rows = dy.len() / n_out;
    let (dy, x) = (Mat::packed(dy, [n_rows, n_out]), Mat::packed(x, [n_rows, n_in]));
    match layer.orientation {
        Orientation::OutIn => {
            matmul(MatMut::packed(d_weight, [n_out, n_in]), Accumulate::Add, dy.t(), x, T::ONE, threads)
        }
        Orientation::InOut => {
            matmul(MatMut::packed(d_weight, [n_in, n_out]), Accumulate::Add, x.t(), dy, T::ONE, threads)
        }
    }
}

/// Gradient for the bias, added to it: the column sums of `dy`.
pub fn linear_backward_bias<T: Real>(d_bias: &mut [T], dy: &[T]) {
    let n_out = d_bias.len();
    sum_down_columns(
        d_bias,
        dy.len() / n_out,
        #[inline(always)]
        |row, columns, part| {
            for (part, &dy) in part.iter_mut().zip(&dy[row * n_out..][columns]) {
                *part += dy;
            }
        },
    );
}
