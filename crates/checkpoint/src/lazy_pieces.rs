//! Pieces whose files say more about them than the directory does: looked into when they are first needed, once.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use thalweg_storage::ReadAt;
use thalweg_tensor::{Piece, TensorEntry};

/// Looks into the file of a piece.
pub trait OpenPiece: Debug + Send + Sync {
    /// The piece as its file says that it lies: another offset, and strides.
    ///
    /// # Errors
    /// When the file contradicts the directory, or cannot be read.
    fn open_piece(&self, entry: &TensorEntry, piece: &Piece, file: &dyn ReadAt) -> Result<Piece, PieceRefusal>;
}

/// Why a piece is not read.
#[derive(Debug)]
pub enum PieceRefusal {
    /// What the file gets wrong, in words; the tensor is named by the caller.
    Format(String),
    /// The storage refused.
    Storage(thalweg_storage::Error),
}

/// How far to look into a checkpoint before it is relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Into one piece of each tensor: what is quantised or of another type shows there.
    EachTensor,
    /// Into every piece.
    EachPiece,
}

/// What was found for each piece of each tensor, so far.
type Opened = Box<[Box<[OnceLock<Piece>]>]>;

/// The pieces of a checkpoint that need a look, and what was seen.
#[derive(Debug)]
pub(crate) struct LazyPieces {
    opener: Arc<dyn OpenPiece>,
    /// Made when the first piece is needed: a plan over many checkpoints needs none.
    opened: OnceLock<Opened>,
}

impl LazyPieces {
    pub(crate) fn new(opener: Arc<dyn OpenPiece>) -> Self {
        Self { opener, opened: OnceLock::new() }
    }

    fn slot(&self, entries: &[TensorEntry], tensor_idx: usize, piece_idx: usize) -> Option<&OnceLock<Piece>> {
        let slots = |entry: &TensorEntry| entry.pieces.iter().map(|_| OnceLock::new()).collect();
        self.opened.get_or_init(|| entries.iter().map(slots).collect()).get(tensor_idx)?.get(piece_idx)
    }

    /// The piece as it lies, if it was looked into before.
    pub(crate) fn known(&self, tensor_idx: usize, piece_idx: usize) -> Option<&Piece> {
        self.opened.get()?.get(tensor_idx)?.get(piece_idx)?.get()
    }

    /// The piece as it lies.
    pub(crate) fn open(
        &self,
        entries: &[TensorEntry],
        (tensor_idx, piece_idx): (usize, usize),
        file: &dyn ReadAt,
    ) -> Result<&Piece, PieceRefusal> {
        let missing = || PieceRefusal::Format("has no such piece".to_owned());
        let slot = self.slot(entries, tensor_idx, piece_idx).ok_or_else(missing)?;
        if let Some(piece) = slot.get() {
            return Ok(piece);
        }
        let entry = entries.get(tensor_idx).ok_or_else(missing)?;
        let piece = entry.pieces.get(piece_idx).ok_or_else(missing)?;
        // Two threads may look at once; they see the same.
        let opened = self.opener.open_piece(entry, piece, file)?;
        Ok(slot.get_or_init(|| opened))
    }
}
