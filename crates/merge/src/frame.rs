//! What an output holds besides the merged tensors when it has the files of the newest source: copied, corrected where
//! it depends on the tensors, hashed for the receipt.

use std::ops::Range;
use std::sync::OnceLock;

use thalweg_checkpoint::{OutputFile, StagedCheckpoint, frame_ranges};
use thalweg_tensor::digest::{Digest, DigestKind, ListHasher, bytes_digest};
use thalweg_tensor::kernel::SumFault;
use thalweg_tensor::{TensorEntry, TensorSink, display_name, to_index};

use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::receipt::FileReceipt;
use crate::view::conversion;
use crate::workers::for_each_number;

/// Bytes that a worker hashes or converts at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes of a part that a worker copies: long enough that a list of all parts is short.
const COPY_BYTES: u64 = 16 << 20;

/// When bytes are copied from the newest source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyTime {
    /// Before the tensors are merged.
    Before,
    /// After that.
    After,
    /// When nothing else is missing.
    Last,
}

/// Copies into every stage what its frame takes from the newest source at this time.
pub(crate) fn copy_frames<'a>(
    staged: impl IntoIterator<Item = &'a StagedCheckpoint>,
    time: CopyTime,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let at_this_time = |staged: &'a StagedCheckpoint| {
        let all = staged.frame_copies(COPY_BYTES);
        let copies = match time {
            CopyTime::Before => all.before,
            CopyTime::After => all.after,
            CopyTime::Last => all.last,
        };
        copies.into_iter().map(move |copy| (staged, copy))
    };
    let copies: Vec<_> = staged.into_iter().flat_map(at_this_time).collect();
    if copies.is_empty() {
        return Ok(());
    }
    run.progress.begin(Stage::Copy, copies.iter().map(|(_, copy)| copy.from.len_bytes).sum());
    for_each_number(run, copies.len(), &|number, buffer| {
        let (staged, copy) = &copies[number];
        staged.copy_frame(copy, buffer)?;
        run.progress.advance(copy.from.len_bytes);
        Ok(())
    })
}

/// Writes the further copies of merged tensors, rounded or widened from the merged values.
pub(crate) fn write_copies(staged: &StagedCheckpoint, run: &RunContext<'_>) -> Result<(), Error> {
    let copies = staged.layout().copies().entries();
    if copies.is_empty() {
        return Ok(());
    }
    run.progress.begin(Stage::Copy, copies.iter().map(TensorEntry::n_bytes).sum());
    for_each_number(run, copies.len(), &|copy_idx, values| {
        write_copy(staged, (copy_idx, &copies[copy_idx]), values, run)
    })
}

fn write_copy(
    staged: &StagedCheckpoint,
    (copy_idx, copy): (usize, &TensorEntry),
    values: &mut Vec<u8>,
    run: &RunContext<'_>,
) -> Result<(), Error> {
    let catalog = staged.catalog();
    let Some(tensor_idx) = catalog.find(&copy.name) else { return Ok(()) };
    let merged = &catalog.entries()[tensor_idx];
    let tensor = || display_name(&copy.name);
    let fail = |source| Error::Access { tensor: tensor(), source };
    let conversion = conversion(merged.dtype, copy.dtype, run.limits.simd);
    let conversion = conversion.map_err(|source| Error::Sum { tensor: tensor(), source })?;
    let n_at_once = PIECE_BYTES / 8;
    let mut converted = Vec::new();
    for first in (0..copy.n_elements()).step_by(to_index(n_at_once)) {
        run.check_interrupt()?;
        let elements = first..copy.n_elements().min(first + n_at_once);
        let n = elements.end - elements.start;
        values.resize(to_index(merged.dtype.bytes_of(n).unwrap_or(0)), 0);
        converted.resize(to_index(copy.dtype.bytes_of(n).unwrap_or(0)), 0);
        staged.read_back(tensor_idx, elements, values).map_err(fail)?;
        match &conversion {
            Some(sum) => {
                sum.sum_into(&[values.as_slice()], &mut converted).map_err(|fault| match fault {
                    SumFault::Overflow { element_idx, value } => {
                        let element_idx = first + element_idx as u64;
                        Error::Overflow { tensor: tensor(), element_idx, value, dtype: copy.dtype }
                    }
                    _ => Error::Bug { what: "a copy of a tensor has its number of elements" },
                })?;
            }
            None => converted.clone_from(values),
        }
        staged.write_copy(copy_idx, first, &converted).map_err(fail)?;
        run.progress.advance(converted.len() as u64);
    }
    Ok(())
}

/// The records of files whose tensors lie anywhere in them.
pub(crate) fn framed_receipts(
    staged: &StagedCheckpoint,
    kind: Option<DigestKind>,
    run: &RunContext<'_>,
) -> Result<Vec<FileReceipt>, Error> {
    let files = staged.layout().files();
    let lengths: Vec<u64> = files.iter().map(|file| file.len_bytes).collect();
    let ranges = frame_ranges(staged.catalog().entries(), &lengths);
    let read = |file_idx: usize, offset: u64, out: &mut [u8]| Ok(staged.read_file(file_idx, offset, out)?);
    let digests = kind.map(|kind| frame_digests(kind, &ranges, &read, run)).transpose()?;
    let receipt = |(file_idx, file): (usize, &OutputFile)| {
        let frame_digest = digests.as_ref().map(|digests| digests[file_idx].to_string());
        let has_tensors = ranges[file_idx].iter().map(|range| range.end - range.start).sum::<u64>() < file.len_bytes;
        let digest = frame_digest.clone().filter(|_| !has_tensors);
        FileReceipt { name: file.name.clone(), len_bytes: file.len_bytes, digest, frame_digest }
    };
    Ok(files.iter().enumerate().map(receipt).collect())
}

/// Reads bytes of a file, given by its number, at an offset.
pub(crate) type ReadFile<'a> = &'a (dyn Fn(usize, u64, &mut [u8]) -> Result<(), Error> + Sync);

/// Digests of ranges of files: for each file, of the list of the digests of its pieces, each of up to a mebibyte.
pub(crate) fn frame_digests(
    kind: DigestKind,
    ranges: &[Vec<Range<u64>>],
    read: ReadFile<'_>,
    run: &RunContext<'_>,
) -> Result<Vec<Digest>, Error> {
    let cut = |range: &Range<u64>| {
        let end = range.end;
        (range.start..end).step_by(to_index(PIECE_BYTES)).map(move |start| start..end.min(start + PIECE_BYTES))
    };
    let mut digests = Vec::with_capacity(ranges.len());
    run.progress.begin(Stage::Verify, ranges.iter().flatten().map(|range| range.end - range.start).sum());
    for (file_idx, ranges) in ranges.iter().enumerate() {
        let pieces: Vec<Range<u64>> = ranges.iter().flat_map(cut).collect();
        let found: Vec<OnceLock<Digest>> = pieces.iter().map(|_| OnceLock::new()).collect();
        for_each_number(run, pieces.len(), &|number, buffer| {
            let piece = &pieces[number];
            buffer.resize(to_index(piece.end - piece.start), 0);
            read(file_idx, piece.start, buffer)?;
            // Each piece is hashed once.
            let _ = found[number].set(bytes_digest(kind, buffer));
            run.progress.advance(buffer.len() as u64);
            Ok(())
        })?;
        let mut list = ListHasher::new(kind);
        found.iter().filter_map(OnceLock::get).for_each(|digest| list.add_digest(digest));
        digests.push(list.finish());
    }
    Ok(digests)
}
