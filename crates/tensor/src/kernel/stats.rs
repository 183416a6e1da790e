//! How far two tensors are apart: for receipts and for `diff`. The same numbers on every machine.
//!
//! Work is done in blocks of 4,096 elements with 32 running sums each, by plain additions and multiplications, so
//! that neither the instruction set nor a cut at a multiple of the block changes a bit.

use crate::Dtype;
use crate::kernel::format::{FloatFormat, load_bits};
use crate::kernel::portable::{InBf16, InF16, InF32, Input, load_lanes};
use crate::kernel::simd::Simd;

/// Elements of a block.
const BLOCK: usize = 4096;
/// Running sums of a block.
const LANES: usize = 32;

/// Differences of two buffers, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DifferenceStats {
    /// Sum of (a - b)^2.
    pub sum_squared_difference: f64,
    /// Largest |a - b|.
    pub max_abs_difference: f64,
    /// Sum of a^2: the squared norm of the first buffer.
    pub sum_squares: f64,
}

/// Elements that differ, in units of the last place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UlpStats {
    /// Largest number of steps between two elements; -0 and +0 are one step apart.
    pub max_ulps: u64,
    /// Elements whose bits differ.
    pub n_differing: u64,
}

/// One block's differences in singles: element e adds to lane e % 32, the lanes are added in order.
///
/// A square loses at most 2^-22 of itself and a lane at most 128 roundings: 1e-5 of the sum, for 4 times the speed.
#[inline(always)]
fn block_in_singles<I: Input>(a: &[u8], b: &[u8]) -> DifferenceStats {
    let mut lanes = Lanes { norm: [0.0; LANES], squares: [0.0; LANES], largest: [0.0; LANES] };
    let step = LANES * I::BYTES;
    let (chunks_a, chunks_b) = (a.chunks_exact(step), b.chunks_exact(step));
    let (rest_a, rest_b) = (chunks_a.remainder(), chunks_b.remainder());
    for (a, b) in chunks_a.zip(chunks_b) {
        lanes.add::<I>(a, b);
    }
    if !rest_a.is_empty() {
        // Zeros differ from zeros by nothing.
        let (mut pad_a, mut pad_b) = ([0; LANES * 4], [0; LANES * 4]);
        pad_a[..rest_a.len()].copy_from_slice(rest_a);
        pad_b[..rest_b.len()].copy_from_slice(rest_b);
        lanes.add::<I>(&pad_a, &pad_b);
    }
    DifferenceStats {
        sum_squared_difference: lanes.squares.iter().map(|&square| f64::from(square)).sum(),
        max_abs_difference: f64::from(lanes.largest.iter().copied().fold(0.0, f32::max)),
        sum_squares: lanes.norm.iter().map(|&square| f64::from(square)).sum(),
    }
}

/// Running sums of a block: of a^2, of (a - b)^2, and the largest |a - b|.
struct Lanes {
    norm: [f32; LANES],
    squares: [f32; LANES],
    largest: [f32; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add<I: Input>(&mut self, a: &[u8], b: &[u8]) {
        let (a, b) = (load_lanes::<I::Raw, LANES>(a), load_lanes::<I::Raw, LANES>(b));
        for l in 0..LANES {
            let first = I::widen_to_single(I::bits(a[l]));
            let difference = first - I::widen_to_single(I::bits(b[l]));
            self.norm[l] += first * first;
            self.squares[l] += difference * difference;
            let size = difference.abs();
            self.largest[l] = if size > self.largest[l] { size } else { self.largest[l] };
        }
    }
}

/// One block in doubles, for numbers whose squares leave the singles.
fn block_in_doubles<I: Input>(a: &[u8], b: &[u8]) -> DifferenceStats {
    let mut block = DifferenceStats::default();
    for (a, b) in a.chunks_exact(I::BYTES).zip(b.chunks_exact(I::BYTES)) {
        let [a] = load_lanes::<I::Raw, 1>(a);
        let [b] = load_lanes::<I::Raw, 1>(b);
        let first = I::widen(I::bits(a));
        let difference = first - I::widen(I::bits(b));
        block.sum_squares += first * first;
        block.sum_squared_difference += difference * difference;
        block.max_abs_difference = block.max_abs_difference.max(difference.abs());
    }
    block
}

#[inline(always)]
fn difference_in_blocks<I: Input>(a: &[u8], b: &[u8]) -> DifferenceStats {
    /// Squares of differences in this range neither vanish nor overflow, but for those that do not count.
    const SAFE: std::ops::Range<f64> = 1e-12..1e15;
    /// The same for the sum of the squares of a block.
    const SAFE_SQUARES: std::ops::Range<f64> = 1e-24..1e30;
    let mut total = DifferenceStats::default();
    for (a, b) in a.chunks(BLOCK * I::BYTES).zip(b.chunks(BLOCK * I::BYTES)) {
        let mut block = block_in_singles::<I>(a, b);
        let is_safe = (block.max_abs_difference == 0.0 || SAFE.contains(&block.max_abs_difference))
            && SAFE_SQUARES.contains(&block.sum_squares);
        if !is_safe {
            block = block_in_doubles::<I>(a, b);
        }
        total.sum_squares += block.sum_squares;
        total.sum_squared_difference += block.sum_squared_difference;
        total.max_abs_difference = total.max_abs_difference.max(block.max_abs_difference);
    }
    total
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn difference_avx512<I: Input>(a: &[u8], b: &[u8]) -> DifferenceStats {
    difference_in_blocks::<I>(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn difference_avx2<I: Input>(a: &[u8], b: &[u8]) -> DifferenceStats {
    difference_in_blocks::<I>(a, b)
}

fn difference<I: Input>(a: &[u8], b: &[u8]) -> DifferenceStats {
    match Simd::Auto.resolve() {
        // SAFETY: `resolve` found the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { difference_avx512::<I>(a, b) },
        // SAFETY: `resolve` found the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { difference_avx2::<I>(a, b) },
        _ => difference_in_blocks::<I>(a, b),
    }
}

/// Differences of the floating tensors `a` and `b` of one dtype and length; zero for other dtypes.
///
/// The sum is right to 1e-5 of itself (F64: to rounding), the largest difference to 2^-24 of itself.
/// Buffers cut at multiples of 4,096 elements give parts whose sums, added in order, equal those of the whole.
pub fn difference_stats(dtype: Dtype, a: &[u8], b: &[u8]) -> DifferenceStats {
    match dtype {
        Dtype::Bf16 => difference::<InBf16>(a, b),
        Dtype::F16 => difference::<InF16>(a, b),
        Dtype::F32 => difference::<InF32>(a, b),
        Dtype::F64 => difference_of_doubles(a, b),
        _ => DifferenceStats::default(),
    }
}

fn difference_of_doubles(a: &[u8], b: &[u8]) -> DifferenceStats {
    let mut total = DifferenceStats::default();
    for (a, b) in a.chunks(BLOCK * 8).zip(b.chunks(BLOCK * 8)) {
        let (mut norm, mut squares) = (0.0, 0.0);
        for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
            let first = f64::from_le_bytes(*a);
            let difference = first - f64::from_le_bytes(*b);
            norm += first * first;
            squares += difference * difference;
            total.max_abs_difference = total.max_abs_difference.max(difference.abs());
        }
        total.sum_squares += norm;
        total.sum_squared_difference += squares;
    }
    total
}

/// Steps between the elements of two floating tensors of one dtype and length; zero for other dtypes.
pub fn ulp_difference(dtype: Dtype, a: &[u8], b: &[u8]) -> UlpStats {
    let mut stats = UlpStats::default();
    let Some(format) = FloatFormat::of(dtype) else { return stats };
    if a == b {
        return stats;
    }
    // Numbers in order, as whole numbers: negative ones below, -0 just below +0.
    let rank = |bits: u64| {
        let magnitude = i128::from(bits & (format.sign_bit() - 1));
        if bits & format.sign_bit() == 0 { magnitude } else { -1 - magnitude }
    };
    let n_elements = a.len() / usize::try_from(format.n_bits() / 8).unwrap_or(1);
    for idx in 0..n_elements {
        let (x, y) = (load_bits(dtype, a, idx), load_bits(dtype, b, idx));
        if x != y {
            let steps = u64::try_from((rank(x) - rank(y)).unsigned_abs()).unwrap_or(u64::MAX);
            stats.max_ulps = stats.max_ulps.max(steps);
            stats.n_differing += 1;
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn differences_of_whole_numbers_are_exact() {
        let a: Vec<f32> = (0..5001u16).map(|i| f32::from(i % 100)).collect();
        let b: Vec<f32> = a.iter().map(|x| x + 2.0).collect();
        let stats = difference_stats(Dtype::F32, &singles(&a), &singles(&b));
        // The sum of the squares below 100 is 328,350; the last element is 0.
        let sum_squares = 50.0 * 328_350.0;
        assert_eq!(stats, DifferenceStats { sum_squared_difference: 20_004.0, max_abs_difference: 2.0, sum_squares });
    }

    #[test]
    fn norms_of_very_small_and_very_large_numbers_are_in_doubles() {
        for (value, n_elements) in [(1e-30f32, 10u8), (1e30, 10), (3e-20, 200)] {
            let a = singles(&vec![value; usize::from(n_elements)]);
            let expected = f64::from(n_elements) * f64::from(value) * f64::from(value);
            let found = difference_stats(Dtype::F32, &a, &a).sum_squares;
            assert!((found - expected).abs() <= 1e-12 * expected, "{value}: {found} instead of {expected}");
        }
    }

    #[test]
    fn what_is_not_finite_has_no_finite_norm() {
        for (dtype, one, bad) in
            [(Dtype::F16, 0x3C00u16, [0x7C00u16, 0xFC00, 0x7E00]), (Dtype::Bf16, 0x3F80, [0x7F80, 0xFF80, 0x7FC0])]
        {
            for bad in bad {
                let (a, b) = ([one, bad, one].map(u16::to_le_bytes), [one; 3].map(u16::to_le_bytes));
                let stats = difference_stats(dtype, a.as_flattened(), b.as_flattened());
                assert!(!stats.sum_squares.is_finite(), "{dtype} {bad:x}: {stats:?}");
                assert!(!stats.sum_squared_difference.is_finite(), "{dtype} {bad:x}: {stats:?}");
            }
        }
    }

    #[test]
    fn a_cut_at_a_block_changes_no_bit() {
        let a: Vec<f32> = (0..10_000u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let b: Vec<f32> = a.iter().map(|x| x * 1.001).collect();
        let (a, b) = (singles(&a), singles(&b));
        let whole = difference_stats(Dtype::F32, &a, &b);
        let cut = BLOCK * 4;
        let parts =
            [difference_stats(Dtype::F32, &a[..cut], &b[..cut]), difference_stats(Dtype::F32, &a[cut..], &b[cut..])];
        // Two blocks are in the second part: its sum is taken first, as in the whole only up to association.
        let sum = parts[0].sum_squared_difference + parts[1].sum_squared_difference;
        assert!((sum - whole.sum_squared_difference).abs() <= 1e-15 * whole.sum_squared_difference);
        assert_eq!(difference_in_blocks::<InF32>(&a, &b), whole, "every instruction set gives the same");
    }

    #[test]
    fn steps_are_counted_across_zero() {
        let stats = ulp_difference(Dtype::F32, &singles(&[-0.0, 1.0]), &singles(&[f32::from_bits(1), 1.0]));
        assert_eq!(stats, UlpStats { max_ulps: 2, n_differing: 1 });
    }
}
