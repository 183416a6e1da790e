//! Prepares the sum of a window without its newest checkpoint, while there is time. See `head`.
//!
//! Nothing here is synced: after a loss of power the digests of the parts tell what is missing, and the merge reads the
//! checkpoints.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use thalweg_storage::guard::{Place, is_json_of_kind, look_at};
use thalweg_storage::publish::publish_file;
use thalweg_storage::{Storage, WriteAt};
use thalweg_tensor::kernel::{SumSpec, WeightedSum};
use thalweg_tensor::{Dtype, TensorSource, display_name, to_index};

use crate::combination::Combination;
use crate::context::RunContext;
use crate::engine::open_aligned;
use crate::error::Error;
use crate::estimate::fit_merge;
use crate::head::{
    HEAD_FILE, HEAD_KIND, HeadPlace, HeadRecord, HeadTensor, WindowHead, head_places, known_digests, plan_digest,
    sums_path,
};
use crate::memory::PieceSize;
use crate::merge_layout::MergeLayout;
use crate::plan::{MergePlan, OutputPlan};
use crate::unit::{Part, UnitList};
use crate::workers::for_each_number;

/// What became of a sum that was to be prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOutcome {
    /// It was prepared.
    Made {
        /// Bytes of the file.
        n_bytes: u64,
    },
    /// It is there already.
    Known,
    /// It was no longer wanted before it was whole.
    Abandoned,
    /// It cannot be prepared, and why.
    Impossible(&'static str),
}

/// Prepares the sum that the merge after `plan`'s only output will need: it has that output's sources but the oldest,
/// and one more. Its description goes to `path`, the sums beside it.
///
/// `plan` gives the digests of the sources. The work ends once `is_wanted` no longer holds.
///
/// # Errors
/// As a merge of the same sources; `Storage` where something else is at `path`; `Interrupted`.
pub fn prepare_head(
    plan: &MergePlan,
    path: &Path,
    is_wanted: &(dyn Fn() -> bool + Sync),
    run: &RunContext<'_>,
) -> Result<HeadOutcome, Error> {
    let [output] = plan.outputs.as_slice() else {
        return Err(Error::Bug { what: "a sum is prepared for one output" });
    };
    let storage = &*run.storage;
    let (sources, layout) = open_aligned(plan, run)?;
    let combination = Combination::of_plan(output, &sources)?;
    let older = combination.source_idxs.get(1..).unwrap_or_default();
    let found = known_digests(older, (&sources, &layout))
        .and_then(|digests| Ok((digests, head_places((output, &combination), &layout, run)?)));
    let (digests, places) = match found {
        Ok(found) => found,
        Err(why) => return Ok(HeadOutcome::Impossible(why)),
    };
    let merge = plan_digest(output)?;
    if WindowHead::open(path, storage).is_some_and(|head| head.is_of(&merge, &digests)) {
        return Ok(HeadOutcome::Known);
    }
    let n_bytes = places.iter().map(|place| place.n_bytes).sum();
    let file = match open_sums(path, &merge, n_bytes, (&layout, storage))? {
        Ok(file) => file,
        Err(why) => return Ok(HeadOutcome::Impossible(why)),
    };
    let views = layout.views(&sources);
    let older: Vec<&dyn TensorSource> = older.iter().map(|&i| &views[i] as &dyn TensorSource).collect();
    let bytes_read = older.len() as u64 * n_bytes;
    let piece = fit_merge(std::iter::once(output), (&sources, &layout), bytes_read, run)?;
    let work = HeadWork { output, combination: &combination, layout: &layout, older: &older, places: &places, piece };
    let Some(parts) = work.write(&*file, is_wanted, run)? else { return Ok(HeadOutcome::Abandoned) };
    sources.iter().try_for_each(|source| source.checkpoint.check_unchanged())?;
    let tensors = places.iter().zip(parts).map(|(place, parts)| HeadTensor::new(place, &layout, parts));
    publish(&HeadRecord::new(merge, digests, tensors.collect()), path, storage)?;
    Ok(HeadOutcome::Made { n_bytes })
}

fn publish(record: &HeadRecord, path: &Path, storage: &dyn Storage) -> Result<(), Error> {
    let text = serde_json::to_vec(record).map_err(|_| Error::Bug { what: "a description of a sum is valid JSON" })?;
    Ok(publish_file(storage, path, &text, HEAD_FILE)?)
}

/// An empty file for the sums, in the place of earlier ones; or why there cannot be one.
fn open_sums(
    path: &Path,
    merge: &str,
    n_bytes: u64,
    (layout, storage): (&MergeLayout, &dyn Storage),
) -> Result<Result<std::sync::Arc<dyn WriteAt>, &'static str>, Error> {
    let sums = sums_path(path);
    if look_at(storage, &sums)? != Place::Free {
        if !is_json_of_kind(storage, path, HEAD_KIND)? {
            return Ok(Err("another file has its name"));
        }
        // The old description must not outlive its sums, but says whose they are.
        publish(&HeadRecord::new(merge.to_owned(), Vec::new(), Vec::new()), path, storage)?;
        storage.remove(&sums)?;
    }
    // The next merge must still fit.
    let of_merge: u64 = layout.catalog.entries().iter().map(thalweg_tensor::TensorEntry::n_bytes).sum();
    let needed = n_bytes.saturating_add(of_merge.saturating_mul(2));
    if storage.free_bytes(&sums)?.is_some_and(|free| free < needed) {
        return Ok(Err("the disk has too little space left"));
    }
    publish(&HeadRecord::new(merge.to_owned(), Vec::new(), Vec::new()), path, storage)?;
    Ok(Ok(storage.create_file(&sums, n_bytes)?))
}

/// Sums to be prepared.
struct HeadWork<'a> {
    output: &'a OutputPlan,
    combination: &'a Combination,
    layout: &'a MergeLayout,
    older: &'a [&'a dyn TensorSource],
    places: &'a [HeadPlace],
    piece: PieceSize,
}

impl HeadWork<'_> {
    /// Writes all sums; the digests of the parts, by place. `None` if they are no longer wanted.
    fn write(
        &self,
        file: &dyn WriteAt,
        is_wanted: &(dyn Fn() -> bool + Sync),
        run: &RunContext<'_>,
    ) -> Result<Option<Vec<Vec<String>>>, Error> {
        let mut place_of: Vec<Option<usize>> = vec![None; self.layout.classes.len()];
        self.places.iter().enumerate().for_each(|(i, place)| place_of[place.tensor_idx] = Some(i));
        let units = UnitList::of_merge(self.layout, &|t| place_of[t].is_some(), &[self.output.dtype]);
        let empty = |place: &HeadPlace| vec![String::new(); units.n_parts_of(place.tensor_idx)];
        let digests: Mutex<Vec<Vec<String>>> = Mutex::new(self.places.iter().map(empty).collect());
        let is_abandoned = AtomicBool::new(false);
        for_each_number(run, units.len(), &|unit_idx, buffer| {
            if is_abandoned.load(Ordering::Relaxed) || !is_wanted() {
                is_abandoned.store(true, Ordering::Relaxed);
                return Ok(());
            }
            for part in units.parts(unit_idx) {
                let Some(i) = place_of[part.tensor_idx] else { continue };
                let digest = self.write_part(part, &self.places[i], file, buffer, run)?;
                digests.lock().unwrap_or_else(PoisonError::into_inner)[i][part.part_idx] = digest;
            }
            Ok(())
        })?;
        let digests = digests.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((!is_abandoned.into_inner()).then_some(digests))
    }

    fn write_part(
        &self,
        part: &Part,
        place: &HeadPlace,
        file: &dyn WriteAt,
        buffer: &mut Vec<u8>,
        run: &RunContext<'_>,
    ) -> Result<String, Error> {
        let entry = &self.layout.catalog.entries()[part.tensor_idx];
        let sum = self.prepare_sum(part.tensor_idx, run)?;
        let mut hash = place.start_hash(part);
        for elements in self.piece.pieces_of(part) {
            let bytes_of = |dtype: Dtype| to_index(dtype.bytes_of(elements.end - elements.start).unwrap_or(0));
            let (n_in, n_out) = (bytes_of(entry.dtype), bytes_of(place.dtype));
            buffer.resize(self.older.len() * n_in + n_out, 0);
            let (inputs, out) = buffer.split_at_mut(self.older.len() * n_in);
            let mut read: Vec<&[u8]> = Vec::with_capacity(self.older.len());
            let mut rest = inputs;
            for source in self.older {
                let (input, others) = std::mem::take(&mut rest).split_at_mut(n_in);
                source
                    .read_elements(part.tensor_idx, elements.clone(), input)
                    .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })?;
                read.push(input);
                rest = others;
            }
            sum.sum_head_into(&read, out).map_err(|_| Error::Bug { what: "a sum is prepared from whole pieces" })?;
            hash.update(out);
            file.write_all_at(place.offset_of(elements.start), out)?;
        }
        Ok(place.finish_hash(part, hash))
    }

    fn prepare_sum(&self, tensor_idx: usize, run: &RunContext<'_>) -> Result<WeightedSum, Error> {
        let entry = &self.layout.catalog.entries()[tensor_idx];
        let (output, coefficients) =
            (self.layout.output_dtype(tensor_idx, self.output.dtype), &self.combination.coefficients);
        let (non_finite, simd) = (self.combination.non_finite, run.limits.simd);
        let spec = SumSpec { input: entry.dtype, output, non_finite, simd };
        WeightedSum::new(&self.combination.terms().1, coefficients.divisor(), spec)
            .map_err(|source| Error::Sum { tensor: display_name(&entry.name), source })
    }
}
