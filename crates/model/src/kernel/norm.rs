//! RMSNorm and LayerNorm over the last dimension.

use rayon::prelude::*;

use super::reduce::{dot, dot3, sum, sum_down_columns, vectorised};
use super::{Accumulate, BLOCK_ROWS, Real};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `w x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `w (x - mean) / sqrt(var + eps) + b`.
    Layer,
}

/// Parameters of a norm, borrowed from an arena; `weight` and `bias` are `[n]`.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a, T> {
    /// RMSNorm or LayerNorm.
    pub kind: NormKind,
    /// The scale of each column.
    pub weight: &'a [T],
    /// The shift of each column; LayerNorm only.
    pub bias: Option<&'a [T]>,
    /// Added to the variance.
    pub epsilon: f64,
}

/// What backward needs of one row.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowStats<T> {
    /// Mean of the row; zero for RMSNorm.
    pub mean: T,
    /// One over the root of the variance (or mean square) plus epsilon.
    pub inverse_deviation: T,
}

/// Mean and inverse deviation of a row.
#[inline(always)]
pub(crate) fn row_stats<T: Real>(row: &[T], kind: NormKind, epsilon: f64) -> RowStats<T> {
    let n = T::from_f64(f64::from(u32::try_from(row.len()).unwrap_or(u32::MAX)));
    let mean = match kind {
        NormKind::Rms => T::ZERO,
        NormKind::Layer => sum(row) / n,
    };
    // The mean is subtracted before squaring only where there is one; the mean square of the rest loses nothing.
    let variance = match kind {
        NormKind::Rms => dot(row, row) / n,
        NormKind::Layer => centred_square(row, mean) / n,
    };
    RowStats { mean, inverse_deviation: T::ONE / (variance + T::from_f64(epsilon)).sqrt() }
}

#[inline(always)]
fn centred_square<T: Real>(row: &[T], mean: T) -> T {
    const LANES: usize = 16;
    let mut lanes = [T::ZERO; LANES];
    for chunk in row.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += (x - mean) * (x - mean);
        }
    }
    sum(&lanes)
}

/// Normalises each row of `x` into `out`; keeps what backward needs in `stats`, one for each row.
pub fn norm_forward<T: Real>(
    out: &mut [T],
    accumulate: Accumulate,
    x: &[T],
    norm: Norm<'_, T>,
    stats: &mut [RowStats<T>],
) {
    let n = norm.weight.len();
    let rows =
        out.par_chunks_mut(BLOCK_ROWS * n).zip(x.par_chunks(BLOCK_ROWS * n)).zip(stats.par_chunks_mut(BLOCK_ROWS));
    rows.for_each(|((out, x), stats)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, x), stats) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(stats) {
                    *stats = row_stats(x, norm.kind, norm.epsilon);
                    normalise_row(out, accumulate, x, norm, *stats);
                }
            },
        );
    });
}

#[inline(always)]
fn normalise_row<T: Real>(out: &mut [T], accumulate: Accumulate, x: &[T], norm: Norm<'_, T>, stats: RowStats<T>) {
    let RowStats { mean, inverse_deviation } = stats;
    if accumulate == Accumulate::Replace {
        out.fill(T::ZERO);
    }
    match norm.bias {
        None => {
            for ((out, &x), &w) in out.iter_mut().zip(x).zip(norm.weight) {
                *out += (x - mean) * inverse_deviation * w;
            }
        }
        Some(bias) => {
            for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(norm.weight).zip(bias) {
                *out += (x - mean) * inverse_deviation * w + b;
            }
        }
    }
}

/// Gradient for the input of a norm: replaces or adds to `dx`.
pub fn norm_backward_input<T: Real>(
    dx: &mut [T],
    accumulate: Accumulate,
    dy: &[T],
    x: &[T],
    norm: Norm<'_, T>,
    stats: &[RowStats<T>],
) {
    let n = norm.weight.len();
    let rows = dx.par_chunks_mut(BLOCK_ROWS * n).zip(dy.par_chunks(BLOCK_ROWS * n)).zip(x.par_chunks(BLOCK_ROWS * n));
    rows.zip(stats.par_chunks(BLOCK_ROWS)).for_each(|(((dx, dy), x), stats)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = dx.chunks_exact_mut(n).zip(dy.chunks_exact(n)).zip(x.chunks_exact(n)).zip(stats);
                for (((dx, dy), x), &stats) in rows {
                    if accumulate == Accumulate::Replace {
                        dx.fill(T::ZERO);
                    }
                    norm_row_backward(dx, dy, x, norm, stats);
                }
            },
        );
    });
}

/// With g = w dy and h the normalised row: dx += (g - mean(g) - h mean(g h)) * inverse deviation, the first mean only
/// for LayerNorm.
#[inline(always)]
fn norm_row_backward<T: Real>(dx: &mut [T], dy: &[T], x: &[T], norm: Norm<'_, T>, stats: RowStats<T>) {
    let RowStats { mean, inverse_deviation } = stats;
    let n = T::from_f64(f64::from(u32::try_from(x.len()).unwrap_or(u32::MAX)));
    let g_sum = dot(dy, norm.weight);
    let gx_sum = dot3(dy, norm.weight, x);
    let g_mean = match norm.kind {
        NormKind::Rms => T::ZERO,
        NormKind::Layer => g_sum / n,
    };
    let gh_mean = (gx_sum - mean * g_sum) * inverse_deviation / n;
    for (((dx, &dy), &x), &w) in dx.iter_mut().zip(dy).zip(x).zip(norm.weight) {
        let h = (x - mean) * inverse_deviation;
        *dx += (dy * w - g_mean - h * gh_mean) * inverse_deviation;
    }
}

/// Gradients for the parameters of a norm, added to `d_weight` and `d_bias`.
pub fn norm_backward_params<T: Real>(
    d_weight: &mut [T],
    d_bias: Option<&mut [T]>,
    dy: &[T],
    x: &[T],
    stats: &[RowStats<T>],
) {
    let n = d_weight.len();
    sum_down_columns(
        d_weight,
        stats.len(),
        #[inline(always)]
        |row, columns, part| {
            let RowStats { mean, inverse_deviation } = stats[row];
            let (dy, x) = (&dy[row * n..][columns.clone()], &x[row * n..][columns]);
            for ((part, &dy), &x) in part.iter_mut().zip(dy).zip(x) {
                *part += dy * (x - mean) * inverse_deviation;
            }
        },
    );
    if let Some(d_bias) = d_bias {
        super::linear::linear_backward_bias(d_bias, dy);
    }
}

/// Adds to `sums` the sums down the columns of `x`, `[rows, sums.len()]`.
pub(crate) fn column_sums<T: Real>(sums: &mut [T], x: &[T]) {
    super::linear::linear_backward_bias(sums, x);
}
