//! Passes over the deltas of experts that leave numbers behind: histograms, counts, norms. Nothing is written.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use thalweg_tensor::kernel::{BLOCK_ELEMENTS, FloatEnvironment, variances_into, widen_delta_into, widen_into};
use thalweg_tensor::{TensorEntry, TensorSource, display_name, to_index};

use crate::context::RunContext;
use crate::error::Error;
use crate::memory::PieceSize;
use crate::merge_layout::MergeLayout;
use crate::unit::Part;
use crate::workers::run_workers;

/// What a pass reads.
pub(crate) struct Scan<'a> {
    pub(crate) sources: &'a [&'a dyn TensorSource],
    pub(crate) layout: &'a MergeLayout,
    pub(crate) piece: PieceSize,
    /// The base's number among the sources.
    pub(crate) base: usize,
    /// The experts' numbers among the sources.
    pub(crate) experts: &'a [usize],
    pub(crate) seen: Seen,
}

/// What a pass shows of the experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The delta of each expert.
    Deltas,
    /// The variance over the deltas of all experts, as if it were the delta of the first expert.
    Variances,
}

/// A block of elements of one delta.
pub(crate) struct Deltas<'b> {
    pub(crate) tensor_idx: usize,
    pub(crate) part_idx: usize,
    /// The expert's number among the experts.
    pub(crate) expert: usize,
    pub(crate) first_element: u64,
    pub(crate) values: &'b mut [f64],
}

/// The same elements of all deltas.
pub(crate) struct Together<'b> {
    pub(crate) part_idx: usize,
    pub(crate) first_element: u64,
    pub(crate) deltas: &'b mut [Vec<f64>],
}

/// Buffers of one thread.
#[derive(Default)]
struct Buffers {
    base_bytes: Vec<u8>,
    bytes: Vec<u8>,
    base: Vec<f64>,
    delta: Vec<f64>,
    all_bytes: Vec<Vec<u8>>,
    deltas: Vec<Vec<f64>>,
}

/// Reads some elements of a source.
fn read(
    source: &dyn TensorSource,
    (entry, tensor_idx): (&TensorEntry, usize),
    elements: Range<u64>,
    bytes: &mut Vec<u8>,
) -> Result<(), Error> {
    bytes.resize(to_index(entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0)), 0);
    source
        .read_elements(tensor_idx, elements, bytes)
        .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })
}

/// Reads and widens some elements of a source.
pub(crate) fn read_widened(
    source: &dyn TensorSource,
    (entry, tensor_idx): (&TensorEntry, usize),
    elements: Range<u64>,
    bytes: &mut Vec<u8>,
    out: &mut Vec<f64>,
) -> Result<(), Error> {
    let n_elements = to_index(elements.end - elements.start);
    read(source, (entry, tensor_idx), elements, bytes)?;
    out.resize(n_elements, 0.0);
    widen_into(entry.dtype, bytes, out);
    Ok(())
}

impl Scan<'_> {
    /// Folds the deltas of `parts` into one state for each thread. The states come in no order, so what they hold must
    /// add up to the same in any order.
    pub(crate) fn fold<T: Send>(
        &self,
        parts: &[Part],
        start: &(dyn Fn() -> T + Sync),
        act: &(dyn Fn(&mut T, Deltas<'_>) -> Result<(), Error> + Sync),
        run: &RunContext<'_>,
    ) -> Result<Vec<T>, Error> {
        if self.seen == Seen::Deltas {
            return fold_parts(parts, start, &|part, buffers, state| self.do_part(part, buffers, state, act, run), run);
        }
        let act_on_variances = |(state, variances): &mut (T, Vec<f64>), part: &Part, blocks: Together<'_>| {
            variances.resize(blocks.deltas.first().map_or(0, Vec::len), 0.0);
            variances_into(blocks.deltas, variances, run.limits.simd);
            let Together { part_idx, first_element, .. } = blocks;
            act(state, Deltas { tensor_idx: part.tensor_idx, part_idx, expert: 0, first_element, values: variances })
        };
        let states = self.fold_together(parts, &|| (start(), Vec::new()), &act_on_variances, run)?;
        Ok(states.into_iter().map(|(state, _)| state).collect())
    }

    /// As [`Self::fold`], with the deltas of all experts at once.
    pub(crate) fn fold_together<T: Send>(
        &self,
        parts: &[Part],
        start: &(dyn Fn() -> T + Sync),
        act: &(dyn Fn(&mut T, &Part, Together<'_>) -> Result<(), Error> + Sync),
        run: &RunContext<'_>,
    ) -> Result<Vec<T>, Error> {
        fold_parts(parts, start, &|part, buffers, state| self.do_together(part, buffers, state, act, run), run)
    }

    fn do_together<T>(
        &self,
        part: &Part,
        buffers: &mut Buffers,
        state: &mut T,
        act: &(dyn Fn(&mut T, &Part, Together<'_>) -> Result<(), Error> + Sync),
        run: &RunContext<'_>,
    ) -> Result<(), Error> {
        let (entry, tensor_idx) = (&self.layout.catalog.entries()[part.tensor_idx], part.tensor_idx);
        let Buffers { base_bytes, all_bytes, base, deltas, .. } = buffers;
        all_bytes.resize(self.experts.len(), Vec::new());
        deltas.resize(self.experts.len(), Vec::new());
        let width = to_index(entry.dtype.bytes().unwrap_or(1));
        for elements in self.piece.pieces_of(part) {
            read(self.sources[self.base], (entry, tensor_idx), elements.clone(), base_bytes)?;
            run.progress.advance(base_bytes.len() as u64);
            for (bytes, &source_idx) in all_bytes.iter_mut().zip(self.experts) {
                read(self.sources[source_idx], (entry, tensor_idx), elements.clone(), bytes)?;
                run.progress.advance(bytes.len() as u64);
            }
            for first_element in elements.clone().step_by(BLOCK_ELEMENTS) {
                let n_elements = BLOCK_ELEMENTS.min(to_index(elements.end - first_element));
                let at = to_index(first_element - elements.start) * width;
                let block = at..at + n_elements * width;
                base.resize(n_elements, 0.0);
                widen_into(entry.dtype, &base_bytes[block.clone()], base);
                for (delta, bytes) in deltas.iter_mut().zip(&*all_bytes) {
                    delta.resize(n_elements, 0.0);
                    widen_delta_into(entry.dtype, &bytes[block.clone()], base, delta, run.limits.simd);
                }
                act(state, part, Together { part_idx: part.part_idx, first_element, deltas })?;
            }
        }
        Ok(())
    }

    fn do_part<T>(
        &self,
        part: &Part,
        buffers: &mut Buffers,
        state: &mut T,
        act: &(dyn Fn(&mut T, Deltas<'_>) -> Result<(), Error> + Sync),
        run: &RunContext<'_>,
    ) -> Result<(), Error> {
        let (entry, tensor_idx) = (&self.layout.catalog.entries()[part.tensor_idx], part.tensor_idx);
        let Buffers { base_bytes, bytes, base, delta, .. } = buffers;
        let block_bytes = to_index(entry.dtype.bytes_of(BLOCK_ELEMENTS as u64).unwrap_or(1)).max(1);
        for elements in self.piece.pieces_of(part) {
            read(self.sources[self.base], (entry, tensor_idx), elements.clone(), base_bytes)?;
            run.progress.advance(base_bytes.len() as u64);
            for (expert, &source_idx) in self.experts.iter().enumerate() {
                read(self.sources[source_idx], (entry, tensor_idx), elements.clone(), bytes)?;
                run.progress.advance(bytes.len() as u64);
                let blocks = base_bytes.chunks(block_bytes).zip(bytes.chunks(block_bytes));
                for (first_element, (base_bytes, bytes)) in elements.clone().step_by(BLOCK_ELEMENTS).zip(blocks) {
                    let n_elements = BLOCK_ELEMENTS.min(to_index(elements.end - first_element));
                    base.resize(n_elements, 0.0);
                    delta.resize(n_elements, 0.0);
                    widen_into(entry.dtype, base_bytes, base);
                    widen_delta_into(entry.dtype, bytes, base, delta, run.limits.simd);
                    act(state, Deltas { tensor_idx, part_idx: part.part_idx, expert, first_element, values: delta })?;
                }
            }
        }
        Ok(())
    }
}

/// What a worker does with one part.
type DoPart<'a, T> = &'a (dyn Fn(&Part, &mut Buffers, &mut T) -> Result<(), Error> + Sync);

fn fold_parts<T: Send>(
    parts: &[Part],
    start: &(dyn Fn() -> T + Sync),
    do_part: DoPart<'_, T>,
    run: &RunContext<'_>,
) -> Result<Vec<T>, Error> {
    let next = AtomicUsize::new(0);
    let results: Mutex<(Vec<T>, Option<Error>)> = Mutex::new((Vec::new(), None));
    let work = || {
        let _environment = FloatEnvironment::set_default();
        let (mut state, mut buffers) = (None, Buffers::default());
        let mut failure = None;
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let state = state.get_or_insert_with(start);
            let outcome = run.check_interrupt().and_then(|()| do_part(part, &mut buffers, state));
            if let Err(error) = outcome {
                // The others take no further part.
                next.store(parts.len(), Ordering::Relaxed);
                failure = Some(error);
                break;
            }
        }
        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
        results.0.extend(state);
        if let Some(error) = failure {
            results.1.get_or_insert(error);
        }
    };
    // A thread costs more than a small tensor.
    if parts.len() > 1 {
        run_workers(run, &work)?
    } else {
        work()
    }
    match results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(error)) => Err(error),
        (states, None) => Ok(states),
    }
}
