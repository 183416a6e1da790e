//! What a merge would read, write and hold, from headers alone.

use thalweg_tensor::TensorSource;

use crate::combination::Combination;
use crate::context::RunContext;
use crate::error::Error;
use crate::memory::{Held, PieceSize, fit_piece};
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::output::output_size;
use crate::plan::{MergePlan, OutputPlan};
use crate::reading::Reading;
use crate::rule::held_bytes;

/// The cost of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeEstimate {
    /// Bytes of tensors that are read from sources, each once.
    pub bytes_read: u64,
    /// Bytes of shards that are written.
    pub bytes_written: u64,
    /// Shards that are written.
    pub n_files: usize,
    /// Resident memory that the merge needs at most.
    pub memory_bytes: u64,
}

impl MergeEstimate {
    /// Wall time if reading and writing together move `bytes_per_second`.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn seconds_at(&self, bytes_per_second: f64) -> f64 {
        (self.bytes_read + self.bytes_written) as f64 / bytes_per_second
    }
}

/// Estimates `plan` over aligned sources.
///
/// # Errors
/// `MemoryTooSmall`, and as laying out an output.
pub fn estimate_merge(
    plan: &MergePlan,
    sources: &[OpenSource],
    layout: &MergeLayout,
    run: &RunContext<'_>,
) -> Result<MergeEstimate, Error> {
    let combinations =
        plan.outputs.iter().map(|output| Combination::of_plan(output, sources)).collect::<Result<Vec<_>, _>>()?;
    let views = layout.views(sources);
    let views: Vec<&dyn TensorSource> = views.iter().map(|view| view as &dyn TensorSource).collect();
    let bytes_read = Reading::new(layout, &views, &combinations, &|_| true).n_bytes();
    let size_of = |output| output_size(output, layout, sources, &run.storage);
    let sizes_written = plan.outputs.iter().map(size_of).collect::<Result<Vec<_>, _>>()?;
    let piece = fit_merge(plan.outputs.iter(), (sources, layout), bytes_read, run)?;
    Ok(MergeEstimate {
        bytes_read,
        bytes_written: sizes_written.iter().map(|(n_bytes, _)| n_bytes).sum(),
        n_files: sizes_written.iter().map(|(_, n_files)| n_files).sum(),
        memory_bytes: piece.memory_bytes,
    })
}

/// The pieces that workers hold of a merge that is written, beside what sources, outputs and rules take.
///
/// # Errors
/// `MemoryTooSmall`.
pub(crate) fn fit_merge<'a>(
    outputs: impl ExactSizeIterator<Item = &'a OutputPlan> + Clone,
    (sources, layout): (&[OpenSource], &MergeLayout),
    bytes_read: u64,
    run: &RunContext<'_>,
) -> Result<PieceSize, Error> {
    let sizes = (sources.len(), outputs.len());
    let held = Held::of_sources(sources).with_outputs(outputs.clone()).bytes(&layout.catalog);
    let held = held.saturating_add(held_bytes(outputs, run.limits.n_threads.get()));
    fit_piece(layout, sizes, held, bytes_read, run)
}
