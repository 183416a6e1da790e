//! Sums of windows that move along a list of sources: each is made from the one before by what enters and what leaves.
//!
//! Running sums are kept only for tiles in which every step of every window is exact: the inputs of each lane are
//! multiples of one unit, and no sum of theirs needs more than 53 bits of it. Such a sum does not depend on the order
//! of its terms, so that rounding it gives the bits of [`WeightedSum::sum_into`]. Other tiles are summed by the latter.

use std::marker::PhantomData;

use num_traits::One;

use crate::Dtype;
use crate::kernel::portable::{InBf16, InF16, InF32, Input, MultiplyAdd, TILE, load_lanes};
use crate::kernel::simd::{Compiled, Simd, round_sums, run_compiled};
use crate::kernel::{SumCounts, SumFault, WeightedSum};

/// With a larger divisor the sign that rounds an exact sum is not exact on every machine.
pub(crate) const MAX_DIVISOR: u64 = 1 << 28;

/// How the sources of a window are weighted, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WindowWeights {
    /// All are 1.
    Equal,
    /// 1, 2, ..., N.
    Rising,
}

/// Which windows of a list of sources are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// Element type of the sources; running sums are for F32, F16 and BF16.
    pub input: Dtype,
    /// Instruction set.
    pub simd: Simd,
    /// Sources in the longest window.
    pub n_longest: u32,
    /// Whether sums with rising weights are kept too.
    pub weights: WindowWeights,
}

/// Running sums over the same elements of every source.
#[derive(Debug, Default)]
pub struct WindowSums {
    spec: Option<WindowSpec>,
    /// By element of whole tiles.
    equal: Vec<f64>,
    /// The same; empty where they are not kept.
    rising: Vec<f64>,
    /// By whole tile.
    is_exact: Vec<bool>,
}

impl WindowSums {
    /// Looks at all sources of which windows will be summed, little-endian and of one length. Returns whether any tile
    /// has running sums; [`start`](Self::start) is then called for the first window.
    pub fn prepare(&mut self, spec: WindowSpec, sources: &[&[u8]]) -> bool {
        self.spec = Some(spec);
        self.is_exact.clear();
        match spec.input {
            Dtype::Bf16 => self.prepare_as::<InBf16>(spec, sources),
            Dtype::F16 => self.prepare_as::<InF16>(spec, sources),
            Dtype::F32 => self.prepare_as::<InF32>(spec, sources),
            _ => {}
        }
        self.is_exact.contains(&true)
    }

    fn prepare_as<I: Input>(&mut self, spec: WindowSpec, sources: &[&[u8]]) {
        let n_bytes = sources.first().map_or(0, |source| source.len());
        let n = u64::from(spec.n_longest);
        let keeps_rising = spec.weights == WindowWeights::Rising;
        let total = if keeps_rising { n * (n + 1) / 2 } else { n };
        let log2_total = (u64::BITS - total.saturating_sub(1).leading_zeros()).cast_signed();
        let limit = 53 - I::PRECISION - log2_total;
        if limit < 0 || sources.iter().any(|source| source.len() != n_bytes) {
            return;
        }
        let n_tiles = n_bytes / I::BYTES / TILE;
        self.is_exact.resize(n_tiles, false);
        self.equal.resize(n_tiles * TILE, 0.0);
        self.rising.resize(if keeps_rising { n_tiles * TILE } else { 0 }, 0.0);
        run_compiled(spec.simd, FindExact::<I> { sources, limit, is_exact: &mut self.is_exact, input: PhantomData });
    }

    /// Sums the first window, the oldest source first.
    pub fn start(&mut self, window: &[&[u8]]) {
        self.equal.fill(0.0);
        self.rising.fill(0.0);
        for (source, weight) in window.iter().zip(1u32..) {
            self.pass(Pass { leaves: None, enters: source, weight: f64::from(weight) });
        }
    }

    /// Moves on by one source: `oldest` leaves a window of `n` sources, and `newest` enters it.
    pub fn advance(&mut self, oldest: &[u8], newest: &[u8], n: u32) {
        self.pass(Pass { leaves: Some(oldest), enters: newest, weight: f64::from(n) });
    }

    fn pass(&mut self, pass: Pass<'_>) {
        let Some(spec) = self.spec else { return };
        match spec.input {
            Dtype::Bf16 => self.pass_as::<InBf16>(spec.simd, pass),
            Dtype::F16 => self.pass_as::<InF16>(spec.simd, pass),
            Dtype::F32 => self.pass_as::<InF32>(spec.simd, pass),
            _ => {}
        }
    }

    fn pass_as<I: Input>(&mut self, simd: Simd, pass: Pass<'_>) {
        let Self { equal, rising, .. } = self;
        run_compiled(simd, AddPass::<I> { equal, rising, pass, input: PhantomData });
    }

    fn sums(&self, weights: WindowWeights) -> &[f64] {
        match weights {
            WindowWeights::Equal => &self.equal,
            WindowWeights::Rising => &self.rising,
        }
    }
}

/// A source that enters the windows, and one that leaves them.
#[derive(Clone, Copy)]
struct Pass<'a> {
    leaves: Option<&'a [u8]>,
    enters: &'a [u8],
    /// Of the source that enters, among rising ones.
    weight: f64,
}

/// Finds the tiles whose running sums are exact.
struct FindExact<'a, I> {
    sources: &'a [&'a [u8]],
    /// How far apart the exponents of a lane may be.
    limit: i32,
    is_exact: &'a mut [bool],
    input: PhantomData<I>,
}

impl<I: Input> Compiled for FindExact<'_, I> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        for (tile, is_exact) in self.is_exact.iter_mut().enumerate() {
            *is_exact = is_tile_exact::<I>(self.sources, tile * TILE, self.limit);
        }
    }
}

#[inline(always)]
fn is_tile_exact<I: Input>(sources: &[&[u8]], at: usize, limit: i32) -> bool {
    let mut most = [0u32; TILE];
    let mut least = [u32::MAX; TILE];
    let mut has_minus_zero = [0u32; TILE];
    for source in sources {
        let lanes = load_lanes::<I::Raw, TILE>(&source[at * I::BYTES..(at + TILE) * I::BYTES]);
        for l in 0..TILE {
            let bits = I::bits(lanes[l]);
            let magnitude = I::magnitude(bits);
            most[l] = most[l].max(magnitude);
            // One less, so that zeros come out on top.
            least[l] = least[l].min(magnitude.wrapping_sub(1));
            // A sum that had a -0 taken away again would not know which zeros are left.
            has_minus_zero[l] |= u32::from((magnitude == 0) & (bits != 0));
        }
    }
    let shift = I::PRECISION - 1;
    let mut is_exact = true;
    for l in 0..TILE {
        let spread = (most[l] >> shift).cast_signed() - (least[l] >> shift).cast_signed();
        is_exact &= (spread <= limit) & (most[l] < I::INFINITY) & (has_minus_zero[l] == 0);
    }
    is_exact
}

/// Adds a pass to the running sums.
struct AddPass<'a, I> {
    equal: &'a mut [f64],
    rising: &'a mut [f64],
    pass: Pass<'a>,
    input: PhantomData<I>,
}

impl<I: Input> Compiled for AddPass<'_, I> {
    type Output = ();
    #[inline(always)]
    fn run<M: MultiplyAdd>(self) {
        /// Lanes that stay in registers.
        const RUN: usize = 16;
        let Self { equal, rising, pass, .. } = self;
        let load = |bytes: &[u8], run: usize| {
            let lanes = load_lanes::<I::Raw, RUN>(&bytes[run * RUN * I::BYTES..(run + 1) * RUN * I::BYTES]);
            lanes.map(|raw| I::widen_finite(I::bits(raw)))
        };
        let equal = equal.as_chunks_mut::<RUN>().0;
        let mut rising = rising.as_chunks_mut::<RUN>().0.iter_mut();
        for (run, equal) in equal.iter_mut().enumerate() {
            let enters = load(pass.enters, run);
            if let Some(rising) = rising.next() {
                for l in 0..RUN {
                    // What stays moves down by one place.
                    let stays = if pass.leaves.is_some() { rising[l] - equal[l] } else { rising[l] };
                    rising[l] = M::multiply_add(pass.weight, enters[l], stays);
                }
            }
            let leaves = pass.leaves.map_or([0.0; RUN], |leaves| load(leaves, run));
            for l in 0..RUN {
                equal[l] = (equal[l] - leaves[l]) + enters[l];
            }
        }
    }
}

impl WeightedSum {
    /// How this sum weighs a window, if its window's running sums can stand in for its terms.
    pub fn window_weights(&self) -> Option<WindowWeights> {
        let is_narrow = |dtype: Dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        let words = self.prepared.words.as_ref().filter(|words| words.divisor < MAX_DIVISOR)?;
        if !is_narrow(self.spec.input) || !is_narrow(self.spec.output) || words.numerators.len() < 2 {
            return None;
        }
        if words.numerators.iter().all(One::is_one) {
            return Some(WindowWeights::Equal);
        }
        words.numerators.iter().zip(1i64..).all(|(&c, i)| c == i).then_some(WindowWeights::Rising)
    }

    /// Whether running sums make this window faster than a sum by itself: adding costs little beside rounding.
    pub fn is_faster_by_window(&self) -> bool {
        let is_bf16 = self.spec.input == Dtype::Bf16 && self.spec.output == Dtype::Bf16;
        // Measured by `bench_kernels`; bf16 is summed in singles otherwise.
        let least = match self.spec.simd.resolve() {
            Simd::Avx512 if is_bf16 => 16,
            Simd::Avx2 if is_bf16 => 48,
            _ => 6,
        };
        self.n_sources() >= least
    }

    /// [`sum_into`](Self::sum_into) of the window whose sums are running: the same bits and faults.
    ///
    /// Exact sums leave fewer elements to the slow path, so that its count may be smaller.
    ///
    /// # Errors
    /// The same.
    pub fn sum_window_into(&self, sums: &WindowSums, sources: &[&[u8]], out: &mut [u8]) -> Result<SumCounts, SumFault> {
        let (width_in, width_out) = (self.element_bytes(self.input), self.element_bytes(self.output));
        let n_elements = out.len() / width_out;
        let is_sum_of_these = sources.iter().all(|source| source.len() == n_elements * width_in)
            && sums.is_exact.len() == n_elements / TILE
            && sources.len() == self.n_sources();
        let Some(weights) = self.window_weights().filter(|_| is_sum_of_these) else {
            return self.sum_into(sources, out);
        };
        let mut counts = SumCounts::default();
        let n_tiles = n_elements / TILE;
        let mut tile = 0;
        while tile < n_tiles {
            let run = sums.is_exact[tile..].iter().take_while(|&&is_exact| is_exact).count();
            let exact = &sums.sums(weights)[tile * TILE..(tile + run) * TILE];
            let place = &mut out[tile * TILE * width_out..];
            tile += round_sums(&self.prepared, self.spec.output, self.spec.simd, exact, place);
            if tile < n_tiles {
                // Not exact, or with too large a result.
                if let Some((_, unsettled)) = self.kernel.run(&self.prepared, sources, tile, tile + 1, out) {
                    self.settle(sources, tile * TILE, unsettled, out, &mut counts)?;
                }
                tile += 1;
            }
        }
        self.sum_tail(sources, n_tiles * TILE, n_elements, out, &mut counts)?;
        Ok(counts)
    }
}
