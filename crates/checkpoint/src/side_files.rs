//! The small files beside the tensors that make a folder loadable: which of them travel to an output.
//!
//! They travel byte for byte from one named source. Model cards do not travel: an output gets its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::{FileKind, FolderEntry, Storage};

use crate::Error;

/// The name of the model's config.
pub const CONFIG_FILE_NAME: &str = "config.json";

/// The largest side file that is carried along, in bytes.
pub const MAX_SIDE_FILE_BYTES: u64 = 256_000_000;

const NAMES: [&str; 12] = [
    CONFIG_FILE_NAME,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
];

/// Licence files that are looked for where a folder is not listed.
const LICENCE_NAMES: [&str; 3] = ["LICENSE", "LICENSE.txt", "LICENSE.md"];

/// Whether a side file is carried along unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideFileKind {
    /// Config, tokenizer, templates, licence: always.
    Travels,
    /// Code that a model brings along: only on request, since someone may run it.
    Code,
}

/// A small file beside the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideFile {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Its length.
    pub len_bytes: u64,
    /// Whether it travels.
    pub kind: SideFileKind,
}

impl SideFile {
    /// The whole content.
    ///
    /// # Errors
    /// `Storage`, also when it is larger than [`MAX_SIDE_FILE_BYTES`].
    pub fn read(&self, storage: &dyn Storage) -> Result<Vec<u8>, Error> {
        Ok(storage.read_file(&self.path, MAX_SIDE_FILE_BYTES)?)
    }
}

/// What becomes of a file with this name; `None` if it stays behind.
pub fn side_file_kind(name: &str) -> Option<SideFileKind> {
    if NAMES.contains(&name) || name.starts_with("LICENSE") {
        Some(SideFileKind::Travels)
    } else if name.strip_suffix(".py").is_some_and(|stem| !stem.is_empty()) {
        Some(SideFileKind::Code)
    } else {
        None
    }
}

/// The side files of a folder that was listed, sorted by name.
pub(crate) fn find_in_listing(folder: &Path, entries: &[FolderEntry]) -> Vec<SideFile> {
    let files = entries.iter().filter(|entry| entry.kind == FileKind::File);
    let side_file = |entry: &FolderEntry| {
        let (name, path) = (entry.name.clone(), folder.join(&entry.name));
        Some(SideFile { kind: side_file_kind(&name)?, name, path, len_bytes: entry.len_bytes })
    };
    files.filter_map(side_file).collect()
}

/// The side files beside a single file, sorted by name.
///
/// Known names are asked for one by one: a run folder with a thousand such files is not listed a thousand times.
pub(crate) fn probe_folder(storage: &Arc<dyn Storage>, folder: &Path) -> Vec<SideFile> {
    let mut found: Vec<SideFile> = Vec::new();
    for name in NAMES.iter().chain(&LICENCE_NAMES) {
        let path = folder.join(name);
        let Ok(info) = storage.file_info(&path) else { continue };
        if info.kind == FileKind::File {
            let (name, kind) = ((*name).to_owned(), SideFileKind::Travels);
            found.push(SideFile { name, path, len_bytes: info.len_bytes, kind });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
