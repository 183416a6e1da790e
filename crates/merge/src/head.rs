//! The sum of a window without its newest checkpoint, prepared before that one is there: the merge then reads the sum
//! and the newest checkpoint instead of all. The result has the same bytes.
//!
//! A prepared sum is only believed for sources whose digests are those that were summed, and each part of it only with
//! the digest that it was written with. It is made in `prepare_head`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::{ReadAt, Storage};
use thalweg_tensor::Dtype;
use thalweg_tensor::digest::{DigestKind, tensor_digest};
use thalweg_tensor::kernel::{SumSpec, WeightedSum};

use crate::combination::Combination;
use crate::context::RunContext;
use crate::error::Error;
use crate::merge_layout::MergeLayout;
use crate::open_source::OpenSource;
use crate::part_hash::RunningHash;
use crate::plan::{OutputPlan, PlanSource};
use crate::reading::{Action, source_use};
use crate::unit::Part;

pub(crate) const HEAD_KIND: &str = "thalweg-head";
const HEAD_VERSION: u64 = 1;
/// What marks the description of a prepared sum.
pub(crate) const HEAD_FILE: OwnKind<'_> = OwnKind::json("the description of a prepared sum", HEAD_KIND);
/// A digest for each 1 MiB of a source.
const MAX_HEAD_BYTES: u64 = 256 << 20;
/// Fewer checkpoints are read as fast as their sum.
const LEAST_SOURCES: usize = 4;

/// The description of a prepared sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadRecord {
    kind: String,
    version: u64,
    /// Digest of the plan of which it is a part, whatever its sources and its path.
    plan: String,
    /// Digests of the sources, oldest first; nothing while the sum is being written.
    sources: Vec<String>,
    tensors: Vec<HeadTensor>,
}

/// The sum of a tensor. They follow each other in the file, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadTensor {
    pub(crate) name: String,
    /// Element type of the sources.
    dtype: String,
    n_elements: u64,
    /// Digest of each part.
    pub(crate) parts: Vec<String>,
}

impl HeadRecord {
    /// For the sum of `sources`, by their digests, in merges as by `plan`.
    pub(crate) fn new(plan: String, sources: Vec<String>, tensors: Vec<HeadTensor>) -> Self {
        Self { kind: HEAD_KIND.to_owned(), version: HEAD_VERSION, plan, sources, tensors }
    }

    fn read(path: &Path, storage: &dyn Storage) -> Option<Self> {
        let bytes = storage.read_file(path, MAX_HEAD_BYTES).ok()?;
        let record: Self = serde_json::from_slice(&bytes).ok()?;
        (record.kind == HEAD_KIND && record.version == HEAD_VERSION).then_some(record)
    }

    fn is_of(&self, plan: &str, sources: &[String]) -> bool {
        self.plan == plan && self.sources == sources
    }
}

impl HeadTensor {
    pub(crate) fn new(place: &HeadPlace, layout: &MergeLayout, parts: Vec<String>) -> Self {
        let entry = &layout.catalog.entries()[place.tensor_idx];
        Self {
            name: entry.name.to_string(),
            dtype: entry.dtype.name().to_owned(),
            n_elements: entry.n_elements(),
            parts,
        }
    }
}

/// A prepared sum in a file.
#[derive(Debug)]
pub struct WindowHead {
    path: PathBuf,
    record: HeadRecord,
    file: Arc<dyn ReadAt>,
}

impl WindowHead {
    /// Opens the sum that is described at `path`; `None` if there is none that can be read: it only saves time.
    pub fn open(path: &Path, storage: &dyn Storage) -> Option<Self> {
        let record = HeadRecord::read(path, storage).filter(|record| !record.sources.is_empty())?;
        let file = storage.open_file(&sums_path(path)).ok()?;
        Some(Self { path: path.to_owned(), record, file })
    }

    /// Whether it is of these sources, by their digests, in merges as by `plan`.
    pub(crate) fn is_of(&self, plan: &str, sources: &[String]) -> bool {
        self.record.is_of(plan, sources)
    }

    /// The sum as a part of the merge `output`, if it is one.
    pub(crate) fn for_output(
        &self,
        (output, combination): (&OutputPlan, &Combination),
        (sources, layout): (&[OpenSource], &MergeLayout),
        run: &RunContext<'_>,
    ) -> Option<HeadReader<'_>> {
        let (_, older) = combination.source_idxs.split_last()?;
        let digests = known_digests(older, (sources, layout)).ok()?;
        if !self.is_of(&plan_digest(output).ok()?, &digests) {
            return None;
        }
        let places = head_places((output, combination), layout, run).ok()?;
        let is_placed = |(place, tensor): (&HeadPlace, &HeadTensor)| {
            *tensor == HeadTensor::new(place, layout, tensor.parts.clone())
        };
        let is_same =
            places.len() == self.record.tensors.len() && places.iter().zip(&self.record.tensors).all(is_placed);
        let n_bytes: u64 = places.iter().map(|place| place.n_bytes).sum();
        if !is_same || self.file.info().len_bytes != n_bytes {
            return None;
        }
        let mut by_tensor: Vec<Option<(HeadPlace, &[String])>> = vec![None; layout.classes.len()];
        for (place, tensor) in places.into_iter().zip(&self.record.tensors) {
            let tensor_idx = place.tensor_idx;
            by_tensor[tensor_idx] = Some((place, tensor.parts.as_slice()));
        }
        Some(HeadReader { head: self, by_tensor })
    }
}

/// Where the sums are, beside their description.
pub(crate) fn sums_path(path: &Path) -> PathBuf {
    path.with_extension("sums")
}

/// The digests of sources, or why no sum of them can be prepared.
pub(crate) fn known_digests(
    older: &[usize],
    (sources, layout): (&[OpenSource], &MergeLayout),
) -> Result<Vec<String>, &'static str> {
    let digest_of = |&i: &usize| match sources[i].known_digest {
        Some(digest) if layout.is_whole_source(i) => Ok(digest.to_string()),
        Some(_) => Err("the checkpoints have different tensors"),
        None => Err("the digests of its checkpoints are not known"),
    };
    older.iter().map(digest_of).collect()
}

/// Digest of a plan without its sources and its path: merges with equal ones do the same with other checkpoints.
pub(crate) fn plan_digest(output: &OutputPlan) -> Result<String, Error> {
    let anonymous =
        |source: &PlanSource| PlanSource { path: PathBuf::new(), step: None, tokens: None, ..source.clone() };
    let sources = output.sources.iter().map(anonymous).collect();
    OutputPlan { sources, ..output.clone() }.digest()
}

/// Where the sum of a tensor is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadPlace {
    pub(crate) tensor_idx: usize,
    /// Element type of the sum.
    pub(crate) dtype: Dtype,
    offset: u64,
    pub(crate) n_bytes: u64,
}

impl HeadPlace {
    /// Where element `first` is.
    pub(crate) fn offset_of(&self, first: u64) -> u64 {
        self.offset + first * self.dtype.bytes().unwrap_or(0)
    }

    fn bytes_of(&self, part: &Part) -> u64 {
        self.dtype.bytes_of(part.elements.end - part.elements.start).unwrap_or(0)
    }

    /// A hash of the sum's bytes in a part.
    pub(crate) fn start_hash(&self, part: &Part) -> RunningHash {
        RunningHash::new(Some(DigestKind::Xxh3), 0, self.bytes_of(part))
    }

    /// The digest of a part of which all bytes were hashed.
    pub(crate) fn finish_hash(&self, part: &Part, hash: RunningHash) -> String {
        tensor_digest(DigestKind::Xxh3, &hash.finish(), self.bytes_of(part)).to_string()
    }
}

/// The tensors that a merge sums, in the order of their sums in the file, or why their sum cannot be prepared.
pub(crate) fn head_places(
    (output, combination): (&OutputPlan, &Combination),
    layout: &MergeLayout,
    run: &RunContext<'_>,
) -> Result<Vec<HeadPlace>, &'static str> {
    let (terms, numerators) = combination.terms();
    if terms.len() < LEAST_SOURCES {
        return Err("a window of fewer than 4 checkpoints is read as fast");
    }
    let is_usual =
        output.mean.is_none() && terms == combination.source_idxs && terms.last() == Some(&combination.newest_idx);
    if !is_usual {
        return Err("it is not a weighted sum whose last checkpoint is the newest");
    }
    let mut offset: u64 = 0;
    let mut places = Vec::new();
    for (tensor_idx, (entry, &class)) in layout.catalog.entries().iter().zip(&layout.classes).enumerate() {
        match source_use(class, std::slice::from_ref(combination)).actions.as_slice() {
            [Action::Sum { .. }] => {}
            [Action::Rule { .. }] => return Err("a rule merges its experts"),
            _ => continue,
        }
        let input = entry.dtype;
        let spec = SumSpec {
            input,
            output: layout.output_dtype(tensor_idx, output.dtype),
            non_finite: combination.non_finite,
            simd: run.limits.simd,
        };
        let sum = WeightedSum::new(&numerators, combination.coefficients.divisor(), spec);
        let dtype = sum.ok().and_then(|sum| sum.head_dtype());
        let dtype = dtype.ok_or("sums from and to these element types, with these coefficients, are not kept")?;
        let n_bytes = dtype.bytes_of(entry.n_elements()).ok_or("it is too large")?;
        places.push(HeadPlace { tensor_idx, dtype, offset, n_bytes });
        offset = offset.checked_add(n_bytes).ok_or("it is too large")?;
    }
    Ok(places)
}

/// A prepared sum as a part of one merge.
pub(crate) struct HeadReader<'a> {
    head: &'a WindowHead,
    by_tensor: Vec<Option<(HeadPlace, &'a [String])>>,
}

impl HeadReader<'_> {
    /// The sum of a tensor, where there is one.
    pub(crate) fn place(&self, tensor_idx: usize) -> Option<HeadPlace> {
        Some(self.by_tensor.get(tensor_idx)?.as_ref()?.0)
    }

    /// Fills `out` with the sum from element `first` on.
    pub(crate) fn read(&self, place: &HeadPlace, first: u64, out: &mut [u8]) -> Result<(), Error> {
        self.head.file.read_exact_at(place.offset_of(first), out).map_err(|_| self.changed())
    }

    /// Compares what was read of a part with what was written.
    pub(crate) fn check(&self, part: &Part, place: &HeadPlace, hash: RunningHash) -> Result<(), Error> {
        let known = self.by_tensor[part.tensor_idx].as_ref().and_then(|(_, parts)| parts.get(part.part_idx));
        if known == Some(&place.finish_hash(part, hash)) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        Error::HeadChanged { path: self.head.path.clone() }
    }
}
