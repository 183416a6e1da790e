//! Inner products of many tensors in one pass, for the Gram matrix. The same numbers on every machine.

use crate::Dtype;
use crate::kernel::portable::{InBf16, InF16, InF32, Input, MultiplyAdd, load_lanes};
use crate::kernel::simd::{Compiled, Simd, run_compiled};

/// Elements that are widened at once: n of these rows stay in the second-level cache for n up to a few hundred.
const BLOCK: usize = 512;
/// Running sums of a product.
const LANES: usize = 8;

type Rows = Vec<[f64; BLOCK]>;

/// Adds to `out` the products of d_i = x_i - r: <d_i, d_j> for i <= j, row by row; then <d_i, r>; then <r, r>.
///
/// All buffers hold the same number of elements of a floating dtype; `out` has n(n+1)/2 + n + 1 places for n sources.
pub fn gram_into(dtype: Dtype, reference: &[u8], sources: &[&[u8]], out: &mut [f64]) {
    let mut rows: Rows = vec![[0.0; BLOCK]; sources.len() + 1];
    let n_bytes = usize::try_from(dtype.bits() / 8).unwrap_or(1);
    for start in (0..reference.len()).step_by(BLOCK * n_bytes) {
        let range = start..reference.len().min(start + BLOCK * n_bytes);
        let n_elements = range.len() / n_bytes;
        let (reference_row, difference_rows) = match rows.split_last_mut() {
            Some(split) => split,
            None => return,
        };
        widen_into(dtype, &reference[range.clone()], reference_row);
        for (row, source) in difference_rows.iter_mut().zip(sources) {
            widen_into(dtype, &source[range.clone()], row);
            row.iter_mut().zip(reference_row.iter()).for_each(|(x, r)| *x -= r);
        }
        // What a shorter block before this one left must not count again.
        for row in &mut rows {
            row[n_elements..].fill(0.0);
        }
        add_products(&rows, out);
    }
}

/// Widens little-endian elements of a floating dtype exactly; `row` has a place for each. Other dtypes give zeros.
pub fn widen_into(dtype: Dtype, bytes: &[u8], row: &mut [f64]) {
    run_compiled(Simd::Auto, Widen { dtype, bytes, row });
}

struct Widen<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
    row: &'a mut [f64],
}

impl Compiled for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        let Self { dtype, bytes, row } = self;
        match dtype {
            Dtype::Bf16 => widen_all::<InBf16>(bytes, row),
            Dtype::F16 => widen_all::<InF16>(bytes, row),
            Dtype::F32 => widen_all::<InF32>(bytes, row),
            Dtype::F64 => {
                row.iter_mut().zip(bytes.as_chunks::<8>().0).for_each(|(x, chunk)| *x = f64::from_le_bytes(*chunk));
            }
            _ => row.fill(0.0),
        }
    }
}

#[inline(always)]
fn widen_all<I: Input>(bytes: &[u8], row: &mut [f64]) {
    const RUN: usize = 16;
    let n_elements = row.len().min(bytes.len() / I::BYTES);
    let (runs, rest) = row[..n_elements].as_chunks_mut::<RUN>();
    for (run, bytes) in runs.iter_mut().zip(bytes.chunks(RUN * I::BYTES)) {
        let lanes = load_lanes::<I::Raw, RUN>(bytes);
        (0..RUN).for_each(|l| run[l] = I::widen(I::bits(lanes[l])));
    }
    if !rest.is_empty() {
        let bytes = &bytes[runs.len() * RUN * I::BYTES..];
        let mut padded = [0; RUN * 4];
        let n_bytes = rest.len() * I::BYTES;
        padded[..n_bytes].copy_from_slice(&bytes[..n_bytes]);
        let lanes = load_lanes::<I::Raw, RUN>(&padded);
        rest.iter_mut().zip(lanes).for_each(|(x, raw)| *x = I::widen(I::bits(raw)));
    }
}

fn add_products(rows: &Rows, out: &mut [f64]) {
    match Simd::Auto.resolve() {
        // SAFETY: `resolve` found the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { add_products_avx512(rows, out) },
        // SAFETY: `resolve` found the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { add_products_avx2(rows, out) },
        _ => add_products_here(rows, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn add_products_avx512(rows: &Rows, out: &mut [f64]) {
    add_products_here(rows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_products_avx2(rows: &Rows, out: &mut [f64]) {
    add_products_here(rows, out);
}

#[inline(always)]
fn add_products_here(rows: &Rows, out: &mut [f64]) {
    let Some((reference, differences)) = rows.split_last() else { return };
    let mut places = out.iter_mut();
    let mut put = |value: f64| {
        if let Some(place) = places.next() {
            *place += value;
        }
    };
    for (i, row) in differences.iter().enumerate() {
        differences[i..].iter().for_each(|other| put(dot(row, other)));
    }
    differences.iter().for_each(|row| put(dot(row, reference)));
    put(dot(reference, reference));
}

#[inline(always)]
fn dot(a: &[f64; BLOCK], b: &[f64; BLOCK]) -> f64 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_whole_numbers_are_exact() {
        let bytes = |f: &dyn Fn(u16) -> f32| (0..700u16).flat_map(|i| f(i).to_le_bytes()).collect::<Vec<u8>>();
        let r = bytes(&|_| 3.0);
        let (a, b) = (bytes(&|_| 4.0), bytes(&|_| 1.0));
        let mut out = [0.0; 6];
        gram_into(Dtype::F32, &r, &[&a, &b], &mut out);
        let n = 700.0;
        assert_eq!(out.map(f64::to_bits), [n, -2.0 * n, 4.0 * n, 3.0 * n, -6.0 * n, 9.0 * n].map(f64::to_bits));
    }

    #[test]
    fn every_half_is_widened_to_its_value() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut row = vec![0.0; 1 << 16];
        widen_into(Dtype::F16, &all, &mut row);
        for (bits, found) in (0..=u16::MAX).zip(row) {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let size = match exponent {
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                0 => fraction * 2f64.powi(-24),
                _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
            };
            let expected = if bits >> 15 == 1 { -size } else { size };
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:x}: {found}");
        }
    }
}
