//! What an output holds besides the merged tensors when it has the files of the newest source: copied before the merge,
//! written again after it, hashed for the receipt.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use num_bigint::BigInt;
use thalweg_checkpoint::{StagedCheckpoint, frame_ranges};
use thalweg_tensor::digest::{Digest, DigestKind, ListHasher, bytes_digest};
use thalweg_tensor::kernel::{NonFinitePolicy, Simd, SumSpec, WeightedSum};
use thalweg_tensor::{Dtype, DtypeClass, TensorEntry, TensorSink, display_name, to_index};

use crate::combine::run_workers;
use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::receipt::FileReceipt;
use crate::stage::StagedOutput;

/// Bytes that a worker copies or hashes at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Copies into every stage what its frame takes from the newest source.
pub(crate) fn copy_frames(staged: &[StagedOutput<'_>], run: &RunContext<'_>) -> Result<(), Error> {
    let of_output = |output: &StagedOutput<'_>| output.staged.frame_copies(PIECE_BYTES);
    let copies: Vec<_> =
        staged.iter().enumerate().flat_map(|(k, output)| of_output(output).into_iter().map(move |c| (k, c))).collect();
    if copies.is_empty() {
        return Ok(());
    }
    run.progress.begin(Stage::Copy, copies.iter().map(|(_, copy)| copy.len_bytes).sum());
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    run_workers(run, &|| {
        let mut buffer = Vec::new();
        while let Some((k, copy)) = copies.get(next.fetch_add(1, Ordering::Relaxed)) {
            let copied = run.check_interrupt().and_then(|()| Ok(staged[*k].staged.copy_frame(copy, &mut buffer)?));
            if let Err(error) = copied {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
            run.progress.advance(copy.len_bytes);
        }
    })?;
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Writes the further copies of merged tensors, rounded or widened from the merged values.
pub(crate) fn write_copies(staged: &StagedCheckpoint, run: &RunContext<'_>) -> Result<(), Error> {
    let copies = staged.layout().copies().entries();
    if copies.is_empty() {
        return Ok(());
    }
    run.progress.begin(Stage::Copy, copies.iter().map(TensorEntry::n_bytes).sum());
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    run_workers(run, &|| {
        loop {
            let copy_idx = next.fetch_add(1, Ordering::Relaxed);
            let Some(copy) = copies.get(copy_idx) else { return };
            if let Err(error) = write_copy(staged, copy_idx, copy, run) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    })?;
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn write_copy(
    staged: &StagedCheckpoint,
    copy_idx: usize,
    copy: &TensorEntry,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let catalog = staged.catalog();
    let Some(tensor_idx) = catalog.find(&copy.name) else { return Ok(()) };
    let merged = &catalog.entries()[tensor_idx];
    let fail = |source| Error::Access { tensor: display_name(&copy.name), source };
    let conversion = conversion(merged.dtype, copy.dtype)
        .map_err(|source| Error::Sum { tensor: display_name(&copy.name), source })?;
    let n_at_once = (PIECE_BYTES / 8).max(1);
    let (mut values, mut converted) = (Vec::new(), Vec::new());
    for first in (0..copy.n_elements()).step_by(to_index(n_at_once)) {
        run.check_interrupt()?;
        let elements = first..copy.n_elements().min(first + n_at_once);
        let n = elements.end - elements.start;
        values.resize(to_index(merged.dtype.bytes_of(n).unwrap_or(0)), 0);
        converted.resize(to_index(copy.dtype.bytes_of(n).unwrap_or(0)), 0);
        staged.read_back(tensor_idx, elements, &mut values).map_err(fail)?;
        match &conversion {
            Some(sum) => {
                sum.sum_into(&[&values], &mut converted).map_err(|_| Error::Overflow {
                    tensor: display_name(&copy.name),
                    element_idx: first,
                    value: f64::INFINITY,
                    dtype: copy.dtype,
                })?;
            }
            None => converted.clone_from(&values),
        }
        staged.write_copy(copy_idx, first, &converted).map_err(fail)?;
        run.progress.advance(converted.len() as u64);
    }
    Ok(())
}

/// The conversion between two element types; `None` if they are the same.
fn conversion(from: Dtype, to: Dtype) -> Result<Option<WeightedSum>, thalweg_tensor::kernel::SumError> {
    if from == to || from.class() != DtypeClass::Mergeable {
        return Ok(None);
    }
    let one = BigInt::from(1);
    let spec = SumSpec { input: from, output: to, non_finite: NonFinitePolicy::Propagate, simd: Simd::Auto };
    WeightedSum::new(std::slice::from_ref(&one), &one, spec).map(Some)
}

/// The records of files whose tensors lie anywhere in them.
pub(crate) fn framed_receipts(staged: &StagedCheckpoint, kind: Option<DigestKind>) -> Result<Vec<FileReceipt>, Error> {
    let files = staged.layout().files();
    let lengths: Vec<u64> = files.iter().map(|file| file.len_bytes).collect();
    let ranges = frame_ranges(staged.catalog().entries(), &lengths);
    let mut receipts = Vec::with_capacity(files.len());
    for ((file_idx, file), ranges) in files.iter().enumerate().zip(&ranges) {
        let read = &mut |offset: u64, out: &mut [u8]| Ok(staged.read_file(file_idx, offset, out)?);
        let frame_digest = kind.map(|kind| frame_digest(kind, ranges, read)).transpose()?;
        let has_tensors = ranges.iter().map(|range| range.end - range.start).sum::<u64>() < file.len_bytes;
        receipts.push(FileReceipt {
            name: file.name.clone(),
            len_bytes: file.len_bytes,
            digest: frame_digest.as_ref().filter(|_| !has_tensors).map(ToString::to_string),
            frame_digest: frame_digest.map(|digest| digest.to_string()),
        });
    }
    Ok(receipts)
}

/// Reads bytes of a file at an offset.
pub(crate) type ReadFile<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<(), Error>;

/// Digest of ranges of a file: of the list of the digests of their pieces, each of up to a mebibyte.
pub(crate) fn frame_digest(kind: DigestKind, ranges: &[Range<u64>], read: ReadFile<'_>) -> Result<Digest, Error> {
    let mut list = ListHasher::new(kind);
    let mut buffer = Vec::new();
    for range in ranges {
        for start in (range.start..range.end).step_by(to_index(PIECE_BYTES)) {
            let n_bytes = PIECE_BYTES.min(range.end - start);
            buffer.resize(to_index(n_bytes), 0);
            read(start, &mut buffer)?;
            list.add_digest(&bytes_digest(kind, &buffer));
        }
    }
    Ok(list.finish())
}
