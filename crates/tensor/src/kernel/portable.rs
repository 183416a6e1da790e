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
    /// One element's bits as they lie in memory.
    type Raw: Raw;
    /// The bits of one element.
    fn bits(raw: Self::Raw) -> u32;
    /// The bits without the sign.
    fn magnitude(bits: u32) -> u32;
    fn widen(bits: u32) -> f64;
    /// Exact too.
    fn widen_to_single(bits: u32) -> f32;
}

/// Integers, as which elements are moved: any bits are a value, and no byte is padding.
pub(crate) trait Raw: Copy {}
impl Raw for u16 {}
impl Raw for u32 {}
impl Raw for u64 {}

/// The first `N` elements of `bytes`, which may lie anywhere.
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
    fn widen(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits << 16))
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
    fn widen(bits: u32) -> f64 {
        // The bits as a single 2^112 too small: subnormals need no case of their own.
        let small = f64::from(f32::from_bits((bits & 0x8000) << 16 | (bits & 0x7FFF) << 13));
        small * F16_SCALE
    }
    #[inline(always)]
    fn widen_to_single(bits: u32) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "2^112 is a single")]
        let scale = F16_SCALE as f32;
        f32::from_bits((bits & 0x8000) << 16 | (bits & 0x7FFF) << 13) * scale
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
    fn widen(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits))
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
    /// The largest finite number, scaled.
    const LARGEST: f64;
    fn store(bits: u32, bytes: &mut [u8]);
    /// Stores a whole tile.
    fn store_tile(bits: &[u32; TILE], bytes: &mut [u8]);
}

/// Stores lanes of integers, wherever the bytes lie.
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
    #[expect(clippy::cast_possible_truncation, reason = "the format has 16 bits")]
    fn store(bits: u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&(bits as u16).to_le_bytes());
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
    #[expect(clippy::cast_possible_truncation, reason = "the format has 16 bits")]
    fn store(bits: u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&(bits as u16).to_le_bytes());
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
    const LARGEST: f64 = f32::MAX as f64;
    #[inline(always)]
    fn store(bits: u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&bits.to_le_bytes());
    }
    #[inline(always)]
    fn store_tile(bits: &[u32; TILE], bytes: &mut [u8]) {
        store_lanes(bits.map(u32::to_le), bytes);
    }
}

/// |s|/d rounded to nearest, ties to even, without its sign: exact if `s` and `d` are.
///
/// The quotient, cut to the format, is at most one step from the answer; which side of the midpoint above it |s|/d
/// lies on is the sign of |s| - m d, which a fused multiply-add has right (and so has a plain one while m d is exact).
#[inline(always)]
pub(crate) fn round_quotient<O: Output, M: MultiplyAdd>(s: f64, d: f64, reciprocal: f64) -> u32 {
    let size = s.abs() * O::SCALE;
    let quotient = size * reciprocal;
    #[expect(clippy::cast_possible_truncation, reason = "cut to a single on purpose")]
    let near = (quotient as f32).to_bits();
    let low = near - u32::from(f64::from(f32::from_bits(near)) > quotient);
    let low = low & !((1 << O::CUT) - 1);
    let next = low + (1 << O::CUT);
    // Exact: two neighbours of the format differ in their last place.
    let middle = (f64::from(f32::from_bits(low)) + f64::from(f32::from_bits(next))) * 0.5;
    let side = M::multiply_add(-middle, d, size);
    let is_odd = low >> O::CUT & 1;
    let up = u32::from(side > 0.0) | u32::from(side == 0.0) & is_odd;
    // Beyond the largest number the midpoint has no double here: whoever asked finds out that it is too large.
    if quotient > O::LARGEST { O::INFINITY } else { (low >> O::CUT) + up }
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
    /// Smallest magnitude bits among its inputs that are not zero; all ones without any.
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

/// Sums lanes `at..at + TILE` of all sources.
#[inline(always)]
fn add_up<I: Input, M: MultiplyAdd>(coefficients: &[f64], sources: &[&[u8]], at: usize) -> Tile {
    let mut tile = Tile { sum: [-0.0; TILE], most: [0; TILE], least: [u32::MAX; TILE] };
    for (source, &c) in sources.iter().zip(coefficients) {
        let lanes = load_lanes::<I::Raw, TILE>(&source[at * I::BYTES..(at + TILE) * I::BYTES]);
        for (l, raw) in lanes.into_iter().enumerate() {
            let bits = I::bits(raw);
            let magnitude = I::magnitude(bits);
            tile.most[l] = tile.most[l].max(magnitude);
            tile.least[l] = tile.least[l].min(if magnitude == 0 { u32::MAX } else { magnitude });
            tile.sum[l] = M::multiply_add(c, I::widen(bits), tile.sum[l]);
        }
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
    let shift = I::PRECISION - 1;
    let mut result = [0u32; TILE];
    let mut is_exact = [0u32; TILE];
    let mut worst = 0;
    let mut most = 0;
    for l in 0..TILE {
        let s = tile.sum[l];
        let rounded = round_quotient::<O, M>(s, prepared.d, prepared.reciprocal);
        result[l] = rounded | sign_of::<O>(s);
        let spread = (tile.most[l] >> shift).saturating_sub(tile.least[l] >> shift).cast_signed();
        // All terms are zeros: the sum is exact whatever the coefficients.
        let exact = u32::from(spread <= spread_limit || tile.most[l] == 0) & u32::from(rounded < O::INFINITY);
        is_exact[l] = exact;
        worst |= 1 - exact;
        most = most.max(tile.most[l]);
    }
    O::store_tile(&result, out);
    if worst == 0 && most < I::INFINITY {
        return Unsettled::default();
    }
    settle_by_bound::<I, O, M>(prepared, &tile, &is_exact, out)
}

fn exact_spread_of<I: Input, M: MultiplyAdd>(prepared: &Prepared) -> i32 {
    /// m d is exact in 53 bits while d has at most this many beside the 25 of m.
    const MAX_PLAIN_DIVISOR: f64 = 268_435_456.0;
    let is_sign_right = M::IS_FUSED || prepared.d < MAX_PLAIN_DIVISOR;
    if is_sign_right { prepared.exact_spread(53, I::PRECISION) } else { -1 }
}

/// Lanes whose sum is not known to be exact: kept where both ends of the error interval round alike.
#[inline(always)]
fn settle_by_bound<I: Input, O: Output, M: MultiplyAdd>(
    prepared: &Prepared,
    tile: &Tile,
    is_exact: &[u32; TILE],
    out: &mut [u8],
) -> Unsettled {
    let mut unsettled = Unsettled::default();
    let mut low = [0u32; TILE];
    let mut high = [0u32; TILE];
    for l in 0..TILE {
        let quotient = tile.sum[l].abs() * prepared.reciprocal;
        let error = I::widen(tile.most[l]) * prepared.error_share + quotient * ROUNDING_SHARE + f64::MIN_POSITIVE;
        low[l] = round_quotient::<O, M>((quotient - error).max(0.0), 1.0, 1.0);
        high[l] = round_quotient::<O, M>(quotient + error, 1.0, 1.0);
        // Near zero the sign itself is in doubt.
        high[l] |= u32::from(quotient <= error) << 31;
    }
    for (l, chunk) in out.chunks_exact_mut(O::BYTES).enumerate().take(TILE) {
        let lane = 1u64 << l;
        if tile.most[l] >= I::INFINITY {
            unsettled.non_finite |= lane;
        } else if is_exact[l] == 0 {
            if low[l] == high[l] && low[l] < O::INFINITY && !prepared.is_extreme {
                O::store(low[l] | sign_of::<O>(tile.sum[l]), chunk);
            } else {
                unsettled.unclear |= lane;
            }
        }
    }
    unsettled
}

/// Roundings of the quotient and of the interval's ends.
const ROUNDING_SHARE: f64 = 1.0 / (1u64 << 49) as f64;
