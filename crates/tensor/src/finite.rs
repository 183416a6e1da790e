//! Does a source of tensors hold NaN or infinity? Asked before a model is scored: a model of NaNs can look sound.
//!
//! Reads everything once, in small pieces. Attention masks are skipped: their infinities are intended.

use crate::{Dtype, TensorEntry, TensorSource, to_index};

/// The first number of a source that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFiniteElement {
    /// Number of the tensor in the catalog.
    pub tensor_idx: usize,
    /// Row-major index of the element.
    pub element_idx: u64,
    /// Which of the values that are not finite it is.
    pub kind: NonFiniteKind,
}

/// A value that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFiniteKind {
    /// Not a number.
    Nan,
    /// Infinity of either sign.
    Infinity,
}

impl NonFiniteKind {
    /// As messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nan => "NaN",
            Self::Infinity => "infinity",
        }
    }
}

/// Finds the first tensor, by name, with a number that is not finite; in it a NaN before an infinity.
///
/// A tensor that holds only zeros and negative infinities is an attention mask and is skipped. So is every tensor whose
/// dtype is not F64, F32, F16, BF16, F8_E5M2 or F8_E4M3.
///
/// # Errors
/// The first read that failed.
pub fn find_non_finite(source: &dyn TensorSource) -> Result<Option<NonFiniteElement>, crate::AccessError> {
    for tensor_idx in 0..source.catalog().entries().len() {
        if let Some(found) = find_non_finite_in(source, tensor_idx)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The same in one tensor.
///
/// # Errors
/// The first read that failed.
pub fn find_non_finite_in(
    source: &dyn TensorSource,
    tensor_idx: usize,
) -> Result<Option<NonFiniteElement>, crate::AccessError> {
    let Some(entry) = source.catalog().entries().get(tensor_idx) else { return Ok(None) };
    let Some(float) = FloatBits::of(entry.dtype) else { return Ok(None) };
    let found = scan(source, tensor_idx, entry, float)?;
    Ok(found.map(|(element_idx, kind)| NonFiniteElement { tensor_idx, element_idx, kind }))
}

fn scan(
    source: &dyn TensorSource,
    tensor_idx: usize,
    entry: &TensorEntry,
    float: FloatBits,
) -> Result<Option<(u64, NonFiniteKind)>, crate::AccessError> {
    const BUFFER_BYTES: usize = 1 << 20;
    let (n_elements, step) = (entry.n_elements(), (BUFFER_BYTES / float.n_bytes) as u64);
    let (mut first_infinity, mut is_mask) = (None, true);
    let mut buffer = Vec::new();
    for first in (0..n_elements).step_by(BUFFER_BYTES / float.n_bytes) {
        let end = n_elements.min(first + step);
        buffer.resize(to_index(end - first) * float.n_bytes, 0);
        source.read_elements(tensor_idx, first..end, &mut buffer)?;
        for (i, bytes) in (first..).zip(buffer.chunks_exact(float.n_bytes)) {
            let bits = bytes.iter().rev().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
            if bits & float.exponent != float.exponent {
                is_mask &= bits & !float.sign == 0;
            } else if float.has_infinity && bits & !float.sign == float.exponent {
                is_mask &= bits & float.sign != 0;
                first_infinity.get_or_insert((i, NonFiniteKind::Infinity));
            } else {
                return Ok(Some((i, NonFiniteKind::Nan)));
            }
        }
    }
    Ok(first_infinity.filter(|_| !is_mask))
}

/// Where the sign and the exponent of a number are.
#[derive(Debug, Clone, Copy)]
struct FloatBits {
    n_bytes: usize,
    sign: u64,
    /// The bits that are all ones if the number is not finite.
    exponent: u64,
    /// If `false`, all ones mean NaN only.
    has_infinity: bool,
}

impl FloatBits {
    fn of(dtype: Dtype) -> Option<Self> {
        let bits = |n_bytes, sign, exponent| Self { n_bytes, sign, exponent, has_infinity: true };
        Some(match dtype {
            Dtype::F64 => bits(8, 1 << 63, 0x7ff << 52),
            Dtype::F32 => bits(4, 1 << 31, 0xff << 23),
            Dtype::Bf16 => bits(2, 1 << 15, 0xff << 7),
            Dtype::F16 => bits(2, 1 << 15, 0x1f << 10),
            Dtype::F8E5M2 => bits(1, 1 << 7, 0x1f << 2),
            // S.1111.111 is the only NaN of this type.
            Dtype::F8E4M3 => Self { has_infinity: false, ..bits(1, 1 << 7, 0x7f) },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::{AccessError, Piece, Shape, TensorCatalog};

    struct Held(TensorCatalog, Vec<Vec<u8>>);

    impl TensorSource for Held {
        fn catalog(&self) -> &TensorCatalog {
            &self.0
        }

        fn read_elements(&self, tensor_idx: usize, elements: Range<u64>, out: &mut [u8]) -> Result<(), AccessError> {
            let n_bytes = self.0.entries()[tensor_idx].dtype.bytes().unwrap_or(1);
            out.copy_from_slice(&self.1[tensor_idx][to_index(elements.start * n_bytes)..][..out.len()]);
            Ok(())
        }
    }

    /// One tensor, `b`, after a sound one.
    fn find(dtype: Dtype, bytes: Vec<u8>) -> Option<(usize, u64, NonFiniteKind)> {
        let n = bytes.len() as u64 / dtype.bytes().unwrap_or(1);
        let entry = |name: &str, dtype, n| TensorEntry {
            name: name.into(),
            dtype,
            shape: Shape::new([n]),
            pieces: [Piece::whole(0, 0)].into(),
        };
        let catalog = TensorCatalog::new(vec![entry("a", Dtype::F32, 1), entry("b", dtype, n)]).unwrap();
        let found = find_non_finite(&Held(catalog, vec![vec![0; 4], bytes])).unwrap();
        found.map(|found| (found.tensor_idx, found.element_idx, found.kind))
    }

    fn f32s(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn every_float_type_shows_its_nan_and_infinity() {
        use NonFiniteKind::{Infinity, Nan};
        assert_eq!(find(Dtype::F32, f32s(&[1.0, f32::NAN])), Some((1, 1, Nan)));
        assert_eq!(find(Dtype::F32, f32s(&[f32::INFINITY, 1.0, f32::NAN])), Some((1, 2, Nan)));
        assert_eq!(find(Dtype::F32, f32s(&[f32::MAX, 2.0, f32::NEG_INFINITY])), Some((1, 2, Infinity)));
        assert_eq!(find(Dtype::F64, f64::NAN.to_le_bytes().to_vec()), Some((1, 0, Nan)));
        assert_eq!(find(Dtype::Bf16, vec![0x80, 0x7f, 0x80, 0x3f]), Some((1, 0, Infinity)));
        assert_eq!(find(Dtype::F16, vec![0x00, 0x3c, 0x01, 0xfc]), Some((1, 1, Nan)));
        assert_eq!(find(Dtype::F8E5M2, vec![0x3c, 0x7c]), Some((1, 1, Infinity)));
        assert_eq!(find(Dtype::F8E4M3, vec![0x78, 0xff]), Some((1, 1, Nan)));
    }

    #[test]
    fn sound_numbers_masks_and_integers_are_passed_over() {
        assert_eq!(find(Dtype::F32, f32s(&[f32::MAX, f32::MIN_POSITIVE, -0.0])), None);
        assert_eq!(find(Dtype::F32, f32s(&[0.0, f32::NEG_INFINITY, -0.0])), None);
        assert_eq!(find(Dtype::F8E4M3, vec![0x78, 0x7e]), None);
        assert_eq!(find(Dtype::U8, vec![0xff; 3]), None);
        // Masks hold no positive infinity and no other number.
        assert!(find(Dtype::F32, f32s(&[0.0, f32::INFINITY])).is_some());
        assert!(find(Dtype::F32, f32s(&[f32::NEG_INFINITY, 0.5])).is_some());
    }

    #[test]
    fn a_long_tensor_is_read_to_its_end() {
        let mut numbers = vec![1.0; 700_000];
        numbers[699_999] = f32::NAN;
        assert_eq!(find(Dtype::F32, f32s(&numbers)), Some((1, 699_999, NonFiniteKind::Nan)));
    }
}
