//! Values that are not finite in tensors that are the same in every source: they are copied instead of refused.
//!
//! The guard on values that are not finite asks this module before it refuses. A mask of minus infinities is equal in
//! all sources; parameters of a run that diverged are not.

use std::sync::PoisonError;

use num_bigint::BigInt;
use thalweg_tensor::kernel::{NonFinitePolicy, SumSpec, WeightedSum};
use thalweg_tensor::{Dtype, display_name, to_index};

use crate::combine::{Piece, Worker};
use crate::context::RunContext;
use crate::error::Error;
use crate::tensor_stats::TensorStats;
use crate::unit::Part;

impl Worker<'_> {
    /// Whether all sources of combination `k` hold the same bytes of a whole tensor. One source alone does not count.
    ///
    /// The whole tensor is compared and the answer kept, so that it depends neither on the cut of the work nor on
    /// threads.
    pub(crate) fn is_equal_everywhere(
        &mut self,
        k: usize,
        terms: &[usize],
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) -> Result<bool, Error> {
        let [first, others @ ..] = terms else { return Ok(false) };
        if others.is_empty() {
            return Ok(false);
        }
        let prepared = self.prepared;
        let mut known = prepared.equal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&is_equal) = known.get(&(piece.tensor_idx, k)) {
            return Ok(is_equal);
        }
        let whole = Part { tensor_idx: piece.tensor_idx, part_idx: 0, elements: 0..piece.entry.n_elements() };
        let mut is_equal = true;
        'pieces: for elements in self.job.piece.pieces_of(&whole) {
            run.check_interrupt()?;
            let n_bytes = to_index(piece.entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0));
            let [a, b] = &mut self.wide;
            let read = |source_idx: usize, bytes: &mut Vec<u8>| {
                bytes.resize(n_bytes, 0);
                self.job.sources[source_idx]
                    .read_elements(piece.tensor_idx, elements.clone(), bytes)
                    .map_err(|source| Error::Access { tensor: display_name(&piece.entry.name), source })
            };
            read(*first, a)?;
            for &other in others {
                read(other, b)?;
                if a != b {
                    is_equal = false;
                    break 'pieces;
                }
            }
        }
        if is_equal {
            let name = display_name(&piece.entry.name);
            run.progress.note(&format!(
                "tensor `{name}` holds values that are not finite and is equal in all sources: they are copied"
            ));
        }
        known.insert((piece.tensor_idx, k), is_equal);
        Ok(is_equal)
    }

    /// The sum over equal sources: finite elements are summed as everywhere, the others are copied.
    pub(crate) fn sum_of_equals(&mut self, k: usize, terms: &[usize], piece: &Piece<'_>) -> Result<TensorStats, Error> {
        let combination = &self.job.combinations[k];
        let (input, output) = piece.dtypes(combination);
        let Some(sum) = self.prepared.sums.get(&(k, input, output)) else {
            return Err(Error::Bug { what: "a sum was not prepared" });
        };
        let Some(&first) = terms.first() else { return Err(Error::Bug { what: "a sum has no terms" }) };
        let original = self.inputs[first].clone();
        let special = Special::find(input, &original);
        let sources: Vec<&[u8]> = terms.iter().map(|_| special.finite.as_slice()).collect();
        self.output.resize(piece.n_bytes(output), 0);
        let counts =
            sum.sum_into(&sources, &mut self.output).map_err(|fault| self.explain(fault, terms, output, piece))?;
        let mut stats = TensorStats {
            n_non_finite: special.positions.len() as u64,
            n_slow_path: counts.n_slow_path,
            ..TensorStats::default()
        };
        // The distance counts finite elements only: infinity minus itself is NaN.
        let newest_idx = combination.newest_idx;
        let kept = std::mem::replace(&mut self.inputs[newest_idx], special.finite.clone());
        let measured = self.measure_distance(k, terms, (input, output), &mut stats);
        self.inputs[newest_idx] = kept;
        measured?;
        let converted = special.converted(&original, input, output, &piece.entry.name)?;
        let width = to_index(output.bytes().unwrap_or(1));
        for (i, at) in special.positions.iter().enumerate() {
            self.output[at * width..(at + 1) * width].copy_from_slice(&converted[i * width..(i + 1) * width]);
        }
        Ok(stats)
    }
}

/// Elements that are not finite, separated from the others.
struct Special {
    /// Where the elements that are not finite are.
    positions: Vec<usize>,
    /// All elements, with zeros instead of those that are not finite.
    finite: Vec<u8>,
}

impl Special {
    fn find(dtype: Dtype, bytes: &[u8]) -> Self {
        let width = to_index(dtype.bytes().unwrap_or(1));
        let mut finite = bytes.to_vec();
        let mut positions = Vec::new();
        for (i, element) in finite.chunks_exact_mut(width).enumerate() {
            if is_non_finite(dtype, element) {
                positions.push(i);
                element.fill(0);
            }
        }
        Self { positions, finite }
    }

    /// The elements that are not finite, one after the other, in another element type.
    fn converted(&self, bytes: &[u8], input: Dtype, output: Dtype, tensor: &str) -> Result<Vec<u8>, Error> {
        let width = to_index(input.bytes().unwrap_or(1));
        let own: Vec<u8> =
            self.positions.iter().flat_map(|at| bytes[at * width..(at + 1) * width].iter().copied()).collect();
        if input == output {
            return Ok(own);
        }
        let one = BigInt::from(1);
        let spec =
            SumSpec { input, output, non_finite: NonFinitePolicy::Propagate, simd: thalweg_tensor::kernel::Simd::Auto };
        let sum = WeightedSum::new(std::slice::from_ref(&one), &one, spec)
            .map_err(|source| Error::Sum { tensor: display_name(tensor), source })?;
        let mut converted = vec![0; self.positions.len() * to_index(output.bytes().unwrap_or(1))];
        sum.sum_into(&[&own], &mut converted)
            .map_err(|_| Error::Bug { what: "a value that is not finite did not convert" })?;
        Ok(converted)
    }
}

/// Whether a little-endian element has all bits of its exponent set.
fn is_non_finite(dtype: Dtype, element: &[u8]) -> bool {
    let high = |n: usize| element.get(element.len().wrapping_sub(n)).copied().unwrap_or(0);
    let top = u16::from_be_bytes([high(1), high(2)]);
    let exponent = match dtype {
        Dtype::F64 => 0x7ff0,
        Dtype::F32 | Dtype::Bf16 => 0x7f80,
        Dtype::F16 => 0x7c00,
        _ => return false,
    };
    top & exponent == exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_are_not_finite_are_known_by_their_exponent() {
        for (value, expected) in [
            (1.0, false),
            (f64::MAX, false),
            (-0.0, false),
            (f64::INFINITY, true),
            (f64::NEG_INFINITY, true),
            (f64::NAN, true),
        ] {
            assert_eq!(is_non_finite(Dtype::F64, &value.to_le_bytes()), expected, "{value}");
        }
        for (value, expected) in [(f32::MAX, false), (f32::NEG_INFINITY, true), (f32::NAN, true)] {
            assert_eq!(is_non_finite(Dtype::F32, &value.to_le_bytes()), expected, "{value}");
            let [_, _, low, high] = value.to_le_bytes();
            // The largest f32 becomes an infinity only when it is rounded; its upper half is a finite bf16.
            assert_eq!(is_non_finite(Dtype::Bf16, &[low, high]), expected, "{value}");
        }
        for (bits, expected) in [(0x7bff_u16, false), (0x7c00, true), (0xfc00, true), (0x7e00, true)] {
            assert_eq!(is_non_finite(Dtype::F16, &bits.to_le_bytes()), expected, "{bits:x}");
        }
    }
}
