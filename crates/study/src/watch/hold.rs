//! Checkpoints that later windows still need, held by hard links when the trainer prunes them.
//!
//! A link takes no space until the trainer deletes its own name. The trainer's files are only ever read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thalweg_storage::publish::stage_path;
use thalweg_storage::{FileKind, Storage};
use thalweg_trajectory::Trajectory;

use super::checkpoints::KnownCheckpoints;
use crate::Error;

/// Folder of the links, in a watcher's folder.
pub(super) const HELD_NAME: &str = "held";
/// Folders within a checkpoint that are linked into each other.
const MAX_DEPTH: usize = 4;

/// Links the needed checkpoints of a run that are not held yet. Returns the links that later windows need.
///
/// `run` is the trajectory with what is held already.
///
/// # Errors
/// `Request` where the file system cannot link; `Storage`. A checkpoint that vanishes meanwhile is left out.
pub(super) fn hold_checkpoints(
    (run, needed): (&Trajectory, &[u64]),
    folder: &Path,
    known: &mut KnownCheckpoints,
    storage: &dyn Storage,
) -> Result<BTreeSet<PathBuf>, Error> {
    let held = folder.join(HELD_NAME);
    storage.create_folder(&held)?;
    let needed: BTreeSet<u64> = needed.iter().copied().collect();
    let checkpoints = run.finished().filter(|one| needed.contains(&one.step.0) && !one.path.starts_with(&held));
    let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
    for one in checkpoints {
        let Some(name) = one.path.file_name() else { continue };
        let link = held.join(name);
        kept.insert(link.clone());
        if known.are_alike(&one.path, &link) && storage.file_info(&link).is_ok() {
            continue;
        }
        let stage = stage_path(&link);
        remove_if_there(storage, &stage)?;
        match link_all(storage, &one.path, &stage, 0) {
            Ok(()) if known.is_whole(&one.path, &stage, storage) => {
                remove_if_there(storage, &link)?;
                storage.rename(&stage, &link)?;
                known.copy_known(&one.path, &link);
            }
            // The trainer is deleting it: a link that was made before is what is left of it.
            Ok(()) => storage.remove(&stage)?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(explain(&error, folder)),
        }
    }
    // What the run no longer has is kept as long as it is needed.
    kept.extend(
        run.finished()
            .filter(|one| needed.contains(&one.step.0) && one.path.starts_with(&held))
            .map(|one| one.path.clone()),
    );
    Ok(kept)
}

fn remove_if_there(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    if storage.file_info(path).is_ok() {
        storage.remove(path)?;
    }
    Ok(())
}

/// Removes the links that are not `kept`. A watcher that was away makes windows of them first: the run may have no
/// other names of their checkpoints.
///
/// # Errors
/// `Storage`.
pub(super) fn let_go(kept: &BTreeSet<PathBuf>, folder: &Path, storage: &dyn Storage) -> Result<(), Error> {
    let held = folder.join(HELD_NAME);
    for entry in storage.list_folder(&held)? {
        let path = held.join(&entry.name);
        if !kept.contains(&path) {
            storage.remove(&path)?;
        }
    }
    Ok(())
}

/// Links a file, or makes a folder and links what is in it. Links within a checkpoint are followed: their targets are
/// what must last.
fn link_all(storage: &dyn Storage, from: &Path, to: &Path, depth: usize) -> Result<(), thalweg_storage::Error> {
    let info = storage.file_info(from)?;
    if info.kind == FileKind::File {
        return storage.link_file(&storage.canonical_path(from)?, to);
    }
    storage.create_folder(to)?;
    for entry in storage.list_folder(from)? {
        if entry.kind == FileKind::File || (entry.kind == FileKind::Folder && depth < MAX_DEPTH) {
            link_all(storage, &from.join(&entry.name), &to.join(&entry.name), depth + 1)?;
        }
    }
    Ok(())
}

fn explain(error: &thalweg_storage::Error, folder: &Path) -> Error {
    Error::request_with_hint(
        format!("`--hold` cannot link checkpoints into `{}`: {error}", folder.display()),
        "choose an `-o` on the file system of the run, or leave `--hold` out and let the trainer keep the steps that \
         `--json` lists as `needed_steps`",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use thalweg_storage::LocalStorage;
    use thalweg_testkit::{RunLayout, Scratch, TinyRun};
    use thalweg_trajectory::TrajectoryOptions;

    use super::*;

    #[test]
    fn a_checkpoint_that_vanishes_leaves_the_link_that_holds_it() {
        let scratch = Scratch::new();
        TinyRun::new(RunLayout::Checkpoint, &[100, 200]).write_to_disk(&scratch.join("run"));
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
        let run = Trajectory::open(&storage, &scratch.join("run"), &TrajectoryOptions::default()).unwrap();
        let out = scratch.join("out");
        storage.create_folder(&out).unwrap();
        let mut known = KnownCheckpoints::open(&*storage, &out).unwrap();
        let mut hold = || hold_checkpoints((&run, &[100, 200]), &out, &mut known, &*storage).unwrap();
        let links = hold();
        assert_eq!(links.len(), 2);
        // The trainer prunes what was still there when the run was opened.
        storage.remove(&scratch.join("run/checkpoint-100")).unwrap();
        assert_eq!(hold(), links);
        for link in links {
            assert!(storage.file_info(&link.join("model.safetensors")).is_ok(), "{}", link.display());
        }
    }
}
