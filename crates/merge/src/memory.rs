//! How large a piece of each source a worker holds: the only tensor data in memory.
//!
//! Peak memory is a function of the limit, the threads and the number of buffers, never of the model's size.

use std::ops::Range;

use thalweg_checkpoint::GATHER_SCRATCH_BYTES;

use crate::context::Limits;
use crate::error::Error;
use crate::unit::{BLOCK_ELEMENTS, Part};

/// Program text, stacks, allocator: what is resident before any tensor byte. Measured, rounded up.
const BASE_BYTES: u64 = 24 << 20;
/// Bytes of a source that a worker holds at once, where memory allows. 32 and 128 KiB were slower.
const PIECE_BYTES: u64 = 64 << 10;
/// All pieces of a worker together stay within what a core's caches serve well.
const WORKER_BYTES: u64 = 4 << 20;
/// Hashers and bookkeeping of one buffer.
const OVERHEAD_BYTES: u64 = 4 << 10;

/// Elements in a piece, and how the page cache is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceSize {
    /// A multiple of the block of the statistics, so that sums do not depend on the piece.
    n_elements: u64,
    pub(crate) drops_cache: bool,
    /// Resident memory that this piece leads to, at most.
    pub(crate) memory_bytes: u64,
}

impl PieceSize {
    /// The largest piece that fits: `n_buffers` buffers of up to `max_element_bytes` a worker.
    ///
    /// # Errors
    /// `MemoryTooSmall`, with the least that works.
    pub(crate) fn fit(
        limits: &Limits,
        n_buffers: usize,
        max_element_bytes: u64,
        metadata_bytes: u64,
    ) -> Result<Self, Error> {
        let n_buffers = n_buffers as u64 + 2;
        let n_threads = limits.n_threads.get() as u64;
        let block_bytes = BLOCK_ELEMENTS * max_element_bytes;
        let fixed_bytes = BASE_BYTES + metadata_bytes + n_threads * (n_buffers * OVERHEAD_BYTES + GATHER_SCRATCH_BYTES);
        let least_bytes = fixed_bytes + n_threads * n_buffers * block_bytes;
        if limits.memory_bytes < least_bytes {
            return Err(Error::MemoryTooSmall { limit_bytes: limits.memory_bytes, least_bytes });
        }
        let by_limit = (limits.memory_bytes - fixed_bytes) / (n_threads * n_buffers);
        let piece_bytes = PIECE_BYTES.min(by_limit).min((WORKER_BYTES / n_buffers).max(block_bytes));
        let n_elements = (piece_bytes / max_element_bytes / BLOCK_ELEMENTS).max(1) * BLOCK_ELEMENTS;
        let memory_bytes = fixed_bytes + n_threads * n_buffers * n_elements * max_element_bytes;
        Ok(Self { n_elements, drops_cache: false, memory_bytes })
    }

    /// The part cut into pieces.
    pub(crate) fn pieces_of(self, part: &Part) -> impl Iterator<Item = Range<u64>> + use<> {
        let (first, end, step) = (part.elements.start, part.elements.end, self.n_elements);
        // A tensor without elements still has one piece, so that its digest and its output exist.
        let n_pieces = (end - first).div_ceil(step).max(1);
        (0..n_pieces).map(move |i| first + i * step..end.min(first + (i + 1) * step))
    }
}

/// An estimate of what catalogs and digests of a merge take: they grow with the number of tensors, not with their size.
pub(crate) fn metadata_bytes(catalog: &thalweg_tensor::TensorCatalog, n_digests: usize) -> u64 {
    /// An entry with its name, shape and piece, in the source's and the output's catalog.
    const ENTRY_BYTES: u64 = 400;
    /// A further piece of a tensor. Each source may hold other pieces, and sources are most of what has digests.
    const PIECE_BYTES: u64 = 100;
    let n_entries = catalog.entries().len() as u64;
    let n_pieces: usize = catalog.entries().iter().map(|entry| entry.pieces.len()).sum();
    let further_bytes = (n_pieces as u64).saturating_sub(n_entries) * PIECE_BYTES;
    n_entries * ENTRY_BYTES + (32 * n_entries + further_bytes) * n_digests as u64
}
