//! Sums in a fixed grouping, wide enough for the vector units: along rows and down columns.

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK_ROWS, Real};

/// Partial sums of one row sum: as many as the widest vectors hold, so that one loop serves all.
const LANES: usize = 16;
/// Columns that one task sums: four vectors of the widest kind.
const STRIP: usize = 64;

/// Runs `f` compiled for the widest vectors of this processor.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

#[inline(always)]
fn sum_lanes<T: Real>(lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of a slice.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += x;
    }
    sum_lanes(lanes)
}

/// Inner product of two slices of one length.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a).zip(&mut b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *lane += a * b;
    }
    sum_lanes(lanes)
}

/// Sum of the products of three slices of one length.
#[inline(always)]
pub(crate) fn dot3<T: Real>(a: &[T], b: &[T], c: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (mut a, mut b, mut c) = (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    for ((a, b), c) in (&mut a).zip(&mut b).zip(&mut c) {
        for (((lane, &a), &b), &c) in lanes.iter_mut().zip(a).zip(b).zip(c) {
            *lane += a * b * c;
        }
    }
    for (((lane, &a), &b), &c) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()).zip(c.remainder()) {
        *lane += a * b * c;
    }
    sum_lanes(lanes)
}

/// Largest number of a slice, minus infinity for an empty one. Skips NaNs: the sum of exponentials that follows finds
/// them.
#[inline(always)]
pub(crate) fn max<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::from_f64(f64::NEG_INFINITY); LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let mut largest = T::from_f64(f64::NEG_INFINITY);
    for &x in chunks.remainder().iter().chain(&lanes) {
        largest = if x > largest { x } else { largest };
    }
    largest
}

/// Adds to each column of `out` the sum over `n_rows` rows of what `add_row(row, columns, partial)` adds to `partial`.
///
/// Rows are summed in blocks of `BLOCK_ROWS`, columns are shared out among the threads.
pub(crate) fn sum_down_columns<T: Real>(
    out: &mut [T],
    n_rows: usize,
    add_row: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
) {
    out.par_chunks_mut(STRIP).enumerate().for_each(|(strip_idx, out)| {
        let columns = strip_idx * STRIP..strip_idx * STRIP + out.len();
        let mut total = [T::ZERO; STRIP];
        for first in (0..n_rows).step_by(BLOCK_ROWS) {
            let mut part = [T::ZERO; STRIP];
            vectorised(
                #[inline(always)]
                || {
                    for row in first..n_rows.min(first + BLOCK_ROWS) {
                        add_row(row, columns.clone(), &mut part[..out.len()]);
                    }
                },
            );
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
        for (out, total) in out.iter_mut().zip(total) {
            *out += total;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_any_length_are_those_of_the_integers() {
        for n in [0, 1, 15, 16, 17, 33, 100] {
            let x: Vec<f64> = (1..=n).map(f64::from).collect();
            let n = f64::from(n);
            assert!((sum(&x) - n * (n + 1.0) / 2.0).abs() < 1e-9);
            assert!((dot(&x, &x) - n * (n + 1.0) * (2.0 * n + 1.0) / 6.0).abs() < 1e-9);
            assert!((dot3(&x, &x, &x) - (n * (n + 1.0) / 2.0).powi(2)).abs() < 1e-6);
            assert!(if n > 0.0 { (max(&x) - n).abs() < 1e-12 } else { max(&x).is_infinite() });
        }
    }

    #[test]
    fn the_largest_passes_over_nan() {
        for i in 0..40 {
            let mut x = [1.0_f32; 40];
            x[i] = f32::NAN;
            x[39 - i] = 2.0;
            assert_eq!(max(&x).to_bits(), 2.0_f32.to_bits(), "at {i}");
        }
    }

    #[test]
    fn column_sums_add_to_what_is_there() {
        let x: Vec<f64> = (0..130 * 70).map(|i| f64::from(i % 13)).collect();
        let mut out = vec![1.0; 70];
        sum_down_columns(&mut out, 130, |row, columns, part| {
            for (part, &x) in part.iter_mut().zip(&x[row * 70..][columns]) {
                *part += x;
            }
        });
        for (j, &out) in out.iter().enumerate() {
            let want: f64 = 1.0 + (0..130).map(|i| x[i * 70 + j]).sum::<f64>();
            assert!((out - want).abs() < 1e-9);
        }
    }
}
