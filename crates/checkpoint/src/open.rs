//! From a path to a `Checkpoint`: looks at names, asks the formats, reads headers and the config.
//!
//! No tensor byte is read here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::display_name;

use crate::checkpoint::{Checkpoint, ConfigFile, ShardFile};
use crate::config::{MAX_CONFIG_BYTES, parse_config};
use crate::error::storage_error;
use crate::format::{FORMATS, HEAD_BYTES, Place};
use crate::side_files::{CONFIG_FILE_NAME, find_in_listing, probe_folder};
use crate::{CatalogCache, Error, ReadOptions};

/// Threads that open checkpoints side by side: opening waits for the disk more than it computes. Not measured.
const MAX_OPENERS: usize = 4;

/// Opens a folder, an index file or a single file; headers only.
///
/// # Errors
/// `NotFound`, `NotACheckpoint` or `Ambiguous` for the path; `Unfinished` for a save that has not ended;
/// `Header`, `Index`, `IndexMismatch` or `Config` for files that break the rules; `Storage`.
///
/// # Example
/// ```no_run
/// # fn example(storage: &std::sync::Arc<dyn thalweg_storage::Storage>) -> Result<(), thalweg_checkpoint::Error> {
/// let checkpoint = thalweg_checkpoint::open_checkpoint(storage, "run/step-80".as_ref())?;
/// assert_eq!(checkpoint.format_name(), "safetensors");
/// # Ok(())
/// # }
/// ```
pub fn open_checkpoint(storage: &Arc<dyn Storage>, path: &Path) -> Result<Checkpoint, Error> {
    open_checkpoint_with(storage, path, &ReadOptions::default())
}

/// Opens a folder, an index file or a single file as `options` say; headers only.
///
/// # Errors
/// As [`open_checkpoint`].
pub fn open_checkpoint_with(
    storage: &Arc<dyn Storage>,
    path: &Path,
    options: &ReadOptions,
) -> Result<Checkpoint, Error> {
    open_with_cache(storage, path, options, &CatalogCache::default())
}

/// Whether a path is certainly one checkpoint: a file, or a folder with a file by which a format is known.
pub fn is_checkpoint(storage: &dyn Storage, path: &Path) -> bool {
    let Ok(info) = storage.file_info(path) else { return false };
    let mut marks = FORMATS.iter().flat_map(|format| format.marks());
    info.kind == FileKind::File || marks.any(|name| storage.file_info(&path.join(name)).is_ok())
}

/// Opens many checkpoints, a few at a time; one result for each path, in their order.
///
/// Equal catalogs are kept once in memory: a thousand checkpoints of one run share one.
pub fn open_checkpoints(
    storage: &Arc<dyn Storage>,
    paths: &[PathBuf],
    options: &ReadOptions,
) -> Vec<Result<Checkpoint, Error>> {
    let cache = CatalogCache::default();
    let next = AtomicUsize::new(0);
    let opened = Mutex::new(Vec::with_capacity(paths.len()));
    let open_some = || {
        while let Some((number, path)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, paths.get(n)?)))
        {
            let result = open_with_cache(storage, path, options, &cache);
            opened.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    // One goes ahead, so that the others find its headers known instead of parsing them side by side.
    if let Some(first) = paths.first() {
        next.store(1, Ordering::Relaxed);
        let result = open_with_cache(storage, first, options, &cache);
        opened.lock().unwrap_or_else(PoisonError::into_inner).push((0, result));
    }
    thread::scope(|scope| {
        for _ in 2..paths.len().min(MAX_OPENERS) {
            // Where the system refuses a thread, the others do its share.
            let _refused = thread::Builder::new().spawn_scoped(scope, open_some);
        }
        open_some();
    });
    let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
    opened.sort_by_key(|(number, _)| *number);
    opened.into_iter().map(|(_, result)| result).collect()
}

/// Opens a checkpoint whose catalog is shared with those opened before it with the same cache.
///
/// # Errors
/// As [`open_checkpoint`].
pub fn open_with_cache(
    storage: &Arc<dyn Storage>,
    path: &Path,
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Result<Checkpoint, Error> {
    let place = look_at(storage, path)?;
    let Some(format) = FORMATS.iter().find(|format| format.recognises(&place)) else {
        return Err(Error::NotACheckpoint { path: path.to_owned(), found: describe_stranger(&place) });
    };
    let content = format.open(storage, &place, options, cache)?;
    let side_files = match &place {
        Place::Folder { path, entries } => find_in_listing(path, entries),
        Place::File { .. } => probe_folder(storage, place.folder()),
    };
    let config = match side_files.iter().find(|file| file.name == CONFIG_FILE_NAME) {
        Some(file) => Some(read_config(storage, &file.path)?),
        None => None,
    };
    let (files, readers) = content
        .files
        .into_iter()
        .map(|file| (ShardFile { name: file.name, path: file.path, info: file.reader.info() }, file.reader))
        .unzip();
    Ok(Checkpoint {
        path: path.to_owned(),
        format_name: format.name(),
        catalog: content.catalog,
        files,
        readers,
        config,
        side_files,
        metadata: content.metadata,
        notes: content.notes,
        findings: content.findings,
    })
}

fn look_at(storage: &Arc<dyn Storage>, path: &Path) -> Result<Place, Error> {
    let info = storage.file_info(path).map_err(|error| storage_error(path, error))?;
    match info.kind {
        FileKind::File => {
            let file = storage.open_file(path).map_err(|error| storage_error(path, error))?;
            let mut head = vec![0; usize::try_from(file.info().len_bytes.min(HEAD_BYTES)).unwrap_or(0)];
            file.read_exact_at(0, &mut head)?;
            Ok(Place::File { path: path.to_owned(), head: head.into() })
        }
        FileKind::Folder => Ok(Place::Folder { path: path.to_owned(), entries: storage.list_folder(path)? }),
        FileKind::Other => Err(thalweg_storage::Error::NotAFile { path: path.to_owned() }.into()),
    }
}

fn read_config(storage: &Arc<dyn Storage>, path: &Path) -> Result<ConfigFile, Error> {
    let bytes = storage.read_file(path, MAX_CONFIG_BYTES)?;
    match parse_config(&bytes) {
        Ok(value) => Ok(ConfigFile { bytes, value }),
        Err(message) => Err(Error::Config { path: path.to_owned(), message }),
    }
}

/// What a path holds that no format recognises, so that the error can say it.
fn describe_stranger(place: &Place) -> String {
    const KNOWN: [(&str, &str); 4] = [
        (".distcp", "a PyTorch distributed checkpoint"),
        (".gguf", "a GGUF file"),
        (".npz", "a NumPy `.npz` file"),
        (".index.json", "an index of files that are not safetensors"),
    ];
    let describe = |name: &str| KNOWN.iter().find(|(end, _)| name.ends_with(end)).map(|(_, what)| *what);
    match place {
        Place::File { path, .. } => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            describe(&name).map_or_else(
                || "neither its name nor its first bytes are those of a checkpoint".to_owned(),
                |what| format!("it is {what}"),
            )
        }
        Place::Folder { entries, .. } if entries.is_empty() => "the folder is empty".to_owned(),
        Place::Folder { entries, .. } => match place.file_names().find_map(describe) {
            Some(what) => format!("it holds {what} and nothing that can be read"),
            None => {
                let first = entries.iter().take(3).map(|entry| format!("`{}`", display_name(&entry.name)));
                format!("it holds {} and nothing that can be read", first.collect::<Vec<_>>().join(", "))
            }
        },
    }
}
