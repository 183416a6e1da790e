//! The correctly rounded weighted sum: for every element the real number sum(c_i x_i)/D, rounded once.
//!
//! Nothing but the coefficients and the inputs decides a bit: not the instruction set, the order of the sources, or how
//! a tensor is cut. DESIGN.md has the argument; `exact` is the arbiter, everything else is speed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod delta;
mod exact;
mod float_env;
mod format;
mod gram;
mod head;
mod mask;
mod portable;
mod prepared;
mod rounding;
mod simd;
mod stats;
mod wide;
mod window;

use num_bigint::BigInt;
use num_traits::Zero;

use crate::{Dtype, DtypeClass};
use exact::{approximate, round_exactly};
use format::{FloatFormat, load_bits, store_bits};
use portable::{TILE, Unsettled};
use prepared::Prepared;
use simd::{SumTiles, choose_kernel};

pub use delta::{
    BLOCK_ELEMENTS, Consensus, DeltaSelector, Election, Keep, N_LOWER, RankKey, TieOrder, UpperCounts, add_magnitudes,
    add_squares, count_equal, count_lower, first_non_finite, magnitude_bits, variances_into, widen_delta_into,
};
pub use float_env::FloatEnvironment;
pub use gram::{gram_into, widen_into};
pub use mask::stream_key;
pub use rounding::Rounding;
pub use simd::Simd;
pub use stats::{DifferenceStats, UlpStats, difference_stats, ulp_difference};
pub use window::{WindowSpec, WindowSums, WindowWeights};

/// What becomes of NaN and infinities among the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinitePolicy {
    /// They are a fault.
    Refuse,
    /// IEEE rules: a NaN, or infinities of both signs, give a quiet NaN; infinities of one sign give that infinity.
    Propagate,
}

/// What a sum is from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumSpec {
    /// Element type of the sources: F64, F32, F16 or BF16.
    pub input: Dtype,
    /// Element type of the result: F64, F32, F16 or BF16.
    pub output: Dtype,
    /// NaN and infinities.
    pub non_finite: NonFinitePolicy,
    /// Instruction set.
    pub simd: Simd,
}

/// Why a sum cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SumError {
    /// Not a floating type that is averaged.
    #[error("{0} cannot be averaged")]
    NotMergeable(Dtype),
    /// Nothing to sum.
    #[error("no coefficients")]
    Empty,
    /// A coefficient of zero: its source must not be read at all.
    #[error("coefficient {0} is zero")]
    ZeroCoefficient(usize),
    /// Division by zero.
    #[error("the divisor is zero")]
    ZeroDivisor,
}

/// What stopped a sum. Elements count from 0 within the slices that were given.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum SumFault {
    /// The first NaN or infinity: lowest element, then lowest source.
    NonFiniteInput {
        /// Which source.
        source_idx: usize,
        /// Which element.
        element_idx: usize,
    },
    /// The first finite sum that is too large for the output.
    Overflow {
        /// Which element.
        element_idx: usize,
        /// About its value; may be infinite.
        value: f64,
    },
    /// The slices do not hold the same number of elements, or there are not as many as coefficients.
    LengthMismatch,
}

/// What a sum came across.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SumCounts {
    /// Elements that whole-number arithmetic had to settle.
    pub n_slow_path: u64,
    /// Results that are NaN or infinite.
    pub n_non_finite: u64,
}

/// One affine combination sum(c_i x_i)/D, prepared for one input and one output type. Shared by all workers.
///
/// # Example
/// ```
/// use num_bigint::BigInt;
/// use thalweg_tensor::Dtype;
/// use thalweg_tensor::kernel::{NonFinitePolicy, Simd, SumSpec, WeightedSum};
///
/// let one = BigInt::from(1);
/// let spec =
///     SumSpec { input: Dtype::F32, output: Dtype::F32, non_finite: NonFinitePolicy::Refuse, simd: Simd::Auto };
/// let mean = WeightedSum::new(&[one.clone(), one], &BigInt::from(2), spec)?;
/// let (a, b, mut out) = (1.0f32.to_le_bytes(), 4.0f32.to_le_bytes(), [0; 4]);
/// mean.sum_into(&[&a, &b], &mut out).map_err(|fault| format!("{fault:?}"))?;
/// assert_eq!(f32::from_le_bytes(out), 2.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WeightedSum {
    prepared: Prepared,
    spec: SumSpec,
    input: FloatFormat,
    output: FloatFormat,
    kernel: SumTiles,
}

impl WeightedSum {
    /// Prepares a combination.
    ///
    /// # Errors
    /// `NotMergeable`, `Empty`, `ZeroCoefficient`, `ZeroDivisor`.
    pub fn new(numerators: &[BigInt], divisor: &BigInt, spec: SumSpec) -> Result<Self, SumError> {
        let format = |dtype: Dtype| {
            let format = FloatFormat::of(dtype).filter(|_| dtype.class() == DtypeClass::Mergeable);
            format.ok_or(SumError::NotMergeable(dtype))
        };
        let (input, output) = (format(spec.input)?, format(spec.output)?);
        if numerators.is_empty() {
            return Err(SumError::Empty);
        }
        if let Some(zero) = numerators.iter().position(Zero::is_zero) {
            return Err(SumError::ZeroCoefficient(zero));
        }
        if divisor.is_zero() {
            return Err(SumError::ZeroDivisor);
        }
        let kernel = choose_kernel(spec.input, spec.output, spec.simd).ok_or(SumError::NotMergeable(spec.input))?;
        Ok(Self { prepared: Prepared::new(numerators, divisor), spec, input, output, kernel })
    }

    /// Number of sources that a sum takes.
    pub fn n_sources(&self) -> usize {
        self.prepared.numerators.len()
    }

    /// Sums the same elements of every source into `out`; all slices are little-endian and of any alignment.
    ///
    /// # Errors
    /// The first fault by element; `out` then holds no result.
    pub fn sum_into(&self, sources: &[&[u8]], out: &mut [u8]) -> Result<SumCounts, SumFault> {
        let n_elements = out.len() / self.element_bytes(self.output);
        let source_bytes = n_elements * self.element_bytes(self.input);
        let fits = sources.len() == self.n_sources()
            && out.len() == n_elements * self.element_bytes(self.output)
            && sources.iter().all(|source| source.len() == source_bytes);
        if !fits {
            return Err(SumFault::LengthMismatch);
        }
        let mut counts = SumCounts::default();
        if self.prepared.is_identity() && self.spec.input == self.spec.output {
            return self.copy(sources[0], out);
        }
        let n_tiles = n_elements / TILE;
        self.sum_tiles(sources, n_tiles, out, &mut counts)?;
        self.sum_tail(sources, n_tiles * TILE, n_elements, out, &mut counts)?;
        Ok(counts)
    }

    fn element_bytes(&self, format: FloatFormat) -> usize {
        usize::try_from(format.n_bits() / 8).unwrap_or(1)
    }

    /// The one coefficient 1: the bits themselves, payloads of NaN included.
    fn copy(&self, source: &[u8], out: &mut [u8]) -> Result<SumCounts, SumFault> {
        out.copy_from_slice(source);
        if self.input.are_finite(source) {
            return Ok(SumCounts::default());
        }
        let n_elements = source.len() / self.element_bytes(self.input);
        let bits = |idx| load_bits(self.spec.input, source, idx);
        let mut counts = SumCounts::default();
        for element_idx in (0..n_elements).filter(|&idx| !self.input.is_finite(bits(idx))) {
            if self.spec.non_finite == NonFinitePolicy::Refuse {
                return Err(SumFault::NonFiniteInput { source_idx: 0, element_idx });
            }
            counts.n_non_finite += 1;
        }
        Ok(counts)
    }

    fn sum_tiles(
        &self,
        sources: &[&[u8]],
        n_tiles: usize,
        out: &mut [u8],
        counts: &mut SumCounts,
    ) -> Result<(), SumFault> {
        let mut first = 0;
        while let Some((tile, unsettled)) = self.kernel.run(&self.prepared, sources, first, n_tiles, out) {
            self.settle(sources, tile * TILE, unsettled, out, counts)?;
            first = tile + 1;
        }
        Ok(())
    }

    /// The elements after the last whole tile, padded to one.
    fn sum_tail(
        &self,
        sources: &[&[u8]],
        from: usize,
        to: usize,
        out: &mut [u8],
        counts: &mut SumCounts,
    ) -> Result<(), SumFault> {
        if from == to {
            return Ok(());
        }
        let (width_in, width_out) = (self.element_bytes(self.input), self.element_bytes(self.output));
        let mut padded = vec![0; sources.len() * TILE * width_in];
        let tail = from * width_in..to * width_in;
        for (source, pad) in sources.iter().zip(padded.chunks_exact_mut(TILE * width_in)) {
            pad[..tail.len()].copy_from_slice(&source[tail.clone()]);
        }
        let tile: Vec<&[u8]> = padded.chunks_exact(TILE * width_in).collect();
        let mut result = [0; TILE * 8];
        let result = &mut result[..TILE * width_out];
        if let Some((_, unsettled)) = self.kernel.run(&self.prepared, &tile, 0, 1, result) {
            let settled = self.settle(&tile, 0, unsettled, result, counts);
            settled.map_err(|fault| fault.moved_by(from))?;
        }
        out[from * width_out..].copy_from_slice(&result[..(to - from) * width_out]);
        Ok(())
    }

    /// Decides the lanes that a kernel left open, in the order of the elements.
    fn settle(
        &self,
        sources: &[&[u8]],
        at: usize,
        unsettled: Unsettled,
        out: &mut [u8],
        counts: &mut SumCounts,
    ) -> Result<(), SumFault> {
        let mut lanes = unsettled.non_finite | unsettled.unclear;
        let mut bits = Vec::with_capacity(sources.len());
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize;
            lanes &= lanes - 1;
            let element_idx = at + lane;
            bits.clear();
            bits.extend(sources.iter().map(|source| load_bits(self.spec.input, source, element_idx)));
            let result = if unsettled.non_finite >> lane & 1 == 1 {
                counts.n_non_finite += 1;
                self.follow_ieee(&bits, element_idx)?
            } else {
                counts.n_slow_path += 1;
                let parts: Vec<_> = bits.iter().filter_map(|&bits| self.input.decode(bits)).collect();
                round_exactly(&self.prepared, &parts, self.output).ok_or_else(|| SumFault::Overflow {
                    element_idx,
                    value: approximate(&self.prepared, self.spec.input, &bits),
                })?
            };
            store_bits(self.spec.output, out, element_idx, result);
        }
        Ok(())
    }

    /// An element with NaN or infinities among its inputs.
    fn follow_ieee(&self, bits: &[u64], element_idx: usize) -> Result<u64, SumFault> {
        if self.spec.non_finite == NonFinitePolicy::Refuse {
            let source_idx = bits.iter().position(|&bits| !self.input.is_finite(bits)).unwrap_or(0);
            return Err(SumFault::NonFiniteInput { source_idx, element_idx });
        }
        let mut signs = [false; 2];
        for (&bits, c) in bits.iter().zip(&self.prepared.coefficients).filter(|(bits, _)| !self.input.is_finite(**bits))
        {
            if self.input.is_nan(bits) {
                return Ok(self.output.quiet_nan());
            }
            let is_negative = (bits & self.input.sign_bit() != 0) != c.is_sign_negative();
            signs[usize::from(is_negative)] = true;
        }
        Ok(match signs {
            [true, true] => self.output.quiet_nan(),
            [_, true] => self.output.infinity() | self.output.sign_bit(),
            _ => self.output.infinity(),
        })
    }
}

impl SumFault {
    /// The fault as it is seen in slices that begin `n_elements` earlier.
    #[must_use]
    pub fn moved_by(self, n_elements: usize) -> Self {
        match self {
            Self::NonFiniteInput { source_idx, element_idx } => {
                Self::NonFiniteInput { source_idx, element_idx: element_idx + n_elements }
            }
            Self::Overflow { element_idx, value } => Self::Overflow { element_idx: element_idx + n_elements, value },
            Self::LengthMismatch => Self::LengthMismatch,
        }
    }
}

#[cfg(test)]
mod tests;
