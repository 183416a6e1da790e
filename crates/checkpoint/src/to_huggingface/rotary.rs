//! The order of the rows of queries and keys: in torchtitan the two rows that are rotated together are neighbours, in
//! Hugging Face they are half a head apart.
//!
//! Row `h d + s d/2 + j` here is row `h d + 2 j + s` there (head h of d rows, s 0 or 1, j below d/2). So half a head is every
//! second row of a piece: a piece with twice the stride.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use thalweg_storage::ReadAt;
use thalweg_tensor::{CoverFault, Piece, Shape, TensorEntry};

use crate::lazy_pieces::{OpenPiece, PieceRefusal};

/// The same tensor with its rows in the order of Hugging Face. It has two dimensions, and heads of `head_dim` rows.
///
/// With `is_lazy`, pieces are only named by their places: [`RotaryPieces`] says where their elements are.
pub(super) fn pieces_by_halves(
    entry: &TensorEntry,
    head_dim: u64,
    is_lazy: bool,
) -> Result<TensorEntry, CoverFault> {
    let width = entry.dtype.bytes().ok_or(CoverFault::Packed)?;
    let mut halves = Vec::new();
    for piece in &entry.pieces {
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
        let missing = || PieceRefusal::Format("has no such piece".to_owned());
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
