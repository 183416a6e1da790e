//! AVX-512: tiles of bf16 and f32 whose sums are exact or whose error leaves no doubt; other tiles go to `portable`.
//!
//! bf16 pairs are split into even and odd lanes by a shift and a mask, so that nothing is shuffled.

use std::arch::x86_64::*;

use crate::kernel::portable::{self, Fused, InBf16, InF32, OutBf16, OutF32, TILE, Unsettled};
use crate::kernel::prepared::Prepared;

/// Least spread of exponents for which sums in singles are tried: below it too few tiles pass.
const LEAST_SPREAD_F32: i32 = 6;

/// Elements of bf16 in a register.
const PER_REGISTER: usize = 32;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn even_lanes(pairs: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn odd_lanes(pairs: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed())))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn low_half(x: __m512) -> __m512d {
    _mm512_cvtps_pd(_mm512_castps512_ps256(x))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn high_half(x: __m512) -> __m512d {
    _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(x))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn join(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Largest and smallest exponent of each bf16 lane's inputs.
struct Spread {
    most: [__m512i; 2],
    /// Of the doubled bits less one, so that zeros come out on top.
    least: [__m512i; 2],
}

impl Spread {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new() -> Self {
        Self { most: [_mm512_setzero_si512(); 2], least: [_mm512_set1_epi16(-1); 2] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn take(&mut self, register: usize, pairs: __m512i) {
        let doubled = _mm512_slli_epi16::<1>(pairs);
        let less_one = _mm512_sub_epi16(doubled, _mm512_set1_epi16(1));
        self.most[register] = _mm512_max_epu16(self.most[register], doubled);
        self.least[register] = _mm512_min_epu16(self.least[register], less_one);
    }

    /// Lanes whose exponents are within `limit` of each other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn lanes_within(&self, register: usize, limit: i16) -> __mmask32 {
        let most = _mm512_srli_epi16::<8>(self.most[register]);
        let spread = _mm512_subs_epu16(most, _mm512_srli_epi16::<8>(self.least[register]));
        _mm512_cmple_epi16_mask(spread, _mm512_set1_epi16(limit))
    }

    /// Whether no exponent field is above `highest`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn is_below(&self, highest: i16) -> bool {
        let most = _mm512_srli_epi16::<8>(_mm512_max_epu16(self.most[0], self.most[1]));
        _mm512_cmpgt_epi16_mask(most, _mm512_set1_epi16(highest)) == 0
    }

    /// Whether both hold for all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn is_within(&self, limit: i16, highest: i16) -> bool {
        self.lanes_within(0, limit) & self.lanes_within(1, limit) == __mmask32::MAX && self.is_below(highest)
    }
}

/// Lanes of one tile in the order even-low, even-high, odd-low, odd-high, for each of two registers.
type Sums = [__m512d; 8];

/// What a sum is divided by, in every lane.
#[derive(Clone, Copy)]
struct Division {
    d: __m512d,
    reciprocal: __m512d,
    /// Four times the bound of the error of a sum that is not exact, as a share of the largest input.
    error_share: __m512d,
}

impl Division {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(prepared: &Prepared) -> Self {
        let share = if prepared.is_extreme { f64::INFINITY } else { 4.0 * prepared.error_share };
        Self {
            d: _mm512_set1_pd(prepared.d),
            reciprocal: _mm512_set1_pd(prepared.reciprocal),
            error_share: _mm512_set1_pd(share),
        }
    }

    /// Lanes that every number within the error bound of |s| rounds alike in; see `portable::Rounded`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn settled_lanes(self, s: __m512d, side: __m512d, most: __m512d) -> __mmask8 {
        let error = _mm512_mul_pd(most, self.error_share);
        let closest = _mm512_min_pd(_mm512_abs_pd(side), _mm512_abs_pd(s));
        _mm512_cmp_pd_mask::<_CMP_GT_OQ>(closest, error)
    }
}

/// Eight lanes of |s|/d cut to bf16, as singles with the midpoint's bit set, and |s| less d times that midpoint.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn compare_with_middle(s: __m512d, division: Division) -> (__m256i, __m512d) {
    const CUT: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    let size = _mm512_abs_pd(s);
    let cut = _mm256_castps_si256(_mm512_cvt_roundpd_ps::<CUT>(_mm512_mul_pd(size, division.reciprocal)));
    // (cut & 0xFFFF0000) | 0x8000
    let high_bits = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
    let middle = _mm256_ternarylogic_epi32::<0xEA>(cut, high_bits, _mm256_set1_epi32(0x8000));
    (middle, _mm512_fnmadd_pd(_mm512_cvtps_pd(_mm256_castsi256_ps(middle)), division.d, size))
}

/// Lanes above the midpoint, and lanes on it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn above_and_equal(side: __m512d) -> (__mmask8, __mmask8) {
    let zero = _mm512_setzero_pd();
    (_mm512_cmp_pd_mask::<_CMP_GT_OQ>(side, zero), _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(side, zero))
}

/// Sixteen lanes rounded to bf16 in the upper halves, with their signs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round_lanes(low: __m512d, high: __m512d, division: Division) -> __m512i {
    let (middle_low, side_low) = compare_with_middle(low, division);
    let (middle_high, side_high) = compare_with_middle(high, division);
    let ((above_low, equal_low), (above_high, equal_high)) = (above_and_equal(side_low), above_and_equal(side_high));
    let middle = join(middle_low, middle_high);
    let above = u16::from(above_low) | u16::from(above_high) << 8;
    let equal = u16::from(equal_low) | u16::from(equal_high) << 8;
    let odd = _mm512_test_epi32_mask(middle, _mm512_set1_epi32(0x1_0000));
    let rounded = _mm512_mask_add_epi32(middle, above | equal & odd, middle, _mm512_set1_epi32(0x8000));
    // The upper words of the doubles carry the signs.
    let upper = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    let signs = _mm512_permutex2var_epi32(_mm512_castpd_si512(low), upper, _mm512_castpd_si512(high));
    // rounded | (signs & sign bit)
    _mm512_ternarylogic_epi32::<0xF8>(rounded, signs, _mm512_set1_epi32(i32::MIN))
}

/// Sums one tile in singles, if that is exact for every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_in_singles(tile: &[&[u8]], at: usize, coefficients: &[f64], limit: i16) -> Option<Sums> {
    /// Well below the largest single, so that no partial sum overflows.
    const HIGHEST: i16 = 0xDF;
    let mut spread = Spread::new();
    let mut even = [_mm512_set1_ps(-0.0); 2];
    let mut odd = even;
    for (source, &c) in tile.iter().zip(coefficients) {
        #[expect(clippy::cast_possible_truncation, reason = "exact: at most 24 bits, or the limit would be negative")]
        let c = _mm512_set1_ps(c as f32);
        for register in 0..2 {
            let pairs = load(source, at + PER_REGISTER * register);
            spread.take(register, pairs);
            even[register] = _mm512_fmadd_ps(c, even_lanes(pairs), even[register]);
            odd[register] = _mm512_fmadd_ps(c, odd_lanes(pairs), odd[register]);
        }
    }
    if !spread.is_within(limit, HIGHEST) {
        return None;
    }
    let [e0, e1] = even;
    let [o0, o1] = odd;
    Some([
        low_half(e0),
        high_half(e0),
        low_half(o0),
        high_half(o0),
        low_half(e1),
        high_half(e1),
        low_half(o1),
        high_half(o1),
    ])
}

/// Sums one tile in doubles, if every lane's sum is exact, or its rounding is clear all the same.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
fn sum_in_doubles(tile: &[&[u8]], at: usize, coefficients: &[f64], limit: i16, division: Division) -> Option<Sums> {
    /// Below the field of infinities, with room for sums of coefficients up to 2^2 beyond one.
    const HIGHEST: i16 = 0xFA;
    let mut spread = Spread::new();
    let mut sums = [_mm512_set1_pd(-0.0); 8];
    for (source, &c) in tile.iter().zip(coefficients) {
        let c = _mm512_set1_pd(c);
        for register in 0..2 {
            let pairs = load(source, at + PER_REGISTER * register);
            spread.take(register, pairs);
            let (even, odd) = (even_lanes(pairs), odd_lanes(pairs));
            let lanes = [low_half(even), high_half(even), low_half(odd), high_half(odd)];
            for (lane, x) in lanes.into_iter().enumerate() {
                sums[4 * register + lane] = _mm512_fmadd_pd(c, x, sums[4 * register + lane]);
            }
        }
    }
    let is_clear = spread.is_below(HIGHEST)
        && are_clear(&sums[..4], &spread, 0, limit, division)
        && are_clear(&sums[4..], &spread, 1, limit, division);
    is_clear.then_some(sums)
}

/// Whether all lanes of a register are exact or settled by the error bound.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
fn are_clear(sums: &[__m512d], spread: &Spread, register: usize, limit: i16, division: Division) -> bool {
    let zeros = _mm512_testn_epi16_mask(spread.most[register], spread.most[register]);
    let within = spread.lanes_within(register, limit) | zeros;
    if within == __mmask32::MAX {
        return true;
    }
    let most = _mm512_srli_epi16::<1>(spread.most[register]);
    let (even, odd) = (even_lanes(most), odd_lanes(most));
    let most = [low_half(even), high_half(even), low_half(odd), high_half(odd)];
    let exact = [_pext_u32(within, 0x5555), _pext_u32(within, 0x5555_0000)];
    let exact_odd = [_pext_u32(within, 0xAAAA), _pext_u32(within, 0xAAAA_0000)];
    let mut open = 0;
    for (lane, exact) in exact.into_iter().chain(exact_odd).enumerate() {
        let (_, side) = compare_with_middle(sums[lane], division);
        open |= !(exact | u32::from(division.settled_lanes(sums[lane], side, most[lane]))) & 0xFF;
    }
    open == 0
}

/// The 32 elements from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load(source: &[u8], at: usize) -> __m512i {
    let bytes = &source[2 * at..2 * (at + PER_REGISTER)];
    // SAFETY: the slice has 64 bytes, and this load asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn store(register: __m512i, out: &mut [u8]) {
    let bytes = &mut out[..64];
    // SAFETY: the slice has 64 bytes, and this store asks for no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), register) }
}

/// Spread as a limit for exponents; below 0 only lanes without any number but zero are exact.
fn as_limit(spread: i32) -> i16 {
    i16::try_from(spread.clamp(-1, 254)).unwrap_or(-1)
}

/// Sums tiles of bf16 to bf16 from tile `first` on; stops at a tile that is not settled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,f16c,bmi2")]
pub(crate) fn sum_bf16(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    // Results close to the largest bf16 are left to the careful path, so the sum of coefficients is bounded.
    let is_bounded = prepared.sum_abs <= 8.0 * prepared.d;
    let spread = |accumulator_bits| if is_bounded { prepared.exact_spread(accumulator_bits, 8) } else { -1 };
    let (in_singles, in_doubles) = (spread(24), as_limit(spread(53)));
    let tries_singles = in_singles >= LEAST_SPREAD_F32;
    let division = Division::new(prepared);
    let coefficients = prepared.coefficients.as_slice();
    for tile in first..n_tiles {
        let at = tile * TILE;
        let singles =
            if tries_singles { sum_in_singles(sources, at, coefficients, as_limit(in_singles)) } else { None };
        let sums = match singles {
            Some(sums) => Some(sums),
            None if is_bounded => sum_in_doubles(sources, at, coefficients, in_doubles, division),
            None => None,
        };
        let out = &mut out[2 * at..2 * (at + TILE)];
        let Some(sums) = sums else {
            let unsettled = portable::sum_tile::<InBf16, OutBf16, Fused>(prepared, sources, at, out);
            if unsettled != Unsettled::default() {
                return Some((tile, unsettled));
            }
            continue;
        };
        for register in 0..2 {
            let even = round_lanes(sums[4 * register], sums[4 * register + 1], division);
            let odd = round_lanes(sums[4 * register + 2], sums[4 * register + 3], division);
            // (even >> 16) | (odd & 0xFFFF0000)
            let high_bits = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
            let pairs = _mm512_ternarylogic_epi32::<0xF8>(_mm512_srli_epi32::<16>(even), odd, high_bits);
            store(pairs, &mut out[64 * register..]);
        }
    }
    None
}

/// Eight lanes of |s|/d cut to single, the next singles above, and |s| less d times the midpoints between.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn compare_singles(s: __m512d, division: Division) -> (__m256i, __m256i, __m512d) {
    const CUT: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    let size = _mm512_abs_pd(s);
    let cut = _mm256_castps_si256(_mm512_cvt_roundpd_ps::<CUT>(_mm512_mul_pd(size, division.reciprocal)));
    let next = _mm256_add_epi32(cut, _mm256_set1_epi32(1));
    let widen = |bits| _mm512_cvtps_pd(_mm256_castsi256_ps(bits));
    // Exact: neighbours differ in their last place.
    let middle = _mm512_mul_pd(_mm512_add_pd(widen(cut), widen(next)), _mm512_set1_pd(0.5));
    (cut, next, _mm512_fnmadd_pd(middle, division.d, size))
}

/// Eight lanes of |s|/d rounded to single, with their signs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round_to_singles(s: __m512d, division: Division) -> __m256i {
    let (cut, next, side) = compare_singles(s, division);
    let (above, equal) = above_and_equal(side);
    let odd = _mm256_test_epi32_mask(cut, _mm256_set1_epi32(1));
    let rounded = _mm256_mask_mov_epi32(cut, above | equal & odd, next);
    let signs = _mm512_cvtepi64_epi32(_mm512_srai_epi64::<32>(_mm512_castpd_si512(s)));
    _mm256_ternarylogic_epi32::<0xF8>(rounded, signs, _mm256_set1_epi32(i32::MIN))
}

/// Singles in a register.
const SINGLES_PER_REGISTER: usize = 16;
/// Registers of singles in a tile.
const REGISTERS: usize = TILE / SINGLES_PER_REGISTER;

/// Sums one tile of singles in doubles, if every lane's sum is exact, or its rounding is clear all the same.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_singles(tile: &[&[u8]], at: usize, coefficients: &[f64], limit: i32, division: Division) -> Option<Sums> {
    /// Below the field of infinities, with room for sums of coefficients up to 2^3.
    const HIGHEST: i32 = 0xFA;
    let mut most = [_mm512_setzero_si512(); REGISTERS];
    let mut least = [_mm512_set1_epi32(-1); REGISTERS];
    let mut sums = [_mm512_set1_pd(-0.0); 2 * REGISTERS];
    for (source, &c) in tile.iter().zip(coefficients) {
        let c = _mm512_set1_pd(c);
        let bytes = &source[4 * at..4 * (at + TILE)];
        for register in 0..REGISTERS {
            let x = load_singles(&bytes[64 * register..64 * (register + 1)]);
            let doubled = _mm512_slli_epi32::<1>(_mm512_castps_si512(x));
            most[register] = _mm512_max_epu32(most[register], doubled);
            least[register] = _mm512_min_epu32(least[register], _mm512_sub_epi32(doubled, _mm512_set1_epi32(1)));
            sums[2 * register] = _mm512_fmadd_pd(c, low_half(x), sums[2 * register]);
            sums[2 * register + 1] = _mm512_fmadd_pd(c, high_half(x), sums[2 * register + 1]);
        }
    }
    let mut open = 0;
    for register in 0..REGISTERS {
        let top = _mm512_srli_epi32::<24>(most[register]);
        if _mm512_cmpgt_epi32_mask(top, _mm512_set1_epi32(HIGHEST)) != 0 {
            return None;
        }
        let spread = _mm512_sub_epi32(top, _mm512_srli_epi32::<24>(least[register]));
        let exact = _mm512_cmple_epi32_mask(spread, _mm512_set1_epi32(limit));
        if exact != __mmask16::MAX {
            let magnitudes = _mm512_castsi512_ps(_mm512_srli_epi32::<1>(most[register]));
            let settled = |s, most| division.settled_lanes(s, compare_singles(s, division).2, most);
            let low = settled(sums[2 * register], low_half(magnitudes));
            let high = settled(sums[2 * register + 1], high_half(magnitudes));
            open |= !(exact | u16::from(low) | u16::from(high) << 8);
        }
    }
    (open == 0).then_some(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load_singles(bytes: &[u8]) -> __m512 {
    let bytes = &bytes[..64];
    // SAFETY: the slice has 64 bytes, and this load asks for no alignment.
    unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
}

/// Sums tiles of f32 to f32 from tile `first` on; stops at a tile that is not settled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,f16c,bmi2")]
pub(crate) fn sum_f32(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    let is_bounded = prepared.sum_abs <= 8.0 * prepared.d;
    // A lane of zeros has a spread far below -1: it is exact whatever the coefficients.
    let limit = prepared.exact_spread(53, 24).max(-1);
    let division = Division::new(prepared);
    for tile in first..n_tiles {
        let at = tile * TILE;
        let out = &mut out[4 * at..4 * (at + TILE)];
        let sums = if is_bounded { sum_singles(sources, at, &prepared.coefficients, limit, division) } else { None };
        let Some(sums) = sums else {
            let unsettled = portable::sum_tile::<InF32, OutF32, Fused>(prepared, sources, at, out);
            if unsettled != Unsettled::default() {
                return Some((tile, unsettled));
            }
            continue;
        };
        for register in 0..REGISTERS {
            let low = round_to_singles(sums[2 * register], division);
            let high = round_to_singles(sums[2 * register + 1], division);
            store(join(low, high), &mut out[64 * register..]);
        }
    }
    None
}

/// Rounds exact sums to f32, tile by tile; returns the number of tiles before one with a result that may be too large.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,f16c,bmi2")]
pub(crate) fn round_f32(prepared: &Prepared, sums: &[f64], out: &mut [u8]) -> usize {
    let largest = _mm256_set1_epi32(f32::MAX.to_bits().cast_signed());
    let division = Division::new(prepared);
    let tiles = sums.as_chunks::<TILE>().0;
    for (tile, (sums, out)) in tiles.iter().zip(out.chunks_exact_mut(4 * TILE)).enumerate() {
        let mut most = _mm256_setzero_si256();
        for (sums, out) in sums.chunks_exact(SINGLES_PER_REGISTER).zip(out.chunks_exact_mut(64)) {
            let (low, high) = (load_doubles(&sums[..8]), load_doubles(&sums[8..]));
            let (low_cut, high_cut) = (compare_singles(low, division).0, compare_singles(high, division).0);
            most = _mm256_max_epu32(most, _mm256_max_epu32(low_cut, high_cut));
            store(join(round_to_singles(low, division), round_to_singles(high, division)), out);
        }
        if _mm256_cmpge_epi32_mask(most, largest) != 0 {
            return tile;
        }
    }
    tiles.len()
}

/// Rounds exact sums to bf16, as [`round_f32`] does to f32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,f16c,bmi2")]
pub(crate) fn round_bf16(prepared: &Prepared, sums: &[f64], out: &mut [u8]) -> usize {
    // The midpoint above the largest bf16.
    let largest = _mm256_set1_epi32(0x7F7F_8000);
    let division = Division::new(prepared);
    let tiles = sums.as_chunks::<TILE>().0;
    for (tile, (sums, out)) in tiles.iter().zip(out.chunks_exact_mut(2 * TILE)).enumerate() {
        let mut most = _mm256_setzero_si256();
        for (sums, out) in sums.chunks_exact(PER_REGISTER).zip(out.chunks_exact_mut(64)) {
            let mut halves = [_mm256_setzero_si256(); 2];
            for (half, sums) in halves.iter_mut().zip(sums.chunks_exact(16)) {
                let (low, high) = (load_doubles(&sums[..8]), load_doubles(&sums[8..]));
                let (low_cut, high_cut) = (compare_with_middle(low, division).0, compare_with_middle(high, division).0);
                most = _mm256_max_epu32(most, _mm256_max_epu32(low_cut, high_cut));
                *half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(round_lanes(low, high, division)));
            }
            store(join(halves[0], halves[1]), out);
        }
        if _mm256_cmpge_epi32_mask(most, largest) != 0 {
            return tile;
        }
    }
    tiles.len()
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load_doubles(doubles: &[f64]) -> __m512d {
    let doubles = &doubles[..8];
    // SAFETY: the slice has 64 bytes, and this load asks for no alignment.
    unsafe { _mm512_loadu_pd(doubles.as_ptr()) }
}
