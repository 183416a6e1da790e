//! Block-scaled FP8: a matrix of F8_E4M3 codes with one scale for each of its blocks, as exact doubles.
//!
//! A code has 4 significant bits and a scale at most 24, so the product has at most 28 and is a double without
//! rounding. Which tensors belong together is not known here.

use std::ops::Range;

use crate::{Shape, to_index};

/// Scales that are held at once, at most: few, because readers count their memory with that of the elements.
const MAX_SCALES: u64 = 1024;
/// Bytes of a double.
const WIDTH: usize = 8;

/// The value of each F8_E4M3 code: no infinities, and NaN only where all bits below the sign are set.
const VALUES: [f64; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, fraction) = ((code >> 3) & 15, (code & 7) as f64);
        let mut value = if exponent == 0 { fraction / 512.0 } else { (8.0 + fraction) / 1024.0 };
        let mut doublings = if exponent == 0 { 0 } else { exponent };
        while doublings > 0 {
            value *= 2.0;
            doublings -= 1;
        }
        if code & 127 == 127 {
            value = f64::NAN;
        }
        values[code] = if code >= 128 { -value } else { value };
        code += 1;
    }
    values
};

/// The number that an F8_E4M3 code stands for.
///
/// # Example
/// ```
/// assert_eq!(thalweg_tensor::block_scale::value_of(0x7e), 448.0);
/// ```
pub fn value_of(code: u8) -> f64 {
    VALUES[usize::from(code)]
}

/// Which scale belongs to which code: blocks of a matrix, or of each matrix of a stack, cut off at the right and lower
/// edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGrid {
    rows: u64,
    columns: u64,
    block: [u64; 2],
    scale_rows: u64,
    scale_columns: u64,
}

impl BlockGrid {
    /// The grid of `codes`, whose last two dimensions are cut into blocks of `block` rows and columns.
    ///
    /// `None` unless `scales` has one element for each block: the same leading dimensions, then the numbers of blocks.
    pub fn new(codes: &Shape, scales: &Shape, block: [u64; 2]) -> Option<Self> {
        let ([stack @ .., rows, columns], [scale_stack @ .., scale_rows, scale_columns]) = (&*codes.0, &*scales.0)
        else {
            return None;
        };
        let is_cut = |length: u64, block: u64, n_blocks: u64| block > 0 && length.div_ceil(block) == n_blocks;
        let fits =
            stack == scale_stack && is_cut(*rows, block[0], *scale_rows) && is_cut(*columns, block[1], *scale_columns);
        fits.then_some(Self {
            rows: *rows,
            columns: *columns,
            block,
            scale_rows: *scale_rows,
            scale_columns: *scale_columns,
        })
    }

    /// Fills `out` with the products for a range of elements, as little-endian doubles. At the start the last eighth of
    /// `out` holds their codes.
    ///
    /// `scales_of` is asked for ranges of at most 1024 scales, which it puts into the empty vector.
    ///
    /// # Errors
    /// Those of `scales_of`.
    pub fn multiply<E>(
        &self,
        elements: Range<u64>,
        out: &mut [u8],
        mut scales_of: impl FnMut(Range<u64>, &mut Vec<f64>) -> Result<(), E>,
    ) -> Result<(), E> {
        let codes_at = out.len() - out.len() / WIDTH;
        let (mut held, mut scales) = (0..0, Vec::new());
        let mut at = elements.start;
        while at < elements.end {
            let (row, column) = (at / self.columns, at % self.columns);
            let (wanted, end_column) = self.scales_around(row, column);
            if held != wanted {
                scales.clear();
                scales_of(wanted.clone(), &mut scales)?;
                held = wanted;
            }
            let end = elements.end.min(at + (end_column - column));
            let first_block = column / self.block[1] / MAX_SCALES * MAX_SCALES;
            for element in at..end {
                let block = (column + (element - at)) / self.block[1] - first_block;
                let scale = scales.get(to_index(block)).copied().unwrap_or(f64::NAN);
                let i = to_index(element - elements.start);
                // The product of element i ends before the code of element i + 1.
                let product = value_of(out[codes_at + i]) * scale;
                out[i * WIDTH..(i + 1) * WIDTH].copy_from_slice(&product.to_le_bytes());
            }
            at = end;
        }
        Ok(())
    }

    /// The scales of a row from around a column on, as many as are held at once, and the column where they end.
    fn scales_around(&self, row: u64, column: u64) -> (Range<u64>, u64) {
        let scale_row = row / self.rows * self.scale_rows + row % self.rows / self.block[0];
        let first_block = column / self.block[1] / MAX_SCALES * MAX_SCALES;
        let end_block = self.scale_columns.min(first_block + MAX_SCALES);
        let of_row = scale_row * self.scale_columns;
        (of_row + first_block..of_row + end_block, self.columns.min(end_block.saturating_mul(self.block[1])))
    }
}

/// The edge lengths of blocks by which a dimension of `length` elements has `n_blocks` blocks: least and greatest, or
/// `None` if there is no such length. A single block may have any greater length.
pub fn block_lengths(length: u64, n_blocks: u64) -> Option<(u64, u64)> {
    match n_blocks {
        0 => (length == 0).then_some((1, u64::MAX)),
        1 => (length > 0).then_some((length, u64::MAX)),
        _ => {
            let (least, greatest) = (length.div_ceil(n_blocks), length.div_ceil(n_blocks - 1).checked_sub(1)?);
            (least <= greatest).then_some((least, greatest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code's value from the definition of the format.
    fn by_definition(code: u8) -> f64 {
        let (sign, exponent, fraction) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = match (exponent, code & 7) {
            (15, 7) => f64::NAN,
            (0, _) => fraction / 8.0 * 2f64.powi(-6),
            _ => (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
        };
        if sign == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_code_has_the_value_of_the_definition() {
        for code in 0..=255 {
            let (found, expected) = (value_of(code), by_definition(code));
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{code:#x}");
        }
        assert_eq!((value_of(1), value_of(0x7e), value_of(0x80).to_bits()), (0.001953125, 448.0, (-0.0f64).to_bits()));
    }

    /// The product as a whole number times a power of two, which no rounding can touch.
    fn exact(code: u8, scale: f32) -> Option<(i128, i32)> {
        let significand = |bits: u32| i128::from(bits & 0x7f_ffff | u32::from(bits >> 23 & 255 != 0) << 23);
        let field = (scale.to_bits() >> 23 & 255) as i32;
        let sign = if scale.is_sign_negative() != (code >= 128) { -1 } else { 1 };
        let (exponent, fraction) = (i32::from(code >> 3 & 15), i128::from(code & 7));
        if code & 127 == 127 || field == 255 {
            return None;
        }
        let of_code = if exponent == 0 { fraction } else { fraction + 8 };
        Some((sign * of_code * significand(scale.to_bits()), exponent.max(1) - 10 + field.max(1) - 150))
    }

    #[test]
    fn products_of_all_codes_are_exact() {
        let scales = [
            1.0,
            0.1,
            -0.337,
            f32::MAX,
            f32::from_bits(0x3f7f_ffff),
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            f32::from_bits(0x007f_ffff),
            2f32.powi(-20),
            0.0,
        ];
        let grid = BlockGrid::new(&Shape::new([1, 256]), &Shape::new([1, 1]), [128, 256]).unwrap();
        for scale in scales {
            let mut out = vec![0; 2048];
            out[1792..].copy_from_slice(&(0..=255).collect::<Vec<u8>>());
            let give = |_: Range<u64>, into: &mut Vec<f64>| {
                into.push(f64::from(scale));
                Ok::<_, ()>(())
            };
            grid.multiply(0..256, &mut out, give).unwrap();
            for (code, bytes) in (0..=255).zip(out.chunks_exact(8)) {
                let product = f64::from_le_bytes(bytes.try_into().unwrap());
                match exact(code, scale) {
                    // Doubling is exact here: the least product is 2^-158.
                    Some((whole, exponent)) => {
                        let doubled = product * 2f64.powi(-exponent / 2) * 2f64.powi(-exponent - -exponent / 2);
                        assert_eq!((doubled + 0.0).to_bits(), (whole as f64).to_bits());
                        assert_eq!(product.is_sign_negative(), (code >= 128) != scale.is_sign_negative());
                    }
                    None => assert!(product.is_nan()),
                }
            }
        }
    }

    /// Checks each range of a matrix, or of a stack of matrices, against the scale that its indices name.
    fn check_grid(shape: &[u64], block: [u64; 2], ranges: &[Range<u64>]) {
        let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let [scale_rows, scale_columns] = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let mut scale_shape = shape.to_vec();
        let stack_dims = shape.len() - 2;
        scale_shape[stack_dims..].copy_from_slice(&[scale_rows, scale_columns]);
        let grid = BlockGrid::new(&Shape::new(shape), &Shape::new(&*scale_shape), block).unwrap();
        for range in ranges {
            let n = to_index(range.end - range.start);
            let mut out = vec![0; n * 8];
            out[n * 7..].fill(0x38);
            grid.multiply(range.clone(), &mut out, |wanted, into| {
                assert!(wanted.end - wanted.start <= MAX_SCALES);
                into.extend(wanted.map(|scale| scale as f64));
                Ok::<_, ()>(())
            })
            .unwrap();
            for (element, bytes) in range.clone().zip(out.chunks_exact(8)) {
                let (row, column) = (element / columns, element % columns);
                let (matrix, row) = (row / rows, row % rows);
                let scale = (matrix * scale_rows + row / block[0]) * scale_columns + column / block[1];
                assert_eq!(bytes, (scale as f64).to_le_bytes(), "{element} of {shape:?}");
            }
        }
    }

    #[test]
    fn each_element_meets_the_scale_of_its_block() {
        check_grid(&[4, 6], [2, 3], &[0..24, 0..1, 5..7, 23..24, 11..13, 7..7]);
        check_grid(&[5, 7], [2, 3], &[0..35, 20..35, 13..29]);
        check_grid(&[130, 257], [128, 128], &[0..130 * 257, 128 * 257 - 1..128 * 257 + 1, 127..129]);
        check_grid(&[3, 5, 7], [2, 3], &[0..105, 30..40, 69..71]);
        check_grid(&[1, 1], [128, 128], &[0..1, 0..0]);
        check_grid(&[2, 3], [u64::MAX, u64::MAX], &[0..6, 2..4]);
        check_grid(&[2, 10_000], [1, 1], &[0..20_000, 1_023..1_025, 9_999..10_001]);
    }

    #[test]
    fn scales_that_do_not_fit_the_codes_have_no_grid() {
        let fits =
            |codes: &[u64], scales: &[u64], block| BlockGrid::new(&Shape::new(codes), &Shape::new(scales), block);
        assert!(fits(&[130, 128], &[2, 1], [128, 128]).is_some());
        assert!(fits(&[0, 128], &[0, 1], [128, 128]).is_some());
        for (codes, scales, block) in [
            (&[130, 128][..], &[1, 1][..], [128, 128]),
            (&[130, 128], &[1, 2], [128, 128]),
            (&[130, 128], &[2], [128, 128]),
            (&[130, 128], &[], [128, 128]),
            (&[130], &[2], [128, 128]),
            (&[2, 130, 128], &[1, 2, 1], [128, 128]),
            (&[130, 128], &[2, 1], [0, 128]),
        ] {
            assert_eq!(fits(codes, scales, block), None, "{codes:?} {scales:?}");
        }
    }

    #[test]
    fn possible_block_lengths_are_those_that_give_the_number_of_blocks() {
        for length in 0..40_u64 {
            for n_blocks in 0..12 {
                let fitting: Vec<u64> = (1..100).filter(|block| length.div_ceil(*block) == n_blocks).collect();
                let found = block_lengths(length, n_blocks).map(|(least, greatest)| (least, greatest.min(99)));
                assert_eq!(found, fitting.first().copied().zip(fitting.last().copied()), "{length} / {n_blocks}");
            }
        }
    }
}
