//! What requests are resolved with: storage, how checkpoints are read, where models are found by name, notes.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use thalweg_checkpoint::{Checkpoint, ReadOptions, RenameError, RenameMap};
use thalweg_merge::context::RunContext;
use thalweg_merge::verify::read_merge;
use thalweg_storage::{Storage, text_of};
use thalweg_trajectory::{NamePattern, resolve_checkpoint_reference, resolve_reference};

use super::own_name::parse_own_name;
use crate::Error;

/// Reads a name map, the file of `--rename`.
///
/// # Errors
/// `Storage`; `Request` where it is not one.
pub fn read_rename_map(storage: &dyn Storage, path: &Path) -> Result<RenameMap, Error> {
    /// Longer than any list of a model's names.
    const MAX_BYTES: u64 = 64 << 20;
    let bytes = storage.read_file(path, MAX_BYTES)?;
    let refuse = |what: String| {
        let hint = "each line is `FROM -> TO`, such as `layers.*.wq -> model.layers.*.q_proj.weight`";
        Error::request_with_hint(format!("`--rename {}`: {what}", path.display()), hint)
    };
    let text = text_of(bytes).map_err(|_| refuse("it is not UTF-8 text".to_owned()))?;
    text.parse().map_err(|error: RenameError| refuse(error.to_string()))
}

/// Turns names into paths, and requests into plans. Reads names and headers only.
#[derive(Debug)]
pub struct Resolver<'a> {
    pub(super) cx: RunContext<'a>,
    pub(super) reading: ReadOptions,
    hub: Option<PathBuf>,
    told: Mutex<BTreeSet<String>>,
}

impl<'a> Resolver<'a> {
    /// A resolver of checkpoints that are read by `reading`; `hub` is the root of the local Hugging Face cache.
    pub fn new(cx: RunContext<'a>, reading: ReadOptions, hub: Option<PathBuf>) -> Self {
        Self { cx, reading, hub, told: Mutex::default() }
    }

    /// How checkpoints are read.
    pub(crate) fn reading(&self) -> &ReadOptions {
        &self.reading
    }

    /// The step in a checkpoint's own name, or that of the checkpoint that it is a copy of.
    pub fn step_of(&self, path: &Path) -> Option<u64> {
        parse_own_name(path, None).map(|name| name.step.0).or_else(|| self.copied_step(path, None))
    }

    /// The step of the checkpoint that this one is a copy of, such as the source of a conversion.
    pub(super) fn copied_step(&self, path: &Path, pattern: Option<&NamePattern>) -> Option<u64> {
        let source = read_merge(self.storage(), path)?.copy_of?;
        source.step.or_else(|| parse_own_name(&source.path, pattern).map(|name| name.step.0))
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.cx.storage
    }

    /// Passes a note to the user, unless it was passed before.
    pub fn note(&self, note: impl Display) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let note = note.to_string();
        if !told.contains(&note) {
            self.cx.progress.note(&note);
            told.insert(note);
        }
    }

    /// The path of the run or checkpoint that `path` names: a path as it is, or `ORG/NAME@REV` in the local cache.
    ///
    /// # Errors
    /// `Trajectory` where there is neither.
    pub fn find(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(resolve_reference(&self.cx.storage, &path.to_string_lossy(), self.hub.as_deref())?)
    }

    /// As [`find`](Self::find), for a name that must mean one checkpoint.
    ///
    /// # Errors
    /// `Trajectory` where there is none, or several.
    pub fn find_checkpoint(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(resolve_checkpoint_reference(&self.cx.storage, &path.to_string_lossy(), self.hub.as_deref())?)
    }

    /// As [`find`](Self::find), but absolute and without links, as paths are in plans.
    ///
    /// # Errors
    /// `Trajectory`, `Storage`.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(self.storage().canonical_path(&self.find(path)?)?)
    }

    /// As [`find_checkpoint`](Self::find_checkpoint), but absolute and without links.
    ///
    /// # Errors
    /// `Trajectory`, `Storage`.
    pub fn resolve_checkpoint(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(self.storage().canonical_path(&self.find_checkpoint(path)?)?)
    }

    /// Opens a checkpoint that was named.
    ///
    /// # Errors
    /// `Trajectory`, `Checkpoint`.
    pub fn open_checkpoint(&self, path: &Path) -> Result<Checkpoint, Error> {
        let path = self.resolve_checkpoint(path)?;
        Ok(thalweg_checkpoint::open_checkpoint_with(&self.cx.storage, &path, &self.reading)?)
    }
}
