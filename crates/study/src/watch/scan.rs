//! Whether a run changed, from names, lengths and times alone: what a watcher asks while nothing happens.
//!
//! No file is opened. Notifications of the system would be cheaper, but network file systems and buckets send none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_trajectory::NamePattern;
use thalweg_trajectory::layout::parse_entry_name;

use crate::Error;

/// Folders below a checkpoint that are looked into: Megatron has one for each rank.
const MAX_DEPTH: usize = 2;
/// What trainers write last, beside their checkpoints.
const TRACKERS: [&str; 2] = ["latest_checkpointed_iteration.txt", "latest"];

/// The checkpoints of a run by path, each with a digest of the names, lengths and times of its files.
pub(super) type Scan = BTreeMap<PathBuf, Digest>;

/// Looks at the entries of a run's folder that may be checkpoints, or at all of them if none may.
///
/// # Errors
/// `Storage` where the folder cannot be listed. What vanishes meanwhile is left out.
pub(super) fn scan_run(storage: &dyn Storage, run: &Path, pattern: Option<&NamePattern>) -> Result<Scan, Error> {
    let entries = storage.list_folder(run)?;
    let is_checkpoint = |name: &str, kind| parse_entry_name(name, kind, pattern).is_some() || TRACKERS.contains(&name);
    let takes_all = !entries.iter().any(|entry| is_checkpoint(&entry.name, entry.kind));
    let wanted = entries.iter().filter(|entry| takes_all || is_checkpoint(&entry.name, entry.kind));
    let mut scan = Scan::new();
    for entry in wanted {
        let (path, mut text) = (run.join(&entry.name), String::new());
        describe(storage, &path, 0, &mut text);
        scan.insert(path, bytes_digest(DigestKind::Xxh3, text.as_bytes()));
    }
    Ok(scan)
}

/// Adds a line for a file, or for a folder and what is in it.
fn describe(storage: &dyn Storage, path: &Path, depth: usize, text: &mut String) {
    let Ok(info) = storage.file_info(path) else { return };
    text.push_str(&format!("{}\0{}\0{}\0{:?}\n", path.display(), info.len_bytes, info.modified_ns, info.id));
    if info.kind == FileKind::Folder && depth <= MAX_DEPTH {
        for entry in storage.list_folder(path).unwrap_or_default() {
            describe(storage, &path.join(&entry.name), depth + 1, text);
        }
    }
}

/// The paths whose files differ between two scans, or are in one of them only.
pub(super) fn changed_paths(before: &Scan, now: &Scan) -> Vec<PathBuf> {
    let paths = before.keys().chain(now.keys().filter(|path| !before.contains_key(*path)));
    paths.filter(|path| before.get(*path) != now.get(*path)).cloned().collect()
}
