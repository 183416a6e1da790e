//! What is at a path where a checkpoint was expected, and how to get a checkpoint from it: other formats, pointers to
//! files that were not fetched, pages that a failed download left.

use std::path::Path;

use thalweg_storage::publish::trainer_part;
use thalweg_storage::{FileKind, FolderEntry, ReadAt, Storage};
use thalweg_tensor::display_name;

use crate::Error;
use crate::format::{Place, format_of};
use crate::state_names::is_state_name;

/// A format that thalweg does not read: name endings of its files or folders, what it is, and how to get one that it
/// reads. Each proposal was checked against the source of the tool that it names.
struct Stranger {
    ends: &'static [&'static str],
    what: &'static str,
    way_out: &'static str,
}

impl Stranger {
    fn has_name(&self, name: &str) -> bool {
        self.ends.iter().any(|end| name.ends_with(end))
    }
}

/// In the order of matching: a folder of one format may also hold files that look like another.
const STRANGERS: [Stranger; 6] = [
    Stranger {
        ends: &[".distcp"],
        what: "a shard of a PyTorch distributed checkpoint",
        way_out: "give the folder that contains it",
    },
    Stranger {
        ends: &[".zarray", "zarr.json"],
        what: "a zarr array",
        way_out: "give the folder of the checkpoint that it is a part of",
    },
    Stranger {
        ends: &[".nemo"],
        what: "a NeMo archive, which is a tar file",
        way_out: "unpack it with `tar -xf`, and give the `model_weights.ckpt` or the folder `model_weights` in it",
    },
    Stranger {
        ends: &[".msgpack"],
        what: "a Flax file",
        way_out: "read it with `flax.serialization.msgpack_restore(open(FILE, \"rb\").read())`, flatten the tree with \
                  `flax.traverse_util.flatten_dict(TREE, sep=\".\")`, and save that with `safetensors.flax.save_file`",
    },
    Stranger {
        ends: &[".npy", ".h5"],
        what: "a file of arrays (NumPy or Keras)",
        way_out: "load it with the library that wrote it, and save its arrays by name with `safetensors.numpy.save_file`",
    },
    Stranger {
        ends: &[".onnx", ".tflite", ".pdparams"],
        what: "a file of another framework",
        way_out: "give the checkpoint that it was made from",
    },
];

/// Whether a name is that of a file that thalweg does not read, whatever its first bytes.
pub(crate) fn has_name_of_stranger(name: &str) -> bool {
    STRANGERS.iter().any(|stranger| stranger.has_name(name))
}

/// Folders in one that is not a checkpoint that are looked into for a checkpoint.
const MAX_LOOKED_INTO: usize = 20;

/// As [`describe_stranger`], with the folder inside that is a checkpoint, if there is one.
pub(crate) fn describe_folders(storage: &dyn Storage, place: &Place) -> Error {
    let error = describe_stranger(place);
    if !matches!(error, Error::NotACheckpoint { converter: None, .. }) {
        return error;
    }
    let is_checkpoint = |name: &&str| {
        let path = place.folder().join(name);
        let inner = storage.list_folder(&path).map(|entries| Place::Folder { path, entries });
        !is_state_name(name) && inner.is_ok_and(|inner| format_of(storage, &inner).is_ok_and(|format| format.is_some()))
    };
    let Some(name) = place.folder_names().take(MAX_LOOKED_INTO).find(is_checkpoint) else { return error };
    Error::NotACheckpoint {
        path: place.path().to_owned(),
        found: format!("its folder `{}` does", display_name(name)),
        converter: Some("give the folder inside of each checkpoint; the step may be in the name above it"),
    }
}

/// The error for a path that no format recognises: what it holds, and what to do.
pub(crate) fn describe_stranger(place: &Place) -> Error {
    let names: Vec<&str> = match place {
        Place::File { path, .. } => path.file_name().and_then(|name| name.to_str()).into_iter().collect(),
        Place::Folder { entries, .. } => entries.iter().map(|entry| &*entry.name).collect(),
    };
    let known = STRANGERS.iter().find_map(|stranger| {
        let name = names.iter().find(|name| stranger.has_name(name))?;
        Some((stranger, display_name(name)))
    });
    let run = match place {
        Place::Folder { entries, .. } => {
            let mut folders = entries.iter().filter(|entry| entry.kind == FileKind::Folder);
            folders.find(|entry| trainer_part(&entry.name).is_some()).map(|entry| &*entry.name)
        }
        Place::File { .. } => None,
    };
    if let Some(name) = run.filter(|_| known.is_none()) {
        return Error::HoldsCheckpoints { path: place.path().to_owned(), name: name.to_owned() };
    }
    let own = match place {
        Place::File { head, .. } => own_document(head),
        Place::Folder { .. } => None,
    };
    let found = match (place, &known) {
        (Place::File { .. }, None) if own.is_some() => {
            format!("it is a document of this program (`{}`)", own.unwrap_or_default())
        }
        (Place::File { .. }, Some((stranger, _))) => format!("it is {}", stranger.what),
        (Place::File { .. }, None) => "neither its name nor its first bytes match a known checkpoint format".to_owned(),
        (Place::Folder { .. }, Some((stranger, name))) => {
            format!("it holds {} (`{name}`) and nothing that thalweg can read", stranger.what)
        }
        (Place::Folder { entries, .. }, None) if entries.is_empty() => "the folder is empty".to_owned(),
        (Place::Folder { entries, .. }, None) => {
            let name = |entry: &FolderEntry| format!("`{}`", display_name(&entry.name));
            let first: Vec<String> = entries.iter().take(3).map(name).collect();
            format!("it holds {} and nothing that thalweg can read", first.join(", "))
        }
    };
    Error::NotACheckpoint {
        path: place.path().to_owned(),
        found,
        converter: known.map(|(stranger, _)| stranger.way_out).or(own.and_then(way_of_document)),
    }
}

/// The kind of a document that this program wrote: all begin with `"kind": "thalweg-..."`.
fn own_document(head: &[u8]) -> Option<&str> {
    let text = head.utf8_chunks().next()?.valid();
    let value = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"kind\"")?;
    let value = value.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    value.split_once('"').map(|(kind, _)| kind).filter(|kind| kind.starts_with("thalweg-"))
}

fn way_of_document(kind: &str) -> Option<&'static str> {
    match kind {
        "thalweg-plan" => {
            Some("`thalweg merge --plan FILE` executes a plan, and `thalweg merge --plan FILE --dry-run` prints it")
        }
        _ => None,
    }
}

/// First bytes of pointers to files kept elsewhere, the tool they belong to, and how to fetch the files.
const POINTERS: [(&[u8], &str, &str); 3] = [
    (b"version https://git-lfs.github.com/spec/", "Git LFS", "run `git lfs pull` to fetch the file itself"),
    (b"/annex/objects/", "git-annex", "run `git annex get` to fetch the file itself"),
    (b"../.git/annex/objects/", "git-annex", "run `git annex get` to fetch the file itself"),
];
/// First bytes of files that are something else under the name of a checkpoint file, and what they are.
const IMPOSTORS: [(&[u8], &str); 6] = [
    (b"PK\x03\x04", "a zip archive, as PyTorch saves"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "a page of HTML or XML, as a failed download leaves"),
    (b"\x80", "a Python pickle"),
];
/// Bytes of a file that are read to recognise it.
const LOOK_BYTES: usize = 64;

/// A better error for a file that breaks the rules of its format, if its first bytes show what it is.
pub(crate) fn recognise_file(path: &Path, first: &[u8]) -> Option<Error> {
    let path = path.to_owned();
    if let Some((_, kind, fetch)) = POINTERS.iter().find(|(start, ..)| first.starts_with(start)) {
        return Some(Error::Pointer { path, kind, fetch });
    }
    let (_, found) = IMPOSTORS.iter().find(|(start, _)| first.starts_with(start))?;
    Some(Error::Impostor { path, found })
}

/// `error` about the header of `file`, or what the file really is.
pub(crate) fn explain_header_error(error: Error, file: &dyn ReadAt, path: &Path) -> Error {
    if !matches!(error, Error::Header { .. }) {
        return error;
    }
    let mut first = [0; LOOK_BYTES];
    let n_bytes = LOOK_BYTES.min(thalweg_tensor::to_index(file.info().len_bytes));
    match file.read_exact_at(0, &mut first[..n_bytes]) {
        // A damaged header is still one: the length before it may begin with any byte, such as that of a pickle.
        Ok(()) if first.get(4..9) == Some(b"\0\0\0\0{") => error,
        Ok(()) => recognise_file(path, &first[..n_bytes]).unwrap_or(error),
        Err(_) => error,
    }
}

/// `error` about a file of PyTorch, NumPy or llama.cpp, or that the file is a pointer or a page.
pub(crate) fn explain_file_error(error: Error, storage: &dyn Storage) -> Error {
    let (Error::Torch { path, .. } | Error::CutOff { path, .. } | Error::Layout { path, .. }) = &error else {
        return error;
    };
    let Ok(file) = storage.open_file(path) else { return error };
    let mut first = [0; LOOK_BYTES];
    let n_bytes = LOOK_BYTES.min(thalweg_tensor::to_index(file.info().len_bytes));
    let is_torch = matches!(error, Error::Torch { .. });
    match file.read_exact_at(0, &mut first[..n_bytes]) {
        Ok(()) => {
            let is_page = !is_torch && first.starts_with(b"<");
            let is_other = |found: &Error| is_page || matches!(found, Error::Pointer { .. });
            recognise_file(path, &first[..n_bytes]).filter(is_other).unwrap_or(error)
        }
        Err(_) => error,
    }
}
