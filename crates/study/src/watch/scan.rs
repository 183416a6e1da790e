//! Whether a run changed, from names, lengths and times alone: what a watcher asks while nothing happens.
//!
//! No file is opened. Notifications of the system would be cheaper, but network file systems and buckets send none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_storage::{FileInfo, FileKind, Storage};
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_trajectory::NamePattern;
use thalweg_trajectory::layout::parse_entry_name;

use crate::Error;

/// Folders below a checkpoint that are looked into: Megatron has one for each rank.
const MAX_DEPTH: usize = 2;
/// What trainers write last, beside their checkpoints.
const TRACKERS: [&str; 2] = ["latest_checkpointed_iteration.txt", "latest"];

/// Checkpoints that every scan looks into: those that were written last.
const N_ALWAYS: usize = 256;
/// Scans in which each of the others is looked into once: a long run has thousands that no trainer touches again.
const N_TURNS: usize = 16;

/// The checkpoints of a run by path, each with a digest of the names, lengths and times of its files.
pub(super) type Scan = BTreeMap<PathBuf, Digest>;

/// Scans a run repeatedly.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    turn: usize,
    /// What the entry itself was like, and the digest of all that is in it.
    known: BTreeMap<PathBuf, (String, Digest)>,
}

impl Scanner {
    /// Looks at the entries of a run's folder that may be checkpoints, or at all of them if none may.
    ///
    /// A file that changes in place in a folder that was written long ago is noticed after some scans; what is
    /// replaced, added or removed at once.
    ///
    /// # Errors
    /// `Storage` where the folder cannot be listed. What vanishes meanwhile is left out.
    pub(super) fn scan(
        &mut self,
        storage: &dyn Storage,
        run: &Path,
        pattern: Option<&NamePattern>,
    ) -> Result<Scan, Error> {
        let entries = storage.list_folder(run)?;
        let is_checkpoint =
            |name: &str, kind| parse_entry_name(name, kind, pattern).is_some() || TRACKERS.contains(&name);
        let takes_all = !entries.iter().any(|entry| is_checkpoint(&entry.name, entry.kind));
        let wanted = entries.iter().filter(|entry| takes_all || is_checkpoint(&entry.name, entry.kind));
        let mut found: Vec<(PathBuf, Option<FileInfo>)> = wanted
            .map(|entry| run.join(&entry.name))
            .map(|path| (path.clone(), storage.file_info(&path).ok()))
            .collect();
        found.sort_by_key(|(_, info)| std::cmp::Reverse(info.as_ref().map(|info| info.modified_ns)));
        self.turn = (self.turn + 1) % N_TURNS;
        let mut known = BTreeMap::new();
        for (i, (path, info)) in found.into_iter().enumerate() {
            let mut text = info.as_ref().map_or_else(String::new, |info| line_of(&path, info));
            let before = self.known.remove(&path).filter(|(own, _)| *own == text);
            let (own, is_due) = (text.clone(), i < N_ALWAYS || i % N_TURNS == self.turn);
            let digest = match before {
                Some((_, digest)) if !is_due => digest,
                _ => {
                    describe_inside(storage, &path, info, 0, &mut text);
                    bytes_digest(DigestKind::Xxh3, text.as_bytes())
                }
            };
            known.insert(path, (own, digest));
        }
        self.known = known;
        Ok(self.known.iter().map(|(path, (_, digest))| (path.clone(), *digest)).collect())
    }
}

fn line_of(path: &Path, info: &FileInfo) -> String {
    format!("{}\0{}\0{}\0{:?}\n", path.display(), info.len_bytes, info.modified_ns, info.id)
}

/// Adds a line for each file in a folder.
fn describe_inside(storage: &dyn Storage, path: &Path, info: Option<FileInfo>, depth: usize, text: &mut String) {
    if info.is_some_and(|info| info.kind == FileKind::Folder) && depth <= MAX_DEPTH {
        for entry in storage.list_folder(path).unwrap_or_default() {
            let path = path.join(&entry.name);
            let info = storage.file_info(&path).ok();
            if let Some(info) = &info {
                text.push_str(&line_of(&path, info));
            }
            describe_inside(storage, &path, info, depth + 1, text);
        }
    }
}

/// Checkpoints that a look leaves alone.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// What differed between two scans: it is being written.
    moving: Vec<PathBuf>,
    /// What was there at the second scan. What appears between it and the look has not settled either.
    seen: Option<(Scan, Option<NamePattern>)>,
}

impl Unsettled {
    /// Of two scans, with the pattern of the run's names.
    pub(super) fn between(before: &Scan, now: Scan, pattern: Option<NamePattern>) -> Self {
        Self { moving: changed_paths(before, &now), seen: Some((now, pattern)) }
    }

    /// Whether a checkpoint of `run` is left alone. One in another folder never is, such as a held link.
    pub(super) fn contains(&self, run: &Path, checkpoint: &Path) -> bool {
        if self.moving.iter().any(|path| path == checkpoint) {
            return true;
        }
        let Some((seen, pattern)) = &self.seen else { return false };
        let first = checkpoint.strip_prefix(run).ok().and_then(|below| below.components().next());
        let Some(name) = first.map(|name| name.as_os_str()) else { return false };
        // Scans see names of checkpoints; a run may have others, such as that of its final model.
        let is_scanned = |kind| parse_entry_name(&name.to_string_lossy(), kind, pattern.as_ref()).is_some();
        !seen.contains_key(&run.join(name)) && (is_scanned(FileKind::Folder) || is_scanned(FileKind::File))
    }

    /// Takes out of a scan what was being written, so that the next scan differs from it.
    pub(super) fn settled_part(&self, scan: Scan) -> Scan {
        scan.into_iter().filter(|(path, _)| !self.moving.contains(path)).collect()
    }
}

/// The paths whose files differ between two scans, or are in one of them only.
fn changed_paths(before: &Scan, now: &Scan) -> Vec<PathBuf> {
    let paths = before.keys().chain(now.keys().filter(|path| !before.contains_key(*path)));
    paths.filter(|path| before.get(*path) != now.get(*path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use thalweg_storage::LocalStorage;

    use super::*;

    #[test]
    fn what_appears_after_the_second_scan_has_not_settled() {
        let scan = |steps: &[u32]| -> Scan {
            steps
                .iter()
                .map(|step| (PathBuf::from(format!("run/step-{step}")), bytes_digest(DigestKind::Xxh3, b"")))
                .collect()
        };
        let unsettled = Unsettled::between(&scan(&[1]), scan(&[1, 2]), None);
        let contains = |path: &str| unsettled.contains(Path::new("run"), Path::new(path));
        assert!(!contains("run/step-1") && contains("run/step-2") && contains("run/step-3"));
        // Held links, a final model and the run itself are in no scan.
        assert!(!contains("out/held/step-3") && !contains("run/final") && !contains("run"));
        assert_eq!(unsettled.settled_part(scan(&[1, 2])), scan(&[1]));
        assert!(!Unsettled::default().contains(Path::new("run"), Path::new("run/step-3")));
    }

    #[test]
    fn what_is_replaced_is_seen_at_once_and_an_old_file_that_changes_in_place_before_long() {
        let scratch = tempfile::tempdir().unwrap();
        let file = |step: usize| scratch.path().join(format!("step-{step}/model.safetensors"));
        let save = |step: usize, text: &str| {
            std::fs::create_dir_all(file(step).parent().unwrap()).unwrap();
            std::fs::write(file(step), text).unwrap();
        };
        let n = N_ALWAYS + 40;
        (1..=n).for_each(|step| save(step, "a"));
        let (storage, mut scanner) = (LocalStorage::new(), Scanner::default());
        let mut scan = || scanner.scan(&storage, scratch.path(), None).unwrap();
        let first = scan();
        assert_eq!((first.len(), scan()), (n, first.clone()));
        let changed = |now: &Scan| changed_paths(&first, now);
        // The newest, in place.
        save(n, "longer");
        assert_eq!(changed(&scan()), [file(n).parent().unwrap()]);
        // An old one, replaced; and removed.
        std::fs::remove_dir_all(file(3).parent().unwrap()).unwrap();
        save(3, "a");
        std::fs::remove_dir_all(file(4).parent().unwrap()).unwrap();
        let now = scan();
        [3, 4].iter().for_each(|step| assert!(changed(&now).contains(&file(*step).parent().unwrap().to_owned())));
        // An old one, in place.
        save(7, "longer");
        let path = file(7).parent().unwrap().to_owned();
        let n_scans = (1..=N_TURNS).find(|_| changed(&scan()).contains(&path));
        assert!(n_scans.is_some());
        assert!(changed(&scan()).contains(&path), "and it stays seen");
    }
}
