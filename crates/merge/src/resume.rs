//! What may be kept after a kill: units that a stage's journal names and whose bytes still have their digests.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use thalweg_tensor::digest::{DigestKind, SUBTREE_BYTES};
use thalweg_tensor::{TensorSink, to_index};

use crate::align::MergeLayout;
use crate::combine::{PartResult, RunningHash, output_dtype, run_workers};
use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::journal::{PartRecord, UnitRecord};
use crate::ledger::Ledger;
use crate::output::StagedOutput;
use crate::unit::{Part, UnitList};

/// Name that is added to an output's path for its stage.
const STAGE_SUFFIX: &str = ".thalweg-partial";

/// Where the output `path` is staged: beside it.
pub fn stage_path(path: &std::path::Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(STAGE_SUFFIX);
    PathBuf::from(name)
}

/// Units that need not be done again.
#[derive(Debug, Default)]
pub(crate) struct DoneUnits {
    is_done: Vec<bool>,
}

impl DoneUnits {
    pub(crate) fn contains(&self, unit_idx: usize) -> bool {
        self.is_done.get(unit_idx).copied().unwrap_or(false)
    }

    /// Source bytes that the finished units stand for.
    pub(crate) fn bytes_read(&self, units: &UnitList, layout: &MergeLayout, read_by: &[Vec<usize>]) -> u64 {
        let of_part = |part: &Part| {
            let entry = &layout.catalog.entries()[part.tensor_idx];
            let n_bytes = entry.dtype.bytes_of(part.elements.end - part.elements.start).unwrap_or(0);
            n_bytes * read_by[part.tensor_idx].len() as u64
        };
        let done = (0..units.len()).filter(|&unit_idx| self.contains(unit_idx));
        done.flat_map(|unit_idx| units.parts(unit_idx)).map(of_part).sum()
    }
}

/// Appends a finished unit to the journal of every output.
pub(crate) fn record(staged: &[StagedOutput<'_>], unit_idx: usize, results: &[PartResult]) -> Result<(), Error> {
    staged.iter().enumerate().try_for_each(|(k, output)| {
        let parts = results
            .iter()
            .map(|part| PartRecord {
                source_subtrees: part.source_subtrees.clone(),
                output_subtrees: part.outputs[k].0.clone(),
                stats: part.outputs[k].1,
            })
            .collect();
        output.journal.append(&UnitRecord { unit_idx: unit_idx as u64, parts })
    })
}

/// Reads back every unit that all journals name; the whole ones go to the ledger and are not done again.
pub(crate) fn restore(
    staged: &[StagedOutput<'_>],
    units: &UnitList,
    layout: &MergeLayout,
    ledger: &Ledger<'_>,
    run: &RunContext<'_>,
) -> Result<DoneUnits, Error> {
    let candidates = common_units(staged, units);
    if candidates.is_empty() {
        return Ok(DoneUnits::default());
    }
    run.progress.begin(Stage::Resume, candidates.len() as u64 * staged.len() as u64 * SUBTREE_BYTES);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(DoneUnits { is_done: vec![false; units.len()] });
    let failure = Mutex::new(None);
    run_workers(run, &|| {
        let mut buffer = Vec::new();
        while let Some((unit_idx, results)) = candidates.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = run.check_interrupt() {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return;
            }
            if is_whole(staged, units.parts(*unit_idx), results, layout, &mut buffer) {
                ledger.add(*unit_idx, results.clone());
                done.lock().unwrap_or_else(PoisonError::into_inner).is_done[*unit_idx] = true;
            }
            run.progress.advance(staged.len() as u64 * SUBTREE_BYTES);
        }
    })?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Units that stand in the journal of every output, with their results put together again.
fn common_units(staged: &[StagedOutput<'_>], units: &UnitList) -> Vec<(usize, Vec<PartResult>)> {
    let mut by_unit: Vec<Vec<&UnitRecord>> = vec![Vec::new(); units.len()];
    for (k, output) in staged.iter().enumerate() {
        for record in &output.found {
            let Some(slot) = by_unit.get_mut(to_index(record.unit_idx)) else { continue };
            if slot.len() == k && record.parts.len() == units.parts(to_index(record.unit_idx)).len() {
                slot.push(record);
            }
        }
    }
    let is_common = |(_, records): &(usize, Vec<&UnitRecord>)| records.len() == staged.len() && !staged.is_empty();
    by_unit.into_iter().enumerate().filter(is_common).map(|(i, records)| (i, join(&records))).collect()
}

fn join(records: &[&UnitRecord]) -> Vec<PartResult> {
    let of_part = |p: usize| PartResult {
        source_subtrees: records[0].parts[p].source_subtrees.clone(),
        outputs: records
            .iter()
            .map(|record| (record.parts[p].output_subtrees.clone(), record.parts[p].stats))
            .collect(),
    };
    (0..records[0].parts.len()).map(of_part).collect()
}

fn is_whole(
    staged: &[StagedOutput<'_>],
    parts: &[Part],
    results: &[PartResult],
    layout: &MergeLayout,
    buffer: &mut Vec<u8>,
) -> bool {
    parts.iter().zip(results).all(|(part, result)| {
        staged.iter().enumerate().all(|(k, output)| {
            let entry = &layout.catalog.entries()[part.tensor_idx];
            let dtype = output_dtype(layout.classes[part.tensor_idx], entry.dtype, output.plan.dtype);
            let kind = output.plan.digest.kind().unwrap_or(DigestKind::Xxh3);
            let offset = dtype.bytes_of(part.elements.start).unwrap_or(0);
            let tensor_bytes = dtype.bytes_of(entry.n_elements()).unwrap_or(0);
            let mut hash = RunningHash::new(Some(kind), offset / SUBTREE_BYTES, tensor_bytes);
            let step = SUBTREE_BYTES / 16 / dtype.bytes().unwrap_or(1);
            let mut at = part.elements.start;
            while at < part.elements.end {
                let end = part.elements.end.min(at + step);
                buffer.resize(to_index(dtype.bytes_of(end - at).unwrap_or(0)), 0);
                if output.staged.read_back(part.tensor_idx, at..end, buffer).is_err() {
                    return false;
                }
                hash.update(buffer);
                at = end;
            }
            hash.finish() == result.outputs[k].0 && output.staged.catalog().entries().len() > part.tensor_idx
        })
    })
}
