//! Numbers as the bytes of an element type, by their definition and without rounding.
//!
//! It shares no code with the conversions that it tests.

use thalweg_tensor::Dtype;

/// A finite number as `(-1)^is_negative * fraction * 2^exponent`.
struct Parts {
    is_negative: bool,
    fraction: u64,
    exponent: i32,
}

fn parts_of(value: f64) -> Parts {
    let bits = value.to_bits();
    let (field, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
    let is_negative = bits >> 63 == 1;
    if field == 0 {
        return Parts { is_negative, fraction, exponent: -1074 };
    }
    Parts { is_negative, fraction: fraction | 1 << 52, exponent: i32::try_from(field).unwrap() - 1075 }
}

/// `fraction * 2^shift`, if that is a whole number of few enough digits.
fn shifted(fraction: u64, shift: i32) -> Option<u64> {
    let distance = shift.unsigned_abs();
    if fraction == 0 {
        return Some(0);
    }
    if shift >= 0 {
        return (distance < fraction.leading_zeros()).then(|| fraction << distance);
    }
    (distance <= fraction.trailing_zeros()).then(|| fraction >> distance)
}

/// The IEEE 754 code of a value, if the format has it; any not-a-number becomes the quiet one.
fn float_code(value: f64, exponent_bits: u32, fraction_bits: u32) -> Option<u64> {
    let sign = u64::from(value.is_sign_negative()) << (exponent_bits + fraction_bits);
    let top_field = (1_u64 << exponent_bits) - 1;
    if value.is_nan() {
        return Some(sign | top_field << fraction_bits | 1 << (fraction_bits - 1));
    }
    if value.is_infinite() {
        return Some(sign | top_field << fraction_bits);
    }
    let parts = parts_of(value);
    if parts.fraction == 0 {
        return Some(sign);
    }
    let (bias, digits) = ((1_i32 << (exponent_bits - 1)) - 1, i32::try_from(fraction_bits).unwrap());
    let size = parts.exponent + 63 - i32::try_from(parts.fraction.leading_zeros()).unwrap();
    if size > bias {
        return None;
    }
    // The value of the last digit; small numbers have a fixed one.
    let unit = (size - digits).max(1 - bias - digits);
    let code = shifted(parts.fraction, parts.exponent - unit)?;
    if code < 1 << fraction_bits {
        return Some(sign | code);
    }
    let field = u64::try_from(size + bias).unwrap();
    Some(sign | field << fraction_bits | (code & ((1 << fraction_bits) - 1)))
}

/// The two's complement code of a whole number, if it is in range.
fn integer_code(value: f64, n_bits: u32, is_signed: bool) -> Option<u64> {
    if !value.is_finite() {
        return None;
    }
    let parts = parts_of(value);
    let size = i128::from(shifted(parts.fraction, parts.exponent)?);
    let number = if parts.is_negative { -size } else { size };
    let n_numbers = 1_i128 << n_bits;
    let (least, most) = if is_signed { (-n_numbers / 2, n_numbers / 2 - 1) } else { (0, n_numbers - 1) };
    (least..=most).contains(&number).then(|| u64::try_from(number.rem_euclid(n_numbers)).unwrap())
}

/// Little-endian bytes of one element.
///
/// # Panics
/// If the type does not have the value exactly, or is not one of booleans, integers, F16, BF16, F32, F64.
pub fn exact_bytes(dtype: Dtype, value: f64) -> Vec<u8> {
    let n_bits = dtype.bits();
    let code = match dtype {
        Dtype::F64 => float_code(value, 11, 52),
        Dtype::F32 => float_code(value, 8, 23),
        Dtype::F16 => float_code(value, 5, 10),
        Dtype::Bf16 => float_code(value, 8, 7),
        Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => integer_code(value, n_bits, true),
        Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => integer_code(value, n_bits, false),
        Dtype::Bool => integer_code(value, 1, false),
        _ => panic!("{} has no plain numbers: give its bytes", dtype.name()),
    };
    let code = code.unwrap_or_else(|| panic!("{} does not have {value} exactly", dtype.name()));
    code.to_le_bytes()[..usize::try_from(n_bits / 8).unwrap()].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_floats_are_those_of_the_machine() {
        let values = [0.0, -0.0, 1.0, -1.5, f64::MAX, f64::MIN_POSITIVE, 5e-324, -3e-310, f64::INFINITY, 0.1];
        for value in values {
            assert_eq!(exact_bytes(Dtype::F64, value), value.to_le_bytes(), "{value}");
        }
        for value in [0.0, -0.0, 1.0, -1.5, f32::MAX, f32::MIN_POSITIVE, 1e-45, -3e-40, f32::NEG_INFINITY, 0.1] {
            assert_eq!(exact_bytes(Dtype::F32, f64::from(value)), value.to_le_bytes(), "{value}");
        }
    }

    #[test]
    fn narrow_floats_have_the_codes_of_the_standard() {
        let code = |dtype, value| u16::from_le_bytes(exact_bytes(dtype, value).try_into().unwrap());
        let tiny = 2_f64.powi(-24);
        let f16 = [(1.0, 0x3c00), (-2.0, 0xc000), (65504.0, 0x7bff), (tiny, 1), (1023.0 * tiny, 0x3ff), (0.5, 0x3800)];
        f16.iter().for_each(|(value, expected)| assert_eq!(code(Dtype::F16, *value), *expected, "{value}"));
        assert_eq!(code(Dtype::F16, 2_f64.powi(-14)), 0x400);
        assert_eq!(code(Dtype::F16, f64::INFINITY), 0x7c00);
        let bf16 = [(1.0, 0x3f80), (-2.0, 0xc000), (1.0078125, 0x3f81), (f64::NEG_INFINITY, 0xff80)];
        bf16.iter().for_each(|(value, expected)| assert_eq!(code(Dtype::Bf16, *value), *expected, "{value}"));
        assert_eq!(code(Dtype::Bf16, f64::NAN) & 0x7fff, 0x7fc0);
    }

    #[test]
    fn what_a_type_does_not_have_is_refused() {
        assert_eq!(float_code(65536.0, 5, 10), None);
        assert_eq!(float_code(1.0 + 2_f64.powi(-8), 8, 7), None);
        assert_eq!(float_code(2_f64.powi(-25), 5, 10), None);
        assert_eq!(float_code(0.1, 8, 23), None);
        assert_eq!(integer_code(0.5, 8, true), None);
        assert_eq!((integer_code(-128.0, 8, true), integer_code(-129.0, 8, true)), (Some(128), None));
        assert_eq!((integer_code(255.0, 8, false), integer_code(256.0, 8, false)), (Some(255), None));
        assert_eq!(integer_code(-1.0, 64, true), Some(u64::MAX));
        assert_eq!(exact_bytes(Dtype::I16, -2.0), [0xfe, 0xff]);
        assert_eq!(exact_bytes(Dtype::Bool, 1.0), [1]);
    }
}
