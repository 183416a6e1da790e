//! Doubles rounded once to an element type.

use num_bigint::BigInt;

use crate::Dtype;
use crate::kernel::portable::TILE;
use crate::kernel::simd::{Simd, round_sums};
use crate::kernel::{NonFinitePolicy, SumCounts, SumError, SumFault, SumSpec, WeightedSum, first_non_finite};

/// Rounds doubles to nearest even. Shared by all workers.
#[derive(Debug, Clone)]
pub struct Rounding {
    /// The same by a sum of one term, for what the fast way leaves.
    sum: WeightedSum,
    output: Dtype,
    simd: Simd,
}

/// Magnitudes that the fast way takes, beside zero: normal numbers of every element type but F16.
const FAST: std::ops::Range<f64> = 1e-37..1e38;

impl Rounding {
    /// To F64, F32, F16 or BF16.
    ///
    /// # Errors
    /// `NotMergeable`.
    pub fn new(output: Dtype, non_finite: NonFinitePolicy, simd: Simd) -> Result<Self, SumError> {
        let one = BigInt::from(1);
        let spec = SumSpec { input: Dtype::F64, output, non_finite, simd };
        Ok(Self { sum: WeightedSum::new(std::slice::from_ref(&one), &one, spec)?, output, simd })
    }

    /// Rounds `values` into `out`, which is little-endian and has a place for each.
    ///
    /// # Errors
    /// The first value that is too large, or not finite where that is refused; `out` then holds no result.
    pub fn round_into(&self, values: &[f64], out: &mut [u8]) -> Result<SumCounts, SumFault> {
        let width = self.sum.element_bytes(self.sum.output);
        let mut counts = SumCounts::default();
        let is_fast = matches!(self.output, Dtype::Bf16 | Dtype::F32)
            && first_non_finite(values, self.simd).is_none()
            && values.iter().all(|value| FAST.contains(&value.abs()) || *value == 0.0);
        let mut at = 0;
        while at < values.len() {
            if is_fast {
                let n_tiles =
                    round_sums(&self.sum.prepared, self.output, self.simd, &values[at..], &mut out[at * width..]);
                at += n_tiles * TILE;
            }
            // A tile with a value that is too large, or the end.
            let n = if is_fast { TILE.min(values.len() - at) } else { values.len() };
            let (values, out) = (&values[at..at + n], &mut out[at * width..(at + n) * width]);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let more = self.sum.sum_into(&[&bytes], out).map_err(|fault| fault.moved_by(at))?;
            counts.n_non_finite += more.n_non_finite;
            counts.n_slow_path += more.n_slow_path;
            at += n;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_rounding(values: &[f64]) {
        let one = BigInt::from(1);
        for output in [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64] {
            for non_finite in [NonFinitePolicy::Refuse, NonFinitePolicy::Propagate] {
                for simd in [Simd::Portable, Simd::Avx2, Simd::Avx512] {
                    let spec = SumSpec { input: Dtype::F64, output, non_finite, simd };
                    let sum = WeightedSum::new(std::slice::from_ref(&one), &one, spec).unwrap();
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    let n_bytes = values.len() * crate::to_index(output.bytes().unwrap());
                    let (mut found, mut expected) = (vec![0; n_bytes], vec![0; n_bytes]);
                    let outcome = Rounding::new(output, non_finite, simd).unwrap().round_into(values, &mut found);
                    let wanted = sum.sum_into(&[&bytes], &mut expected);
                    match (&outcome, &wanted) {
                        (Ok(a), Ok(b)) => assert_eq!((a.n_non_finite, &found), (b.n_non_finite, &expected)),
                        (Err(a), Err(b)) => assert_eq!(a, b),
                        _ => panic!("{output:?} {simd:?}: {outcome:?} and {wanted:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_is_that_of_a_sum_of_one_term() {
        let mut state = 5_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 20
        };
        #[expect(clippy::cast_precision_loss, reason = "random numbers")]
        let plain: Vec<f64> = (0..1000).map(|_| (next() as f64 / 2_f64.powi(43) - 1.0) * 0.05).collect();
        check_rounding(&plain);
        // Halfway between neighbours of bf16, and one step of f64 to either side.
        let near: Vec<f64> = (0..300_u32).map(|i| f64::from(f32::from_bits(0x3f80_8000 + (i << 16)))).collect();
        let near: Vec<f64> = near.iter().flat_map(|x| [*x, -x, x.next_up(), x.next_down()]).collect();
        check_rounding(&near);
        let edges = [0.0, -0.0, 1e-46, -1e-40, 5e-324, 3.4e38, 1e300, 65_504.0, 65_520.0, 1e-8, 2.0_f64.powi(-133)];
        for edge in edges.into_iter().chain([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]) {
            let mut values = plain[..200].to_vec();
            (values[70], values[199]) = (edge, edge);
            check_rounding(&values);
        }
        check_rounding(&[]);
    }
}
