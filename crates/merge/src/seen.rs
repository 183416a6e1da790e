//! How a plan recognises its sources: length, time and header of each file, as they were when the plan was made.

use thalweg_checkpoint::{Checkpoint, ShardFile};
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_tensor::to_index;

use crate::error::Error;
use crate::open_source::OpenSource;
use crate::plan::MergePlan;
use crate::seen_source::DequantisedWeights;
pub use crate::seen_source::{SeenFile, SeenSource};

/// The sources as they are now, for [`MergePlan::seen_sources`].
pub fn see_sources(sources: &[OpenSource]) -> Vec<SeenSource> {
    let see = |source: &OpenSource| SeenSource {
        path: source.path.clone(),
        files: see_files(&source.checkpoint),
        dequantised: source.checkpoint.dequantised_weights().map(DequantisedWeights::new),
    };
    sources.iter().map(see).collect()
}

fn see_files(checkpoint: &Checkpoint) -> Vec<SeenFile> {
    // One text for all formats, so that the digest does not depend on how a format writes its header.
    let mut headers = vec![String::new(); checkpoint.files().len()];
    for entry in checkpoint.stored_catalog().entries() {
        for piece in &entry.pieces {
            let Some(header) = headers.get_mut(to_index(piece.file_idx.into())) else { continue };
            header.push_str(&format!("{}\0{}\0{}\0{}\n", entry.name, entry.dtype, entry.shape, piece.offset));
        }
    }
    let see = |(file, header): (&ShardFile, String)| SeenFile {
        name: file.name.clone(),
        len_bytes: file.info.len_bytes,
        modified_ns: file.info.modified_ns.to_string(),
        changed_ns: Some(file.info.changed_ns).filter(|changed| *changed != 0).map(|changed| changed.to_string()),
        header_digest: bytes_digest(DigestKind::Blake3, header.as_bytes()).to_string(),
    };
    checkpoint.files().iter().zip(headers).map(see).collect()
}

/// Compares the sources with what the plan saw of them, if it did.
///
/// # Errors
/// `SourcesChanged` with the first change of each source.
pub(crate) fn check_seen(plan: &MergePlan, sources: &[OpenSource]) -> Result<(), Error> {
    let mut changes = Vec::new();
    for seen in &plan.seen_sources {
        let Some(source) = sources.iter().find(|source| source.path == seen.path) else { continue };
        if let Some(change) = first_change(&seen.files, &see_files(&source.checkpoint)) {
            changes.push(format!("`{}`: {change}", seen.path.display()));
        }
    }
    if changes.is_empty() { Ok(()) } else { Err(Error::SourcesChanged { changes }) }
}

fn first_change(before: &[SeenFile], now: &[SeenFile]) -> Option<String> {
    let names = |files: &[SeenFile]| files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    if names(before) != names(now) {
        return Some("it has other files".to_owned());
    }
    before.iter().zip(now).find_map(|(before, now)| {
        let name = &before.name;
        if before.len_bytes != now.len_bytes {
            return Some(format!("`{name}` had {} bytes and has {}", before.len_bytes, now.len_bytes));
        }
        if before.header_digest != now.header_digest {
            return Some(format!("`{name}` has another header"));
        }
        if before.modified_ns != now.modified_ns {
            return Some(format!("`{name}` was written again"));
        }
        let is_touched = before.changed_ns.is_some() && before.changed_ns != now.changed_ns;
        is_touched.then(|| format!("`{name}` has the same time, but its content, permissions or links changed"))
    })
}
