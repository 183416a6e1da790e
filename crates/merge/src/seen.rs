//! How a plan recognises its sources: length, time and header of each file, as they were when the plan was made, and
//! length and time of the files beside the tensors that may travel.

use thalweg_checkpoint::{Checkpoint, ShardFile, SideFile, SideFileKind};
use thalweg_storage::{FileInfo, Storage};
use thalweg_tensor::display_name;

use crate::error::Error;
use crate::open_source::OpenSource;
use crate::plan::MergePlan;
use crate::seen_source::DequantisedWeights;
pub use crate::seen_source::{SeenFile, SeenSideFile, SeenSource};

/// The sources as they are now, for [`MergePlan::seen_sources`].
///
/// # Errors
/// `Storage` for a file beside the tensors that vanished since the source was opened.
pub fn see_sources(sources: &[OpenSource], storage: &dyn Storage) -> Result<Vec<SeenSource>, Error> {
    let see = |source: &OpenSource| {
        Ok(SeenSource {
            path: source.path.clone(),
            files: see_files(&source.checkpoint),
            side_files: Some(see_side_files(&source.checkpoint, storage)?),
            dequantised: source.checkpoint.dequantised_weights().map(DequantisedWeights::new),
            digest: None,
        })
    };
    sources.iter().map(see).collect()
}

fn see_side_files(checkpoint: &Checkpoint, storage: &dyn Storage) -> Result<Vec<SeenSideFile>, Error> {
    let may_travel = |file: &&SideFile| matches!(file.kind, SideFileKind::Travels | SideFileKind::Code);
    let see = |file: &SideFile| {
        let info = storage.file_info(&file.path)?;
        let (modified_ns, changed_ns) = times_of(&info);
        Ok(SeenSideFile { name: file.name.clone(), len_bytes: info.len_bytes, modified_ns, changed_ns })
    };
    checkpoint.side_files().iter().filter(may_travel).map(see).collect()
}

fn times_of(info: &FileInfo) -> (String, Option<String>) {
    let changed = Some(info.changed_ns).filter(|changed| *changed != 0);
    (info.modified_ns.to_string(), changed.map(|changed| changed.to_string()))
}

/// The files of a checkpoint as they are now.
pub fn see_files(checkpoint: &Checkpoint) -> Vec<SeenFile> {
    let see = |(file, header_digest): (&ShardFile, String)| {
        let (modified_ns, changed_ns) = times_of(&file.info);
        SeenFile { name: file.name.clone(), len_bytes: file.info.len_bytes, modified_ns, changed_ns, header_digest }
    };
    checkpoint.files().iter().zip(checkpoint.header_digests()).map(see).collect()
}

/// Compares the sources with what the plan saw of them, if it did.
///
/// # Errors
/// `SourcesChanged` with the first change of each source; `Storage`.
pub(crate) fn check_seen(plan: &MergePlan, sources: &[OpenSource], storage: &dyn Storage) -> Result<(), Error> {
    let mut changes = Vec::new();
    for seen in &plan.seen_sources {
        let Some(source) = sources.iter().find(|source| source.path == seen.path) else { continue };
        let mut change = first_change(&seen.files, &see_files(&source.checkpoint));
        if let Some(side_files) = seen.side_files.as_ref().filter(|_| change.is_none()) {
            change = first_change(side_files, &see_side_files(&source.checkpoint, storage)?);
        }
        if let Some(change) = change {
            changes.push(format!("`{}`: {change}", seen.path.display()));
        }
    }
    if changes.is_empty() { Ok(()) } else { Err(Error::SourcesChanged { changes }) }
}

/// What of a file is compared.
#[derive(Clone, Copy)]
struct Seen<'a> {
    name: &'a str,
    len_bytes: u64,
    header_digest: Option<&'a str>,
    modified_ns: &'a str,
    changed_ns: Option<&'a str>,
}

impl<'a> From<&'a SeenFile> for Seen<'a> {
    fn from(file: &'a SeenFile) -> Self {
        let SeenFile { name, len_bytes, modified_ns, changed_ns, header_digest } = file;
        let (header_digest, changed_ns) = (Some(&**header_digest), changed_ns.as_deref());
        Self { name, len_bytes: *len_bytes, header_digest, modified_ns, changed_ns }
    }
}

impl<'a> From<&'a SeenSideFile> for Seen<'a> {
    fn from(file: &'a SeenSideFile) -> Self {
        let SeenSideFile { name, len_bytes, modified_ns, changed_ns } = file;
        Self { name, len_bytes: *len_bytes, header_digest: None, modified_ns, changed_ns: changed_ns.as_deref() }
    }
}

/// The first difference between two lists of files, both sorted by name or in the order of the shards.
fn first_change<'a, T>(before: &'a [T], now: &'a [T]) -> Option<String>
where
    Seen<'a>: From<&'a T>,
{
    let (before, now) = (before.iter().map(Seen::from), now.iter().map(Seen::from));
    let (before, now): (Vec<Seen<'_>>, Vec<Seen<'_>>) = (before.collect(), now.collect());
    let lacks = |files: &[Seen<'_>], name: &str| files.iter().all(|file| file.name != name);
    if let Some(lost) = before.iter().find(|file| lacks(&now, file.name)) {
        return Some(format!("`{}` is gone", display_name(lost.name)));
    }
    if let Some(added) = now.iter().find(|file| lacks(&before, file.name)) {
        return Some(format!("`{}` was added", display_name(added.name)));
    }
    before.iter().zip(&now).find_map(|(before, now)| change_of(*before, *now))
}

fn change_of(before: Seen<'_>, now: Seen<'_>) -> Option<String> {
    let name = display_name(before.name);
    if before.len_bytes != now.len_bytes {
        return Some(format!("`{name}` had {} bytes and has {}", before.len_bytes, now.len_bytes));
    }
    if before.header_digest != now.header_digest {
        return Some(format!("the header of `{name}` changed"));
    }
    if before.modified_ns != now.modified_ns {
        return Some(format!("`{name}` was rewritten"));
    }
    let is_touched = before.changed_ns.is_some() && before.changed_ns != now.changed_ns;
    is_touched
        .then(|| format!("`{name}` has the same modification time, but its content, permissions or links changed"))
}
