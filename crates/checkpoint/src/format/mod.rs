//! The formats that can be read: one file and one line in `FORMATS` each.
//!
//! A format turns files into a list of logical tensors with the places of their bytes. It never reads tensor
//! bytes and never does arithmetic.

pub mod huggingface;
pub mod safetensors;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::{FolderEntry, ReadAt, Storage};
use thalweg_tensor::TensorCatalog;

use crate::{CatalogCache, Error, Note};

/// Every format, in the order in which they are asked whether a path is theirs.
pub const FORMATS: &[&dyn Format] = &[&huggingface::HuggingFace];

/// A way to keep a checkpoint in files.
pub trait Format: Debug + Sync {
    /// Name as `inspect` shows it.
    fn name(&self) -> &'static str;

    /// Whether this path is in this format, by the names of files alone.
    fn recognises(&self, place: &Place) -> bool;

    /// Reads the headers; those that `cache` has seen before need not be parsed again.
    ///
    /// # Errors
    /// Whatever makes the files unreadable, unfinished or contradictory.
    fn open(&self, storage: &Arc<dyn Storage>, place: &Place, cache: &CatalogCache) -> Result<FormatContent, Error>;
}

/// What a user pointed at.
#[derive(Debug, Clone)]
pub enum Place {
    /// One file.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A folder and the names in it, sorted.
    Folder {
        /// Its path.
        path: PathBuf,
        /// What it holds.
        entries: Vec<FolderEntry>,
    },
}

impl Place {
    /// The path itself.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path } | Self::Folder { path, .. } => path,
        }
    }

    /// The folder in which shards and side files stand.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Folder { path, .. } => path,
            Self::File { path } => path.parent().unwrap_or(Path::new("")),
        }
    }

    /// The names of files in the folder that was given; none where a file was given.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        let entries: &[FolderEntry] = match self {
            Self::Folder { entries, .. } => entries,
            Self::File { .. } => &[],
        };
        entries.iter().filter(|entry| entry.kind != thalweg_storage::FileKind::Folder).map(|entry| &*entry.name)
    }
}

/// A file of a checkpoint, open for positioned reads.
#[derive(Debug, Clone)]
pub struct OpenFile {
    /// Name relative to the checkpoint's folder.
    pub name: String,
    /// Path.
    pub path: PathBuf,
    /// The open file.
    pub reader: Arc<dyn ReadAt>,
}

/// What a format makes of a place.
#[derive(Debug)]
pub struct FormatContent {
    /// The files; pieces count them from 0.
    pub files: Vec<OpenFile>,
    /// The tensors.
    pub catalog: Arc<TensorCatalog>,
    /// Remarks of the first file's header.
    pub metadata: BTreeMap<String, String>,
    /// What a user should be told.
    pub notes: Vec<Note>,
}
