//! Checkpoints as Hugging Face libraries save them: one safetensors file, or shards with an index.
//!
//! Decides which files make up the checkpoint and whether index and shards agree. Headers are read by
//! `safetensors`, the index's text by `index`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_tensor::{Piece, TensorCatalog, TensorEntry, to_index};

use super::header_error::HeaderError;
use super::safetensors::{Header, HeaderText, read_header_text};
pub(crate) use super::safetensors::{INDEX_FILE_NAME, SINGLE_FILE_NAME};
use super::{Format, FormatContent, OpenFile, Place};
use crate::catalog_cache::KnownHeaders;
use crate::error::{IndexFault, UnfinishedFault, storage_error};
use crate::index::{MAX_INDEX_BYTES, ShardIndex, parse_index};
use crate::stranger::{explain_header_error, recognise_file};
use crate::{CatalogCache, Error, Note, ReadOptions};

/// Name of the format, as `inspect` shows it.
pub const FORMAT_NAME: &str = "safetensors";

const FILE_END: &str = ".safetensors";
pub(crate) const INDEX_END: &str = ".safetensors.index.json";

/// safetensors files, one or many with an index.
#[derive(Debug, Clone, Copy)]
pub struct HuggingFace;

/// Which file of a folder tells what the checkpoint is.
#[derive(Debug)]
enum Entrance {
    Single(String),
    Index(String),
}

impl Format for HuggingFace {
    fn name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn marks(&self) -> &'static [&'static str] {
        &[SINGLE_FILE_NAME, INDEX_FILE_NAME]
    }

    fn file_ends(&self) -> &'static [&'static str] {
        &[FILE_END]
    }

    fn recognises(&self, place: &Place) -> bool {
        let is_ours = |name: &str| name.ends_with(FILE_END) || name.ends_with(INDEX_END);
        match place {
            Place::File { path, .. } => path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours),
            Place::Folder { .. } => place.file_names().any(is_ours),
        }
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        if let Some(key) = options.key.as_deref().filter(|key| *key != ".") {
            // The weights in it are not the ones that the user asked for.
            return Err(Error::NoKeys { path: place.path().to_owned(), key: key.to_owned() });
        }
        let mut notes = Vec::new();
        let entrance = match place {
            Place::Folder { .. } => choose_entrance(place, &mut notes)?,
            Place::File { path, .. } => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if name.ends_with(INDEX_END) { Entrance::Index(name) } else { Entrance::Single(name) }
            }
        };
        // The path as given is kept for the file itself: its name need not be UTF-8.
        let path_of = |name: &str| match place {
            Place::File { path, .. } => path.clone(),
            Place::Folder { path, .. } => path.join(name),
        };
        let mut content = match &entrance {
            Entrance::Single(name) => open_single(storage, &path_of(name), name, cache)?,
            Entrance::Index(name) => open_sharded(storage, &path_of(name), place, cache)?,
        };
        note_strays(place, &content, &mut notes);
        content.notes.extend(notes);
        Ok(content)
    }
}

/// Whether a name is `STEM-00001-of-00004.safetensors`, the form of a shard.
fn is_shard_name(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((rest, last)) = name.strip_suffix(FILE_END).and_then(|stem| stem.rsplit_once("-of-")) else {
        return false;
    };
    is_number(last) && rest.rsplit_once('-').is_some_and(|(_, number)| is_number(number))
}

/// The files of a folder that make up its checkpoint, by their names: those of an index are the shards of its stem.
pub(crate) fn files_by_name(place: &Place) -> Result<Vec<String>, Error> {
    Ok(match choose_entrance(place, &mut Vec::new())? {
        Entrance::Single(name) => vec![name],
        Entrance::Index(name) => {
            let start = format!("{}-", name.strip_suffix(INDEX_END).unwrap_or(&name));
            let is_shard = |name: &&str| is_shard_name(name) && name.starts_with(&start);
            let shards: Vec<String> = place.file_names().filter(is_shard).map(str::to_owned).collect();
            let all = || place.file_names().filter(|name| name.ends_with(FILE_END)).map(str::to_owned).collect();
            let shards = if shards.is_empty() { all() } else { shards };
            shards.into_iter().chain([name]).collect()
        }
    })
}

fn choose_entrance(place: &Place, notes: &mut Vec<Note>) -> Result<Entrance, Error> {
    let has = |wanted: &str| place.file_names().any(|name| name == wanted);
    if has(SINGLE_FILE_NAME) {
        if has(INDEX_FILE_NAME) {
            let (used, unused) = (SINGLE_FILE_NAME.to_owned(), INDEX_FILE_NAME.to_owned());
            notes.push(Note::SingleFilePreferred { used, unused });
        }
        return Ok(Entrance::Single(SINGLE_FILE_NAME.to_owned()));
    }
    if has(INDEX_FILE_NAME) {
        return Ok(Entrance::Index(INDEX_FILE_NAME.to_owned()));
    }
    let path = place.path().to_owned();
    let indexes: Vec<&str> = place.file_names().filter(|name| name.ends_with(INDEX_END)).collect();
    let shards = place.file_names().filter(|name| is_shard_name(name));
    let singles: Vec<&str> =
        place.file_names().filter(|name| name.ends_with(FILE_END) && !is_shard_name(name)).collect();
    let n_shards = shards.count();
    match (&indexes[..], &singles[..]) {
        ([], []) => {
            let faults = vec![UnfinishedFault::NoIndex { n_shards, index: INDEX_FILE_NAME.to_owned() }];
            Err(Error::Unfinished { path, faults })
        }
        ([name], []) => {
            notes.push(Note::UnusualName { file: (*name).to_owned() });
            Ok(Entrance::Index((*name).to_owned()))
        }
        ([], [name]) if n_shards == 0 => {
            notes.push(Note::UnusualName { file: (*name).to_owned() });
            Ok(Entrance::Single((*name).to_owned()))
        }
        _ => {
            let candidates = indexes.iter().chain(&singles).map(|name| (*name).to_owned()).collect();
            Err(Error::Ambiguous { path, candidates })
        }
    }
}

/// A file that is open and whose header is read, but not yet looked at.
struct RawShard {
    file: OpenFile,
    header: HeaderText,
}

fn open_single(
    storage: &Arc<dyn Storage>,
    path: &Path,
    name: &str,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let reader = storage.open_file(path).map_err(|error| storage_error(path, error))?;
    let header = read_header_text(&*reader, path).map_err(|error| explain_header_error(error, &*reader, path))?;
    let shards = [RawShard { file: OpenFile { name: name.to_owned(), path: path.to_owned(), reader }, header }];
    let fingerprint = fingerprint(&shards, &[]);
    let known = match cache.recall(&fingerprint) {
        Some(known) => known,
        None => {
            let explain = |error| explain_header_error(error, &*shards[0].file.reader, path);
            let header = shards[0].header.parse(path).map_err(explain)?;
            let known = learn(&shards, vec![header], None, cache, path)?;
            cache.remember(fingerprint, known.clone());
            known
        }
    };
    Ok(make_content(shards.into(), known))
}

fn open_sharded(
    storage: &Arc<dyn Storage>,
    index_path: &Path,
    place: &Place,
    cache: &CatalogCache,
) -> Result<FormatContent, Error> {
    let bytes = storage.read_file(index_path, MAX_INDEX_BYTES).map_err(|error| storage_error(index_path, error))?;
    let refuse = |source| {
        let damaged = Error::Index { path: index_path.to_owned(), source: Box::new(source) };
        recognise_file(index_path, &bytes).unwrap_or(damaged)
    };
    let index = parse_index(&bytes).map_err(refuse)?;
    let mut faults = Vec::new();
    let shards = open_shards(storage, place, &index, &mut faults)?;
    let fingerprint = fingerprint(&shards, &bytes);
    if faults.is_empty()
        && let Some(known) = cache.recall(&fingerprint)
    {
        return Ok(make_content(shards, known));
    }
    let mut headers = Vec::with_capacity(shards.len());
    for shard in &shards {
        headers.extend(keep_unless_cut(shard.header.parse(&shard.file.path), &shard.file.name, &mut faults)?);
    }
    if !faults.is_empty() {
        faults.sort_by(|a, b| a.file().cmp(b.file()));
        return Err(Error::Unfinished { path: place.path().to_owned(), faults });
    }
    let known = learn(&shards, headers, Some(&index), cache, index_path)?;
    cache.remember(fingerprint, known.clone());
    Ok(make_content(shards, known))
}

/// Opens every shard and reads its header; missing and cut-off ones go to `faults`, to be reported together.
fn open_shards(
    storage: &Arc<dyn Storage>,
    place: &Place,
    index: &ShardIndex,
    faults: &mut Vec<UnfinishedFault>,
) -> Result<Vec<RawShard>, Error> {
    let mut shards = Vec::with_capacity(index.files.len());
    for name in &index.files {
        let path: PathBuf = place.folder().join(name);
        let reader = match storage.open_file(&path) {
            Err(error) if error.is_not_found() => {
                faults.push(UnfinishedFault::MissingShard { file: name.clone() });
                continue;
            }
            opened => opened?,
        };
        let header = read_header_text(&*reader, &path).map_err(|error| explain_header_error(error, &*reader, &path));
        let header = keep_unless_cut(header, name, faults)?;
        shards.extend(header.map(|header| RawShard { file: OpenFile { name: name.clone(), path, reader }, header }));
    }
    Ok(shards)
}

/// A file that is only too short becomes a fault, reported with the others.
fn keep_unless_cut<T>(
    read: Result<T, Error>,
    name: &str,
    faults: &mut Vec<UnfinishedFault>,
) -> Result<Option<T>, Error> {
    match read {
        Ok(whole) => Ok(Some(whole)),
        Err(Error::Header { source, .. }) if source.is_truncated() => {
            faults.push(UnfinishedFault::TruncatedShard { file: name.to_owned(), source: *source });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All that the outcome of parsing depends on: the index, and the headers and lengths of the shards.
///
/// The index has the names of shards; a single file may have any name.
fn fingerprint(shards: &[RawShard], index: &[u8]) -> String {
    let digest = |bytes| bytes_digest(DigestKind::Blake3, bytes);
    let mut text = digest(index).to_string();
    for RawShard { header, .. } in shards {
        text.push_str(&format!(" {} {}", digest(&header.text), header.data_len));
    }
    text
}

/// Makes the catalog of parsed headers and compares it with the index.
fn learn(
    shards: &[RawShard],
    headers: Vec<Header>,
    index: Option<&ShardIndex>,
    cache: &CatalogCache,
    path: &Path,
) -> Result<KnownHeaders, Error> {
    let metadata = headers.first().map(|header| header.metadata.clone()).unwrap_or_default();
    let mut known = KnownHeaders { metadata, ..KnownHeaders::default() };
    let mut entries = Vec::with_capacity(headers.iter().map(|header| header.tensors.len()).sum());
    for ((file_idx, shard), header) in (0..).zip(shards).zip(headers) {
        if let Some(field) = header.unknown_field {
            known.unknown_fields.push((to_index(file_idx.into()), field));
        }
        for tensor in header.tensors {
            // No overflow: the header was checked against the length of the file.
            let pieces = Box::new([Piece::whole(file_idx, shard.header.data_start() + tensor.begin)]);
            entries.push(TensorEntry { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, pieces });
        }
    }
    if let Some(index) = index {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let faults = compare_index(index, &entries);
        if !faults.is_empty() {
            return Err(Error::IndexMismatch { path: path.to_owned(), faults });
        }
        let found_bytes = entries.iter().map(TensorEntry::n_bytes).sum();
        if let Some(stated_bytes) = index.total_size.filter(|stated| *stated != found_bytes) {
            known.notes.push(Note::TotalSizeWrong { stated_bytes, found_bytes });
        }
    }
    let refuse = |tensor: Box<str>| {
        let source = Box::new(HeaderError::DuplicateTensor { tensor: tensor.into() });
        Error::Header { path: path.to_owned(), source }
    };
    known.catalog = cache.share(TensorCatalog::new(entries).map_err(refuse)?);
    Ok(known)
}

fn make_content(shards: Vec<RawShard>, known: KnownHeaders) -> FormatContent {
    let KnownHeaders { catalog, metadata, mut notes, unknown_fields } = known;
    for (file_idx, field) in unknown_fields {
        let file = shards.get(file_idx).map(|shard| shard.file.name.clone()).unwrap_or_default();
        notes.push(Note::UnknownHeaderField { file, field });
    }
    FormatContent {
        files: shards.into_iter().map(|shard| shard.file).collect(),
        catalog,
        metadata,
        notes,
        ..FormatContent::default()
    }
}

/// Every difference between an index and the tensors of its shards, both sorted by name.
pub(super) fn compare_index(index: &ShardIndex, entries: &[TensorEntry]) -> Vec<IndexFault> {
    let mut faults = Vec::new();
    let file_name = |file_idx: u32| index.files.get(to_index(file_idx.into())).cloned().unwrap_or_default();
    let file_of = |entry: &TensorEntry| entry.pieces.first().map_or(0, |piece| piece.file_idx);
    let mut doubled = Vec::new();
    for pair in entries.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        doubled.push(&*pair[0].name);
        let (first, second) = (file_name(file_of(&pair[0])), file_name(file_of(&pair[1])));
        faults.push(IndexFault::TensorInTwoShards { tensor: pair[0].name.to_string(), first, second });
    }
    let held: BTreeMap<&str, u32> = entries.iter().map(|entry| (&*entry.name, file_of(entry))).collect();
    let mut listed = index.tensors.iter().peekable();
    for (&name, &file_idx) in &held {
        while let Some((tensor, file)) = listed.next_if(|(tensor, _)| **tensor < *name) {
            faults.push(IndexFault::TensorNotInShard { tensor: tensor.to_string(), file: file_name(*file) });
        }
        let tensor = name.to_owned();
        match listed.next_if(|(tensor, _)| **tensor == *name) {
            None => faults.push(IndexFault::TensorNotInIndex { tensor, file: file_name(file_idx) }),
            // A tensor in two shards was told of above.
            Some((_, file)) if *file != file_idx && doubled.binary_search(&name).is_err() => {
                let (expected, found) = (file_name(*file), file_name(file_idx));
                faults.push(IndexFault::TensorElsewhere { tensor, expected, found });
            }
            Some(_) => {}
        }
    }
    let left = listed.map(|(tensor, file)| (tensor.to_string(), file_name(*file)));
    faults.extend(left.map(|(tensor, file)| IndexFault::TensorNotInShard { tensor, file }));
    faults
}

/// Shards that are in the folder but not part of the checkpoint are reported, and never read by default.
fn note_strays(place: &Place, content: &FormatContent, notes: &mut Vec<Note>) {
    let is_used = |name: &str| content.files.iter().any(|file| file.name == name);
    let strays = place.file_names().filter(|name| name.starts_with("model-") && is_shard_name(name) && !is_used(name));
    let files: Vec<String> = strays.map(str::to_owned).collect();
    if !files.is_empty() {
        notes.push(Note::StrayShards { files });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_hold_two_numbers() {
        assert!(is_shard_name("model-00001-of-00004.safetensors"));
        assert!(is_shard_name("model-00001-of-100000.safetensors"));
        for name in ["model.safetensors", "model-1-of-.safetensors", "of-00004.safetensors", "model-a-of-4.safetensors"]
        {
            assert!(!is_shard_name(name), "{name}");
        }
    }
}
