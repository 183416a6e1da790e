//! How much memory a merge takes: what it holds whatever the limit, and how large a piece of each source a worker
//! reads.
//!
//! The size of tensor data in memory depends on the limit, the threads and the number of buffers, never on the model's
//! size. Everything else grows with the number of tensors and with the length of coefficients and configurations.

use std::ops::Range;

use thalweg_checkpoint::{Checkpoint, GATHER_SCRATCH_BYTES};
use thalweg_tensor::TensorCatalog;

use crate::context::Limits;
use crate::context::RunContext;
use crate::error::Error;
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::plan::OutputPlan;
use crate::unit::{BLOCK_ELEMENTS, Part};

/// Program text, stacks, allocator: what is resident before any tensor byte. Measured, rounded up.
const BASE_BYTES: u64 = 24 << 20;
/// Bytes of a source that a worker holds at once, where memory allows. 32 and 128 KiB were slower.
const PIECE_BYTES: u64 = 64 << 10;
/// All pieces of a worker together stay within what a core's caches serve well.
const WORKER_BYTES: u64 = 4 << 20;
/// Each piece of a tensor in a catalog after its first.
const PIECE_ENTRY_BYTES: u64 = 100;
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
        held_bytes: u64,
    ) -> Result<Self, Error> {
        let n_buffers = n_buffers as u64 + 2;
        let n_threads = limits.n_threads.get() as u64;
        let n_in_all = n_buffers.saturating_mul(n_threads);
        let block_bytes = BLOCK_ELEMENTS * max_element_bytes;
        let scratch_bytes = n_threads.saturating_mul(GATHER_SCRATCH_BYTES);
        let overhead_bytes = n_in_all.saturating_mul(OVERHEAD_BYTES).saturating_add(scratch_bytes);
        let fixed_bytes = BASE_BYTES.saturating_add(held_bytes).saturating_add(overhead_bytes);
        let least_bytes = fixed_bytes.saturating_add(n_in_all.saturating_mul(block_bytes));
        if limits.memory_bytes < least_bytes {
            let (limit_bytes, n_threads) = (limits.memory_bytes, limits.n_threads);
            return Err(Error::MemoryTooSmall { limit_bytes, least_bytes, n_threads });
        }
        let by_limit = (limits.memory_bytes - fixed_bytes) / n_in_all;
        let piece_bytes = PIECE_BYTES.min(by_limit).min((WORKER_BYTES / n_buffers).max(block_bytes));
        let n_elements = (piece_bytes / max_element_bytes / BLOCK_ELEMENTS).max(1) * BLOCK_ELEMENTS;
        let memory_bytes = fixed_bytes + n_in_all * n_elements * max_element_bytes;
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

/// The list of tensors that a checkpoint shows, and the one that it stores.
fn catalogs_of(checkpoint: &Checkpoint) -> [&std::sync::Arc<TensorCatalog>; 2] {
    [checkpoint.catalog(), checkpoint.stored_catalog()]
}

/// What a merge holds besides pieces of tensors, from headers and plans alone.
///
/// Every factor was measured on merges that it dominates (such as those of `crates/merge/tests/memory.rs`) and rounded
/// up by a tenth.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    n_sources: u64,
    /// Catalogs that differ: sources whose tensors have the same names and places share one.
    n_catalogs: u64,
    n_outputs: u64,
    /// Length of the configs of all sources. Parsed values take many times their text.
    config_bytes: u64,
    /// Decimal digits of all coefficients, which are held as text and as numbers, in plan, digest and receipt.
    coefficient_digits: u64,
    /// Decoders of sources whose tensors are packed.
    unpack_bytes: u64,
}

impl Held {
    /// For sources that are in memory anyway, and outputs without a receipt.
    pub(crate) fn live(n_sources: usize) -> Self {
        Self { n_sources: n_sources as u64, n_catalogs: 1, ..Self::default() }
    }

    /// For open checkpoints.
    pub(crate) fn of_sources(sources: &[OpenSource]) -> Self {
        let mut catalogs: Vec<_> =
            sources.iter().flat_map(|source| catalogs_of(&source.checkpoint)).map(std::sync::Arc::as_ptr).collect();
        catalogs.sort_unstable();
        catalogs.dedup();
        let config_bytes = sources.iter().filter_map(|source| source.checkpoint.config_bytes());
        Self {
            n_catalogs: catalogs.len() as u64,
            config_bytes: config_bytes.map(|bytes| bytes.len() as u64).sum(),
            unpack_bytes: sources.iter().map(|source| source.checkpoint.unpack_bytes()).sum(),
            ..Self::live(sources.len())
        }
    }

    /// Adds what the outputs of a plan take.
    pub(crate) fn with_outputs<'a>(mut self, outputs: impl Iterator<Item = &'a OutputPlan>) -> Self {
        for output in outputs {
            self.n_outputs += 1;
            let numerators = output.sources.iter().map(|source| source.numerator.len() as u64);
            self.coefficient_digits += numerators.sum::<u64>();
        }
        self
    }

    /// The bytes held, for sources with the tensors of `catalog`.
    pub(crate) fn bytes(&self, catalog: &TensorCatalog) -> u64 {
        let n_tensors = catalog.entries().len() as u64;
        let name_bytes: u64 = catalog.entries().iter().map(|entry| entry.name.len() as u64).sum();
        // Header texts while opening, the catalog, the work list, the ledger.
        let once = n_tensors.saturating_mul(1000).saturating_add(name_bytes.saturating_mul(4));
        // Entries with their names, shapes and pieces.
        let n_pieces = catalog.entries().iter().map(|entry| entry.pieces.len() as u64).sum::<u64>();
        let further_bytes = n_pieces.saturating_sub(n_tensors).saturating_mul(PIECE_ENTRY_BYTES);
        let catalog = n_tensors.saturating_mul(260).saturating_add(name_bytes).saturating_add(further_bytes);
        // Layout, header, records, and the receipt both as a value and as text.
        let output = n_tensors.saturating_mul(500).saturating_add(name_bytes.saturating_mul(4));
        // A digest of each tensor of each source.
        let source = n_tensors.saturating_mul(68).saturating_add(4 << 10);
        once.saturating_add(further_bytes)
            .saturating_add(catalog.saturating_mul(self.n_catalogs.saturating_sub(1)))
            .saturating_add(output.saturating_mul(self.n_outputs))
            .saturating_add(source.saturating_mul(self.n_sources))
            .saturating_add(self.config_bytes.saturating_mul(28))
            .saturating_add(self.coefficient_digits.saturating_mul(3))
            .saturating_add(self.unpack_bytes)
    }
}

/// How large a piece a worker holds, and whether the page cache is spared.
pub(crate) fn fit_piece(
    layout: &MergeLayout,
    (n_sources, n_outputs): (usize, usize),
    held_bytes: u64,
    bytes_read: u64,
    run: &RunContext<'_>,
) -> Result<PieceSize, Error> {
    let mut max_element_bytes =
        layout.catalog.entries().iter().filter_map(|entry| entry.dtype.bytes()).max().unwrap_or(1);
    if n_outputs > 0 {
        // An output may be wider than its input.
        max_element_bytes = max_element_bytes.max(4);
    }
    let mut piece = PieceSize::fit(&run.limits, n_sources + n_outputs, max_element_bytes, held_bytes)?;
    // What is read once and fills memory would push out what others on this machine still need.
    piece.drops_cache = run.host.physical_memory_bytes().is_some_and(|memory| bytes_read > memory / 2);
    // What pieces leave makes reading and writing faster; nothing else depends on it.
    let left_bytes = run.limits.memory_bytes - piece.memory_bytes;
    let n_read = if piece.drops_cache { n_sources } else { 0 };
    piece.memory_bytes += run.storage.set_io_memory(n_outputs, n_read, left_bytes);
    Ok(piece)
}
