//! What may be kept after a kill: units that a stage's journal names, whose bytes still have their digests, and whose
//! sources still hold what was merged. Otherwise an output could be a mixture of old and new sources.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use thalweg_tensor::digest::{DigestKind, SUBTREE_BYTES, SubtreeDigest};
use thalweg_tensor::{Dtype, part_of_are, to_index};

use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::journal::{PartRecord, UnitRecord};
use crate::ledger::Ledger;
use crate::merge_layout::MergeLayout;
use crate::part_hash::{PartResult, RunningHash};
use crate::reading::Reading;
use crate::stage::StagedOutput;
use crate::unit::{Part, UnitList};
use crate::workers::for_each_number_ahead;

/// Units that need not be done again.
#[derive(Debug, Default)]
pub(crate) struct DoneUnits {
    is_done: Vec<bool>,
}

impl DoneUnits {
    pub(crate) fn contains(&self, unit_idx: usize) -> bool {
        self.is_done.get(unit_idx).copied().unwrap_or(false)
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
        let journal = output.journal.as_ref();
        journal.map_or(Ok(()), |journal| journal.append(&UnitRecord { unit_idx: unit_idx as u64, parts }))
    })
}

/// Reads back every unit that all journals name; the whole ones go to the ledger and are not done again.
///
/// The sources are read again too if `compares_sources`; otherwise the caller knows that they are the same.
pub(crate) fn restore(
    staged: &[StagedOutput<'_>],
    (units, compares_sources): (&UnitList, bool),
    reading: &Reading<'_>,
    ledger: &Ledger<'_>,
    run: &RunContext<'_>,
) -> Result<DoneUnits, Error> {
    let candidates = common_units(staged, units);
    if candidates.is_empty() {
        return Ok(DoneUnits::default());
    }
    // A unit is about one subtree of each file.
    let unit_bytes = (staged.len() + reading.sources.len()) as u64 * SUBTREE_BYTES;
    run.progress.begin(Stage::Resume, candidates.len() as u64 * unit_bytes);
    let done = Mutex::new(DoneUnits { is_done: vec![false; units.len()] });
    let ahead = |number: usize| {
        for part in units.parts(candidates[number].0) {
            staged.iter().for_each(|output| output.staged.will_read_back(part.tensor_idx, part.elements.clone()));
            let read_by = reading.read_by[part.tensor_idx].iter().filter(|_| compares_sources);
            read_by.for_each(|&i| reading.sources[i].will_read(part.tensor_idx, part.elements.clone()));
        }
    };
    for_each_number_ahead(run, candidates.len(), &Vec::new, &ahead, &|number, buffer| {
        let (unit_idx, results) = &candidates[number];
        let parts = units.parts(*unit_idx);
        if (!compares_sources || has_its_sources(staged, parts, results, reading, buffer))
            && is_whole(staged, parts, results, reading.layout, buffer)
        {
            ledger.add(*unit_idx, results.clone());
            done.lock().unwrap_or_else(PoisonError::into_inner).is_done[*unit_idx] = true;
        }
        run.progress.advance(unit_bytes);
        Ok(())
    })?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (n_found, n_kept) = (candidates.len(), done.is_done.iter().filter(|&&is_done| is_done).count());
    if n_kept < n_found {
        let n_again = n_found - n_kept;
        run.progress.note(&format!(
            "{} merged again: the sources or the unfinished output have changed since",
            part_of_are(n_again, n_found, "finished part")
        ));
    }
    Ok(done)
}

/// Whether the sources still hold what a unit was merged from. Without digests, the stage's key compares sizes and
/// times instead; where a digest is known, the plan does.
fn has_its_sources(
    staged: &[StagedOutput<'_>],
    parts: &[Part],
    results: &[PartResult],
    reading: &Reading<'_>,
    buffer: &mut Vec<u8>,
) -> bool {
    let Some(kind) = staged.first().and_then(|output| output.plan.digest.kind()) else { return true };
    parts.iter().zip(results).all(|(part, result)| {
        let entry = &reading.layout.catalog.entries()[part.tensor_idx];
        let read_by = &reading.read_by[part.tensor_idx];
        read_by.len() == result.source_subtrees.len()
            && read_by.iter().zip(&result.source_subtrees).all(|(&source_idx, known)| {
                if reading.is_known[source_idx] && known.is_empty() {
                    return true;
                }
                let source = reading.sources[source_idx];
                let read = |elements, out: &mut [u8]| source.read_elements(part.tensor_idx, elements, out).is_ok();
                hash_part(part, (kind, entry.dtype, entry.n_elements()), buffer, &read).as_ref() == Some(known)
            })
    })
}

/// Units that are in the journal of every output, with their results put together again.
fn common_units(staged: &[StagedOutput<'_>], units: &UnitList) -> Vec<(usize, Vec<PartResult>)> {
    let mut by_unit: Vec<Vec<&UnitRecord>> = vec![Vec::new(); units.len()];
    for (k, output) in staged.iter().enumerate() {
        // Of a unit that was done twice, the last record counts.
        for record in output.found.iter().rev() {
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
            let dtype = layout.output_dtype(part.tensor_idx, output.plan.dtype);
            let kind = output.plan.digest.kind().unwrap_or(DigestKind::Xxh3);
            let read = |elements, out: &mut [u8]| output.staged.read_to_keep(part.tensor_idx, elements, out).is_ok();
            let found = hash_part(part, (kind, dtype, entry.n_elements()), buffer, &read);
            found.as_ref() == Some(&result.outputs[k].0)
        })
    })
}

/// Digests of the subtrees of a part, which `read` fetches in pieces; `None` if it fails.
fn hash_part(
    part: &Part,
    (kind, dtype, n_elements): (DigestKind, Dtype, u64),
    buffer: &mut Vec<u8>,
    read: &dyn Fn(Range<u64>, &mut [u8]) -> bool,
) -> Option<Vec<SubtreeDigest>> {
    let offset = dtype.bytes_of(part.elements.start)?;
    let mut hash = RunningHash::new(Some(kind), offset / SUBTREE_BYTES, dtype.bytes_of(n_elements)?);
    let step = SUBTREE_BYTES / 16 / dtype.bytes().unwrap_or(1);
    let mut at = part.elements.start;
    while at < part.elements.end {
        let end = part.elements.end.min(at + step);
        buffer.resize(to_index(dtype.bytes_of(end - at)?), 0);
        if !read(at..end, buffer) {
            return None;
        }
        hash.update(buffer);
        at = end;
    }
    Some(hash.finish())
}
