//! AVX2: tiles of bf16 whose sums are exact; other tiles, and other types, go to `portable`.
//!
//! The same steps as `avx512`, half as wide.

use std::arch::x86_64::*;

use crate::kernel::portable::{self, Fused, InBf16, OutBf16, TILE, Unsettled};
use crate::kernel::prepared::Prepared;

/// Least spread of exponents for which sums in singles are tried: below it too few tiles pass.
const LEAST_SPREAD_F32: i32 = 6;
/// Elements that the registers hold at once: more would spill.
const STRIP: usize = 32;

/// Lanes of one register of pairs: even-low, even-high, odd-low, odd-high.
type Sums = [__m256d; 4];

#[inline]
#[target_feature(enable = "avx2,fma")]
fn even_lanes(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn odd_lanes(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed())))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn low_half(x: __m256) -> __m256d {
    _mm256_cvtps_pd(_mm256_castps256_ps128(x))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn high_half(x: __m256) -> __m256d {
    _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x))
}

/// The 16 elements from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(source: &[u8], at: usize) -> __m256i {
    let bytes = &source[2 * at..2 * (at + 16)];
    // SAFETY: the slice has 32 bytes, and this load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(register: __m256i, out: &mut [u8]) {
    let bytes = &mut out[..32];
    // SAFETY: the slice has 32 bytes, and this store asks for no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), register) }
}

/// Largest and smallest exponent of each lane's inputs.
#[derive(Clone, Copy)]
struct Spread {
    most: __m256i,
    /// Of the doubled bits less one, so that zeros come out on top.
    least: __m256i,
}

impl Spread {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new() -> Self {
        Self { most: _mm256_setzero_si256(), least: _mm256_set1_epi16(-1) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn take(&mut self, pairs: __m256i) {
        let doubled = _mm256_slli_epi16::<1>(pairs);
        self.most = _mm256_max_epu16(self.most, doubled);
        self.least = _mm256_min_epu16(self.least, _mm256_sub_epi16(doubled, _mm256_set1_epi16(1)));
    }

    /// Whether every lane's exponents are within `limit` of each other and none is above `highest`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn is_within(self, limit: i16, highest: i16) -> bool {
        let top = _mm256_srli_epi16::<8>(self.most);
        let spread = _mm256_subs_epu16(top, _mm256_srli_epi16::<8>(self.least));
        let wide = _mm256_cmpgt_epi16(spread, _mm256_set1_epi16(limit));
        let outside = _mm256_or_si256(wide, _mm256_cmpgt_epi16(top, _mm256_set1_epi16(highest)));
        _mm256_testz_si256(outside, outside) == 1
    }
}

/// Sums a strip in singles, if that is exact for every lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_in_singles(sources: &[&[u8]], at: usize, coefficients: &[f64], limit: i16) -> Option<[Sums; 2]> {
    /// Well below the largest single, so that no partial sum overflows.
    const HIGHEST: i16 = 0xDF;
    let mut spread = [Spread::new(); 2];
    let mut even = [_mm256_set1_ps(-0.0); 2];
    let mut odd = even;
    for (source, &c) in sources.iter().zip(coefficients) {
        #[expect(clippy::cast_possible_truncation, reason = "exact: at most 24 bits, or the limit would be negative")]
        let c = _mm256_set1_ps(c as f32);
        for register in 0..2 {
            let pairs = load(source, at + 16 * register);
            spread[register].take(pairs);
            even[register] = _mm256_fmadd_ps(c, even_lanes(pairs), even[register]);
            odd[register] = _mm256_fmadd_ps(c, odd_lanes(pairs), odd[register]);
        }
    }
    if !(spread[0].is_within(limit, HIGHEST) && spread[1].is_within(limit, HIGHEST)) {
        return None;
    }
    let [e0, e1] = even;
    let [o0, o1] = odd;
    Some([
        [low_half(e0), high_half(e0), low_half(o0), high_half(o0)],
        [low_half(e1), high_half(e1), low_half(o1), high_half(o1)],
    ])
}

/// Sums a strip in doubles, if that is exact and finite for every lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum_in_doubles(sources: &[&[u8]], at: usize, coefficients: &[f64], limit: i16) -> Option<[Sums; 2]> {
    /// Below the field of infinities, with room for sums of coefficients up to 2^3.
    const HIGHEST: i16 = 0xFA;
    let mut spread = [Spread::new(); 2];
    let mut sums = [[_mm256_set1_pd(-0.0); 4]; 2];
    for (source, &c) in sources.iter().zip(coefficients) {
        let c = _mm256_set1_pd(c);
        for register in 0..2 {
            let pairs = load(source, at + 16 * register);
            spread[register].take(pairs);
            let (even, odd) = (even_lanes(pairs), odd_lanes(pairs));
            let lanes = [low_half(even), high_half(even), low_half(odd), high_half(odd)];
            for (lane, x) in lanes.into_iter().enumerate() {
                sums[register][lane] = _mm256_fmadd_pd(c, x, sums[register][lane]);
            }
        }
    }
    (spread[0].is_within(limit, HIGHEST) && spread[1].is_within(limit, HIGHEST)).then_some(sums)
}

/// Divisor and reciprocal in every lane.
#[derive(Clone, Copy)]
struct Division {
    d: __m256d,
    reciprocal: __m256d,
}

/// The upper halves of eight doubles' words, as lanes of 32 bits in their order.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn upper_words(low: __m256d, high: __m256d) -> __m256i {
    let mixed = _mm256_shuffle_ps::<0xDD>(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    _mm256_castpd_si256(_mm256_permute4x64_pd::<0xD8>(_mm256_castps_pd(mixed)))
}

/// Eight lanes rounded to bf16 in the upper halves, with their signs.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn round_lanes(low: __m256d, high: __m256d, division: Division) -> __m256i {
    let size_bits = _mm256_castsi256_pd(_mm256_set1_epi64x(i64::MAX));
    let (size_low, size_high) = (_mm256_and_pd(low, size_bits), _mm256_and_pd(high, size_bits));
    let quotient = |size| _mm256_cvtpd_ps(_mm256_mul_pd(size, division.reciprocal));
    // To nearest, not cut: one that comes out at the next bf16 is then settled by the midpoint above that, which is
    // right too.
    let near = _mm256_castps_si256(_mm256_set_m128(quotient(size_high), quotient(size_low)));
    let high_bits = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
    let middle = _mm256_or_si256(_mm256_and_si256(near, high_bits), _mm256_set1_epi32(0x8000));
    let middle_singles = _mm256_castsi256_ps(middle);
    let side_low = _mm256_fnmadd_pd(low_half(middle_singles), division.d, size_low);
    let side_high = _mm256_fnmadd_pd(high_half(middle_singles), division.d, size_high);
    let zero = _mm256_setzero_pd();
    let above = upper_words(_mm256_cmp_pd::<_CMP_GT_OQ>(side_low, zero), _mm256_cmp_pd::<_CMP_GT_OQ>(side_high, zero));
    let equal = upper_words(_mm256_cmp_pd::<_CMP_EQ_OQ>(side_low, zero), _mm256_cmp_pd::<_CMP_EQ_OQ>(side_high, zero));
    let one = _mm256_set1_epi32(1);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(middle), one);
    let up = _mm256_or_si256(_mm256_and_si256(above, one), _mm256_and_si256(equal, odd));
    let rounded = _mm256_add_epi32(middle, _mm256_slli_epi32::<15>(up));
    let signs = _mm256_and_si256(upper_words(low, high), _mm256_set1_epi32(i32::MIN));
    _mm256_or_si256(rounded, signs)
}

fn as_limit(spread: i32) -> i16 {
    i16::try_from(spread.min(254)).unwrap_or(-1)
}

/// Sums tiles of bf16 to bf16 from tile `first` on; stops at a tile that is not settled.
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
pub(crate) fn sum_bf16(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    for tile in first..n_tiles {
        let at = tile * TILE;
        let out = &mut out[2 * at..2 * (at + TILE)];
        if sum_tile_exactly(prepared, sources, at, out) {
            continue;
        }
        let unsettled = portable::sum_tile::<InBf16, OutBf16, Fused>(prepared, sources, at, out);
        if unsettled != Unsettled::default() {
            return Some((tile, unsettled));
        }
    }
    None
}

/// Whether every lane's sum was exact; if not, `out` holds no answer.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
fn sum_tile_exactly(prepared: &Prepared, sources: &[&[u8]], at: usize, out: &mut [u8]) -> bool {
    // Results close to the largest bf16 are left to the careful path, so the sum of coefficients is bounded.
    if !prepared.is_small || prepared.sum_abs > 8.0 * prepared.d {
        return false;
    }
    let (in_singles, in_doubles) = (prepared.exact_spread(24, 8), as_limit(prepared.exact_spread(53, 8)));
    let division = Division { d: _mm256_set1_pd(prepared.d), reciprocal: _mm256_set1_pd(prepared.reciprocal) };
    let coefficients = prepared.coefficients.as_slice();
    for strip in 0..TILE / STRIP {
        let from = at + strip * STRIP;
        let tries_singles = in_singles >= LEAST_SPREAD_F32;
        let singles =
            if tries_singles { sum_in_singles(sources, from, coefficients, as_limit(in_singles)) } else { None };
        let sums = match singles {
            Some(sums) => Some(sums),
            None if in_doubles >= 0 => sum_in_doubles(sources, from, coefficients, in_doubles),
            None => None,
        };
        let Some(sums) = sums else { return false };
        for (register, [even_low, even_high, odd_low, odd_high]) in sums.into_iter().enumerate() {
            let even = round_lanes(even_low, even_high, division);
            let odd = round_lanes(odd_low, odd_high, division);
            let pairs = _mm256_blend_epi16::<0xAA>(_mm256_srli_epi32::<16>(even), odd);
            store(pairs, &mut out[2 * (strip * STRIP + 16 * register)..]);
        }
    }
    true
}
