//! Checkpoints that are folders: whatever is opened is whole, and can be read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use thalweg_checkpoint::format::dcp::{Dcp, DcpSafetensors};
use thalweg_checkpoint::format::deepspeed::{DeepSpeedUniversal, DeepSpeedZero};
use thalweg_checkpoint::format::megatron_dist::MegatronDist;
use thalweg_checkpoint::format::megatron_legacy::MegatronLegacy;
use thalweg_checkpoint::format::nanotron::Nanotron;
use thalweg_checkpoint::format::torch::Torch;
use thalweg_checkpoint::format::torch_checkpointing::TorchCheckpointing;
use thalweg_checkpoint::format::{FORMATS, Format, Place};
use thalweg_checkpoint::{
    Checkpoint, Error, LayoutEntry, Look, Params, ReadOptions, Template, layout_like, open_checkpoint,
    open_checkpoint_with,
};
use thalweg_storage::{MemoryStorage, Storage};
use thalweg_tensor::{Piece, TensorEntry, TensorSource, to_index};

use crate::check_message;
use crate::folder::{FOLDER, folder_of};

const ORBAX: &str = "orbax";

/// Distributed checkpoints of PyTorch: chunks are archives, or safetensors files say what they hold.
pub(crate) fn check_dcp_folder(input: &[u8]) {
    check_folder(input, &[&Dcp, &DcpSafetensors]);
}

/// Megatron's distributed checkpoints, and the older ones of a folder for each rank.
pub(crate) fn check_megatron(input: &[u8]) {
    check_folder(input, &[&MegatronDist, &MegatronLegacy]);
}

/// Module weights, the masters of all ZeRO stages, and universal checkpoints.
pub(crate) fn check_deepspeed(input: &[u8]) {
    check_folder(input, &[&DeepSpeedZero, &DeepSpeedUniversal]);
}

/// A safetensors file for each parameter.
pub(crate) fn check_nanotron(input: &[u8]) {
    check_folder(input, &[&Nanotron]);
}

/// A file for each item and rank.
pub(crate) fn check_torch_checkpointing(input: &[u8]) {
    check_folder(input, &[&TorchCheckpointing]);
}

/// One torch.save file, or several with an index.
pub(crate) fn check_torch_folder(input: &[u8]) {
    check_folder(input, &[&Torch]);
}

/// Opens the folder that an input stands for.
///
/// # Errors
/// As for any folder.
pub fn open_folder(input: &[u8]) -> Result<Checkpoint, Error> {
    let storage: Arc<dyn Storage> = Arc::new(folder_of(input));
    open_checkpoint(&storage, Path::new(FOLDER))
}

/// Opens the folder as it is and in another way that a user can ask for, if its names are those of one of the formats.
pub(crate) fn check_folder(input: &[u8], formats: &[&dyn Format]) {
    let storage = folder_of(input);
    let path = Path::new(FOLDER);
    let place = Place::Folder { path: path.to_owned(), entries: storage.list_folder(path).unwrap() };
    let Some(format) = FORMATS.iter().find(|format| format.recognises(&place)) else { return };
    // Two of them have one name and differ in their types.
    let type_of = |format: &dyn Format| format!("{format:?}");
    if !formats.iter().any(|known| type_of(*known) == type_of(*format)) {
        return;
    }
    let is_lazy = matches!(&*type_of(*format), "Dcp" | "MegatronDist");
    let whole = ReadOptions { key: Some(".".to_owned()), ..ReadOptions::default() };
    let part = ReadOptions { key: Some("model.a".to_owned()), ..ReadOptions::default() };
    let module = ReadOptions { params: Some(Params::Module), ..ReadOptions::default() };
    // All ways take twice as long; a search changes the length of an input all the time.
    let other = match input.len() % 3 {
        0 => whole,
        1 => part,
        _ => module,
    };
    for options in [ReadOptions::default(), other] {
        check_opened(&storage, path, &options, is_lazy);
    }
}

pub(crate) fn check_opened(storage: &MemoryStorage, path: &Path, options: &ReadOptions, is_lazy: bool) {
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let checkpoint = match open_checkpoint_with(&shared, path, options) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return check_error(&error),
    };
    checkpoint.notes().iter().for_each(check_message);
    for entry in checkpoint.catalog().entries() {
        check_places(&checkpoint, entry, is_lazy);
    }
    // Packed bytes have no place in the file, and may turn out to be broken.
    let is_lazy = is_lazy || checkpoint.unpack_bytes() > 0;
    let content = |path: &Path| storage.read_file(path, u64::MAX).unwrap();
    let files: Vec<Vec<u8>> = checkpoint.files().iter().map(|file| content(&file.path)).collect();
    let n_tensors = checkpoint.catalog().entries().len();
    for tensor_idx in 0..n_tensors.min(64) {
        check_reading(&checkpoint, tensor_idx, (!is_lazy).then_some(&*files));
    }
    if let Err(error) = checkpoint.look_inside(Look::EachPiece) {
        check_error(&error);
    }
    if checkpoint.format_name() == ORBAX {
        check_rewriting(&shared, &checkpoint);
    }
}

/// A store that is written anew has every tensor, in files that are as long as they say.
fn check_rewriting(storage: &Arc<dyn Storage>, checkpoint: &Checkpoint) {
    let entries = checkpoint.catalog().entries();
    let entry =
        |entry: &TensorEntry| LayoutEntry { name: entry.name.clone(), dtype: entry.dtype, shape: entry.shape.clone() };
    let template = Template { checkpoint, other_copy: None, replaced: &BTreeSet::new() };
    let layout = match layout_like(storage, &template, &entries.iter().map(entry).collect::<Vec<_>>()) {
        Ok(layout) => layout,
        Err(error) => return check_error(&error),
    };
    assert_eq!(layout.catalog().entries().len(), entries.len());
    for entry in layout.catalog().entries() {
        for piece in &entry.pieces {
            let n_bytes = piece.n_spanned(&entry.shape).and_then(|n| entry.dtype.bytes_of(n)).unwrap();
            assert!(piece.offset + n_bytes <= layout.files()[to_index(piece.file_idx.into())].len_bytes);
        }
    }
}

/// All lines that a user sees.
fn check_error(error: &Error) {
    check_message(error);
    error.details().iter().for_each(check_message);
    assert!(error.hint() != Some(""));
}

/// The pieces of a tensor cover it exactly, and lie in their files.
fn check_places(checkpoint: &Checkpoint, entry: &TensorEntry, is_lazy: bool) {
    let name = &*entry.name;
    let again = TensorEntry::of_pieces(name.into(), entry.dtype, entry.shape.clone(), entry.pieces.to_vec());
    let again = again.unwrap_or_else(|fault| panic!("`{name}`: {fault}"));
    assert!(is_lazy || again == *entry || entry.n_elements() == 0, "{again:?} {entry:?}");
    for piece in &entry.pieces {
        let file = &checkpoint.files()[to_index(piece.file_idx.into())];
        // A chunk of a distributed checkpoint says where it begins; its archive says the rest.
        if checkpoint.unpack_bytes() > 0 {
            continue;
        }
        let n_bytes = if is_lazy { 0 } else { entry.dtype.bytes_of(piece.n_spanned(&entry.shape).unwrap()).unwrap() };
        let end = piece.offset.checked_add(n_bytes).unwrap();
        assert!(end <= file.info.len_bytes, "`{name}` ends at {end} of {} in {}", file.info.len_bytes, file.name);
    }
}

/// Most elements that are compared one by one.
const MAX_COMPARED: u64 = 2048;
/// Elements that are read at once of a longer tensor: whole bytes for any element type.
const RANGE: u64 = 64;

/// A tensor reads as its pieces say, whole and in ranges; `files` is the content of the files, if pieces say all.
fn check_reading(checkpoint: &Checkpoint, tensor_idx: usize, files: Option<&[Vec<u8>]>) {
    let entry = &checkpoint.catalog().entries()[tensor_idx];
    let n_elements = entry.n_elements();
    let read = |start: u64, end: u64| {
        let mut out = vec![0; to_index(entry.dtype.bytes_of(end - start).unwrap())];
        match checkpoint.read_elements(tensor_idx, start..end, &mut out) {
            Ok(()) => Some(out),
            Err(error) => {
                let is_damage = std::error::Error::source(&error).is_some_and(|why| why.to_string().contains("CRC-32"));
                assert!(files.is_none() || is_damage, "`{}` {start}..{end}: {error}", entry.name);
                check_message(&error);
                None
            }
        }
    };
    if n_elements > MAX_COMPARED {
        let middle = n_elements / 2 / RANGE * RANGE;
        for start in [0, middle, (n_elements / RANGE - 1) * RANGE] {
            let _may_be_refused = read(start, start + RANGE);
        }
        return;
    }
    let Some(whole) = read(0, n_elements) else { return };
    let Some(width) = entry.dtype.bytes().map(to_index) else { return };
    let mut joined = Vec::new();
    for start in (0..n_elements).step_by(7) {
        joined.extend(read(start, n_elements.min(start + 7)).into_iter().flatten());
    }
    assert!(joined == whole, "`{}` differs in ranges", entry.name);
    let Some(files) = files else { return };
    for piece in &entry.pieces {
        let file = &files[to_index(piece.file_idx.into())];
        for (element, at) in elements_of(entry, piece) {
            let (element, at) = (to_index(element) * width, to_index(piece.offset) + to_index(at) * width);
            assert!(whole[element..element + width] == file[at..at + width], "`{}` {element}", entry.name);
        }
    }
}

/// Each element of a piece: its number in the tensor, and its distance in elements from the start of the piece.
fn elements_of(entry: &TensorEntry, piece: &Piece) -> Vec<(u64, u64)> {
    let (shape, extent) = (&entry.shape.0, piece.extent(&entry.shape));
    let n_held: u64 = extent.iter().product();
    let element = |position: u64| {
        let (mut rest, mut linear, mut at, mut below) = (position, 0, 0, n_held);
        for (dim, (size, extent)) in shape.iter().zip(extent).enumerate() {
            below /= extent;
            let index = rest / below;
            rest %= below;
            linear = linear * size + piece.start().map_or(0, |start| start[dim]) + index;
            at += piece.strides().map_or(index * below, |strides| index * strides[dim]);
        }
        (linear, at)
    };
    (0..n_held).map(element).collect()
}
