//! Pieces whose files describe them more fully than the directory does. Each is opened once, when it is first needed.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use thalweg_storage::ReadAt;
use thalweg_tensor::{Piece, TensorEntry};

/// Reads what the file of a piece says about it.
pub trait OpenPiece: Debug + Send + Sync {
    /// The piece with the offset and strides that its file states.
    ///
    /// # Errors
    /// If the file contradicts the directory or cannot be read.
    fn open_piece(&self, entry: &TensorEntry, piece: &Piece, file: &dyn ReadAt) -> Result<Piece, PieceRefusal>;

    /// The archives in a file, as ranges of its bytes.
    fn archives_in(&self, file_idx: u32) -> Vec<Range<u64>>;
}

/// Why a piece cannot be read.
#[derive(Debug)]
pub enum PieceRefusal {
    /// What is wrong with the file; the caller names the tensor.
    Format(String),
    /// The storage failed.
    Storage(thalweg_storage::Error),
}

/// Which pieces to open before a checkpoint is relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// One piece of each tensor: enough to find tensors that are quantised or of another dtype.
    EachTensor,
    /// Every piece.
    EachPiece,
}

/// The pieces opened so far, by tensor and piece.
type Opened = Box<[Box<[OnceLock<Piece>]>]>;

/// The pieces of a checkpoint that are opened on demand, and those opened so far.
#[derive(Debug)]
pub(crate) struct LazyPieces {
    opener: Arc<dyn OpenPiece>,
    /// Allocated when the first piece is needed: a plan over many checkpoints needs none.
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

    pub(crate) fn archives_in(&self, file_idx: u32) -> Vec<Range<u64>> {
        self.opener.archives_in(file_idx)
    }

    /// The piece as its file describes it, if it was opened before.
    pub(crate) fn known(&self, tensor_idx: usize, piece_idx: usize) -> Option<&Piece> {
        self.opened.get()?.get(tensor_idx)?.get(piece_idx)?.get()
    }

    /// The piece as its file describes it, opened now if needed.
    pub(crate) fn open(
        &self,
        entries: &[TensorEntry],
        (tensor_idx, piece_idx): (usize, usize),
        file: &dyn ReadAt,
    ) -> Result<&Piece, PieceRefusal> {
        let missing = || PieceRefusal::Format("does not have this piece".to_owned());
        let slot = self.slot(entries, tensor_idx, piece_idx).ok_or_else(missing)?;
        if let Some(piece) = slot.get() {
            return Ok(piece);
        }
        let entry = entries.get(tensor_idx).ok_or_else(missing)?;
        let piece = entry.pieces.get(piece_idx).ok_or_else(missing)?;
        // Two threads may open the same piece at once; both see the same.
        let opened = self.opener.open_piece(entry, piece, file)?;
        Ok(slot.get_or_init(|| opened))
    }
}
