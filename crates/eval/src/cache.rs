//! Scores that were taken before, one file each, named by what decides them. A re-run reads; what does not read is
//! scored again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_storage::Storage;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::measure::Measure;
use crate::prepared::PreparedTask;
use crate::record::TaskScores;

/// `kind` of a cached score.
pub(crate) const CACHE_KIND: &str = "thalweg-task-scores";
/// `version` of cached scores.
pub(crate) const CACHE_VERSION: u32 = 1;
/// Changes when the same model and suite may score otherwise: cached scores of another version are not used.
pub(crate) const ENGINE_VERSION: u32 = 2;

/// The largest file that is read back.
const MAX_CACHED_BYTES: u64 = 1 << 30;

/// A folder of scores.
#[derive(Debug, Clone, Copy)]
pub struct ScoreCache<'a> {
    storage: &'a dyn Storage,
    folder: &'a Path,
}

/// What decides the scores of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheKey {
    /// Task with its data, tokenizer and start tokens.
    task: String,
    /// Configuration and parameters.
    params: String,
    /// Version of the engine.
    engine: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheFile {
    kind: String,
    version: u32,
    key: CacheKey,
    scores: TaskScores,
}

impl CacheKey {
    pub(crate) fn new(task: Digest, params: &str) -> Self {
        Self { task: task.to_string(), params: params.to_owned(), engine: ENGINE_VERSION }
    }

    fn file_name(&self) -> String {
        let text = format!("{} {} {}", self.task, self.params, self.engine);
        let digest = bytes_digest(DigestKind::Blake3, text.as_bytes()).to_string();
        let hexadecimal = digest.rsplit(':').next().unwrap_or(&digest);
        format!("{}.json", &hexadecimal[..32])
    }
}

impl<'a> ScoreCache<'a> {
    /// The cache in a folder, which is made when the first score is written.
    pub fn new(storage: &'a dyn Storage, folder: &'a Path) -> Self {
        Self { storage, folder }
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.folder.join(key.file_name())
    }

    /// What was kept under a key, if it is whole and fits the task.
    pub(crate) fn read(&self, key: &CacheKey, task: &PreparedTask) -> Option<TaskScores> {
        let bytes = self.storage.read_file(&self.path(key), MAX_CACHED_BYTES).ok()?;
        let file: CacheFile = serde_json::from_slice(&bytes).ok()?;
        let is_ours = file.kind == CACHE_KIND && file.version == CACHE_VERSION && file.key == *key;
        let scores = file.scores;
        let measures: Vec<Measure> = scores.measures.iter().map(|values| values.measure).collect();
        let n = task.item_ids.len();
        let is_whole = scores.task == task.name
            && scores.items == task.item_ids
            && measures == task.measures
            && scores.measures.iter().all(|values| values.numerators.len() == n && values.denominators.len() == n);
        (is_ours && is_whole).then_some(TaskScores { is_cached: true, ..scores })
    }

    /// Keeps scores, whole or not at all.
    pub(crate) fn write(&self, key: &CacheKey, scores: &TaskScores) -> Result<(), Error> {
        let file =
            CacheFile { kind: CACHE_KIND.to_owned(), version: CACHE_VERSION, key: key.clone(), scores: scores.clone() };
        self.storage.create_folder(self.folder)?;
        let path = self.path(key);
        // Only numbers, texts and lists: this cannot fail.
        let Ok(bytes) = serde_json::to_vec(&file) else { return Ok(()) };
        Ok(publish_file(self.storage, &path, &bytes, OwnKind::in_own_folder("a kept score"))?)
    }
}
