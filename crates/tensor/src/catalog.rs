//! The catalog: names, dtypes and shapes of a checkpoint, and where the bytes are.
//!
//! A logical tensor is made of pieces, so that a sharded format (DCP, Megatron, ZeRO) needs no other
//! engine than safetensors, where each tensor is one piece. Files are numbers here: the owner of the
//! catalog knows their paths, so checkpoints of one run share one catalog.

use crate::piece::{CoverFault, arrange_pieces};
use crate::{Dtype, Piece, Shape};

/// One logical tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorEntry {
    /// Name, any Unicode text.
    pub name: Box<str>,
    /// Element type.
    pub dtype: Dtype,
    /// Global shape; its product and byte size are known not to overflow.
    pub shape: Shape,
    /// Where the bytes are: boxes that cover the tensor exactly once, sorted by their first index.
    pub pieces: Box<[Piece]>,
}

impl TensorEntry {
    /// A tensor of several pieces, which must cover it exactly once; those without elements are dropped.
    ///
    /// # Errors
    /// What is wrong with the pieces.
    pub fn of_pieces(name: Box<str>, dtype: Dtype, shape: Shape, pieces: Vec<Piece>) -> Result<Self, CoverFault> {
        shape.n_elements().and_then(|n| dtype.bytes_of(n)).ok_or(CoverFault::TooLarge)?;
        // An element range of a packed type need not begin at a byte boundary of each piece.
        if dtype.bytes().is_none() && pieces.iter().any(|piece| !piece.is_whole()) {
            return Err(CoverFault::Packed);
        }
        let pieces = arrange_pieces(&shape, pieces)?;
        Ok(Self { name, dtype, shape, pieces })
    }

    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        // The code that builds a catalog checks the product; 0 would make a tensor empty, never overrun it.
        self.shape.n_elements().unwrap_or(0)
    }

    /// Number of bytes.
    pub fn n_bytes(&self) -> u64 {
        self.dtype.bytes_of(self.n_elements()).unwrap_or(0)
    }
}

/// Names, dtypes and shapes of a checkpoint without its data, sorted by name (byte order), names unique.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TensorCatalog {
    entries: Box<[TensorEntry]>,
}

impl TensorCatalog {
    /// Sorts the entries by name.
    ///
    /// # Errors
    /// The name that appears twice.
    pub fn new(mut entries: Vec<TensorEntry>) -> Result<Self, Box<str>> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(pair[0].name.clone());
        }
        Ok(Self { entries: entries.into_boxed_slice() })
    }

    /// The tensors, sorted by name.
    pub fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    /// Position of the tensor with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()
    }

    /// Sum of all tensors' bytes.
    pub fn n_bytes(&self) -> u64 {
        self.entries.iter().map(TensorEntry::n_bytes).sum()
    }

    /// Sum of all tensors' elements.
    pub fn n_params(&self) -> u64 {
        self.entries.iter().map(TensorEntry::n_elements).sum()
    }
}
