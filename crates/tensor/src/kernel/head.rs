//! Sums whose last term comes later: those of all sources but the newest are kept, in half the bits that hold them
//! exactly, and the newest is added once it is there.
//!
//! For sources of 16 bits a kept sum is a single rounded to odd: it is the sum itself where its last bit is 0, and
//! otherwise lies strictly between its two neighbours. Where both of them lead to the same result, so does the sum. For
//! singles it is an exact double. NaN marks what is neither. What stays open is summed from the sources.

use std::marker::PhantomData;
use std::ops::Range;

use crate::Dtype;
use crate::kernel::portable::{InBf16, InF16, InF32, Input, MultiplyAdd, Raw, TILE, add_up, load_lanes, store_lanes};
use crate::kernel::simd::{Compiled, round_sums, run_compiled};
use crate::kernel::window::MAX_DIVISOR;
use crate::kernel::{SumFault, WeightedSum};

/// Bits of an exact sum of doubles.
const DOUBLE_BITS: i32 = 53;
/// Tiles that are rounded together: their ends stay in the first-level cache.
const CHUNK_TILES: usize = 16;

/// How a sum is kept.
trait HeadFormat {
    const BYTES: usize;
    type Raw: Raw;
    /// The form of an exact sum.
    fn keep(sum: f64) -> Self::Raw;
    /// The form of a sum that is not known.
    const UNKNOWN: Self::Raw;
    /// The number that is kept; NaN where none is known.
    fn value(kept: Self::Raw) -> f64;
    /// Whether that is the sum itself.
    fn is_sum(kept: Self::Raw) -> bool;
    /// Two numbers that have the sum between them, or are both the sum.
    fn ends(kept: Self::Raw) -> (f64, f64);
}

struct OddSingle;
struct ExactDouble;

impl HeadFormat for OddSingle {
    const BYTES: usize = 4;
    type Raw = u32;
    const UNKNOWN: u32 = f32::NAN.to_bits().to_le();
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "what is cut off is marked")]
    fn keep(sum: f64) -> u32 {
        let near = sum as f32;
        let bits = near.to_bits() - u32::from(f64::from(near).abs() > sum.abs());
        let is_inexact = u32::from(f64::from(near).to_bits() != sum.to_bits());
        let kept = bits | is_inexact;
        if near.is_finite() { kept.to_le() } else { Self::UNKNOWN }
    }
    #[inline(always)]
    fn value(kept: u32) -> f64 {
        f64::from(f32::from_bits(u32::from_le(kept)))
    }
    #[inline(always)]
    fn is_sum(kept: u32) -> bool {
        u32::from_le(kept) & 1 == 0
    }
    #[inline(always)]
    fn ends(kept: u32) -> (f64, f64) {
        let bits = u32::from_le(kept);
        let open = bits & 1;
        (f64::from(f32::from_bits(bits - open)), f64::from(f32::from_bits(bits.wrapping_add(open))))
    }
}

impl HeadFormat for ExactDouble {
    const BYTES: usize = 8;
    type Raw = u64;
    const UNKNOWN: u64 = f64::NAN.to_bits().to_le();
    #[inline(always)]
    fn keep(sum: f64) -> u64 {
        sum.to_bits().to_le()
    }
    #[inline(always)]
    fn value(kept: u64) -> f64 {
        f64::from_bits(u64::from_le(kept))
    }
    #[inline(always)]
    fn is_sum(_kept: u64) -> bool {
        true
    }
    #[inline(always)]
    fn ends(kept: u64) -> (f64, f64) {
        (Self::value(kept), Self::value(kept))
    }
}

impl WeightedSum {
    /// Element type in which the sum of all sources but the last is kept; `None` where that would settle nothing.
    pub fn head_dtype(&self) -> Option<Dtype> {
        let words = self.prepared.words.as_ref().filter(|words| words.divisor < MAX_DIVISOR)?;
        let is_narrow = matches!(self.spec.output, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        // A single is too coarse to decide how another single is rounded.
        let (dtype, precision) = match self.spec.input {
            Dtype::Bf16 if self.spec.output != Dtype::F32 => (Dtype::F32, InBf16::PRECISION),
            Dtype::F16 if self.spec.output != Dtype::F32 => (Dtype::F32, InF16::PRECISION),
            Dtype::F32 => (Dtype::F64, InF32::PRECISION),
            _ => return None,
        };
        let is_exact = self.prepared.exact_spread(DOUBLE_BITS, precision) >= 0 && !self.prepared.is_extreme;
        let is_usual = words.numerators.len() > 1 && words.numerators.iter().all(|&c| c > 0);
        (is_narrow && is_exact && is_usual).then_some(dtype)
    }

    /// Sums the same elements of all sources but the last into `out`, in the form that
    /// [`finish_head_into`](Self::finish_head_into) takes. Values that are not finite are left to that.
    ///
    /// # Errors
    /// `LengthMismatch`, also for a sum without [`head_dtype`](Self::head_dtype).
    pub fn sum_head_into(&self, older: &[&[u8]], out: &mut [u8]) -> Result<(), SumFault> {
        match self.spec.input {
            Dtype::Bf16 => self.sum_head_as::<InBf16, OddSingle>(older, out),
            Dtype::F16 => self.sum_head_as::<InF16, OddSingle>(older, out),
            Dtype::F32 => self.sum_head_as::<InF32, ExactDouble>(older, out),
            _ => Err(SumFault::LengthMismatch),
        }
    }

    fn sum_head_as<I: Input, H: HeadFormat>(&self, older: &[&[u8]], out: &mut [u8]) -> Result<(), SumFault> {
        let n_elements = out.len() / H::BYTES;
        let fits = self.head_dtype().is_some()
            && older.len() + 1 == self.n_sources()
            && out.len() == n_elements * H::BYTES
            && older.iter().all(|source| source.len() == n_elements * I::BYTES);
        if !fits {
            return Err(SumFault::LengthMismatch);
        }
        let limit = self.prepared.exact_spread(DOUBLE_BITS, I::PRECISION);
        let coefficients = &self.prepared.coefficients[..older.len()];
        let whole = n_elements / TILE * TILE;
        let (tiles, tail) = out.split_at_mut(whole * H::BYTES);
        let format = PhantomData::<(I, H)>;
        run_compiled(self.spec.simd, SumHead { coefficients, limit, older, out: tiles, format });
        if !tail.is_empty() {
            let padded: Vec<Vec<u8>> = older.iter().map(|source| padded_tile(&source[whole * I::BYTES..])).collect();
            let older: Vec<&[u8]> = padded.iter().map(|tile| &tile[..TILE * I::BYTES]).collect();
            let mut kept = [0; TILE * 8];
            let out = &mut kept[..TILE * H::BYTES];
            run_compiled(self.spec.simd, SumHead { coefficients, limit, older: &older, out, format });
            tail.copy_from_slice(&kept[..tail.len()]);
        }
        Ok(())
    }

    /// Adds the last source to a kept sum and rounds the result into `out`, as [`sum_into`](Self::sum_into) does with
    /// all of them: the same bits. The ranges of elements in `open` are left to that; they hold no result yet.
    ///
    /// # Errors
    /// `LengthMismatch`, also for a sum without [`head_dtype`](Self::head_dtype).
    pub fn finish_head_into(
        &self,
        (head, newest): (&[u8], &[u8]),
        out: &mut [u8],
        open: &mut Vec<Range<usize>>,
    ) -> Result<(), SumFault> {
        match self.spec.input {
            Dtype::Bf16 => self.finish_head_as::<InBf16, OddSingle>((head, newest), out, open),
            Dtype::F16 => self.finish_head_as::<InF16, OddSingle>((head, newest), out, open),
            Dtype::F32 => self.finish_head_as::<InF32, ExactDouble>((head, newest), out, open),
            _ => Err(SumFault::LengthMismatch),
        }
    }

    fn finish_head_as<I: Input, H: HeadFormat>(
        &self,
        (head, newest): (&[u8], &[u8]),
        out: &mut [u8],
        open: &mut Vec<Range<usize>>,
    ) -> Result<(), SumFault> {
        let width = self.element_bytes(self.output);
        let n_elements = out.len() / width;
        let fits = self.head_dtype().is_some()
            && out.len() == n_elements * width
            && head.len() == n_elements * H::BYTES
            && newest.len() == n_elements * I::BYTES;
        if !fits {
            return Err(SumFault::LengthMismatch);
        }
        open.clear();
        let whole = n_elements / TILE * TILE;
        for first in (0..whole).step_by(CHUNK_TILES * TILE) {
            let elements = first..whole.min(first + CHUNK_TILES * TILE);
            let of = |bytes: usize| elements.start * bytes..elements.end * bytes;
            let inputs = (&head[of(H::BYTES)], &newest[of(I::BYTES)]);
            self.finish_chunk::<I, H>(inputs, &mut out[of(width)], &mut |tile| {
                open.push(first + tile * TILE..first + (tile + 1) * TILE);
            });
        }
        if whole < n_elements {
            let (head, newest) = (padded_tile(&head[whole * H::BYTES..]), padded_tile(&newest[whole * I::BYTES..]));
            let mut result = [0; TILE * 8];
            let inputs = (&head[..TILE * H::BYTES], &newest[..TILE * I::BYTES]);
            self.finish_chunk::<I, H>(inputs, &mut result[..TILE * width], &mut |_| open.push(whole..n_elements));
            let tail = &mut out[whole * width..];
            let n_bytes = tail.len();
            tail.copy_from_slice(&result[..n_bytes]);
        }
        Ok(())
    }

    /// Finishes a few whole tiles; calls `leave` with those that stay open.
    fn finish_chunk<I: Input, H: HeadFormat>(
        &self,
        (head, newest): (&[u8], &[u8]),
        out: &mut [u8],
        leave: &mut dyn FnMut(usize),
    ) {
        let n_tiles = newest.len() / I::BYTES / TILE;
        let mut ends = [[0.0; CHUNK_TILES * TILE]; 2];
        let mut states = [TileState::Open; CHUNK_TILES];
        let coefficient = self.prepared.coefficients.last().copied().unwrap_or(f64::NAN);
        let [low, high] = &mut ends;
        let states = &mut states[..n_tiles];
        let format = PhantomData::<(I, H)>;
        run_compiled(
            self.spec.simd,
            AddNewest { coefficient, head, newest, ends: (&mut low[..], &mut high[..]), states, format },
        );
        let width = self.element_bytes(self.output);
        let round =
            |sums: &[f64], out: &mut [u8]| round_sums(&self.prepared, self.spec.output, self.spec.simd, sums, out);
        let mut tile = 0;
        while tile < n_tiles {
            let run = states[tile..].iter().take_while(|state| **state != TileState::Open).count();
            let sums = &low[tile * TILE..(tile + run) * TILE];
            let n_rounded = round(sums, &mut out[tile * width * TILE..(tile + run) * width * TILE]);
            for between in (tile..tile + n_rounded).filter(|&i| states[i] == TileState::Between) {
                let mut other = [0; TILE * 8];
                let other = &mut other[..TILE * width];
                let n_other = round(&high[between * TILE..(between + 1) * TILE], other);
                if n_other == 0 || out[between * width * TILE..(between + 1) * width * TILE] != *other {
                    leave(between);
                }
            }
            tile += n_rounded;
            if tile < n_tiles {
                // Unknown, or with too large a result.
                leave(tile);
                tile += 1;
            }
        }
    }
}

/// The bytes of less than a tile, followed by zeros.
fn padded_tile(bytes: &[u8]) -> Vec<u8> {
    let mut tile = vec![0; TILE * 8];
    tile[..bytes.len()].copy_from_slice(bytes);
    tile
}

/// Sums whole tiles of all sources but the last.
struct SumHead<'a, I, H> {
    coefficients: &'a [f64],
    /// How far apart the exponents of a lane may be.
    limit: i32,
    older: &'a [&'a [u8]],
    out: &'a mut [u8],
    format: PhantomData<(I, H)>,
}

impl<I: Input, H: HeadFormat> Compiled for SumHead<'_, I, H> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        let shift = I::PRECISION - 1;
        for (tile, out) in self.out.chunks_exact_mut(TILE * H::BYTES).enumerate() {
            let found = add_up::<I, M>(self.coefficients, self.older, tile * TILE);
            let mut kept = [H::UNKNOWN; TILE];
            for (l, kept) in kept.iter_mut().enumerate() {
                let most = found.most[l];
                let spread = (most >> shift).cast_signed() - (found.least[l] >> shift).cast_signed();
                let is_exact = ((spread <= self.limit) | (most == 0)) & (most < I::INFINITY);
                *kept = if is_exact { H::keep(found.sum[l]) } else { H::UNKNOWN };
            }
            store_lanes(kept, out);
        }
    }
}

/// What is known of a tile's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TileState {
    /// All are exact.
    Exact,
    /// All lie between two exact numbers.
    Between,
    /// Some are not known.
    Open,
}

/// Adds the last source to kept sums.
struct AddNewest<'a, I, H> {
    coefficient: f64,
    head: &'a [u8],
    newest: &'a [u8],
    ends: (&'a mut [f64], &'a mut [f64]),
    states: &'a mut [TileState],
    format: PhantomData<(I, H)>,
}

impl<I: Input, H: HeadFormat> Compiled for AddNewest<'_, I, H> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        let (lows, highs) = self.ends;
        for (tile, state) in self.states.iter_mut().enumerate() {
            let lanes = tile * TILE..(tile + 1) * TILE;
            let head = load_lanes::<H::Raw, TILE>(&self.head[lanes.start * H::BYTES..lanes.end * H::BYTES]);
            let newest = load_lanes::<I::Raw, TILE>(&self.newest[lanes.start * I::BYTES..lanes.end * I::BYTES]);
            let (lows, highs) = (&mut lows[lanes.clone()], &mut highs[lanes]);
            let term = |l: usize| self.coefficient * I::widen(I::bits(newest[l]));
            let (mut is_known, mut is_exact) = (true, true);
            for l in 0..TILE {
                let rest;
                (lows[l], rest) = add_with_rest(H::value(head[l]), term(l));
                is_known &= rest == 0.0;
                is_exact &= H::is_sum(head[l]);
            }
            if is_exact {
                *state = if is_known { TileState::Exact } else { TileState::Open };
                continue;
            }
            let mut is_known = true;
            for l in 0..TILE {
                let (low, high) = H::ends(head[l]);
                let (low_rest, high_rest);
                (lows[l], low_rest) = add_with_rest(low, term(l));
                (highs[l], high_rest) = add_with_rest(high, term(l));
                is_known &= (low_rest == 0.0) & (high_rest == 0.0);
            }
            *state = if is_known { TileState::Between } else { TileState::Open };
        }
    }
}

/// a + b, and what its rounding took away; NaN where one of them is not finite.
#[inline(always)]
fn add_with_rest(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_found = sum - a;
    (sum, (a - (sum - b_found)) + (b - b_found))
}
