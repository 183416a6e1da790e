//! From a path to a `Checkpoint`: looks at names, asks the formats, reads headers and the config.
//!
//! No tensor byte is read here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use thalweg_storage::{FileKind, Storage};

use crate::checkpoint::dequantised::Dequantised;
use crate::checkpoint::{Checkpoint, ConfigFile, ShardFile};
use crate::config::{MAX_CONFIG_BYTES, parse_config, without_quantisation};
use crate::error::storage_error;
use crate::format::dcp::error::DcpError;
use crate::format::huggingface::INDEX_END;
use crate::format::{FORMATS, Format, HEAD_BYTES, Place, format_of};
use crate::lazy_pieces::LazyPieces;
use crate::optimizer_state::find_disguised;
use crate::own_names::is_unfinished_output;
use crate::side_files::{CONFIG_FILE_NAME, find_in_listing, probe_folder};
use crate::stranger::{describe_folders, explain_file_error, recognise_file};
use crate::to_huggingface::translate;
use crate::{CatalogCache, Error, Note, ReadOptions};

/// Threads that open checkpoints side by side: opening waits for the disk more than it computes. Not measured.
const MAX_OPENERS: usize = 4;

/// Opens a folder, an index file or a single file; headers only.
///
/// # Errors
/// `NotFound`, `NotACheckpoint` or `Ambiguous` for the path; `Unfinished` for a save that has not ended;
/// `Header`, `Index`, `IndexMismatch` or `Config` for files that break the rules; `Pointer` or `Impostor` for files
/// that are something else; `Storage`.
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
    if info.kind == FileKind::File || marks.any(|name| storage.file_info(&path.join(name)).is_ok()) {
        return true;
    }
    let place = storage.list_folder(path).map(|entries| Place::Folder { path: path.to_owned(), entries });
    let is_certain = |place: &Place, format: &dyn Format| {
        format.is_certain(place) && format.confirms(storage, place).unwrap_or(false)
    };
    place.is_ok_and(|place| FORMATS.iter().any(|format| is_certain(&place, *format)))
}

/// Opens many checkpoints, a few at a time; one result for each path, in their order.
///
/// Equal catalogs are kept once in memory: a thousand checkpoints of one run share one.
pub fn open_checkpoints(
    storage: &Arc<dyn Storage>,
    paths: &[PathBuf],
    options: &ReadOptions,
) -> Vec<Result<Checkpoint, Error>> {
    open_all_with_cache(storage, paths, options, &CatalogCache::default())
}

/// As [`open_checkpoints`], sharing catalogs with what was opened before with the same cache.
///
/// # Errors
/// Each result as [`open_checkpoint`].
pub fn open_all_with_cache(
    storage: &Arc<dyn Storage>,
    paths: &[PathBuf],
    options: &ReadOptions,
    cache: &CatalogCache,
) -> Vec<Result<Checkpoint, Error>> {
    let next = AtomicUsize::new(0);
    let opened = Mutex::new(Vec::with_capacity(paths.len()));
    let open_some = || {
        while let Some((number, path)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, paths.get(n)?)))
        {
            let result = open_with_cache(storage, path, options, cache);
            opened.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    // One goes ahead, so that the others find its headers known instead of parsing them side by side.
    if let Some(first) = paths.first() {
        next.store(1, Ordering::Relaxed);
        let result = open_with_cache(storage, first, options, cache);
        opened.lock().unwrap_or_else(PoisonError::into_inner).push((0, result));
    }
    thread::scope(|scope| {
        for _ in 1..paths.len().min(MAX_OPENERS) {
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
    ask_for_heads(&**storage, &place);
    let Some(format) = format_of(&**storage, &place)? else {
        return Err(describe_folders(&**storage, &place));
    };
    let mut content =
        format.open(storage, &place, options, cache).map_err(|error| explain_file_error(error, &**storage))?;
    if options.optimizer
        && let Some(entry) = find_disguised(content.catalog.entries(), content.n_state)
    {
        return Err(Error::LikeOptimizer { path: path.to_owned(), tensor: entry.name.to_string() });
    }
    if !options.rename.is_empty() {
        let renamed = options.rename.rename(&content.catalog);
        let (catalog, idle) =
            renamed.map_err(|source| Error::Rename { path: path.to_owned(), source: Box::new(source) })?;
        content.catalog = cache.share(catalog);
        content.findings.idle_renames = idle;
    }
    if let Some(heads) = options.to_huggingface {
        let refuse = |source| Error::ToHuggingFace { path: path.to_owned(), source: Box::new(source) };
        translate(&mut content, heads, cache).map_err(refuse)?;
    }
    let side_files = match &place {
        Place::Folder { path, entries } => {
            let is_used = |name: &str| {
                name.ends_with(INDEX_END) || content.files.iter().any(|file| file.name.split('/').next() == Some(name))
            };
            find_in_listing(path, entries, &is_used)
        }
        Place::File { .. } => probe_folder(storage, place.folder()),
    };
    let config = match side_files.iter().find(|file| file.name == CONFIG_FILE_NAME) {
        Some(file) => Some(read_config(&**storage, &file.path)?),
        None => None,
    };
    let (files, readers) = content
        .files
        .into_iter()
        .map(|file| (ShardFile { name: file.name, path: file.path, info: file.reader.info() }, file.reader))
        .unzip();
    let mut checkpoint = Checkpoint {
        path: path.to_owned(),
        format_name: content.format_name.unwrap_or(format.name()),
        catalog: content.catalog,
        dequantised: None,
        files,
        readers,
        config,
        side_files,
        metadata: content.metadata,
        notes: content.notes,
        findings: content.findings,
        is_packed: content.is_packed,
        sharded: content.sharded,
        lazy: content.opener.map(LazyPieces::new),
    };
    if options.dequantise {
        dequantise(&mut checkpoint, cache);
    }
    Ok(checkpoint)
}

/// Shows block-scaled weights as the numbers that they stand for. Where these are not known, or the config cannot be
/// made to say so, the checkpoint is left as it is, and a merge reports why.
fn dequantise(checkpoint: &mut Checkpoint, cache: &CatalogCache) {
    let Some(Ok(found)) = checkpoint.block_scaled() else { return };
    let edit = |config: &ConfigFile| -> Result<ConfigFile, String> {
        let bytes = without_quantisation(&config.bytes)?;
        Ok(ConfigFile { value: parse_config(&bytes)?, bytes })
    };
    let Ok(config) = checkpoint.config.as_ref().map(edit).transpose() else { return };
    let Some(seen) = Dequantised::new(&checkpoint.catalog, &found, cache) else { return };
    checkpoint.config = config;
    checkpoint.notes.push(Note::Dequantised { n_tensors: seen.n_weights, block: seen.block });
    checkpoint.dequantised = Some(seen);
}

/// Opens the other copy of the parameters in the files of an opened checkpoint: masters beside the module's weights, or
/// the reverse. `None` if the files hold one copy.
///
/// # Errors
/// As [`open_checkpoint`].
pub fn open_other_copy(
    storage: &Arc<dyn Storage>,
    checkpoint: &Checkpoint,
    options: &ReadOptions,
) -> Result<Option<Checkpoint>, Error> {
    // The path may be a folder that only names the checkpoint's own.
    let first = checkpoint.files().first();
    let root = first.and_then(|file| file.path.ancestors().nth(Path::new(&file.name).components().count()));
    let place = look_at(storage, root.unwrap_or(checkpoint.path()))?;
    let format = format_of(&**storage, &place)?;
    let params = format.and_then(|format| format.other_params(&place, checkpoint.findings().params));
    let Some(params) = params.filter(|_| options.key.is_none()) else { return Ok(None) };
    // The state of the optimizer is the same in both.
    let options = ReadOptions { params: Some(params), optimizer: false, ..options.clone() };
    match open_with_cache(storage, place.path(), &options, &CatalogCache::default()) {
        // A checkpoint says only when it is read whether it holds the other copy.
        Err(Error::Dcp { source, .. }) if matches!(*source, DcpError::Key(_)) => Ok(None),
        Err(Error::NoMasters { .. } | Error::NoModuleWeights { .. }) => Ok(None),
        opened => opened.map(Some),
    }
}

fn look_at(storage: &Arc<dyn Storage>, path: &Path) -> Result<Place, Error> {
    let info = storage.file_info(path).map_err(|error| storage_error(path, error))?;
    let is_stage = |folder: &&Path| is_unfinished_output(&**storage, folder);
    if let Some(stage) = path.ancestors().take(2).find(is_stage) {
        return Err(Error::InterruptedMerge { path: stage.to_owned() });
    }
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

/// Tells the storage which headers are about to be read: of a bucket they come side by side. Files whose beginning says
/// little are not asked for.
fn ask_for_heads(storage: &dyn Storage, place: &Place) {
    let Place::Folder { path, entries } = place else { return };
    let has_head = |name: &str| [".safetensors", ".json", ".gguf"].iter().any(|end| name.ends_with(end));
    let files = entries.iter().filter(|entry| entry.kind == FileKind::File && has_head(&entry.name));
    storage.will_open(&files.map(|entry| path.join(&entry.name)).collect::<Vec<_>>());
}

pub(crate) fn read_config(storage: &dyn Storage, path: &Path) -> Result<ConfigFile, Error> {
    let bytes = storage.read_file(path, MAX_CONFIG_BYTES)?;
    match parse_config(&bytes) {
        Ok(value) => Ok(ConfigFile { bytes, value }),
        Err(message) => Err(recognise_file(path, &bytes).unwrap_or(Error::Config { path: path.to_owned(), message })),
    }
}
