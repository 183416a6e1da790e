//! Lays out distributed checkpoints: `.distcp` files in which each tensor is one archive of torch.save, and the
//! `.metadata` that says where.
//!
//! The metadata uses only what PyTorch 2.1 and all later versions can load: element types are given to the constructor
//! of the properties, because their pickled state differs between versions.

use std::sync::Arc;

use thalweg_tensor::TensorCatalog;

use super::metadata::PathPart;
use super::objects::{DcpExtras, DcpObject};
use super::{DATA_END, MAX_METADATA_BYTES, METADATA_FILE_NAME};
use crate::Error;
use crate::format::model_key::{check_names_last, is_other_key};
use crate::format::torch::archive_write::{CHUNK_ROOT, StoredTensor, lay_archive};
use crate::format::torch::write::{TorchType, check_length, check_types, place_whole, write_tensor};
use crate::frame_builder::FrameBuilder;
use crate::layout::{
    CopiedBytes, Document, LayoutEntry, OutputFile, OutputLayout, check_entries, fill_shards, unwritable,
};
use crate::pickle::{PickleWriter, Slot};

const METADATA_MODULE: &str = "torch.distributed.checkpoint.metadata";
const STORAGE_INFO: (&str, &str) = ("torch.distributed.checkpoint.filesystem", "_StorageInfo");

/// A tensor or an object, and where its archive is.
struct Stored<'a> {
    name: String,
    path: Vec<PathPart>,
    content: Content<'a>,
    /// Position of the file.
    file_idx: usize,
    offset: u64,
    len_bytes: u64,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Tensor { entry: &'a LayoutEntry, torch: TorchType },
    Object(&'a CopiedBytes),
}

/// Whether the metadata says where each entry is in the saved state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paths {
    Stated,
    /// As in checkpoints of Megatron-Core.
    Absent,
}

/// Lays out a distributed checkpoint of PyTorch: `__0_0.distcp`, `__0_1.distcp` ... and `.metadata`.
///
/// Tensors go to files in the order of their names, then objects. A file holds at most `max_shard_bytes` of them; a
/// larger tensor gets its own file. `extras.key` is put before the names in the checkpoint, not in the catalog.
///
/// # Errors
/// `NothingToWrite`; `UnwritableTensor` for a name that appears twice, for impossible sizes, and for element types that
/// PyTorch does not have; `HeaderTooLong` for more entries than readers take.
///
/// # Example
/// ```
/// use thalweg_checkpoint::{LayoutEntry, layout_dcp};
/// use thalweg_tensor::{Dtype, Shape};
///
/// let entry = |name: &str| LayoutEntry { name: name.into(), dtype: Dtype::F32, shape: Shape::new([2]) };
/// let layout = layout_dcp(&[entry("a"), entry("b")], 8, &Default::default())?;
/// assert_eq!(layout.files()[1].name, "__0_1.distcp");
/// assert_eq!(layout.documents()[0].name, ".metadata");
/// # Ok::<(), thalweg_checkpoint::Error>(())
/// ```
pub fn layout_dcp(entries: &[LayoutEntry], max_shard_bytes: u64, extras: &DcpExtras) -> Result<OutputLayout, Error> {
    lay_folder(entries, max_shard_bytes, extras, Paths::Stated)
}

pub(crate) fn lay_folder(
    entries: &[LayoutEntry],
    max_shard_bytes: u64,
    extras: &DcpExtras,
    paths: Paths,
) -> Result<OutputLayout, Error> {
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut sizes = check_entries(&sorted)?;
    let types = check_types(&sorted)?;
    check_names_last(sorted.iter().map(|entry| &*entry.name))?;
    let is_lost = |entry: &&&LayoutEntry| entry.name.split_once('.').is_some_and(|(first, _)| is_other_key(first));
    if paths == Paths::Absent
        && let Some(entry) = sorted.iter().find(is_lost)
    {
        return Err(unwritable(&entry.name, "readers of this format would mistake it for optimizer state"));
    }
    let tensors = sorted.iter().zip(types).map(|(entry, torch)| tensor_at(&extras.key, entry, torch));
    let mut stored: Vec<Stored<'_>> = tensors.chain(extras.objects.iter().map(object_at)).collect();
    check_names(&stored)?;
    sizes.extend(extras.objects.iter().map(|object| object.bytes.len_bytes));
    let (mut files, mut placed) = (Vec::new(), Vec::with_capacity(sorted.len()));
    for (file_idx, shard) in (0..).zip(fill_shards(&sizes, max_shard_bytes)) {
        let mut frame = FrameBuilder::default();
        for at in shard {
            let offset = frame.position();
            match stored[at].content {
                Content::Tensor { entry, torch } => {
                    let tensor = StoredTensor { tensor_idx: at, len_bytes: sizes[at] };
                    placed.push(place_whole(entry, file_idx, lay_chunk(&mut frame, entry, torch, tensor)));
                }
                Content::Object(bytes) => frame.copy(bytes),
            }
            let len_bytes = frame.position() - offset;
            let place = &mut stored[at];
            (place.file_idx, place.offset, place.len_bytes) = (files.len(), offset, len_bytes);
        }
        files.push(frame.finish(format!("__0_{file_idx}{DATA_END}")));
    }
    let bytes = write_metadata(&stored, &files, paths);
    check_length(METADATA_FILE_NAME, bytes.len(), MAX_METADATA_BYTES)?;
    let catalog = TensorCatalog::new(placed).map_err(|name| unwritable(&name, "its name appears twice"))?;
    let metadata = Document { name: METADATA_FILE_NAME.to_owned(), bytes };
    Ok(OutputLayout::new(files, Arc::new(catalog), vec![metadata]))
}

fn tensor_at<'a>(key: &[String], entry: &'a LayoutEntry, torch: TorchType) -> Stored<'a> {
    let parts: Vec<&str> = key.iter().map(|key| &**key).chain([&*entry.name]).collect();
    let path = parts.iter().map(|part| PathPart::Key((*part).to_owned())).collect();
    let content = Content::Tensor { entry, torch };
    Stored { name: parts.join("."), path, content, file_idx: 0, offset: 0, len_bytes: 0 }
}

fn object_at(object: &DcpObject) -> Stored<'_> {
    let path = match &*object.path {
        [] => vec![PathPart::Key(object.name.clone())],
        path => path.to_vec(),
    };
    let content = Content::Object(&object.bytes);
    Stored { name: object.name.clone(), path, content, file_idx: 0, offset: 0, len_bytes: 0 }
}

/// Lays out the archive of one tensor, and returns where its elements begin.
fn lay_chunk(frame: &mut FrameBuilder, entry: &LayoutEntry, torch: TorchType, tensor: StoredTensor) -> u64 {
    let mut writer = PickleWriter::new();
    write_tensor(&mut writer, entry, torch, 0);
    let offsets = lay_archive(frame, CHUNK_ROOT, &writer.finish(), [tensor]);
    offsets.first().copied().unwrap_or_default()
}

fn check_names(stored: &[Stored<'_>]) -> Result<(), Error> {
    let mut names: Vec<&str> = stored.iter().map(|stored| &*stored.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(unwritable(pair[0], "its name appears twice")),
        None => Ok(()),
    }
}

/// The pickle of `Metadata`.
fn write_metadata(stored: &[Stored<'_>], files: &[OutputFile], paths: Paths) -> Vec<u8> {
    let mut writer = PickleWriter::new();
    // Names come up three times each.
    let mut names: Vec<Slot> = Vec::with_capacity(stored.len());
    let attributes = ["state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version"];
    writer.object((METADATA_MODULE, "Metadata"), attributes, |writer, attribute| {
        writer.text(attribute);
        match attribute {
            "state_dict_metadata" => {
                writer.dict();
                writer.set_items(stored, |writer, stored| {
                    writer.text(&stored.name);
                    names.push(writer.last_slot());
                    write_description(writer, stored);
                });
            }
            "planner_data" if paths == Paths::Stated => {
                writer.dict();
                writer.set_items(stored.iter().zip(&names), |writer, (stored, name)| {
                    writer.repeat(*name);
                    write_path(writer, &stored.path);
                });
            }
            "storage_data" => {
                writer.dict();
                writer.set_items(stored.iter().zip(&names), |writer, (stored, name)| {
                    write_place(writer, stored, *name, &files[stored.file_idx].name);
                });
            }
            "version" => writer.text("1.0.0"),
            _ => writer.none(),
        }
    });
    writer.finish()
}

fn write_description(writer: &mut PickleWriter, stored: &Stored<'_>) {
    let Content::Tensor { entry, torch } = stored.content else {
        return writer.object((METADATA_MODULE, "BytesStorageMetadata"), [(); 0], |_, ()| {});
    };
    let attributes = ["properties", "size", "chunks"];
    writer.object((METADATA_MODULE, "TensorStorageMetadata"), attributes, |writer, attribute| {
        writer.constant_text(attribute);
        match attribute {
            "properties" => {
                writer.global(METADATA_MODULE, "TensorProperties");
                writer.global("torch", torch.name);
                writer.tuple(1);
                writer.call();
            }
            "size" => write_size(writer, &entry.shape.0),
            _ => {
                writer.list();
                writer.append_items([entry], |writer, entry| write_chunk(writer, &entry.shape.0));
            }
        }
    });
}

/// The chunk that is the whole tensor.
fn write_chunk(writer: &mut PickleWriter, dims: &[u64]) {
    writer.object((METADATA_MODULE, "ChunkStorageMetadata"), ["offsets", "sizes"], |writer, attribute| {
        writer.constant_text(attribute);
        match attribute {
            "offsets" => write_size(writer, &vec![0; dims.len()]),
            _ => write_size(writer, dims),
        }
    });
}

fn write_path(writer: &mut PickleWriter, path: &[PathPart]) {
    let n_parts = u8::try_from(path.len()).ok().filter(|n_parts| *n_parts <= 3);
    if n_parts.is_none() {
        writer.mark();
    }
    for part in path {
        match part {
            PathPart::Key(key) => writer.text(key),
            PathPart::Index(index) => writer.int(*index),
        }
    }
    match n_parts {
        Some(n_parts) => writer.tuple(n_parts),
        None => writer.long_tuple(),
    }
}

/// The index of an entry, and where its archive is.
fn write_place(writer: &mut PickleWriter, stored: &Stored<'_>, name: Slot, file: &str) {
    // An object has no offset, and no index among chunks.
    let attributes: &[_] = match stored.content {
        Content::Tensor { .. } => &["fqn", "index", "offset"],
        Content::Object(_) => &["fqn", "index"],
    };
    writer.object((METADATA_MODULE, "MetadataIndex"), attributes, |writer, attribute| {
        writer.constant_text(attribute);
        match (*attribute, stored.content) {
            ("fqn", _) => writer.repeat(name),
            ("offset", Content::Tensor { entry, .. }) => write_size(writer, &vec![0; entry.shape.0.len()]),
            (_, Content::Tensor { .. }) => writer.int(0),
            (_, Content::Object(_)) => writer.none(),
        }
    });
    writer.object(STORAGE_INFO, ["relative_path", "offset", "length"], |writer, attribute| {
        writer.constant_text(attribute);
        match attribute {
            "relative_path" => writer.text(file),
            "offset" => writer.int(stored.offset),
            _ => writer.int(stored.len_bytes),
        }
    });
}

/// A `torch.Size`.
fn write_size(writer: &mut PickleWriter, dims: &[u64]) {
    writer.global("torch", "Size");
    writer.numbers(dims);
    writer.tuple(1);
    writer.call();
}
