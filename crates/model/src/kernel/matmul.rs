//! Matrix products of strided views, on the `gemm` crates.
//!
//! They split work over rows and columns of the result and never over the summed dimension, so the bits do not
//! depend on the number of threads (`tests/it/determinism.rs` holds it).

use gemm_common::Parallelism;

use super::Real;

/// A read-only matrix inside a slice: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, T> {
    data: &'a [T],
    n_rows: usize,
    n_columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix whose rows are `row_stride` elements apart.
    ///
    /// # Panics
    /// When the slice does not hold the last element: a mistake of ours.
    pub fn new(data: &'a [T], [n_rows, n_columns]: [usize; 2], row_stride: usize) -> Self {
        assert_fits(data.len(), [n_rows, n_columns], row_stride);
        Self { data, n_rows, n_columns, row_stride, column_stride: 1 }
    }

    /// A row-major matrix without gaps.
    pub fn packed(data: &'a [T], [n_rows, n_columns]: [usize; 2]) -> Self {
        Self::new(data, [n_rows, n_columns], n_columns)
    }

    /// The same numbers with rows and columns exchanged.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            n_rows: self.n_columns,
            n_columns: self.n_rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix that is written, row-major.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    n_rows: usize,
    n_columns: usize,
    row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A row-major matrix whose rows are `row_stride` elements apart.
    ///
    /// # Panics
    /// When the slice does not hold the last element or rows overlap: a mistake of ours.
    pub fn new(data: &'a mut [T], [n_rows, n_columns]: [usize; 2], row_stride: usize) -> Self {
        assert_fits(data.len(), [n_rows, n_columns], row_stride);
        Self { data, n_rows, n_columns, row_stride }
    }

    /// A row-major matrix without gaps.
    pub fn packed(data: &'a mut [T], [n_rows, n_columns]: [usize; 2]) -> Self {
        Self::new(data, [n_rows, n_columns], n_columns)
    }
}

fn assert_fits(len: usize, [n_rows, n_columns]: [usize; 2], row_stride: usize) {
    assert!(row_stride >= n_columns, "rows of {n_columns} overlap at a stride of {row_stride}");
    assert!(
        n_rows == 0 || n_columns == 0 || (n_rows - 1) * row_stride + n_columns <= len,
        "{n_rows} x {n_columns} at stride {row_stride} is more than {len}"
    );
}

/// What happens to what the destination held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// The product replaces it.
    Replace,
    /// The product is added to it.
    Add,
}

/// How many threads one product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The calling one: for products inside a parallel loop.
    One,
    /// All of the current pool.
    Pool,
}

/// `out = scale * a b`, or `out += scale * a b`.
///
/// # Panics
/// When the shapes do not fit: a mistake of ours.
pub fn matmul<T: Real>(
    out: MatMut<'_, T>,
    accumulate: Accumulate,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    scale: T,
    threads: Threads,
) {
    assert_eq!(a.n_columns, b.n_rows, "the summed dimensions differ");
    assert_eq!((out.n_rows, out.n_columns), (a.n_rows, b.n_columns), "the result has another shape");
    if out.n_rows == 0 || out.n_columns == 0 {
        return;
    }
    if a.n_columns == 0 && accumulate == Accumulate::Replace {
        for row in out.data.chunks_mut(out.row_stride).take(out.n_rows) {
            row[..out.n_columns].fill(T::ZERO);
        }
        return;
    }
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::Pool => match rayon::current_num_threads() {
            1 => Parallelism::None,
            n => Parallelism::Rayon(n),
        },
    };
    // The kernels write columns: rows are the columns of the transposed product, that of the transposes.
    let (a, b, [n_rows, n_columns], [column_stride, row_stride]) = match out.row_stride {
        1 => (a, b, [out.n_rows, out.n_columns], [1, 1]),
        row_stride => (b.t(), a.t(), [out.n_columns, out.n_rows], [row_stride, 1]),
    };
    // SAFETY: the constructors of `Mat` and `MatMut` checked that every (row, column) of each view is inside its slice,
    // rows of `out` do not overlap, and `out` is borrowed mutably, so it cannot alias `a` or `b`. No stride is
    // negative.
    unsafe {
        T::product()(
            n_rows,
            n_columns,
            a.n_columns,
            out.data.as_mut_ptr(),
            signed(column_stride),
            signed(row_stride),
            accumulate == Accumulate::Add,
            a.data.as_ptr(),
            signed(a.column_stride),
            signed(a.row_stride),
            b.data.as_ptr(),
            signed(b.column_stride),
            signed(b.row_stride),
            T::ONE,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[expect(clippy::cast_possible_wrap, reason = "a stride inside a slice is below isize::MAX")]
const fn signed(stride: usize) -> isize {
    stride as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
        (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum()).collect()
    }

    #[test]
    fn views_with_strides_and_transposes_equal_the_plain_sum() {
        let a: Vec<f64> = (0..12).map(|i| f64::from(i) - 5.0).collect();
        let b: Vec<f64> = (0..20).map(|i| f64::from(i * i % 7)).collect();
        let expected = naive(&a, &b, [3, 4, 5]);
        let mut wide = vec![1.0; 3 * 8];
        matmul(
            MatMut::new(&mut wide, [3, 5], 8),
            Accumulate::Add,
            Mat::packed(&a, [3, 4]),
            Mat::packed(&b, [4, 5]),
            2.0,
            Threads::Pool,
        );
        for (i, row) in wide.chunks(8).enumerate() {
            for j in 0..8 {
                let want = if j < 5 { 1.0 + 2.0 * expected[i * 5 + j] } else { 1.0 };
                assert!((row[j] - want).abs() < 1e-12);
            }
        }
        let mut t = vec![9.0; 15];
        matmul(
            MatMut::packed(&mut t, [5, 3]),
            Accumulate::Replace,
            Mat::packed(&b, [4, 5]).t(),
            Mat::packed(&a, [3, 4]).t(),
            1.0,
            Threads::One,
        );
        for i in 0..3 {
            for j in 0..5 {
                assert!((t[j * 3 + i] - expected[i * 5 + j]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let mut out = [5.0_f32; 4];
        matmul(
            MatMut::packed(&mut out, [2, 2]),
            Accumulate::Replace,
            Mat::packed(&[], [2, 0]),
            Mat::packed(&[], [0, 2]),
            1.0,
            Threads::One,
        );
        assert_eq!(out.map(f32::to_bits), [0; 4]);
    }
}
