//! Sums where an input or the output has 64 bits: a cascade that keeps what each addition loses, and a bound.
//!
//! A lane's sum is held as high + low, exactly but for a known error. An exact sum without a low part takes one
//! division; otherwise the quotient's interval is rounded at both ends, each from two parts, because a double alone
//! cannot hold what breaks a tie. What this does not settle is left to `exact`.

use crate::kernel::portable::{
    Input, MultiplyAdd, Output, Separate, TILE, Unsettled, load_lanes, round_quotient, store_lanes,
};
use crate::kernel::prepared::Prepared;

/// Magnitudes between which no product or error term of the cascade overflows or vanishes.
const SAFE: std::ops::RangeInclusive<f64> = 1e-135..=1e135;

/// An input format, widened to doubles.
pub(crate) trait WideInput {
    const BYTES: usize;
    fn widen_tile(bytes: &[u8]) -> [f64; TILE];
}

impl<I: Input> WideInput for I {
    const BYTES: usize = I::BYTES;
    #[inline(always)]
    fn widen_tile(bytes: &[u8]) -> [f64; TILE] {
        load_lanes::<I::Raw, TILE>(bytes).map(|raw| I::widen(I::bits(raw)))
    }
}

pub(crate) struct InF64;

impl WideInput for InF64 {
    const BYTES: usize = 8;
    #[inline(always)]
    fn widen_tile(bytes: &[u8]) -> [f64; TILE] {
        load_lanes::<u64, TILE>(bytes).map(|bits| f64::from_bits(u64::from_le(bits)))
    }
}

/// An output format to which doubles, alone or in pairs, are rounded.
pub(crate) trait WideOutput {
    const BYTES: usize;
    const SIGN: u64;
    const INFINITY: u64;
    /// |s|/d correctly rounded, for exact `s`: bits without a sign, `INFINITY` or more when too large.
    fn divide<M: MultiplyAdd>(s: f64, prepared: &Prepared) -> u64;
    /// The positive number high + low correctly rounded; |low| is small beside high.
    fn round_pair(high: f64, low: f64) -> u64;
    fn store_tile(bits: &[u64; TILE], bytes: &mut [u8]);
}

impl<O: Output> WideOutput for O {
    const BYTES: usize = O::BYTES;
    const SIGN: u64 = O::SIGN as u64;
    const INFINITY: u64 = O::INFINITY as u64;
    #[inline(always)]
    fn divide<M: MultiplyAdd>(s: f64, prepared: &Prepared) -> u64 {
        u64::from(round_quotient::<O, M>(s, prepared.d, prepared.reciprocal).bits)
    }
    #[inline(always)]
    fn round_pair(high: f64, low: f64) -> u64 {
        let (near, rest) = two_sum(high, low);
        // To odd: of the two doubles around the pair the one that is not a tie of a shorter format.
        let bits = near.to_bits();
        let odd = if rest == 0.0 || bits & 1 == 1 { bits } else { bits.wrapping_sub(u64::from(rest < 0.0)) | 1 };
        u64::from(round_quotient::<O, Separate>(f64::from_bits(odd), 1.0, 1.0).bits)
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the format has at most 32 bits")]
    fn store_tile(bits: &[u64; TILE], bytes: &mut [u8]) {
        O::store_tile(&bits.map(|bits| bits as u32), bytes);
    }
}

pub(crate) struct OutF64;

impl WideOutput for OutF64 {
    const BYTES: usize = 8;
    const SIGN: u64 = 1 << 63;
    const INFINITY: u64 = 0x7FF0_0000_0000_0000;
    #[inline(always)]
    fn divide<M: MultiplyAdd>(s: f64, prepared: &Prepared) -> u64 {
        (s.abs() / prepared.d).to_bits()
    }
    #[inline(always)]
    fn round_pair(high: f64, low: f64) -> u64 {
        (high + low).to_bits()
    }
    #[inline(always)]
    fn store_tile(bits: &[u64; TILE], bytes: &mut [u8]) {
        store_lanes(bits.map(u64::to_le), bytes);
    }
}

/// a + b and what its rounding lost.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Sums of the lanes of a tile: sum + lost, but for at most `lost_again` and what the coefficients lack.
struct Cascade {
    sum: [f64; TILE],
    lost: [f64; TILE],
    lost_again: [f64; TILE],
    /// Largest magnitude of a lane's inputs.
    most: [f64; TILE],
    /// Smallest magnitude of its inputs that are not zero.
    least: [f64; TILE],
    /// NaN once an input is not finite.
    poison: [f64; TILE],
}

#[inline(always)]
fn add_up<I: WideInput, M: MultiplyAdd>(prepared: &Prepared, sources: &[&[u8]], at: usize) -> Cascade {
    let zero = [0.0; TILE];
    let mut tile = Cascade {
        sum: [-0.0; TILE],
        lost: zero,
        lost_again: zero,
        most: zero,
        least: [f64::INFINITY; TILE],
        poison: zero,
    };
    let terms = sources.iter().zip(&prepared.coefficients).zip(&prepared.coefficient_rests);
    for ((source, &c), &c_rest) in terms {
        let lanes = I::widen_tile(&source[at * I::BYTES..(at + TILE) * I::BYTES]);
        for (l, x) in lanes.into_iter().enumerate() {
            let product = c * x;
            let product_rest = M::product_rest(c, x, product) + c_rest * x;
            let (sum, rest) = two_sum(tile.sum[l], product);
            let (lost, rest_1) = two_sum(tile.lost[l], rest);
            let (lost, rest_2) = two_sum(lost, product_rest);
            (tile.sum[l], tile.lost[l]) = (sum, lost);
            tile.lost_again[l] += rest_1.abs() + rest_2.abs();
            let size = x.abs();
            tile.most[l] = if size > tile.most[l] { size } else { tile.most[l] };
            let least = if size == 0.0 { f64::INFINITY } else { size };
            tile.least[l] = if least < tile.least[l] { least } else { tile.least[l] };
            tile.poison[l] += 0.0 * x;
        }
    }
    tile
}

/// Sums and rounds one tile into `out`; lanes that are not settled hold no answer yet.
#[inline(always)]
pub(crate) fn sum_tile<I: WideInput, O: WideOutput, M: MultiplyAdd>(
    prepared: &Prepared,
    sources: &[&[u8]],
    at: usize,
    out: &mut [u8],
) -> Unsettled {
    let tile = add_up::<I, M>(prepared, sources, at);
    let mut result = [0u64; TILE];
    let mut is_settled = [false; TILE];
    for l in 0..TILE {
        let (bits, settled) = round_lane::<O, M>(prepared, &tile, l);
        result[l] = bits;
        is_settled[l] = settled;
    }
    O::store_tile(&result, out);
    let mut unsettled = Unsettled::default();
    for (l, settled) in is_settled.into_iter().enumerate() {
        let is_finite = tile.poison[l] == 0.0;
        unsettled.non_finite |= u64::from(!is_finite) << l;
        unsettled.unclear |= u64::from(is_finite && !settled) << l;
    }
    unsettled
}

/// Bits of lane `l`, and whether they are the answer. Free of branches, so that lanes are done side by side.
#[inline(always)]
fn round_lane<O: WideOutput, M: MultiplyAdd>(prepared: &Prepared, tile: &Cascade, l: usize) -> (u64, bool) {
    let (high, low) = two_sum(tile.sum[l], tile.lost[l]);
    let most = tile.most[l];
    // The low part would turn -0 into +0.
    let sign_source = if high == 0.0 { tile.sum[l] } else { high };
    let sign = if sign_source.is_sign_negative() { O::SIGN } else { 0 };

    let is_zero = most == 0.0;
    let is_exact = is_zero | (prepared.is_small & (low == 0.0) & (tile.lost_again[l] == 0.0));
    let exact_bits = O::divide::<M>(high, prepared);

    let quotient = (high / prepared.d).abs();
    let back = quotient * prepared.d;
    let rest = (high.abs() - back) - M::product_rest(quotient, prepared.d, back);
    let correction = (rest + if high < 0.0 { -low } else { low }) * prepared.reciprocal;
    // What the coefficients lack when they are pairs of doubles, and the roundings of the products of their low parts.
    let inexact = prepared.pair_error_share * most;
    let error = correction.abs() * 2f64.powi(-49) + (tile.lost_again[l] * 1.01 * prepared.reciprocal + inexact);
    let error = error + f64::MIN_POSITIVE;
    let (from, to) = (correction - error, correction + error);
    let (bits_from, bits_to) = (O::round_pair(quotient, from), O::round_pair(quotient, to));
    let is_bounded = (quotient + from > 0.0) & (bits_from == bits_to);

    let bits = if is_exact { exact_bits } else { bits_from };
    let is_safe = is_zero | ((tile.least[l] >= *SAFE.start()) & (most <= *SAFE.end()) & !prepared.is_extreme);
    (bits | sign, is_safe & (is_exact | is_bounded) & (bits < O::INFINITY))
}
