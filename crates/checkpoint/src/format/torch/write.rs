//! Lays out checkpoints of torch.save: one file of a state dict, or several with an index.

use std::sync::Arc;

use thalweg_tensor::{Dtype, Piece, TensorCatalog, TensorEntry};

use super::MAX_PICKLE_BYTES;
use super::archive_write::{StoredTensor, lay_archive};
use super::folder::{INDEX_FILE_NAME, SINGLE_FILE_NAME};
use crate::Error;
use crate::format::model_key::check_names_last;
use crate::frame_builder::FrameBuilder;
use crate::layout::{Document, LayoutEntry, OutputLayout, check_entries, fill_shards, unwritable, write_index};
use crate::pickle::PickleWriter;

/// An element type as PyTorch names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TorchType {
    /// Name in `torch`.
    pub(crate) name: &'static str,
    /// Class of its storages; none where they are plain bytes.
    storage: Option<&'static str>,
}

/// What PyTorch calls an element type.
///
/// # Errors
/// `UnwritableTensor` for a type of which PyTorch has no tensors.
pub(crate) fn torch_type(entry: &LayoutEntry) -> Result<TorchType, Error> {
    let (name, storage) = match entry.dtype {
        Dtype::F64 => ("float64", Some("DoubleStorage")),
        Dtype::F32 => ("float32", Some("FloatStorage")),
        Dtype::F16 => ("float16", Some("HalfStorage")),
        Dtype::Bf16 => ("bfloat16", Some("BFloat16Storage")),
        Dtype::I64 => ("int64", Some("LongStorage")),
        Dtype::I32 => ("int32", Some("IntStorage")),
        Dtype::I16 => ("int16", Some("ShortStorage")),
        Dtype::I8 => ("int8", Some("CharStorage")),
        Dtype::U8 => ("uint8", Some("ByteStorage")),
        Dtype::Bool => ("bool", Some("BoolStorage")),
        Dtype::C64 => ("complex64", Some("ComplexFloatStorage")),
        Dtype::U16 => ("uint16", None),
        Dtype::U32 => ("uint32", None),
        Dtype::U64 => ("uint64", None),
        Dtype::F8E4M3 => ("float8_e4m3fn", None),
        Dtype::F8E5M2 => ("float8_e5m2", None),
        Dtype::F8E4M3Fnuz => ("float8_e4m3fnuz", None),
        Dtype::F8E5M2Fnuz => ("float8_e5m2fnuz", None),
        Dtype::F8E8M0 => ("float8_e8m0fnu", None),
        _ => return Err(unwritable(&entry.name, "PyTorch has no tensors of its element type")),
    };
    Ok(TorchType { name, storage })
}

/// Checks that PyTorch can hold all of these.
pub(crate) fn check_types(entries: &[&LayoutEntry]) -> Result<Vec<TorchType>, Error> {
    for entry in entries {
        if entry.shape.0.iter().any(|dim| i64::try_from(*dim).is_err()) {
            return Err(unwritable(&entry.name, "a dimension is longer than PyTorch can count"));
        }
    }
    entries.iter().map(|entry| torch_type(entry)).collect()
}

/// Writes the call that makes a tensor from storage `key`, row-major and alone in it.
pub(crate) fn write_tensor(writer: &mut PickleWriter, entry: &LayoutEntry, torch: TorchType, key: usize) {
    let n_elements = entry.shape.n_elements().unwrap_or(0);
    let n_stored = if torch.storage.is_some() { n_elements } else { entry.dtype.bytes_of(n_elements).unwrap_or(0) };
    let rebuild = if torch.storage.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" };
    writer.global("torch._utils", rebuild);
    writer.mark();
    writer.mark();
    writer.constant_text("storage");
    match torch.storage {
        Some(class) => writer.global("torch", class),
        None => writer.global("torch.storage", "UntypedStorage"),
    }
    writer.text(&key.to_string());
    writer.constant_text("cpu");
    writer.int(n_stored);
    writer.long_tuple();
    writer.persistent();
    writer.int(0);
    writer.numbers(&entry.shape.0);
    writer.numbers(&strides(&entry.shape.0));
    writer.boolean(false);
    writer.ordered_dict();
    if torch.storage.is_none() {
        writer.global("torch", torch.name);
    }
    writer.long_tuple();
    writer.call();
}

/// Distances between neighbours of a row-major tensor; dimensions of no length count as one, as in PyTorch.
fn strides(dims: &[u64]) -> Vec<u64> {
    let mut strides = vec![1_u64; dims.len()];
    for at in (1..dims.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(dims[at].max(1));
    }
    strides
}

/// The pickle of a dictionary of tensors; each has the storage of its position.
pub(super) fn write_state_dict(entries: &[(&LayoutEntry, TorchType)]) -> Vec<u8> {
    let mut writer = PickleWriter::new();
    writer.dict();
    writer.set_items(entries.iter().enumerate(), |writer, (key, (entry, torch))| {
        writer.text(&entry.name);
        write_tensor(writer, entry, *torch, key);
    });
    writer.finish()
}

/// Lays out an output of torch.save: `pytorch_model.bin`, or several files and `pytorch_model.bin.index.json`.
///
/// Tensors go to files in the order of their names. A file holds at most `max_shard_bytes` of tensors; a larger tensor
/// gets its own file.
///
/// # Errors
/// `NothingToWrite`; `UnwritableTensor` for a name that appears twice, for impossible sizes, and for element types that
/// PyTorch does not have; `HeaderTooLong` for more tensors in a file than readers take.
///
/// # Example
/// ```
/// use thalweg_checkpoint::{LayoutEntry, layout_torch};
/// use thalweg_tensor::{Dtype, Shape};
///
/// let entry = |name: &str| LayoutEntry { name: name.into(), dtype: Dtype::F32, shape: Shape::new([2]) };
/// let layout = layout_torch(&[entry("a"), entry("b")], u64::MAX)?;
/// assert_eq!(layout.files()[0].name, "pytorch_model.bin");
/// assert!(layout.catalog().entries()[1].pieces[0].offset.is_multiple_of(64));
/// # Ok::<(), thalweg_checkpoint::Error>(())
/// ```
pub fn layout_torch(entries: &[LayoutEntry], max_shard_bytes: u64) -> Result<OutputLayout, Error> {
    let mut sorted: Vec<&LayoutEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let sizes = check_entries(&sorted)?;
    check_names_last(sorted.iter().map(|entry| &*entry.name))?;
    let types = check_types(&sorted)?;
    let typed: Vec<(&LayoutEntry, TorchType)> = sorted.into_iter().zip(types).collect();
    let shards = fill_shards(&sizes, max_shard_bytes);
    let (mut files, mut placed) = (Vec::with_capacity(shards.len()), Vec::with_capacity(typed.len()));
    for ((file_idx, shard), number) in (0..).zip(&shards).zip(1..) {
        let stem = shard_stem(number, shards.len());
        let file = format!("{stem}.bin");
        let pickle = write_state_dict(&typed[shard.clone()]);
        check_length(&file, pickle.len(), MAX_PICKLE_BYTES)?;
        let mut frame = FrameBuilder::default();
        let tensors = shard.clone().map(|at| StoredTensor { tensor_idx: at, len_bytes: sizes[at] });
        let offsets = lay_archive(&mut frame, &stem, &pickle, tensors);
        let entries = typed[shard.clone()].iter().map(|(entry, _)| *entry);
        placed.extend(entries.zip(offsets).map(|(entry, offset)| place_whole(entry, file_idx, offset)));
        files.push(frame.finish(file));
    }
    let index = (files.len() > 1).then(|| Document {
        name: INDEX_FILE_NAME.to_owned(),
        bytes: write_index(&placed, files.iter().map(|file| (&*file.name, &*file.tensors))),
    });
    let catalog = TensorCatalog::new(placed).map_err(|name| unwritable(&name, "its name appears twice"))?;
    Ok(OutputLayout::new(files, Arc::new(catalog), index.into_iter().collect()))
}

/// The entry of a tensor that is whole in one file.
pub(crate) fn place_whole(entry: &LayoutEntry, file_idx: u32, offset: u64) -> TensorEntry {
    let pieces = Box::new([Piece::whole(file_idx, offset)]);
    TensorEntry { name: entry.name.clone(), dtype: entry.dtype, shape: entry.shape.clone(), pieces }
}

/// Checks that readers take a pickle of this length.
pub(crate) fn check_length(file: &str, found_bytes: usize, limit_bytes: u64) -> Result<(), Error> {
    let found_bytes = found_bytes as u64;
    if found_bytes <= limit_bytes {
        return Ok(());
    }
    Err(Error::HeaderTooLong { file: file.to_owned(), found_bytes, limit_bytes })
}

/// The name of a file without its end, which is also the folder in its archive.
fn shard_stem(number: usize, n_shards: usize) -> String {
    let stem = SINGLE_FILE_NAME.trim_end_matches(".bin");
    if n_shards == 1 { stem.to_owned() } else { format!("{stem}-{number:05}-of-{n_shards:05}") }
}
