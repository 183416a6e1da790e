//! `Piece`: a box of a logical tensor and where its bytes are; and whether boxes cover a tensor exactly once.
//!
//! Pure arithmetic on boxes. No bytes are read here.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::Shape;

/// Most corners that the check of a cover keeps: a piece has 2^n of them, where n is the number of dimensions that are
/// cut.
///
/// 1,024 ranks that cut three dimensions have 8,192.
const MAX_CORNERS: usize = 1 << 18;

/// A box of a logical tensor and the bytes that hold it, row-major within the box unless strides say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Which file of the checkpoint, counted from 0.
    pub file_idx: u32,
    /// Byte offset in that file of the first element of the box.
    pub offset: u64,
    form: PieceForm,
    /// Start and extent of a box, then the strides: one allocation, because a large model has 100,000 pieces.
    numbers: Box<[u64]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PieceForm {
    Whole,
    StridedWhole,
    Box,
    StridedBox,
}

impl Piece {
    /// The one piece of a tensor that is whole in one file, row-major.
    pub fn whole(file_idx: u32, offset: u64) -> Self {
        Self { file_idx, offset, form: PieceForm::Whole, numbers: Box::default() }
    }

    /// A piece that holds the box of `extent` at `start`, row-major. Both have one number for each dimension.
    pub fn boxed(file_idx: u32, offset: u64, start: &[u64], extent: &[u64]) -> Self {
        Self { file_idx, offset, form: PieceForm::Box, numbers: [start, extent].concat().into() }
    }

    /// The same piece with its elements at these strides, counted in elements, one for each dimension.
    ///
    /// Strides of a row-major box are dropped, so that equal pieces compare equal. `None` if the number of strides is
    /// not the number of dimensions.
    pub fn with_strides(self, shape: &Shape, strides: &[u64]) -> Option<Self> {
        let extent = self.extent(shape).to_vec();
        if strides.len() != extent.len() {
            return None;
        }
        let is_row_major = extent.contains(&0)
            || (0..extent.len())
                .all(|dim| extent[dim] == 1 || row_major_stride(&extent, dim) == strides.get(dim).copied());
        let start = self.start().map(<[u64]>::to_vec);
        let (form, numbers) = match (start, is_row_major) {
            (None, true) => (PieceForm::Whole, Vec::new()),
            (None, false) => (PieceForm::StridedWhole, strides.to_vec()),
            (Some(start), true) => (PieceForm::Box, [start, extent].concat()),
            (Some(start), false) => (PieceForm::StridedBox, [&start, &extent, strides].concat()),
        };
        Some(Self { form, numbers: numbers.into(), ..self })
    }

    /// Whether this piece is the whole tensor, row-major.
    pub fn is_whole(&self) -> bool {
        self.form == PieceForm::Whole
    }

    /// First index of the box in each dimension; `None` when the piece is the whole tensor.
    pub fn start(&self) -> Option<&[u64]> {
        match self.form {
            PieceForm::Whole | PieceForm::StridedWhole => None,
            PieceForm::Box => self.numbers.get(..self.numbers.len() / 2),
            PieceForm::StridedBox => self.numbers.get(..self.numbers.len() / 3),
        }
    }

    /// Extent of the box in each dimension, of a piece of a tensor of this shape.
    pub fn extent<'a>(&'a self, shape: &'a Shape) -> &'a [u64] {
        let own = match self.form {
            PieceForm::Whole | PieceForm::StridedWhole => None,
            PieceForm::Box => self.numbers.get(self.numbers.len() / 2..),
            PieceForm::StridedBox => self.numbers.get(self.numbers.len() / 3..self.numbers.len() / 3 * 2),
        };
        own.unwrap_or(&shape.0)
    }

    /// Distance between neighbours in each dimension, in elements; `None` when the box is row-major.
    pub fn strides(&self) -> Option<&[u64]> {
        match self.form {
            PieceForm::Whole | PieceForm::Box => None,
            PieceForm::StridedWhole => Some(&self.numbers),
            PieceForm::StridedBox => self.numbers.get(self.numbers.len() / 3 * 2..),
        }
    }

    /// Number of elements that the box spans in its file, from its first to its last; `None` if that overflows.
    pub fn n_spanned(&self, shape: &Shape) -> Option<u64> {
        let extent = self.extent(shape);
        if extent.contains(&0) {
            return Some(0);
        }
        let Some(strides) = self.strides() else { return product(extent) };
        let last = extent
            .iter()
            .zip(strides)
            .try_fold(0_u64, |last, (&extent, &stride)| last.checked_add((extent - 1).checked_mul(stride)?));
        last?.checked_add(1)
    }
}

fn product(extent: &[u64]) -> Option<u64> {
    extent.iter().try_fold(1_u64, |product, &n| product.checked_mul(n))
}

/// Stride of a dimension of a row-major box; `None` if it overflows.
fn row_major_stride(extent: &[u64], dim: usize) -> Option<u64> {
    product(&extent[dim + 1..])
}

/// Why pieces do not make up a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoverFault {
    /// A box with another number of dimensions than the tensor.
    Rank {
        /// Of the box.
        found: usize,
        /// Of the tensor.
        expected: usize,
    },
    /// A box that reaches beyond the tensor.
    Outside {
        /// First index of the box.
        start: Box<[u64]>,
        /// Its extent.
        extent: Box<[u64]>,
    },
    /// An element in no piece.
    Gap {
        /// Its index.
        at: Box<[u64]>,
    },
    /// An element in several pieces.
    Overlap {
        /// Its index.
        at: Box<[u64]>,
    },
    /// More cuts than can be checked.
    TooManyCuts {
        /// Into how many pieces.
        n_pieces: usize,
        /// Along how many dimensions.
        n_dims: usize,
    },
    /// Several pieces of elements that do not fill whole bytes.
    Packed,
    /// The size overflows 64 bits.
    TooLarge,
}

impl fmt::Display for CoverFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank { found, expected } => {
                write!(f, "a chunk has {found} dimensions and the tensor has {expected}")
            }
            Self::Outside { start, extent } => {
                write!(f, "the chunk of extent {} at {} reaches beyond it", dims(extent), dims(start))
            }
            Self::Gap { at } => write!(f, "no chunk holds the element at {}", dims(at)),
            Self::Overlap { at } => write!(f, "more than one chunk holds the element at {}", dims(at)),
            Self::TooManyCuts { n_pieces, n_dims } => {
                write!(f, "it is cut into {n_pieces} chunks along {n_dims} dimensions, more than can be checked")
            }
            Self::Packed => f.write_str("its elements do not fill whole bytes, so it cannot be cut"),
            Self::TooLarge => f.write_str("its size cannot be counted"),
        }
    }
}

fn dims(numbers: &[u64]) -> String {
    Shape::new(numbers).to_string()
}

/// Drops empty pieces and sorts the others by their first index; they must cover `shape` exactly once.
///
/// # Errors
/// The first fault found; gaps and overlaps name the first element concerned.
pub(crate) fn arrange_pieces(shape: &Shape, mut pieces: Vec<Piece>) -> Result<Box<[Piece]>, CoverFault> {
    let rank = shape.0.len();
    let n_elements = shape.n_elements().ok_or(CoverFault::TooLarge)?;
    for piece in &pieces {
        let (start, extent) = (piece.start().unwrap_or_default(), piece.extent(shape));
        if extent.len() != rank || piece.strides().is_some_and(|strides| strides.len() != rank) {
            return Err(CoverFault::Rank { found: extent.len(), expected: rank });
        }
        // An empty shard may begin at the end of a dimension, but not after it.
        let fits = |(dim, &size): (usize, &u64)| {
            start.get(dim).copied().unwrap_or(0).checked_add(extent[dim]).is_some_and(|end| end <= size)
        };
        if !shape.0.iter().enumerate().all(fits) {
            return Err(CoverFault::Outside { start: start.into(), extent: extent.into() });
        }
    }
    pieces.retain(|piece| !piece.extent(shape).contains(&0));
    if n_elements == 0 {
        return Ok(Box::default());
    }
    pieces.sort_by(|a, b| a.start().cmp(&b.start()));
    check_cover(shape, &pieces)?;
    Ok(pieces.into())
}

/// As [`check_cover`] for pieces that are cut along one dimension only, in the order of their starts, as those of most
/// checkpoints are.
fn check_row(shape: &Shape, pieces: &[Piece], dim: usize) -> Result<(), CoverFault> {
    let fault_at = |index: u64| -> Box<[u64]> {
        let mut at = vec![0; shape.0.len()];
        at[dim] = index;
        at.into()
    };
    let mut end = 0;
    for piece in pieces {
        let start = piece.start().map_or(0, |start| start[dim]);
        match start.cmp(&end) {
            Ordering::Less => return Err(CoverFault::Overlap { at: fault_at(start) }),
            Ordering::Equal => end += piece.extent(shape)[dim],
            Ordering::Greater => break,
        }
    }
    if end == shape.0[dim] { Ok(()) } else { Err(CoverFault::Gap { at: fault_at(end) }) }
}

/// The number of boxes over each element is a sum of step functions, one for each corner of each box. That sum equals
/// the tensor's own exactly if the signed corners do, so no two boxes have to be compared.
fn check_cover(shape: &Shape, pieces: &[Piece]) -> Result<(), CoverFault> {
    let is_cut = |dim: &usize| {
        let is_full = |piece: &Piece| piece.extent(shape)[*dim] == shape.0[*dim];
        !pieces.iter().all(is_full)
    };
    let cut_dims: Vec<usize> = (0..shape.0.len()).filter(is_cut).collect();
    if let [dim] = cut_dims[..] {
        return check_row(shape, pieces, dim);
    }
    let (n_pieces, n_dims) = (pieces.len(), cut_dims.len());
    let n_corners =
        1_usize.checked_shl(u32::try_from(n_dims).unwrap_or(u32::MAX)).and_then(|n| n.checked_mul(n_pieces));
    if n_corners.is_none_or(|n_corners| n_corners > MAX_CORNERS) {
        return Err(CoverFault::TooManyCuts { n_pieces, n_dims });
    }
    let mut corners: BTreeMap<Vec<u64>, i64> = BTreeMap::new();
    let mut add_box = |start: &dyn Fn(usize) -> u64, extent: &[u64], sign: i64| {
        for upper in 0..1_u32 << cut_dims.len() {
            let at = |(bit, &dim): (usize, &usize)| start(dim) + if upper >> bit & 1 == 1 { extent[dim] } else { 0 };
            let corner = cut_dims.iter().enumerate().map(at).collect();
            let signed = if upper.count_ones().is_multiple_of(2) { sign } else { -sign };
            *corners.entry(corner).or_default() += signed;
        }
    };
    for piece in pieces {
        add_box(&|dim| piece.start().map_or(0, |start| start[dim]), piece.extent(shape), 1);
    }
    add_box(&|_| 0, &shape.0, -1);
    // No step before the first corner that is left counts, so its number is the fault itself.
    let Some((corner, &excess)) = corners.iter().find(|(_, excess)| **excess != 0) else { return Ok(()) };
    let mut at = vec![0; shape.0.len()];
    cut_dims.iter().zip(corner).for_each(|(&dim, &index)| at[dim] = index);
    let at = at.into();
    Err(if excess < 0 { CoverFault::Gap { at } } else { CoverFault::Overlap { at } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: &[u64], extent: &[u64]) -> Piece {
        Piece::boxed(0, 0, start, extent)
    }

    fn check_fault(shape: &[u64], pieces: &[(&[u64], &[u64])], expected: &str) {
        let pieces = pieces.iter().map(|(start, extent)| piece(start, extent)).collect();
        assert_eq!(arrange_pieces(&Shape::new(shape), pieces).unwrap_err().to_string(), expected);
    }

    #[test]
    fn faults_of_the_cover_are_named_by_their_first_element() {
        check_fault(&[4, 2], &[(&[0, 0], &[2, 2])], "no chunk holds the element at [2, 0]");
        check_fault(&[4, 2], &[(&[2, 0], &[2, 2])], "no chunk holds the element at [0, 0]");
        check_fault(&[4, 4], &[(&[0, 0], &[3, 3])], "no chunk holds the element at [0, 3]");
        check_fault(&[4], &[(&[0], &[3]), (&[2], &[2])], "more than one chunk holds the element at [2]");
        check_fault(&[2], &[(&[0], &[2]), (&[0], &[2])], "more than one chunk holds the element at [0]");
        check_fault(&[], &[(&[], &[]), (&[], &[])], "more than one chunk holds the element at []");
        check_fault(&[], &[], "no chunk holds the element at []");
        check_fault(&[4], &[(&[2], &[3])], "the chunk of extent [3] at [2] reaches beyond it");
        check_fault(
            &[4],
            &[(&[u64::MAX], &[2])],
            "the chunk of extent [2] at [18446744073709551615] reaches beyond it",
        );
        check_fault(&[4], &[(&[0, 0], &[4, 1])], "a chunk has 2 dimensions and the tensor has 1");
        check_fault(&[u64::MAX, 2], &[], "its size cannot be counted");
        let many = "it is cut into 1 chunks along 19 dimensions, more than can be checked";
        check_fault(&[2; 19], &[(&[0; 19], &[1; 19])], many);
    }

    #[test]
    fn pieces_cut_along_one_dimension_have_the_faults_of_any_others() {
        // Every set of up to three rows of a tensor of four, also in orders that are not sorted.
        let rows: Vec<(u64, u64)> = (0..4).flat_map(|start| (1..=4 - start).map(move |n| (start, n))).collect();
        let rows = &rows;
        let sets = rows.iter().flat_map(|a| rows.iter().flat_map(move |b| rows.iter().map(move |c| [*a, *b, *c])));
        for set in sets.flat_map(|set| (1..=3).map(move |n| set[..n].to_vec())) {
            let counts: Vec<usize> =
                (0..4).map(|i| set.iter().filter(|(start, n)| (*start..start + n).contains(&i)).count()).collect();
            let pieces = set.iter().map(|(start, n)| piece(&[0, *start], &[2, *n])).collect();
            let expected = counts.iter().position(|n| *n != 1).map(|i| {
                let words = if counts[i] == 0 { "no chunk holds" } else { "more than one chunk holds" };
                format!("{words} the element at [0, {i}]")
            });
            let found = arrange_pieces(&Shape::new([2, 4]), pieces).err().map(|fault| fault.to_string());
            assert_eq!(found, expected, "{set:?}");
        }
    }

    #[test]
    fn a_gap_and_an_overlap_of_one_size_do_not_cancel() {
        let boxes: [(&[u64], &[u64]); 3] = [(&[0, 0], &[2, 1]), (&[0, 0], &[1, 1]), (&[0, 1], &[1, 1])];
        check_fault(&[2, 2], &boxes, "more than one chunk holds the element at [0, 0]");
    }

    #[test]
    fn pinwheels_cover_and_empty_shards_are_dropped() {
        let boxes: [(&[u64], &[u64]); 6] = [
            (&[2, 1], &[1, 2]),
            (&[0, 0], &[1, 2]),
            (&[1, 0], &[2, 1]),
            (&[3, 0], &[0, 3]),
            (&[0, 2], &[2, 1]),
            (&[1, 1], &[1, 1]),
        ];
        let pieces = boxes.iter().map(|(start, extent)| piece(start, extent)).collect();
        let arranged = arrange_pieces(&Shape::new([3, 3]), pieces).unwrap();
        assert_eq!(arranged.len(), 5);
        assert!(arranged.is_sorted_by_key(|piece| piece.start().map(<[u64]>::to_vec)));
    }

    #[test]
    fn empty_tensors_need_no_piece() {
        assert_eq!(arrange_pieces(&Shape::new([0, 3]), Vec::new()).unwrap().len(), 0);
        assert_eq!(arrange_pieces(&Shape::new([0, 3]), vec![piece(&[0, 0], &[0, 3])]).unwrap().len(), 0);
    }

    #[test]
    fn row_major_strides_are_left_out() {
        let shape = Shape::new([2, 1, 3]);
        assert!(Piece::whole(0, 0).with_strides(&shape, &[3, 99, 1]).unwrap().is_whole());
        let strided = Piece::whole(0, 0).with_strides(&shape, &[1, 2, 2]).unwrap();
        assert_eq!((strided.strides(), strided.n_spanned(&shape)), (Some(&[1, 2, 2][..]), Some(6)));
        let boxed = Piece::boxed(0, 0, &[0, 0, 1], &[2, 1, 2]);
        assert_eq!(boxed.clone().with_strides(&shape, &[2, 2, 1]).unwrap(), boxed);
        let strided = boxed.with_strides(&shape, &[3, 3, 1]).unwrap();
        assert_eq!(strided.start(), Some(&[0, 0, 1][..]));
        assert_eq!((strided.extent(&shape), strided.n_spanned(&shape)), (&[2, 1, 2][..], Some(5)));
        let huge = Piece::whole(0, 0).with_strides(&shape, &[u64::MAX, 1, 1]).unwrap();
        assert_eq!(Piece::whole(0, 0).with_strides(&shape, &[1, 1]), None);
        assert_eq!(huge.n_spanned(&shape), None);
    }
}
