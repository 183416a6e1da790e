//! The files that an output has from its newest source: whether the source still holds what was copied.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_checkpoint::{FrameCopy, KeptName, unchanged_copies};
use thalweg_storage::Storage;
use thalweg_tensor::to_index;

use crate::align::align_sources;
use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::kept_files::list_kept;
use crate::merge_layout::MergeLayout;
use crate::newest::kept_source;
use crate::open_source::OpenSource;
use crate::open_source::open_sources;
use crate::output::{has_same_side_files, output_layout};
use crate::plan::MergePlan;
use crate::receipt::{MergeReceipt, SourceFile};
use crate::workers::for_each_number;

/// Bytes that a worker compares at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Whether the newest source has the files that an output copied, with the sizes and times of then.
pub(crate) fn has_same_times(
    receipt: &MergeReceipt,
    sources: &[OpenSource],
    storage: &dyn Storage,
) -> Result<bool, Error> {
    let known = receipt.sources.get(receipt.plan.policy.newest).map_or(&[][..], |newest| &newest.kept_files);
    let now = |file: KeptName| Ok(SourceFile::new(&file.name, &storage.file_info(&file.path)?));
    let files: Vec<SourceFile> =
        list_kept(&receipt.plan, sources, storage)?.into_iter().map(now).collect::<Result<_, Error>>()?;
    Ok(files == known)
}

/// Whether the newest source still holds every byte that the output in `folder` has from it.
pub(crate) fn has_same_bytes(
    (folder, receipt): (&Path, &MergeReceipt),
    (sources, layout): (&[OpenSource], &MergeLayout),
    run: &RunContext<'_>,
) -> Result<bool, Error> {
    let output = &receipt.plan;
    if kept_source(output, sources).is_none() {
        return Ok(true);
    }
    let laid_out = output_layout(output, layout, sources, &run.storage)?;
    let is_known = |name: &str, len_bytes: u64| {
        receipt.files.iter().any(|known| known.name == name && known.len_bytes == len_bytes)
    };
    if !laid_out.files().iter().all(|file| is_known(&file.name, file.len_bytes)) {
        return Ok(false);
    }
    let copies = unchanged_copies(&laid_out);
    run.progress.begin(Stage::Verify, copies.iter().map(|copy| copy.from.len_bytes).sum());
    let differs = AtomicBool::new(false);
    for_each_number(run, copies.len(), &|number, buffer| {
        let copy = &copies[number];
        let path = folder.join(&laid_out.files()[copy.file_idx].name);
        if !differs.load(Ordering::Relaxed) && !is_same(copy, &path, buffer, run)? {
            differs.store(true, Ordering::Relaxed);
        }
        run.progress.advance(copy.from.len_bytes);
        Ok(())
    })?;
    Ok(!differs.into_inner())
}

fn is_same(copy: &FrameCopy, path: &Path, buffer: &mut Vec<u8>, run: &RunContext<'_>) -> Result<bool, Error> {
    let source = run.storage.open_file(&copy.from.path)?;
    let file = run.storage.open_file(path)?;
    for n_before in (0..copy.from.len_bytes).step_by(to_index(PIECE_BYTES)) {
        run.check_interrupt()?;
        let n = to_index(PIECE_BYTES.min(copy.from.len_bytes - n_before));
        buffer.resize(2 * n, 0);
        let (theirs, ours) = buffer.split_at_mut(n);
        source.read_exact_at(copy.from.offset + n_before, theirs)?;
        file.read_exact_at(copy.offset + n_before, ours)?;
        if theirs != ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As [`has_same_bytes`], and the same of the files that travelled, for a receipt alone: opens the sources of its plan.
pub(crate) fn sources_have_same_bytes(
    folder: &Path,
    receipt: &MergeReceipt,
    run: &RunContext<'_>,
) -> Result<bool, Error> {
    let plan = MergePlan::new(vec![receipt.plan.clone()])?;
    let sources = open_sources(&plan, run)?;
    let layout = align_sources(&sources, &plan, &*run.storage)?;
    if !has_same_side_files(receipt, (&sources, &layout), &run.storage)? {
        return Ok(false);
    }
    if has_same_times(receipt, &sources, &*run.storage)? {
        return Ok(true);
    }
    has_same_bytes((folder, receipt), (&sources, &layout), run)
}
