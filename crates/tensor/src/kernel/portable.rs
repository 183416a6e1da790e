//! The weighted sum in plain Rust, which the compiler vectorises for each instruction set it is compiled for.
//!
//! A tile of elements is summed in doubles, with the largest and smallest exponent of each element's inputs beside.
//! Where these are close the sum is exact and one more sign settles its rounding; elsewhere an error bound decides
//! whether it may be kept. What neither settles is left to `exact`.

use crate::kernel::prepared::Prepared;

/// Elements that are summed together: their state fits the first-level cache.
pub(crate) const TILE: usize = 64;

/// Whether a multiply-add rounds once; without it products stay exact, but bounds are used less often.
pub(crate) trait MultiplyAdd {
    const IS_FUSED: bool;
    fn multiply_add(a: f64, b: f64, c: f64) -> f64;
    /// a b - product, exactly, where `product` is a b rounded; for magnitudes whose parts do not leave the doubles.
    fn product_rest(a: f64, b: f64, product: f64) -> f64;
}

/// One rounding.
pub(crate) struct Fused;
/// Two roundings: processors without the instruction.
pub(crate) struct Separate;

impl MultiplyAdd for Fused {
    const IS_FUSED: bool = true;
    #[inline(always)]
    fn multiply_add(a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn product_rest(a: f64, b: f64, product: f64) -> f64 {
        a.mul_add(b, -product)
    }
}

impl MultiplyAdd for Separate {
    const IS_FUSED: bool = false;
    #[inline(always)]
    fn multiply_add(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }
    /// By halves of 26 bits: T. J. Dekker, "A floating-point technique for extending the available precision", 1971.
    #[inline(always)]
    fn product_rest(a: f64, b: f64, product: f64) -> f64 {
        const SPLIT: f64 = ((1u64 << 27) + 1) as f64;
        let high_half = |x: f64| SPLIT * x - (SPLIT * x - x);
        let (a_high, b_high) = (high_half(a), high_half(b));
        let (a_low, b_low) = (a - a_high, b - b_high);
        ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    }
}

/// An input format of at most 32 bits.
pub(crate) trait Input {
    const BYTES: usize;
    /// Bits of the significand, the hidden one included.
    const PRECISION: i32;
    const INFINITY: u32;
    /// One element's bits as they are in memory.
    type Raw: Raw;
    /// The bits of one element.
    fn bits(raw: Self::Raw) -> u32;
    /// The bits without the sign.
    fn magnitude(bits: u32) -> u32;
    /// The value of finite bits. Others may become a finite number: for callers who look at the magnitude themselves.
    fn widen_finite(bits: u32) -> f64;
    /// The value; infinities and NaN stay what they are.
    #[inline(always)]
    fn widen(bits: u32) -> f64 {
        f64::from(Self::widen_to_single(bits))
    }
    /// Exact too, and for all bits.
    fn widen_to_single(bits: u32) -> f32;
}

/// Integers, as which elements are moved: any bits are a value, and no byte is padding.
pub(crate) trait Raw: Copy {}
impl Raw for u16 {}
impl Raw for u32 {}
impl Raw for u64 {}

/// The first `N` elements of `bytes`, at any alignment.
///
/// # Panics
/// If there are not as many.
#[inline(always)]
pub(crate) fn load_lanes<R: Raw, const N: usize>(bytes: &[u8]) -> [R; N] {
    assert!(bytes.len() >= size_of::<[R; N]>(), "a whole run of lanes");
    // SAFETY: the length was checked, any bits are a value of these integers, and the read asks for no alignment.
    unsafe { bytes.as_ptr().cast::<[R; N]>().read_unaligned() }
}

pub(crate) struct InBf16;
pub(crate) struct InF16;
pub(crate) struct InF32;

impl Input for InBf16 {
    const BYTES: usize = 2;
    const PRECISION: i32 = 8;
    const INFINITY: u32 = 0x7F80;
    type Raw = u16;
    #[inline(always)]
    fn bits(raw: u16) -> u32 {
        u32::from(u16::from_le(raw))
    }
    #[inline(always)]
    fn magnitude(bits: u32) -> u32 {
        bits & 0x7FFF
    }
    #[inline(always)]
    fn widen_finite(bits: u32) -> f64 {
        Self::widen(bits)
    }
    #[inline(always)]
    fn widen_to_single(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }
}

impl Input for InF16 {
    const BYTES: usize = 2;
    const PRECISION: i32 = 11;
    const INFINITY: u32 = 0x7C00;
    type Raw = u16;
    #[inline(always)]
    fn bits(raw: u16) -> u32 {
        u32::from(u16::from_le(raw))
    }
    #[inline(always)]
    fn magnitude(bits: u32) -> u32 {
        bits & 0x7FFF
    }
    #[inline(always)]
    fn widen_finite(bits: u32) -> f64 {
        // The bits as a single 2^112 too small: subnormals need no separate case.
        let small = f64::from(f32::from_bits((bits & 0x8000) << 16 | (bits & 0x7FFF) << 13));
        small * F16_SCALE
    }
    #[inline(always)]
    fn widen_to_single(bits: u32) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "2^112 is a single")]
        let scale = F16_SCALE as f32;
        let scaled = f32::from_bits((bits & 0x8000) << 16 | (bits & 0x7FFF) << 13) * scale;
        // An exponent of all ones is one in the single too.
        let ones = if Self::magnitude(bits) < Self::INFINITY { 0 } else { InF32::INFINITY };
        f32::from_bits(scaled.to_bits() | ones)
    }
}

impl Input for InF32 {
    const BYTES: usize = 4;
    const PRECISION: i32 = 24;
    const INFINITY: u32 = 0x7F80_0000;
    type Raw = u32;
    #[inline(always)]
    fn bits(raw: u32) -> u32 {
        u32::from_le(raw)
    }
    #[inline(always)]
    fn magnitude(bits: u32) -> u32 {
        bits & 0x7FFF_FFFF
    }
    #[inline(always)]
    fn widen_finite(bits: u32) -> f64 {
        Self::widen(bits)
    }
    #[inline(always)]
    fn widen_to_single(bits: u32) -> f32 {
        f32::from_bits(bits)
    }
}

/// 2^112: between the exponents of a half and those of a single.
const F16_SCALE: f64 = 5.192_296_858_534_828e33;
const F16_UNSCALE: f64 = 1.925_929_944_387_236e-34;

/// An output format of at most 32 bits, as a single whose low bits are cut off.
pub(crate) trait Output {
    const BYTES: usize;
    /// Bits of a single below this format's last one.
    const CUT: u32;
    /// What brings this format's exponents to those of a single.
    const SCALE: f64;
    /// The sign's place.
    const SIGN: u32;
    /// Exponent field all ones.
    const INFINITY: u32;
    /// Quotients above this, scaled, have no neighbours here to choose from; at most the largest finite number.
    const LARGEST: f64;
    /// A neighbour of `quotient` (scaled, at most `LARGEST`), as bits of a single: the next below, or one above that is
    /// nearer than an eighth of a step.
    fn near(quotient: f64) -> u32;
    /// The midpoint of `low` and the next number above.
    fn middle(low: u32) -> f64;
    /// Stores a whole tile.
    fn store_tile(bits: &[u32; TILE], bytes: &mut [u8]);
}

/// Stores lanes of integers, at any alignment.
///
/// # Panics
/// If there is not room for all.
#[inline(always)]
pub(crate) fn store_lanes<R: Raw, const N: usize>(lanes: [R; N], bytes: &mut [u8]) {
    assert!(bytes.len() >= size_of::<[R; N]>(), "room for a whole run of lanes");
    // SAFETY: the length was checked, and the write asks for no alignment.
    unsafe { bytes.as_mut_ptr().cast::<[R; N]>().write_unaligned(lanes) }
}

pub(crate) struct OutBf16;
pub(crate) struct OutF16;
pub(crate) struct OutF32;

impl Output for OutBf16 {
    const BYTES: usize = 2;
    const CUT: u32 = 16;
    const SCALE: f64 = 1.0;
    const SIGN: u32 = 0x8000;
    const INFINITY: u32 = 0x7F80;
    const LARGEST: f64 = f32::from_bits(0x7F7F_0000) as f64;
    #[inline(always)]
    fn near(quotient: f64) -> u32 {
        near_short::<Self>(quotient)
    }
    #[inline(always)]
    fn middle(low: u32) -> f64 {
        f64::from(f32::from_bits(low | 1 << (Self::CUT - 1)))
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the format has 16 bits")]
    fn store_tile(bits: &[u32; TILE], bytes: &mut [u8]) {
        store_lanes(bits.map(|bits| (bits as u16).to_le()), bytes);
    }
}

impl Output for OutF16 {
    const BYTES: usize = 2;
    const CUT: u32 = 13;
    const SCALE: f64 = F16_UNSCALE;
    const SIGN: u32 = 0x8000;
    const INFINITY: u32 = 0x7C00;
    const LARGEST: f64 = f32::from_bits(0x7BFF << 13) as f64;
    #[inline(always)]
    fn near(quotient: f64) -> u32 {
        near_short::<Self>(quotient)
    }
    #[inline(always)]
    fn middle(low: u32) -> f64 {
        f64::from(f32::from_bits(low | 1 << (Self::CUT - 1)))
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the format has 16 bits")]
    fn store_tile(bits: &[u32; TILE], bytes: &mut [u8]) {
        store_lanes(bits.map(|bits| (bits as u16).to_le()), bytes);
    }
}

impl Output for OutF32 {
    const BYTES: usize = 4;
    const CUT: u32 = 0;
    const SCALE: f64 = 1.0;
    const SIGN: u32 = 0x8000_0000;
    const INFINITY: u32 = 0x7F80_0000;
    // The largest of all has no single above it.
    const LARGEST: f64 = f32::MAX.next_down() as f64;
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the nearest single is asked for")]
    fn near(quotient: f64) -> u32 {
        let near = (quotient as f32).to_bits();
        near - u32::from(f64::from(f32::from_bits(near)) > quotient)
    }
    #[inline(always)]
    fn middle(low: u32) -> f64 {
        (f64::from(f32::from_bits(low)) + f64::from(f32::from_bits(low + 1))) * 0.5
    }
    #[inline(always)]
    fn store_tile(bits: &[u32; TILE], bytes: &mut [u8]) {
        store_lanes(bits.map(u32::to_le), bytes);
    }
}

/// A format shorter than a single: the nearest single, cut. If that was above, it is above by next to nothing.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the nearest single is asked for")]
fn near_short<O: Output>(quotient: f64) -> u32 {
    (quotient as f32).to_bits() & !((1 << O::CUT) - 1)
}

/// A quotient, rounded.
#[derive(Clone, Copy)]
pub(crate) struct Rounded {
    /// Without a sign; `INFINITY` when it may be too large.
    pub(crate) bits: u32,
    /// How far |s| is from d times the midpoint that decided, scaled.
    pub(crate) distance: f64,
    /// |s|, scaled.
    pub(crate) size: f64,
}

impl Rounded {
    /// Whether every number within `error` of |s| rounds alike.
    ///
    /// A quarter of the distance is less than an eighth of a step (and a bit), so that no other midpoint is in reach.
    #[inline(always)]
    fn is_settled_within(self, error: f64) -> bool {
        (self.distance > 4.0 * error) & (self.size > 4.0 * error)
    }
}

/// |s|/d rounded to nearest, ties to even, without its sign: exact if `s` and `d` are.
///
/// A neighbour of the quotient is known; which side of the midpoint above it |s|/d is on is the sign of |s| - m d,
/// which a fused multiply-add has right (and so has a plain one while m d is exact).
#[inline(always)]
pub(crate) fn round_quotient<O: Output, M: MultiplyAdd>(s: f64, d: f64, reciprocal: f64) -> Rounded {
    let size = s.abs() * O::SCALE;
    let quotient = size * reciprocal;
    let is_too_large = quotient > O::LARGEST;
    let low = O::near(if is_too_large { 0.0 } else { quotient });
    let side = M::multiply_add(-O::middle(low), d, size);
    let is_odd = low >> O::CUT & 1;
    let up = u32::from(side > 0.0) | u32::from(side == 0.0) & is_odd;
    let bits = if is_too_large { O::INFINITY } else { (low >> O::CUT) + up };
    Rounded { bits, distance: side.abs(), size }
}

/// The sign of `s` at the output's place.
#[inline(always)]
fn sign_of<O: Output>(s: f64) -> u32 {
    if s.is_sign_negative() { O::SIGN } else { 0 }
}

/// A tile whose lanes are summed.
pub(crate) struct Tile {
    pub(crate) sum: [f64; TILE],
    /// Largest magnitude bits among a lane's inputs.
    pub(crate) most: [u32; TILE],
    /// Smallest magnitude bits among its inputs that are not zero, less one; all ones without any.
    pub(crate) least: [u32; TILE],
}

/// What became of the lanes of a tile: bit l set for lane l.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// An input is NaN or infinite.
    pub(crate) non_finite: u64,
    /// The bound did not settle the rounding, or the result is too large.
    pub(crate) unclear: u64,
}

/// Lanes whose state stays in registers while the sources pass by.
const STRIP: usize = 16;

/// Sums lanes `at..at + TILE` of all sources.
#[inline(always)]
pub(crate) fn add_up<I: Input, M: MultiplyAdd>(coefficients: &[f64], sources: &[&[u8]], at: usize) -> Tile {
    let mut tile = Tile { sum: [-0.0; TILE], most: [0; TILE], least: [u32::MAX; TILE] };
    for from in (0..TILE).step_by(STRIP) {
        let mut sum = [-0.0; STRIP];
        let mut most = [0u32; STRIP];
        let mut least = [u32::MAX; STRIP];
        for (source, &c) in sources.iter().zip(coefficients) {
            let start = (at + from) * I::BYTES;
            let lanes = load_lanes::<I::Raw, STRIP>(&source[start..start + STRIP * I::BYTES]);
            for l in 0..STRIP {
                let bits = I::bits(lanes[l]);
                let magnitude = I::magnitude(bits);
                most[l] = most[l].max(magnitude);
                // One less, so that zeros come out on top.
                least[l] = least[l].min(magnitude.wrapping_sub(1));
                sum[l] = M::multiply_add(c, I::widen_finite(bits), sum[l]);
            }
        }
        tile.sum[from..from + STRIP].copy_from_slice(&sum);
        tile.most[from..from + STRIP].copy_from_slice(&most);
        tile.least[from..from + STRIP].copy_from_slice(&least);
    }
    tile
}

/// Sums and rounds one tile into `out`; lanes that are not settled hold no answer yet.
#[inline(always)]
pub(crate) fn sum_tile<I: Input, O: Output, M: MultiplyAdd>(
    prepared: &Prepared,
    sources: &[&[u8]],
    at: usize,
    out: &mut [u8],
) -> Unsettled {
    let tile = add_up::<I, M>(&prepared.coefficients, sources, at);
    let spread_limit = exact_spread_of::<I, M>(prepared);
    let error_share = if prepared.is_extreme { f64::INFINITY } else { prepared.error_share * O::SCALE };
    let shift = I::PRECISION - 1;
    let mut result = [0u32; TILE];
    let mut is_open = [0u32; TILE];
    let mut any_open = 0;
    for l in 0..TILE {
        let s = tile.sum[l];
        let rounded = round_quotient::<O, M>(s, prepared.d, prepared.reciprocal);
        result[l] = rounded.bits | sign_of::<O>(s);
        let most = tile.most[l];
        let spread = (most >> shift).cast_signed() - (tile.least[l] >> shift).cast_signed();
        // All terms are zeros: the sum is exact whatever the coefficients.
        let is_exact = (spread <= spread_limit) | (most == 0);
        let is_settled = is_exact | rounded.is_settled_within(error_share * I::widen_finite(most));
        let open = u32::from(!(is_settled & (rounded.bits < O::INFINITY) & (most < I::INFINITY)));
        is_open[l] = open;
        any_open |= open;
    }
    O::store_tile(&result, out);
    let mut unsettled = Unsettled::default();
    if any_open != 0 {
        for (l, (open, most)) in is_open.into_iter().zip(tile.most).enumerate() {
            let is_finite = most < I::INFINITY;
            unsettled.non_finite |= u64::from(!is_finite) << l;
            unsettled.unclear |= u64::from(is_finite & (open != 0)) << l;
        }
    }
    unsettled
}

/// Rounds one tile of exact sums into `out`; returns whether none is too large.
#[inline(always)]
pub(crate) fn round_tile<O: Output, M: MultiplyAdd>(prepared: &Prepared, sums: &[f64; TILE], out: &mut [u8]) -> bool {
    let mut result = [0u32; TILE];
    let mut is_too_large = false;
    for l in 0..TILE {
        let bits = round_quotient::<O, M>(sums[l], prepared.d, prepared.reciprocal).bits;
        is_too_large |= bits >= O::INFINITY;
        result[l] = bits | sign_of::<O>(sums[l]);
    }
    O::store_tile(&result, out);
    !is_too_large
}

/// How far apart the exponents of a lane's inputs may be for its sum, and the sign that rounds it, to be exact.
fn exact_spread_of<I: Input, M: MultiplyAdd>(prepared: &Prepared) -> i32 {
    /// m d is exact in 53 bits while d has at most this many beside the 25 of m.
    const MAX_PLAIN_DIVISOR: f64 = 268_435_456.0;
    let is_sign_right = M::IS_FUSED || prepared.d < MAX_PLAIN_DIVISOR;
    // No spread is this small: a lane of zeros has the largest `least` of all.
    if is_sign_right { prepared.exact_spread(53, I::PRECISION).max(-1) } else { -1 }
}
