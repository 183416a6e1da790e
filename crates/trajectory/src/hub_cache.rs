//! Finds revisions in a local Hugging Face cache: `models--ORG--NAME/refs/REV` names a folder in `snapshots`.
//!
//! Reads what is on disk; nothing is fetched, and the place of the cache is passed in. What is written there is laid
//! out by `HubFolder` of the storage.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::hub::{home_folder, repository_folder_name};
use thalweg_storage::{FileKind, FolderEntry, Storage};

use crate::Error;

/// A ref holds one commit.
const MAX_REF_BYTES: u64 = 256;
/// How deep refs are nested: `refs/pr/1` is two.
const MAX_REF_DEPTH: usize = 4;

/// The root of the local Hugging Face cache, by the variables of the environment that the caller looks up.
///
/// # Example
/// ```
/// let variable = |name: &str| (name == "HF_HOME").then(|| "/data/hf".into());
/// assert_eq!(thalweg_trajectory::hub_cache_root(&variable), Some("/data/hf/hub".into()));
/// ```
pub fn hub_cache_root(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| home_folder(variable).map(|home| home.join("hub")))
}

/// The path that a user's reference means: a path as it is, `PATH@REV`, `ORG/NAME@REV` or `ORG/NAME`.
///
/// `PATH@REV` is revision `REV` of a cache's repository folder, or the checkpoint `REV` of a run folder. A path that
/// exists is taken as it is, `@` or not.
///
/// # Errors
/// `NotFound` if nothing is there; `NotCached` for the name of a repository; `RevisionNotFound` with the revisions that
/// are there; `BadRevision`; `Storage`.
pub fn resolve_reference(
    storage: &Arc<dyn Storage>,
    reference: &str,
    cache_root: Option<&Path>,
) -> Result<PathBuf, Error> {
    let plain = Path::new(reference);
    if exists(storage, plain)? {
        return Ok(plain.to_owned());
    }
    let (base, revision) = match reference.rsplit_once('@') {
        Some((base, revision)) => (base, Some(revision)),
        None => (reference, None),
    };
    let folder = if exists(storage, Path::new(base))? {
        PathBuf::from(base)
    } else {
        let cached = cache_root.zip(repository_folder_name(base)).map(|(root, name)| root.join(name));
        match cached {
            Some(folder) if exists(storage, &folder)? => folder,
            // One word alone is a mistyped path far more often than one of the few repositories without an owner.
            Some(_) if revision.is_some() || base.contains('/') => {
                let revision = revision.map(str::to_owned);
                return Err(Error::NotCached { name: base.to_owned(), revision });
            }
            _ => return Err(Error::NotFound { path: PathBuf::from(base) }),
        }
    };
    match revision {
        None => Ok(folder),
        Some(revision) => find_revision(storage, &folder, revision),
    }
}

/// As [`resolve_reference`], but the path is that of one checkpoint.
///
/// For a repository of a cache without `@REV` it is the revision `main`, or else the only snapshot.
///
/// # Errors
/// As [`resolve_reference`]; `RevisionUnclear` for several snapshots without a `main`.
pub fn resolve_checkpoint_reference(
    storage: &Arc<dyn Storage>,
    reference: &str,
    cache_root: Option<&Path>,
) -> Result<PathBuf, Error> {
    let path = resolve_reference(storage, reference, cache_root)?;
    let is_folder = storage.file_info(&path).is_ok_and(|info| info.kind == FileKind::Folder);
    if !is_folder || !is_hub_repository(&storage.list_folder(&path)?) {
        return Ok(path);
    }
    if let Some(snapshot) = follow_ref(storage, &path, "main")? {
        return Ok(snapshot);
    }
    match list_snapshots(storage, &path)?.as_slice() {
        [only] => Ok(path.join("snapshots").join(only)),
        snapshots => {
            let mut available: Vec<String> =
                list_revisions(storage, &path)?.into_iter().map(|(name, _)| name).collect();
            available.extend(snapshots.iter().filter(|name| !available.contains(name)).cloned().collect::<Vec<_>>());
            Err(Error::RevisionUnclear { path, available })
        }
    }
}

/// Whether a folder is a repository of a Hugging Face cache, by the names in it. A cache that was filled only by commit
/// has no `refs`.
pub(crate) fn is_hub_repository(entries: &[FolderEntry]) -> bool {
    let has = |name: &str| entries.iter().any(|entry| entry.kind == FileKind::Folder && entry.name == name);
    has("snapshots") && (has("refs") || has("blobs") || entries.iter().all(|entry| entry.kind == FileKind::Folder))
}

fn list_snapshots(storage: &Arc<dyn Storage>, repository: &Path) -> Result<Vec<String>, Error> {
    let entries = storage.list_folder(&repository.join("snapshots"))?;
    Ok(entries.into_iter().filter(|entry| entry.kind == FileKind::Folder).map(|entry| entry.name).collect())
}

/// The named revisions of a repository with their folders, sorted by name. Refs whose folder is missing are skipped. A
/// snapshot folder whose name is not a commit is a revision of that name.
pub(crate) fn list_revisions(storage: &Arc<dyn Storage>, repository: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut names = Vec::new();
    let refs = repository.join("refs");
    if exists(storage, &refs)? {
        list_refs(storage, &refs, "", 0, &mut names)?;
    }
    let mut revisions = Vec::with_capacity(names.len());
    for name in names {
        if let Some(folder) = follow_ref(storage, repository, &name)? {
            revisions.push((name, folder));
        }
    }
    for name in list_snapshots(storage, repository)? {
        if !is_commit(&name) && revisions.iter().all(|(known, _)| *known != name) {
            let folder = repository.join("snapshots").join(&name);
            revisions.push((name, folder));
        }
    }
    revisions.sort();
    Ok(revisions)
}

fn find_revision(storage: &Arc<dyn Storage>, folder: &Path, revision: &str) -> Result<PathBuf, Error> {
    let fine = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    if !revision.split('/').all(fine) {
        return Err(Error::BadRevision { revision: revision.to_owned() });
    }
    let entries = storage.list_folder(folder)?;
    if is_hub_repository(&entries) {
        if let Some(snapshot) = follow_ref(storage, folder, revision)? {
            return Ok(snapshot);
        }
        // A snapshot by its name, or by an abbreviated commit if only one commit begins with it.
        let snapshots = list_snapshots(storage, folder)?;
        let is_start = |name: &&String| is_commit(revision) && name.starts_with(revision);
        let found = snapshots.iter().find(|name| *name == revision).or_else(|| {
            let mut started = snapshots.iter().filter(is_start);
            started.next().filter(|_| started.next().is_none())
        });
        if let Some(name) = found {
            return Ok(folder.join("snapshots").join(name));
        }
        let revisions = list_revisions(storage, folder)?;
        let is_named = |commit: &String| revisions.iter().any(|(_, path)| path.ends_with(commit));
        let unnamed: Vec<String> = snapshots.into_iter().filter(|commit| !is_named(commit)).collect();
        let available = revisions.iter().map(|(name, _)| name.clone()).chain(unnamed).collect();
        return Err(Error::RevisionNotFound { path: folder.to_owned(), revision: revision.to_owned(), available });
    }
    if entries.iter().any(|entry| entry.name == revision) {
        return Ok(folder.join(revision));
    }
    let is_step = |entry: &&FolderEntry| {
        entry.kind == FileKind::Folder && crate::layout::parse_folder_name(&entry.name).is_some()
    };
    let available = entries.iter().filter(is_step).map(|entry| entry.name.clone()).collect();
    Err(Error::RevisionNotFound { path: folder.to_owned(), revision: revision.to_owned(), available })
}

/// The snapshot that a ref names, if both are there.
fn follow_ref(storage: &Arc<dyn Storage>, repository: &Path, name: &str) -> Result<Option<PathBuf>, Error> {
    let bytes = match storage.read_file(&repository.join("refs").join(name), MAX_REF_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(thalweg_storage::Error::NotAFile { .. } | thalweg_storage::Error::TooLarge { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let commit = text.trim();
    // The text becomes part of a path, so nothing but a commit is taken.
    if !is_commit(commit) {
        return Ok(None);
    }
    let snapshot = repository.join("snapshots").join(commit);
    Ok(exists(storage, &snapshot)?.then_some(snapshot))
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn list_refs(
    storage: &Arc<dyn Storage>,
    folder: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), Error> {
    for entry in storage.list_folder(folder)? {
        let name = format!("{prefix}{}", entry.name);
        match entry.kind {
            FileKind::File => names.push(name),
            FileKind::Folder if depth + 1 < MAX_REF_DEPTH => {
                list_refs(storage, &folder.join(&entry.name), &format!("{name}/"), depth + 1, names)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn exists(storage: &Arc<dyn Storage>, path: &Path) -> Result<bool, Error> {
    match storage.file_info(path) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        // A file in the middle of a path: nothing can be below it.
        Err(thalweg_storage::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
