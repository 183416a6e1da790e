//! Which kernel runs: chosen once for a sum, by element types and by what the processor has.

use std::marker::PhantomData;

use crate::Dtype;
use crate::kernel::portable::{
    self, Fused, InBf16, InF16, InF32, Input, MultiplyAdd, OutBf16, OutF16, OutF32, Output, TILE, Unsettled,
};
use crate::kernel::prepared::Prepared;
use crate::kernel::wide::{self, InF64, OutF64, WideInput, WideOutput};
#[cfg(target_arch = "x86_64")]
use crate::kernel::{avx2, avx512};

/// Instruction sets that kernels are compiled for. Results do not depend on the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Simd {
    /// What every processor of the target has.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The best that this processor has.
    Auto,
}

impl Simd {
    /// The best that this processor has, at most what was asked for; never `Auto`.
    pub fn resolve(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi2");
            let has_avx512 = has_avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            let best = if has_avx512 {
                Self::Avx512
            } else if has_avx2 {
                Self::Avx2
            } else {
                Self::Portable
            };
            self.min(best)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Portable
    }
}

type SumFn = fn(&Prepared, &[&[u8]], usize, usize, &mut [u8]) -> Option<(usize, Unsettled)>;
type UnsafeSumFn = unsafe fn(&Prepared, &[&[u8]], usize, usize, &mut [u8]) -> Option<(usize, Unsettled)>;

/// A kernel that this processor can run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SumTiles {
    /// Needs nothing special.
    Any(SumFn),
    /// Needs the features that were found before this value was made.
    Detected(UnsafeSumFn),
}

impl SumTiles {
    /// Sums tiles `first..n_tiles`; stops at the first that is not settled.
    pub(crate) fn run(
        self,
        prepared: &Prepared,
        sources: &[&[u8]],
        first: usize,
        n_tiles: usize,
        out: &mut [u8],
    ) -> Option<(usize, Unsettled)> {
        match self {
            Self::Any(sum) => sum(prepared, sources, first, n_tiles, out),
            // SAFETY: `choose_kernel` makes this variant only after finding the features that the function is compiled
            // for.
            Self::Detected(sum) => unsafe { sum(prepared, sources, first, n_tiles, out) },
        }
    }
}

/// A way to sum a tile, compiled once for each instruction set.
trait TileSum {
    const OUT_BYTES: usize;
    fn sum_tile<M: MultiplyAdd>(prepared: &Prepared, sources: &[&[u8]], at: usize, out: &mut [u8]) -> Unsettled;
}

/// Input and output have at most 32 bits.
struct Narrow<I, O>(PhantomData<(I, O)>);
/// One of them has 64.
struct Wide<I, O>(PhantomData<(I, O)>);

impl<I: Input, O: Output> TileSum for Narrow<I, O> {
    const OUT_BYTES: usize = O::BYTES;
    #[inline(always)]
    fn sum_tile<M: MultiplyAdd>(prepared: &Prepared, sources: &[&[u8]], at: usize, out: &mut [u8]) -> Unsettled {
        portable::sum_tile::<I, O, M>(prepared, sources, at, out)
    }
}

impl<I: WideInput, O: WideOutput> TileSum for Wide<I, O> {
    const OUT_BYTES: usize = O::BYTES;
    #[inline(always)]
    fn sum_tile<M: MultiplyAdd>(prepared: &Prepared, sources: &[&[u8]], at: usize, out: &mut [u8]) -> Unsettled {
        wide::sum_tile::<I, O, M>(prepared, sources, at, out)
    }
}

/// Sums tiles with whatever instructions the caller is compiled for.
#[inline(always)]
fn sum_all<T: TileSum, M: MultiplyAdd>(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    for tile in first..n_tiles {
        let at = tile * TILE;
        let out = &mut out[T::OUT_BYTES * at..T::OUT_BYTES * (at + TILE)];
        let unsettled = T::sum_tile::<M>(prepared, sources, at, out);
        if unsettled != Unsettled::default() {
            return Some((tile, unsettled));
        }
    }
    None
}

/// On other processors than x86 a fused multiply-add is part of the base.
#[cfg(not(target_arch = "x86_64"))]
type Base = Fused;
#[cfg(target_arch = "x86_64")]
type Base = portable::Separate;

fn sum_base<T: TileSum>(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    sum_all::<T, Base>(prepared, sources, first, n_tiles, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
fn sum_avx2<T: TileSum>(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    sum_all::<T, Fused>(prepared, sources, first, n_tiles, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,f16c,bmi2")]
fn sum_avx512<T: TileSum>(
    prepared: &Prepared,
    sources: &[&[u8]],
    first: usize,
    n_tiles: usize,
    out: &mut [u8],
) -> Option<(usize, Unsettled)> {
    sum_all::<T, Fused>(prepared, sources, first, n_tiles, out)
}

fn compiled_for<T: TileSum>(simd: Simd) -> SumTiles {
    match simd.resolve() {
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => SumTiles::Detected(sum_avx2::<T>),
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => SumTiles::Detected(sum_avx512::<T>),
        _ => SumTiles::Any(sum_base::<T>),
    }
}

/// Work that is compiled once for each instruction set.
pub(crate) trait Compiled {
    type Output;
    fn run<M: MultiplyAdd>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
fn run_avx2<C: Compiled>(work: C) -> C::Output {
    work.run::<Fused>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,f16c,bmi2")]
fn run_avx512<C: Compiled>(work: C) -> C::Output {
    work.run::<Fused>()
}

#[cfg(target_arch = "x86_64")]
type RoundFn = unsafe fn(&Prepared, &[f64], &mut [u8]) -> usize;

/// Rounds exact sums of whole tiles to `output`; returns the number of tiles before one whose result is too large.
pub(crate) fn round_sums(prepared: &Prepared, output: Dtype, simd: Simd, sums: &[f64], out: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let round: Option<RoundFn> = match (simd.resolve(), output) {
            (Simd::Avx512, Dtype::F32) => Some(avx512::round_f32),
            (Simd::Avx512, Dtype::Bf16) => Some(avx512::round_bf16),
            _ => None,
        };
        if let Some(round) = round {
            // SAFETY: `resolve` found the features.
            return unsafe { round(prepared, sums, out) };
        }
    }
    match output {
        Dtype::Bf16 => run_compiled(simd, RoundTiles::<OutBf16> { prepared, sums, out, output: PhantomData }),
        Dtype::F16 => run_compiled(simd, RoundTiles::<OutF16> { prepared, sums, out, output: PhantomData }),
        Dtype::F32 => run_compiled(simd, RoundTiles::<OutF32> { prepared, sums, out, output: PhantomData }),
        _ => 0,
    }
}

/// Exact sums and where they are rounded to, tile by tile.
struct RoundTiles<'a, O> {
    prepared: &'a Prepared,
    sums: &'a [f64],
    out: &'a mut [u8],
    output: PhantomData<O>,
}

impl<O: Output> Compiled for RoundTiles<'_, O> {
    type Output = usize;
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) -> usize {
        let tiles = self.sums.as_chunks::<TILE>().0;
        let mut places = self.out.chunks_exact_mut(TILE * O::BYTES);
        let is_rounded = |sums: &&[f64; TILE]| match places.next() {
            Some(out) => portable::round_tile::<O, M>(self.prepared, sums, out),
            None => false,
        };
        tiles.iter().take_while(is_rounded).count()
    }
}

/// Does `work` with the best instructions of this processor, at most those of `simd`.
pub(crate) fn run_compiled<C: Compiled>(simd: Simd, work: C) -> C::Output {
    match simd.resolve() {
        // SAFETY: `resolve` found the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { run_avx2(work) },
        // SAFETY: `resolve` found the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { run_avx512(work) },
        _ => work.run::<Base>(),
    }
}

/// The kernel for these element types; `None` where one of them is not averaged.
pub(crate) fn choose_kernel(input: Dtype, output: Dtype, simd: Simd) -> Option<SumTiles> {
    #[cfg(target_arch = "x86_64")]
    match (simd.resolve(), input, output) {
        (Simd::Avx512, Dtype::Bf16, Dtype::Bf16) => return Some(SumTiles::Detected(avx512::sum_bf16)),
        (Simd::Avx512, Dtype::F32, Dtype::F32) => return Some(SumTiles::Detected(avx512::sum_f32)),
        (Simd::Avx2, Dtype::Bf16, Dtype::Bf16) => return Some(SumTiles::Detected(avx2::sum_bf16)),
        _ => {}
    }
    match input {
        Dtype::Bf16 => narrow_to::<InBf16>(output, simd),
        Dtype::F16 => narrow_to::<InF16>(output, simd),
        Dtype::F32 => narrow_to::<InF32>(output, simd),
        Dtype::F64 => wide_to::<InF64>(output, simd),
        _ => None,
    }
}

fn narrow_to<I: Input>(output: Dtype, simd: Simd) -> Option<SumTiles> {
    match output {
        Dtype::Bf16 => Some(compiled_for::<Narrow<I, OutBf16>>(simd)),
        Dtype::F16 => Some(compiled_for::<Narrow<I, OutF16>>(simd)),
        Dtype::F32 => Some(compiled_for::<Narrow<I, OutF32>>(simd)),
        _ => wide_to::<I>(output, simd),
    }
}

fn wide_to<I: WideInput>(output: Dtype, simd: Simd) -> Option<SumTiles> {
    match output {
        Dtype::Bf16 => Some(compiled_for::<Wide<I, OutBf16>>(simd)),
        Dtype::F16 => Some(compiled_for::<Wide<I, OutF16>>(simd)),
        Dtype::F32 => Some(compiled_for::<Wide<I, OutF32>>(simd)),
        Dtype::F64 => Some(compiled_for::<Wide<I, OutF64>>(simd)),
        _ => None,
    }
}
