//! An output with the files of an existing checkpoint: everything except the merged tensors is copied, so that the
//! trainer that wrote the checkpoint resumes from the output.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::publish::{is_stage_name, trainer_part};
use thalweg_storage::{FileKind, FolderEntry, ReadAt, Storage};
use thalweg_tensor::{Dtype, DtypeClass, TensorCatalog, TensorEntry, display_name, to_index};

use crate::format::FORMATS;
use crate::format::dcp::METADATA_FILE_NAME;
use crate::format::deepspeed::{is_expert_optimizer, is_model_file};
use crate::format::model_key::WHOLE_KEY;
use crate::format::orbax::FORMAT_NAME as ORBAX;
use crate::format::orbax::write::{OrbaxExtras, folder_of_arrays, read_extras, rewrite_store};
use crate::format::torch::archive::Archive;
use crate::format::torch::error::TorchError;
use crate::format::torch::is_saved_name;
use crate::kept_ends::KeptEnds;
use crate::layout::{Checksum, CopiedBytes, FrameContent, FramePart, LayoutEntry, OutputFile, OutputLayout};
use crate::open::open_checkpoint_with;
use crate::own_names::RECEIPT_NAME;
use crate::side_files::{SideFileKind, StayReason, side_file_kind};
use crate::spans::spans_in;
use crate::stage::FrameCopy;
use crate::state_names::is_state_name;
use crate::{Checkpoint, Error, ReadOptions};

/// Deepest nesting of folders inside a checkpoint. No known trainer nests deeper than eight.
const MAX_DEPTH: usize = 32;

/// What an output takes from an existing checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Template<'a> {
    /// The checkpoint whose files are copied.
    pub checkpoint: &'a Checkpoint,
    /// The same files, opened for the other copy of the parameters that they hold, such as masters beside the module's
    /// weights.
    pub other_copy: Option<&'a Checkpoint>,
    /// Names of files in the checkpoint's folder that are not copied, because the output has other files of that name.
    pub replaced: &'a BTreeSet<String>,
}

/// Lays out an output that has the files of a checkpoint. Only the elements of the tensors in `entries` differ.
///
/// Tensors of the other copy with the name and shape of one of `entries` become [`OutputLayout::copies`].
///
/// # Errors
/// `CannotKeepFiles` if the format stores elements more than once, or if a tensor is missing in the checkpoint or has
/// another shape or element type there; `Access` and `Storage` if a file cannot be read.
pub fn layout_like(
    storage: &Arc<dyn Storage>,
    template: &Template<'_>,
    entries: &[LayoutEntry],
) -> Result<OutputLayout, Error> {
    let checkpoint = template.checkpoint;
    check_format(checkpoint)?;
    let mut names = FileList::find(&**storage, template)?;
    let opened = checkpoint.opened_entries()?;
    let mut placed = place_tensors(checkpoint, &opened, entries)?;
    if checkpoint.format_name() == ORBAX {
        return lay_out_store(storage, checkpoint, &names.files, entries);
    }
    renumber(&mut placed, checkpoint, &mut names)?;
    let mut copies = Vec::new();
    if let Some(other) = template.other_copy {
        let wanted = |entry: &TensorEntry| {
            placed.binary_search_by(|known| known.name.cmp(&entry.name)).is_ok_and(|i| placed[i].shape == entry.shape)
        };
        // Tied weights have several names for the same bytes.
        let mut known = BTreeSet::new();
        let is_first = |entry: &TensorEntry| {
            entry.pieces.first().is_none_or(|piece| known.insert((piece.file_idx, piece.offset, entry.shape.0.clone())))
        };
        copies = other.opened_entries()?.into_iter().filter(wanted).filter(is_first).collect();
        check_copies(checkpoint, &placed, &copies)?;
        renumber(&mut copies, other, &mut names)?;
    }
    let mut files = Vec::with_capacity(names.files.len());
    for (file_idx, file) in (0..).zip(&names.files) {
        files.push(lay_out_file(file, file_idx, [&placed, &copies])?);
    }
    let catalog = |entries| {
        TensorCatalog::new(entries).map(Arc::new).map_err(|name| refuse(checkpoint, format!("`{name}` appears twice")))
    };
    Ok(OutputLayout::new(files, catalog(placed)?, Vec::new()).with_copies(catalog(copies)?))
}

/// Lays out an output with the files of a checkpoint of Orbax, whose store is written anew: chunks have no fixed length
/// there.
fn lay_out_store(
    storage: &Arc<dyn Storage>,
    checkpoint: &Checkpoint,
    kept: &[KeptFile],
    entries: &[LayoutEntry],
) -> Result<OutputLayout, Error> {
    let (root, name) = place_of(checkpoint)?;
    let mut store = rewrite_store(storage, &root, name, entries)?;
    for file in kept {
        if store.replaces(&file.name) {
            continue;
        }
        let file_idx = u32::try_from(store.files.len()).unwrap_or(u32::MAX);
        store.files.push(lay_out_file(file, file_idx, [&[], &[]])?);
    }
    Ok(OutputLayout::new(store.files, Arc::new(store.catalog), store.documents))
}

/// What an output for Orbax that is written from scratch takes from a checkpoint of that format.
///
/// # Errors
/// `Layout` if the description of its tree cannot be read; `Storage`.
pub fn orbax_extras(storage: &Arc<dyn Storage>, checkpoint: &Checkpoint) -> Result<OrbaxExtras, Error> {
    let (root, name) = place_of(checkpoint)?;
    read_extras(storage, &root, name)
}

/// The folder of a checkpoint, and a file of it by its name there.
fn place_of(checkpoint: &Checkpoint) -> Result<(PathBuf, &str), Error> {
    let first = checkpoint.files().first();
    let place = first.and_then(|file| Some((root_of(&file.path, &file.name)?, &*file.name)));
    place.ok_or_else(|| refuse(checkpoint, "it has no files with tensors".to_owned()))
}

/// Refuses copies of averaged tensors in an element type to which no sum is rounded, such as FP8.
fn check_copies(checkpoint: &Checkpoint, placed: &[TensorEntry], copies: &[TensorEntry]) -> Result<(), Error> {
    let is_float = |dtype: Dtype| dtype.class() == DtypeClass::Mergeable;
    let is_averaged = |copy: &TensorEntry| {
        let found = placed.binary_search_by(|known| known.name.cmp(&copy.name));
        found.is_ok_and(|i| is_float(placed[i].dtype))
    };
    match copies.iter().find(|copy| !is_float(copy.dtype) && is_averaged(copy)) {
        None => Ok(()),
        Some(copy) => {
            let (name, dtype) = (display_name(&copy.name), copy.dtype);
            Err(refuse(
                checkpoint,
                format!("it also holds `{name}` as {dtype}, which cannot be computed from the merged tensor"),
            ))
        }
    }
}

/// A file that [`layout_like`] would lay out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptName {
    /// Its name in the output.
    pub name: String,
    /// Its path in the checkpoint.
    pub path: PathBuf,
    /// Its length.
    pub len_bytes: u64,
}

/// The files that [`layout_like`] would lay out. Does not look into them.
///
/// # Errors
/// `Storage` if a folder cannot be listed.
pub fn kept_files(storage: &dyn Storage, template: &Template<'_>) -> Result<Vec<KeptName>, Error> {
    let list = FileList::find(storage, template)?;
    let kept = |file: KeptFile| KeptName { name: file.name, path: file.path, len_bytes: file.len_bytes };
    Ok(list.files.into_iter().map(kept).collect())
}

/// Weights in the folder of a checkpoint that are not its own and that [`layout_like`] leaves out: files, or folders
/// with `/` at the end. They are those of the checkpoint in another form, and so not those of the output.
///
/// # Errors
/// `Storage` if a folder cannot be listed.
pub fn left_out_weights(storage: &dyn Storage, checkpoint: &Checkpoint) -> Result<Vec<String>, Error> {
    let template = Template { checkpoint, other_copy: None, replaced: &BTreeSet::new() };
    Ok(FileList::find(storage, &template)?.left_out)
}

/// The bytes that a finished output has unchanged from other files: what is copied, without what is written over it
/// later.
pub fn unchanged_copies(layout: &OutputLayout) -> Vec<FrameCopy> {
    let mut copies = Vec::new();
    for (file_idx, file) in layout.files().iter().enumerate() {
        let number = u32::try_from(file_idx).unwrap_or(u32::MAX);
        let mut changed = spans_in(layout.copies().entries(), number, true);
        changed.extend(file.checksums.iter().flat_map(|sum| &sum.places).map(|&place| place..place + CRC_BYTES));
        changed.sort_by_key(|span| span.start);
        let kept = without(&changed, file.len_bytes);
        let mut next = 0;
        for FramePart { offset, content } in &file.frame {
            let FrameContent::Copy(from) = content else { continue };
            let end = offset + from.len_bytes;
            // Both lists are sorted. A range may reach into several parts.
            next += kept[next..].iter().take_while(|range| range.end <= *offset).count();
            for range in kept[next..].iter().take_while(|range| range.start < end) {
                let (start, len_bytes) = (range.start.max(*offset), range.end.min(end) - range.start.max(*offset));
                let from = CopiedBytes { path: from.path.clone(), offset: from.offset + (start - offset), len_bytes };
                copies.push(FrameCopy { file_idx, offset: start, from });
            }
        }
    }
    copies
}

/// Everything that the files of an output made like `checkpoint` hold, whatever it is: one checkpoint for each
/// torch.save file and for each distributed checkpoint, with all tensors under their full names.
///
/// Files with tensors that no other tensor can be a part of are left out: safetensors, and what DeepSpeed's ranks hold
/// of the optimizer, where its format says which bytes are masters and which are moments. So are other files than those
/// of the checkpoint if they cannot be read: they are copied as they are.
///
/// # Errors
/// As [`open_checkpoint`](crate::open_checkpoint), for the files of the checkpoint itself.
pub fn open_whole(storage: &Arc<dyn Storage>, checkpoint: &Checkpoint) -> Result<Vec<Checkpoint>, Error> {
    if checkpoint.format_name() == ORBAX {
        return open_whole_store(storage, checkpoint);
    }
    let replaced = BTreeSet::new();
    let list = FileList::find(&**storage, &Template { checkpoint, other_copy: None, replaced: &replaced })?;
    let is_deepspeed = checkpoint.format_name().starts_with("deepspeed");
    let options = ReadOptions { key: Some(WHOLE_KEY.to_owned()), ..ReadOptions::default() };
    let mut opened = Vec::new();
    for file in list.files {
        let is_metadata = file.path.file_name().is_some_and(|name| name == METADATA_FILE_NAME);
        let path = match file.path.parent().filter(|_| is_metadata) {
            Some(folder) => folder,
            None => &file.path,
        };
        let is_own = checkpoint.files().iter().any(|own| own.path == path || own.path.parent() == Some(path));
        let is_wanted = match checkpoint.format_name() {
            _ if is_metadata => true,
            "torch" if is_own => true,
            _ if is_deepspeed => is_model_file(&file.name) || is_expert_optimizer(&file.name),
            // An index leads to the files that are listed here one by one.
            _ => is_saved_name(&file.name),
        };
        if !is_wanted {
            continue;
        }
        match open_checkpoint_with(storage, path, &options) {
            Ok(whole) => opened.push(whole),
            // The state of a stage of a pipeline, whose weights are in files of layers.
            Err(Error::Torch { source, .. }) if matches!(*source, TorchError::NoTensors) => {}
            Err(error) if is_own => return Err(error),
            Err(_) => {}
        }
    }
    Ok(opened)
}

/// All arrays in the folder of those of a checkpoint of Orbax; none if some cannot be read: they are copied as they
/// are.
fn open_whole_store(storage: &Arc<dyn Storage>, checkpoint: &Checkpoint) -> Result<Vec<Checkpoint>, Error> {
    let (root, name) = place_of(checkpoint)?;
    let options = ReadOptions { key: Some(WHOLE_KEY.to_owned()), ..ReadOptions::default() };
    match open_checkpoint_with(storage, &folder_of_arrays(storage, &root, name)?, &options) {
        Ok(whole) => Ok(vec![whole]),
        Err(Error::Layout { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether outputs can have the files of a checkpoint in this format.
pub fn can_be_template(format_name: &str) -> bool {
    FORMATS.iter().any(|format| format.name() == format_name && format.stores_elements_once())
}

fn check_format(checkpoint: &Checkpoint) -> Result<(), Error> {
    if can_be_template(checkpoint.format_name()) {
        return Ok(());
    }
    let reason = "its ranks store some tensors more than once, and the merge would leave the copies different";
    Err(refuse(checkpoint, reason.to_owned()))
}

fn refuse(checkpoint: &Checkpoint, reason: String) -> Error {
    Error::CannotKeepFiles { path: checkpoint.path().to_owned(), reason }
}

/// Length of a CRC-32 checksum in a file.
const CRC_BYTES: u64 = 4;

/// A file that goes to the output.
struct KeptFile {
    name: String,
    path: PathBuf,
    len_bytes: u64,
    reader: Option<Arc<dyn ReadAt>>,
    /// The archives in it that tensors lie in.
    archives: Vec<Range<u64>>,
}

struct FileList {
    files: Vec<KeptFile>,
    numbers: BTreeMap<String, u32>,
    /// Weights in another form.
    left_out: Vec<String>,
}

/// What a look into the folders of a checkpoint found.
#[derive(Default)]
struct Collected {
    kept: BTreeMap<String, KeptFile>,
    left_out: Vec<String>,
}

impl FileList {
    /// Every file of the checkpoint's folder, except for records, model cards, code, temporary files and what is
    /// replaced; for a single file, only that.
    fn find(storage: &dyn Storage, template: &Template<'_>) -> Result<Self, Error> {
        let checkpoint = template.checkpoint;
        let mut collected = Collected::default();
        let is_folder = storage.file_info(checkpoint.path())?.kind == FileKind::Folder;
        let root = checkpoint.files().first().and_then(|file| root_of(&file.path, &file.name));
        if let Some(root) = root.filter(|_| is_folder) {
            collect(storage, &root, "", template, &mut collected, 0)?;
        }
        let Collected { kept: mut found, left_out } = collected;
        // What holds tensors is kept whatever its name.
        for opened in [Some(checkpoint), template.other_copy].into_iter().flatten() {
            for (file, reader) in opened.files().iter().zip(opened.readers()) {
                let kept = found.entry(file.name.clone()).or_insert_with(|| KeptFile {
                    name: file.name.clone(),
                    path: file.path.clone(),
                    len_bytes: file.info.len_bytes,
                    reader: None,
                    archives: Vec::new(),
                });
                kept.len_bytes = file.info.len_bytes;
                kept.reader = Some(Arc::clone(reader));
            }
        }
        let files: Vec<KeptFile> = found.into_values().collect();
        let numbers = (0..).zip(&files).map(|(number, file)| (file.name.clone(), number)).collect();
        Ok(Self { files, numbers, left_out })
    }
}

/// The folder from which a file's name leads to it.
fn root_of(path: &Path, name: &str) -> Option<PathBuf> {
    path.ancestors().nth(Path::new(name).components().count()).map(Path::to_owned)
}

fn collect(
    storage: &dyn Storage,
    folder: &Path,
    prefix: &str,
    template: &Template<'_>,
    found: &mut Collected,
    depth: usize,
) -> Result<(), Error> {
    let entries = storage.list_folder(folder)?;
    let is_own = |name: &str| template.checkpoint.files().iter().any(|file| file.name.starts_with(name));
    // The files of a folder of weights belong together: a config, an index, a tokenizer.
    if !prefix.is_empty() && !is_own(prefix) && entries.iter().any(is_other_form) {
        found.left_out.push(prefix.to_owned());
        return Ok(());
    }
    for entry in entries {
        let (name, path) = (format!("{prefix}{}", entry.name), folder.join(&entry.name));
        match entry.kind {
            FileKind::File if is_other_form(&entry) && !is_own(&name) => found.left_out.push(name),
            FileKind::Folder if depth < MAX_DEPTH && is_kept_folder(storage, &name, &path, template)? => {
                collect(storage, &path, &format!("{name}/"), template, found, depth + 1)?;
            }
            FileKind::File if is_kept(prefix, &entry.name, entry.len_bytes) && !template.replaced.contains(&name) => {
                let file = KeptFile {
                    name: name.clone(),
                    path,
                    len_bytes: entry.len_bytes,
                    reader: None,
                    archives: Vec::new(),
                };
                found.kept.insert(name, file);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a folder inside the checkpoint's is a part of it. A run folder may itself be a checkpoint, with other
/// checkpoints, outputs, logs and version control inside.
fn is_kept_folder(storage: &dyn Storage, name: &str, path: &Path, template: &Template<'_>) -> Result<bool, Error> {
    /// Where logs go beside checkpoints.
    const LOGS: [&str; 6] = ["logs", "runs", "wandb", "tensorboard", "tb", "mlruns"];
    let inside = format!("{name}/");
    if template.checkpoint.files().iter().any(|file| file.name.starts_with(&inside)) {
        return Ok(true);
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.starts_with('.') || LOGS.contains(&last) || is_stage_name(last) || trainer_part(last).is_some() {
        return Ok(false);
    }
    match storage.file_info(&path.join(RECEIPT_NAME)) {
        Err(error) if error.is_not_found() => Ok(true),
        found => Ok(found.map(|_| false)?),
    }
}

/// Whether a name is one that only weights have, in a form that is written for other programs than the trainer.
fn is_other_form(entry: &FolderEntry) -> bool {
    let name = &*entry.name;
    let is_torch = is_saved_name(name) && ["pytorch_model", "consolidated"].iter().any(|start| name.starts_with(start));
    let ends = [".safetensors", ".safetensors.index.json", ".gguf"];
    entry.kind == FileKind::File && !is_state_name(name) && (is_torch || ends.iter().any(|end| name.ends_with(end)))
}

/// Whether a file is kept. Cards and code directly in the folder are not: an output has its own card, and code only on
/// request.
fn is_kept(prefix: &str, name: &str, len_bytes: u64) -> bool {
    match side_file_kind(name, len_bytes) {
        SideFileKind::Stays(StayReason::Record | StayReason::Temporary | StayReason::NotAFile) => false,
        SideFileKind::Stays(StayReason::Card) | SideFileKind::Code => !prefix.is_empty(),
        SideFileKind::Stays(_) | SideFileKind::Travels => true,
    }
}

/// The tensors of an output at their places in the checkpoint, sorted by name.
fn place_tensors(
    checkpoint: &Checkpoint,
    opened: &[TensorEntry],
    entries: &[LayoutEntry],
) -> Result<Vec<TensorEntry>, Error> {
    let place = |wanted: &LayoutEntry| {
        let name = thalweg_tensor::display_name(&wanted.name);
        let found = checkpoint.catalog().find(&wanted.name).and_then(|i| opened.get(i));
        let found = found.ok_or_else(|| refuse(checkpoint, format!("it has no tensor `{name}`")))?;
        if found.dtype != wanted.dtype {
            let reason = format!("tensor `{name}` is {} in it, but {} in the output", found.dtype, wanted.dtype);
            return Err(refuse(checkpoint, reason));
        }
        if found.shape != wanted.shape {
            let reason = format!("tensor `{name}` has shape {} in it, but {} in the output", found.shape, wanted.shape);
            return Err(refuse(checkpoint, reason));
        }
        Ok(found.clone())
    };
    let mut placed = entries.iter().map(place).collect::<Result<Vec<_>, Error>>()?;
    let names: BTreeSet<&str> = entries.iter().map(|entry| &*entry.name).collect();
    let mut known = checkpoint.catalog().entries().iter();
    if let Some(left) = known.find(|entry| !names.contains(&*entry.name)) {
        let name = thalweg_tensor::display_name(&left.name);
        return Err(refuse(checkpoint, format!("tensor `{name}` cannot be left out of its files")));
    }
    placed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(placed)
}

/// Makes pieces count the files of the output instead of those of a checkpoint, and notes the archives in those files.
fn renumber(entries: &mut [TensorEntry], checkpoint: &Checkpoint, list: &mut FileList) -> Result<(), Error> {
    let mut numbers = Vec::with_capacity(checkpoint.files().len());
    for (old, file) in (0..).zip(checkpoint.files()) {
        let number = list.numbers.get(&file.name).copied().unwrap_or_default();
        numbers.push(number);
        let mut archives = checkpoint.archives_in(old);
        let kept = &mut list.files[to_index(number.into())];
        if archives.is_empty() && is_archive(&*checkpoint.readers()[to_index(old.into())])? {
            archives.push(0..kept.len_bytes);
        }
        kept.archives.extend(archives);
        kept.archives.sort_unstable_by_key(|archive| (archive.start, archive.end));
        kept.archives.dedup();
    }
    for piece in entries.iter_mut().flat_map(|entry| entry.pieces.iter_mut()) {
        piece.file_idx = numbers.get(to_index(piece.file_idx.into())).copied().unwrap_or(u32::MAX);
    }
    Ok(())
}

fn is_archive(reader: &dyn ReadAt) -> Result<bool, Error> {
    let mut head = [0; 4];
    if reader.info().len_bytes < 4 {
        return Ok(false);
    }
    reader.read_exact_at(0, &mut head)?;
    Ok(&head == b"PK\x03\x04")
}

/// What is left of a file of this length without these spans, which are sorted and do not overlap.
fn without(spans: &[Range<u64>], len_bytes: u64) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut at = 0;
    for span in spans {
        if at < span.start {
            gaps.push(at..span.start.min(len_bytes));
        }
        at = at.max(span.end);
    }
    if at < len_bytes {
        gaps.push(at..len_bytes);
    }
    gaps
}

/// The bytes of a file that belong to no tensor, for each file that pieces of `entries` count: `len_bytes` has its
/// length.
///
/// The bytes between the elements of a piece with strides are not among them.
pub fn frame_ranges(entries: &[TensorEntry], len_bytes: &[u64]) -> Vec<Vec<Range<u64>>> {
    (0..).zip(len_bytes).map(|(file_idx, &len_bytes)| without(&spans_in(entries, file_idx, true), len_bytes)).collect()
}

fn lay_out_file(file: &KeptFile, file_idx: u32, written: [&[TensorEntry]; 2]) -> Result<OutputFile, Error> {
    let [tensors, copies] = written;
    let copy = |range: Range<u64>| FramePart {
        offset: range.start,
        content: FrameContent::Copy(CopiedBytes {
            path: file.path.clone(),
            offset: range.start,
            len_bytes: range.end - range.start,
        }),
    };
    // The bytes between the elements of a piece with strides are copied with the elements, which are written later.
    let pieces = spans_in(tensors.iter().chain(copies), file_idx, false);
    let frame = without(&pieces, file.len_bytes).into_iter().map(copy).collect();
    let written = spans_in(tensors.iter().chain(copies), file_idx, true);
    let mut in_file: Vec<(u64, usize)> = Vec::new();
    for (tensor_idx, entry) in tensors.iter().enumerate() {
        let first = entry.pieces.iter().filter(|piece| piece.file_idx == file_idx).map(|piece| piece.offset).min();
        in_file.extend(first.map(|offset| (offset, tensor_idx)));
    }
    in_file.sort_unstable();
    Ok(OutputFile {
        name: file.name.clone(),
        len_bytes: file.len_bytes,
        frame,
        checksums: checksums_of(file, &written)?,
        tensors: in_file.into_iter().map(|(_, tensor_idx)| tensor_idx).collect(),
    })
}

/// The sums that a file holds of records in which something is written. `written` is sorted and does not overlap.
fn checksums_of(file: &KeptFile, written: &[Range<u64>]) -> Result<Vec<Checksum>, Error> {
    let Some(reader) = file.reader.as_deref().filter(|_| !written.is_empty()) else { return Ok(Vec::new()) };
    let mut sums = Vec::new();
    for window in &file.archives {
        let overlaps = |range: &Range<u64>| {
            let next = written.partition_point(|span| span.end <= range.start);
            written.get(next).is_some_and(|span| span.start < range.end)
        };
        if !overlaps(window) {
            continue;
        }
        let refuse = |source| Error::Torch { path: file.path.clone(), source: Box::new(source) };
        let reader = &KeptEnds::new(reader, window.clone());
        let archive = Archive::open(reader, window.clone()).map_err(|error| refuse(error.into()))?;
        let records = archive.record_sums(reader).map_err(|error| refuse(error.into()))?;
        let touched = records.into_iter().filter(|record| overlaps(&record.range));
        sums.extend(touched.map(|record| Checksum { range: record.range, places: record.places }));
    }
    Ok(sums)
}
