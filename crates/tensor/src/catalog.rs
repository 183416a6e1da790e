//! The catalog: names, dtypes and shapes of a checkpoint, and where the bytes lie.
//!
//! A logical tensor is made of pieces, so that a sharded format (DCP, Megatron, ZeRO) needs no other
//! engine than safetensors, where each tensor is one piece. Files are numbers here: whoever owns the
//! catalog knows their paths, so checkpoints of one run share one catalog.

use crate::{Dtype, Shape};

/// A box of a logical tensor and the bytes that hold it, row-major within the box.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Which file of the checkpoint, counted from 0.
    pub file_idx: u32,
    /// First byte in that file.
    pub offset: u64,
    /// First index of the box in each dimension; empty when the piece is the whole tensor.
    pub start: Box<[u64]>,
    /// Extent of the box in each dimension; empty when the piece is the whole tensor.
    pub extent: Box<[u64]>,
}

impl Piece {
    /// The one piece of a tensor that lies whole in one file.
    pub fn whole(file_idx: u32, offset: u64) -> Self {
        Self { file_idx, offset, start: Box::default(), extent: Box::default() }
    }

    /// Whether this piece is the whole tensor.
    pub fn is_whole(&self) -> bool {
        self.start.is_empty() && self.extent.is_empty()
    }
}

/// One logical tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorEntry {
    /// Name, any Unicode text.
    pub name: Box<str>,
    /// Element type.
    pub dtype: Dtype,
    /// Global shape; its product and byte size are known not to overflow.
    pub shape: Shape,
    /// Where the bytes lie; they cover the tensor.
    pub pieces: Box<[Piece]>,
}

impl TensorEntry {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        // Whoever builds a catalog checks the product; 0 would make a tensor empty, never overrun it.
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
    /// The name that stands twice.
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
