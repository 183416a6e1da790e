//! Gathers the results of parts, from workers and journals alike, into digests and statistics of tensors.
//!
//! Parts may come in any order; sums are taken in the order of the parts, so the result does not depend on it.

use std::sync::{Mutex, PoisonError};

use thalweg_tensor::digest::{Digest, DigestKind, ListHasher, tensor_digest};
use thalweg_tensor::{Dtype, TensorCatalog};

use crate::part_hash::PartResult;
use crate::tensor_stats::TensorStats;
use crate::unit::{Part, UnitList};

/// Digest and statistics of one output tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TensorRecord {
    /// With the hash of the stage, also when the plan asks for none.
    pub(crate) digest: Digest,
    pub(crate) stats: TensorStats,
}

#[derive(Debug, Default)]
struct Slot {
    parts: Vec<Option<PartResult>>,
    n_missing: usize,
    /// Digests of the sources that were read, once the tensor is complete; `None` where none was taken.
    sources: Vec<Option<Digest>>,
    outputs: Vec<TensorRecord>,
}

/// Which sources a tensor was read from.
pub(crate) type ReadBy<'a> = dyn Fn(usize) -> &'a [usize] + Sync + 'a;

/// All tensors of the work.
pub(crate) struct Ledger<'a> {
    catalog: &'a TensorCatalog,
    units: &'a UnitList,
    source_kind: Option<DigestKind>,
    output_kind: DigestKind,
    /// Element type of tensor t in output k.
    output_dtype: &'a (dyn Fn(usize, usize) -> Dtype + Sync),
    slots: Mutex<Vec<Slot>>,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(
        catalog: &'a TensorCatalog,
        units: &'a UnitList,
        source_kind: Option<DigestKind>,
        output_dtype: &'a (dyn Fn(usize, usize) -> Dtype + Sync),
    ) -> Self {
        let slot = |t| {
            let n_parts = units.n_parts_of(t);
            Slot { parts: vec![None; n_parts], n_missing: n_parts, ..Slot::default() }
        };
        let slots = (0..catalog.entries().len()).map(slot).collect();
        let output_kind = source_kind.unwrap_or(DigestKind::Xxh3);
        Self { catalog, units, source_kind, output_kind, output_dtype, slots: Mutex::new(slots) }
    }

    /// Takes the results of unit `unit_idx`, one for each of its parts.
    pub(crate) fn add(&self, unit_idx: usize, results: Vec<PartResult>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, result) in self.units.parts(unit_idx).iter().zip(results) {
            let slot = &mut slots[part.tensor_idx];
            if slot.parts[part.part_idx].replace(result).is_none() {
                slot.n_missing -= 1;
            }
            if slot.n_missing == 0 {
                self.complete(part, slot);
            }
        }
    }

    fn complete(&self, part: &Part, slot: &mut Slot) {
        let parts: Vec<PartResult> = std::mem::take(&mut slot.parts).into_iter().flatten().collect();
        let entry = &self.catalog.entries()[part.tensor_idx];
        let Some(first) = parts.first() else { return };
        if let Some(kind) = self.source_kind {
            let digest = |s: usize| {
                let subtrees: Vec<_> = parts.iter().flat_map(|part| part.source_subtrees[s].iter().copied()).collect();
                (!subtrees.is_empty()).then(|| tensor_digest(kind, &subtrees, entry.n_bytes()))
            };
            slot.sources = (0..first.source_subtrees.len()).map(digest).collect();
        }
        slot.outputs = (0..first.outputs.len())
            .map(|k| {
                let dtype = (self.output_dtype)(part.tensor_idx, k);
                let subtrees: Vec<_> = parts.iter().flat_map(|part| part.outputs[k].0.iter().copied()).collect();
                let n_bytes = dtype.bytes_of(entry.n_elements()).unwrap_or(0);
                let mut stats = TensorStats::start();
                parts.iter().for_each(|part| stats.add(&part.outputs[k].1));
                TensorRecord { digest: tensor_digest(self.output_kind, &subtrees, n_bytes), stats }
            })
            .collect();
    }

    /// The finished records: all tensors are complete.
    pub(crate) fn finish(self) -> Finished {
        let slots = self.slots.into_inner().unwrap_or_else(PoisonError::into_inner);
        Finished { tensors: slots.into_iter().map(|slot| (slot.sources, slot.outputs)).collect() }
    }
}

/// Digests and statistics of everything that was read and written.
#[derive(Debug)]
pub(crate) struct Finished {
    tensors: Vec<(Vec<Option<Digest>>, Vec<TensorRecord>)>,
}

impl Finished {
    /// Digest of source `source_idx`, if it is not `known`; `None` when some of its tensors were not read or nothing
    /// was hashed.
    pub(crate) fn source_digest(
        &self,
        catalog: &TensorCatalog,
        (source_idx, known): (usize, Option<Digest>),
        kind: DigestKind,
        read_by: &ReadBy<'_>,
    ) -> Option<Digest> {
        if known.is_some() {
            return known;
        }
        let mut list = ListHasher::new(kind);
        for (t, (entry, (sources, _))) in catalog.entries().iter().zip(&self.tensors).enumerate() {
            let slot = read_by(t).iter().position(|&read| read == source_idx)?;
            list.add_tensor(&entry.name, entry.dtype, &entry.shape, sources.get(slot)?.as_ref()?);
        }
        Some(list.finish())
    }

    /// Records of output `k`, one for each tensor of the catalog.
    pub(crate) fn output(&self, k: usize) -> impl Iterator<Item = TensorRecord> + '_ {
        self.tensors.iter().filter_map(move |(_, outputs)| outputs.get(k).copied())
    }
}

/// What the pass over the sources leaves behind.
pub(crate) struct Merged {
    pub(crate) finished: Finished,
    /// For each tensor, the sources that it was read from.
    pub(crate) read_by: Vec<Vec<usize>>,
    pub(crate) bytes_read: u64,
    /// Of these, those of units that an interrupted run or a share had finished.
    pub(crate) bytes_resumed: u64,
}
