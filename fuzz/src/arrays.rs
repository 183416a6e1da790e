//! Archives of NumPy arrays, GGUF files, and folders of Orbax.

use std::path::Path;

use thalweg_checkpoint::ReadOptions;
use thalweg_checkpoint::format::orbax::Orbax;
use thalweg_storage::{MemoryStorage, Storage};

use crate::trainers::{check_folder, check_opened};
use crate::zip::{self, ZipRecord};

/// The input as an archive, and as an array of an archive that is whole.
pub(crate) fn check_npz(input: &[u8]) {
    check_file("/x.npz", input);
    check_file("/x.npz", &zip::archive_of(&[ZipRecord { name: "w.npy", content: input }]));
}

/// The input as a file.
pub(crate) fn check_gguf(input: &[u8]) {
    check_file("/x.gguf", input);
}

/// Stores and plain arrays.
pub(crate) fn check_orbax(input: &[u8]) {
    check_folder(input, &[&Orbax]);
}

fn check_file(name: &str, content: &[u8]) {
    let storage = MemoryStorage::new();
    let path = Path::new(name);
    storage.create_file(path, content.len() as u64).unwrap().write_all_at(0, content).unwrap();
    check_opened(&storage, path, &ReadOptions::default(), false);
}
