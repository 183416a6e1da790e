//! The order of the rows of queries and keys: in torchtitan the two rows that are rotated together are neighbours, in
//! Hugging Face they are half a head apart.
//!
//! Row `h d + s d/2 + j` here is row `h d + 2 j + s` there (head h of d rows, s 0 or 1, j below d/2). So half a head is
//! every second row of a piece: a piece with twice the stride.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use thalweg_storage::ReadAt;
use thalweg_tensor::{CoverFault, Piece, Shape, TensorEntry, to_index};

use crate::lazy_pieces::{OpenPiece, PieceRefusal};

/// Most pieces that a tensor is cut into. Models have some hundred heads.
const MAX_HALVES: usize = 1 << 17;

/// The same tensor with its rows in the order of Hugging Face. It has two dimensions, and heads of `head_dim` rows.
///
/// With `is_lazy`, pieces are only named by their places: [`RotaryPieces`] says where their elements are.
pub(super) fn pieces_by_halves(entry: &TensorEntry, head_dim: u64, is_lazy: bool) -> Result<TensorEntry, CoverFault> {
    let width = entry.dtype.bytes().ok_or(CoverFault::Packed)?;
    let mut halves = Vec::new();
    // Rows without elements may be any number.
    let pieces = if entry.n_elements() == 0 { &[][..] } else { &entry.pieces };
    for piece in pieces {
        let n_heads = piece.extent(&entry.shape).first().map_or(0, |n_rows| n_rows / head_dim);
        let n_pieces = halves.len().saturating_add(to_index(n_heads).saturating_mul(2));
        if n_pieces > MAX_HALVES {
            return Err(CoverFault::TooManyCuts { n_pieces, n_dims: 1 });
        }
        for half in halves_of(piece, &entry.shape, head_dim) {
            let placed = if is_lazy { Some(half) } else { placed(&half, piece, &entry.shape, head_dim, width) };
            halves.push(placed.ok_or(CoverFault::TooLarge)?);
        }
    }
    TensorEntry::of_pieces(entry.name.clone(), entry.dtype, entry.shape.clone(), halves)
}

/// First row of a piece and its end, first column and number of columns.
fn box_of(piece: &Piece, shape: &Shape) -> Option<(Range<u64>, u64, u64)> {
    let &[n_rows, n_columns] = piece.extent(shape) else { return None };
    let (first_row, first_column) = match piece.start() {
        Some(&[row, column]) => (row, column),
        Some(_) => return None,
        None => (0, 0),
    };
    Some((first_row..first_row.checked_add(n_rows)?, first_column, n_columns))
}

/// The halves of heads that a piece holds, as boxes at its offset.
fn halves_of(piece: &Piece, shape: &Shape, head_dim: u64) -> Vec<Piece> {
    let Some((rows, first_column, n_columns)) = box_of(piece, shape) else { return Vec::new() };
    let mut halves = Vec::new();
    let mut head = rows.start / head_dim * head_dim;
    while head < rows.end {
        let (first, end) = (rows.start.max(head) - head, rows.end.min(head + head_dim) - head);
        for side in 0..2 {
            // The rows 2 j + side of this head that the piece has.
            let (from, to) = ((first + 1 - side) / 2, (end + 1 - side) / 2);
            if from < to {
                let start = [head + side * (head_dim / 2) + from, first_column];
                halves.push(Piece::boxed(piece.file_idx, piece.offset, &start, &[to - from, n_columns]));
            }
        }
        head += head_dim;
    }
    halves
}

/// The row of torchtitan that is row `row` of Hugging Face.
fn row_there(row: u64, head_dim: u64) -> u64 {
    let (head, within) = (row / head_dim * head_dim, row % head_dim);
    let (side, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head + 2 * pair + side
}

/// A half where its elements are, in the piece of torchtitan that holds it; `None` if that overflows.
fn placed(half: &Piece, piece: &Piece, shape: &Shape, head_dim: u64, width: u64) -> Option<Piece> {
    let (rows, _, n_columns) = box_of(piece, shape)?;
    let (row_stride, column_stride) = match piece.strides() {
        Some(&[row, column]) => (row, column),
        Some(_) => return None,
        None => (n_columns, 1),
    };
    let (start, extent) = (half.start()?, half.extent(shape));
    let skipped = row_there(*start.first()?, head_dim).checked_sub(rows.start)?;
    let offset = skipped.checked_mul(row_stride)?.checked_mul(width)?.checked_add(piece.offset)?;
    let strides = [row_stride.checked_mul(2)?, column_stride];
    Piece::boxed(piece.file_idx, offset, start, extent).with_strides(shape, &strides)
}

/// Opens the pieces that files describe, and finds the halves in them.
#[derive(Debug)]
pub(super) struct RotaryPieces {
    opener: Arc<dyn OpenPiece>,
    /// By the tensor's new name, the pieces of torchtitan and what their files say.
    whole: BTreeMap<Box<str>, Box<[Whole]>>,
    head_dim: u64,
}

/// A piece of torchtitan.
#[derive(Debug)]
struct Whole {
    piece: Piece,
    opened: OnceLock<Piece>,
}

impl RotaryPieces {
    pub(super) fn wrap(
        opener: Arc<dyn OpenPiece>,
        whole: BTreeMap<Box<str>, Box<[Piece]>>,
        head_dim: u64,
    ) -> Arc<dyn OpenPiece> {
        let closed = |piece: Piece| Whole { piece, opened: OnceLock::new() };
        let whole = whole.into_iter().map(|(name, pieces)| (name, pieces.into_iter().map(closed).collect()));
        Arc::new(Self { opener, whole: whole.collect(), head_dim })
    }
}

impl OpenPiece for RotaryPieces {
    fn open_piece(&self, entry: &TensorEntry, piece: &Piece, file: &dyn ReadAt) -> Result<Piece, PieceRefusal> {
        let Some(whole) = self.whole.get(&entry.name) else { return self.opener.open_piece(entry, piece, file) };
        let missing = || PieceRefusal::Format("does not have this piece".to_owned());
        let start = piece.start().ok_or_else(missing)?;
        let (row, column) = start.first().zip(start.get(1)).ok_or_else(missing)?;
        let row = row_there(*row, self.head_dim);
        let holds = |one: &&Whole| {
            let (rows, first_column, _) = box_of(&one.piece, &entry.shape).unwrap_or_default();
            let place = (one.piece.file_idx, one.piece.offset);
            place == (piece.file_idx, piece.offset) && rows.contains(&row) && first_column == *column
        };
        let one = whole.iter().find(holds).ok_or_else(missing)?;
        let opened = match one.opened.get() {
            Some(opened) => opened,
            None => {
                // Two threads may open the same piece at once; both see the same.
                let opened = self.opener.open_piece(entry, &one.piece, file)?;
                one.opened.get_or_init(|| opened)
            }
        };
        let width = entry.dtype.bytes().ok_or_else(missing)?;
        placed(piece, opened, &entry.shape, self.head_dim, width).ok_or_else(missing)
    }

    fn archives_in(&self, file_idx: u32) -> Vec<Range<u64>> {
        self.opener.archives_in(file_idx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use thalweg_tensor::Dtype;

    use super::*;
    use crate::gather::{read_share, shares_of};

    const N_COLUMNS: u64 = 3;

    /// How the pieces of a test lie in their file.
    #[derive(Clone, Copy, PartialEq)]
    enum Lie {
        RowMajor,
        /// Column by column, with a gap after each column.
        ByColumns,
    }

    /// Pieces cut before these rows, and cut in two by columns if `is_split`; each element is its row and column there.
    fn lay_out(n_rows: u64, cuts: &[u64], lie: Lie, is_split: bool) -> (TensorEntry, Vec<u8>) {
        let shape = Shape::new([n_rows, N_COLUMNS]);
        let ends = cuts.iter().copied().chain([n_rows]);
        let rows: Vec<_> = [0].into_iter().chain(cuts.iter().copied()).zip(ends).collect();
        let columns: &[(u64, u64)] = if is_split { &[(0, 1), (1, 3)] } else { &[(0, 3)] };
        let (mut pieces, mut file) = (Vec::new(), vec![0xEE; 10]);
        for (&(first_row, end_row), &(first, end)) in rows.iter().flat_map(|r| columns.iter().map(move |c| (r, c))) {
            let extent = [end_row - first_row, end - first];
            let strides = if lie == Lie::RowMajor { [extent[1], 1] } else { [1, extent[0] + 2] };
            let offset = file.len() as u64;
            file.resize(file.len() + to_index((extent[0] + 2) * extent[1] * 2), 0xEE);
            for (row, column) in (0..extent[0]).flat_map(|row| (0..extent[1]).map(move |column| (row, column))) {
                let at = to_index(offset + (row * strides[0] + column * strides[1]) * 2);
                let value = u16::try_from((first_row + row) * 16 + first + column).unwrap();
                file[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
            let piece = Piece::boxed(0, offset, &[first_row, first], &extent);
            pieces.push(piece.with_strides(&shape, &strides).unwrap());
        }
        (TensorEntry::of_pieces("q".into(), Dtype::Bf16, shape, pieces).unwrap(), file)
    }

    fn read(entry: &TensorEntry, file: &[u8], elements: Range<u64>) -> Vec<u16> {
        let mut out = vec![0; to_index(elements.end - elements.start) * 2];
        for share in shares_of(entry, &elements) {
            let read = &mut |offset: u64, out: &mut [u8]| {
                out.copy_from_slice(&file[to_index(offset)..to_index(offset) + out.len()]);
                Ok::<(), Infallible>(())
            };
            let piece = &entry.pieces[share.piece_idx];
            let Ok(()) = read_share(entry, piece, share.positions, elements.start, &mut out, read);
        }
        out.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect()
    }

    /// The rows by the definition: each head of `[head_dim / 2, 2]` rows is transposed.
    fn expected(n_rows: u64, head_dim: u64) -> Vec<u16> {
        let mut rows = Vec::new();
        for head in 0..n_rows / head_dim {
            for side in 0..2 {
                rows.extend((0..head_dim / 2).map(|pair| head * head_dim + pair * 2 + side));
            }
        }
        let value = |row: u64| (0..N_COLUMNS).map(move |column| u16::try_from(row * 16 + column).unwrap());
        rows.into_iter().flat_map(value).collect()
    }

    #[test]
    fn each_row_is_where_the_definition_puts_it_whatever_the_pieces() {
        for (n_heads, head_dim) in [(1, 2), (4, 6), (8, 4), (2, 16), (3, 10)] {
            let n_rows = n_heads * head_dim;
            let every_row: Vec<u64> = (1..n_rows).collect();
            for cuts in [&[][..], &[1], &[n_rows / 2], &[3.min(n_rows - 1)], &every_row] {
                for (lie, is_split) in
                    [(Lie::RowMajor, false), (Lie::ByColumns, false), (Lie::RowMajor, true), (Lie::ByColumns, true)]
                {
                    let (entry, file) = lay_out(n_rows, cuts, lie, is_split);
                    let halves = pieces_by_halves(&entry, head_dim, false).unwrap();
                    let wanted = expected(n_rows, head_dim);
                    let n = halves.n_elements();
                    assert_eq!(read(&halves, &file, 0..n), wanted, "{n_heads} heads of {head_dim}, cut at {cuts:?}");
                    for part in [1..n - 1, n / 3..n / 2 + 1, n - 1..n] {
                        let range = to_index(part.start)..to_index(part.end);
                        assert_eq!(read(&halves, &file, part), wanted[range]);
                    }
                }
            }
        }
    }

    #[test]
    fn even_rows_of_a_head_come_first() {
        let order = |head_dim: u64| (0..head_dim).map(|row| row_there(row, head_dim)).collect::<Vec<_>>();
        assert_eq!(order(4), [0, 2, 1, 3]);
        assert_eq!(order(8), [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(order(2), [0, 1]);
    }
}
