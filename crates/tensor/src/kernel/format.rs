//! The four floating formats, bit by bit: what their numbers are, and how a real number is rounded to them.

use num_bigint::BigUint;
use num_traits::Zero;

use crate::Dtype;

/// An IEEE-like binary format of up to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FloatFormat {
    /// Significand bits, the hidden one included.
    pub(crate) precision: i32,
    /// Exponent field bits.
    pub(crate) exponent_bits: i32,
    /// Exponent of the least subnormal.
    pub(crate) least_exponent: i32,
}

/// A finite number: sign, integer significand, exponent of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) is_negative: bool,
    pub(crate) significand: u64,
    pub(crate) exponent: i32,
}

impl FloatFormat {
    /// The format of a mergeable dtype.
    pub(crate) const fn of(dtype: Dtype) -> Option<Self> {
        let (precision, exponent_bits, least_exponent) = match dtype {
            Dtype::Bf16 => (8, 8, -133),
            Dtype::F16 => (11, 5, -24),
            Dtype::F32 => (24, 8, -149),
            Dtype::F64 => (53, 11, -1074),
            _ => return None,
        };
        Some(Self { precision, exponent_bits, least_exponent })
    }

    pub(crate) const fn n_bits(self) -> i32 {
        self.precision + self.exponent_bits
    }

    pub(crate) const fn sign_bit(self) -> u64 {
        1 << (self.n_bits() - 1)
    }

    pub(crate) const fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << (self.precision - 1)
    }

    /// The quiet NaN that merges yield: positive, without payload.
    pub(crate) const fn quiet_nan(self) -> u64 {
        self.infinity() | 1 << (self.precision - 2)
    }

    pub(crate) const fn is_finite(self, bits: u64) -> bool {
        bits & self.infinity() != self.infinity()
    }

    /// Whether all elements of `bytes`, of this format, are finite: several are looked at together.
    pub(crate) fn are_finite(self, bytes: &[u8]) -> bool {
        let most = match self.n_bits() {
            16 => {
                let magnitude = |chunk: &[u8; 2]| u16::from_le_bytes(*chunk) & (u16::MAX >> 1);
                u64::from(bytes.as_chunks().0.iter().fold(0, |most, chunk| magnitude(chunk).max(most)))
            }
            32 => {
                let magnitude = |chunk: &[u8; 4]| u32::from_le_bytes(*chunk) & (u32::MAX >> 1);
                u64::from(bytes.as_chunks().0.iter().fold(0, |most, chunk| magnitude(chunk).max(most)))
            }
            _ => {
                let magnitude = |chunk: &[u8; 8]| u64::from_le_bytes(*chunk) & (u64::MAX >> 1);
                bytes.as_chunks().0.iter().fold(0, |most, chunk| magnitude(chunk).max(most))
            }
        };
        most < self.infinity()
    }

    pub(crate) const fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign_bit() - 1) > self.infinity()
    }

    /// `None` for NaN and infinities.
    pub(crate) fn decode(self, bits: u64) -> Option<Parts> {
        let significand_bits = self.precision - 1;
        let is_negative = bits & self.sign_bit() != 0;
        let field = i32::try_from((bits & self.infinity()) >> significand_bits).unwrap_or(i32::MAX);
        let fraction = bits & ((1 << significand_bits) - 1);
        if !self.is_finite(bits) {
            return None;
        }
        if field == 0 {
            return Some(Parts { is_negative, significand: fraction, exponent: self.least_exponent });
        }
        let exponent = self.least_exponent + field - 1;
        Some(Parts { is_negative, significand: fraction | 1 << significand_bits, exponent })
    }

    /// Bits of `significand` units of 2^`exponent` plus a rest below one unit: to nearest, ties to even.
    ///
    /// `None` when the result is too large. `exponent` is at least that of the least subnormal, and `significand` has
    /// at most `precision` bits.
    fn round(self, significand: u64, rest: RestAgainstHalf, exponent: i32) -> Option<u64> {
        let significand_bits = self.precision - 1;
        let up = match rest {
            RestAgainstHalf::Above => true,
            RestAgainstHalf::Equal => significand & 1 == 1,
            RestAgainstHalf::Below => false,
        };
        let mut rounded = significand + u64::from(up);
        let mut exponent = exponent;
        if rounded >> self.precision != 0 {
            rounded >>= 1;
            exponent += 1;
        }
        if rounded >> significand_bits == 0 {
            return Some(rounded);
        }
        let field = u64::try_from(exponent - self.least_exponent + 1).unwrap_or(0);
        let bits = field << significand_bits | rounded & ((1 << significand_bits) - 1);
        (field < (1 << self.exponent_bits) - 1).then_some(bits)
    }

    /// Bits of `numerator * 2^exponent / denominator` (not negative), correctly rounded; `None` when too large.
    pub(crate) fn round_ratio(self, numerator: &BigUint, exponent: i64, denominator: &BigUint) -> Option<u64> {
        if numerator.is_zero() {
            return Some(0);
        }
        // The quotient has its leading bit at `top` or one below.
        let width = |n: &BigUint| i64::try_from(n.bits()).unwrap_or(i64::MAX);
        let top = width(numerator) - width(denominator) + exponent;
        let mut unit = (top - i64::from(self.precision)).max(i64::from(self.least_exponent));
        loop {
            let shift = exponent - unit;
            let amount = shift.unsigned_abs();
            let (n, d) = if shift >= 0 {
                (numerator << amount, denominator.clone())
            } else {
                (numerator.clone(), denominator << amount)
            };
            let (quotient, rest) = (&n / &d, &n % &d);
            if width(&quotient) > i64::from(self.precision) {
                unit += 1;
                continue;
            }
            let significand = quotient.iter_u64_digits().next().unwrap_or(0);
            let rest = RestAgainstHalf::compare((rest << 1u32).cmp(&d));
            return self.round(significand, rest, i32::try_from(unit).ok()?);
        }
    }

    /// As [`round_ratio`](Self::round_ratio) in 128 bits; `Err` when these are too few.
    pub(crate) fn round_ratio_i128(self, numerator: u128, exponent: i32, denominator: u64) -> Result<Option<u64>, ()> {
        if numerator == 0 {
            return Ok(Some(0));
        }
        let bits_of = |n: u128| 128 - n.leading_zeros().cast_signed();
        let (n_bits, d_bits) = (bits_of(numerator), bits_of(u128::from(denominator)));
        let mut unit = (n_bits - d_bits + exponent - self.precision).max(self.least_exponent);
        loop {
            let shift = exponent - unit;
            let (n, d) = if shift >= 0 {
                if n_bits + shift > 126 {
                    return Err(());
                }
                (numerator << shift, u128::from(denominator))
            } else {
                if d_bits - shift > 126 {
                    return Err(());
                }
                (numerator, u128::from(denominator) << -shift)
            };
            let (quotient, rest) = (n / d, n % d);
            if bits_of(quotient) > self.precision {
                unit += 1;
                continue;
            }
            let significand = u64::try_from(quotient).map_err(|_| ())?;
            return Ok(self.round(significand, RestAgainstHalf::compare((rest << 1).cmp(&d)), unit));
        }
    }
}

/// What is left over, compared with half a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestAgainstHalf {
    Below,
    Equal,
    Above,
}

impl RestAgainstHalf {
    fn compare(twice_the_rest: std::cmp::Ordering) -> Self {
        match twice_the_rest {
            std::cmp::Ordering::Less => Self::Below,
            std::cmp::Ordering::Equal => Self::Equal,
            std::cmp::Ordering::Greater => Self::Above,
        }
    }
}

/// The little-endian bits of element `idx`.
pub(crate) fn load_bits(dtype: Dtype, bytes: &[u8], idx: usize) -> u64 {
    match dtype.bits() {
        16 => bytes.as_chunks::<2>().0.get(idx).map_or(0, |chunk| u64::from(u16::from_le_bytes(*chunk))),
        32 => bytes.as_chunks::<4>().0.get(idx).map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk))),
        _ => bytes.as_chunks::<8>().0.get(idx).map_or(0, |chunk| u64::from_le_bytes(*chunk)),
    }
}

/// Stores the low bits of `bits` as element `idx`.
pub(crate) fn store_bits(dtype: Dtype, bytes: &mut [u8], idx: usize, bits: u64) {
    let width = (dtype.bits() / 8) as usize;
    if let Some(slot) = bytes.get_mut(idx * width..(idx + 1) * width) {
        slot.copy_from_slice(&bits.to_le_bytes()[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_element_that_is_not_finite_is_seen_wherever_it_is() {
        for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64] {
            let format = FloatFormat::of(dtype).unwrap();
            let width = (dtype.bits() / 8) as usize;
            let largest = format.infinity() - 1;
            let mut bytes = vec![0; 67 * width];
            (0..67).for_each(|i| store_bits(dtype, &mut bytes, i, largest | (format.sign_bit() * (i as u64 & 1))));
            assert!(format.are_finite(&bytes) && format.are_finite(&[]));
            for (i, bits) in
                [(0, format.infinity()), (31, format.infinity() | format.sign_bit()), (66, format.quiet_nan())]
            {
                let mut bytes = bytes.clone();
                store_bits(dtype, &mut bytes, i, bits);
                assert!(!format.are_finite(&bytes), "{dtype} {i}");
            }
        }
    }
}
