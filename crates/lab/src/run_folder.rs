//! The folder of a run: which run it belongs to, and where its files are.
//!
//! `thalweg-train.json` holds the resolved config; a folder of another config is refused. `thalweg.toml` tells the rest
//! of thalweg the log, the tokens of a step and the stable phase. A lock keeps two processes apart.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_storage::{Lock, Storage};
use thalweg_tensor::digest::{DigestKind, bytes_digest};
use thalweg_trajectory::run_config::RUN_CONFIG_NAME;

use crate::Error;
use crate::config::TrainConfig;
use crate::folder::RUN_FILE;
use crate::step_log::STEP_LOG_NAME;

/// The resolved config in a run folder.
pub(crate) const TRAIN_RECORD_NAME: &str = "thalweg-train.json";
const MAX_RECORD_BYTES: u64 = 16 << 20;
const LOCK_NAME: &str = ".thalweg-lock";
const RUN_KIND: &str = "thalweg-train-run";
/// The folder of the averages in a run.
pub(crate) const AVERAGES_FOLDER: &str = "averages";

/// Whether a folder holds a run already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunFolderState {
    /// It is missing, or holds nothing.
    New,
    /// It holds a run of the same config.
    Begun,
}

/// Checks that a config may be trained in a folder. Changes nothing, so that callers can ask before they read the data.
///
/// # Errors
/// `OtherRun` with the first key that differs; `NotARun`; `Storage`.
pub fn check_run_folder(storage: &dyn Storage, path: &Path, config: &TrainConfig) -> Result<RunFolderState, Error> {
    let record_path = path.join(TRAIN_RECORD_NAME);
    match storage.read_file(&record_path, MAX_RECORD_BYTES) {
        Ok(bytes) => {
            let wanted = serde_json::to_value(config).unwrap_or_default();
            match first_difference("", &read_record(&bytes, &record_path)?, &wanted) {
                Some((key, found, wanted)) => Err(Error::OtherRun { path: path.to_owned(), key, found, wanted }),
                None => Ok(RunFolderState::Begun),
            }
        }
        Err(error) if error.is_not_found() => {
            let is_ours = |name: &str| name == LOCK_NAME || name.contains(".thalweg-");
            match storage.list_folder(path) {
                Ok(entries) if entries.iter().any(|entry| !is_ours(&entry.name)) => {
                    Err(Error::NotARun { path: path.to_owned() })
                }
                Err(error) if !error.is_not_found() => Err(error.into()),
                Ok(_) | Err(_) => Ok(RunFolderState::New),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// A run folder that belongs to this process.
#[derive(Debug)]
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    pub(crate) config_digest: String,
    lock: Lock,
}

impl RunFolder {
    /// Takes a folder that is missing, empty or of this very config.
    ///
    /// # Errors
    /// `OtherRun` with the first key that differs; `NotARun`; `Storage`, also where another process holds it.
    pub(crate) fn open(storage: &dyn Storage, path: &Path, config: &TrainConfig, tool: &str) -> Result<Self, Error> {
        storage.create_folder(path)?;
        let is_new = check_run_folder(storage, path, config)? == RunFolderState::New;
        let config_digest = digest_config(config);
        let lock = storage.lock(&path.join(LOCK_NAME))?;
        if is_new {
            let record = json!({
                "kind": RUN_KIND, "version": 1, "tool": tool, "digest": config_digest, "config": config,
            });
            publish_file(
                storage,
                &path.join(TRAIN_RECORD_NAME),
                &pretty(&record),
                OwnKind::json("the record of a run", RUN_KIND),
            )?;
        }
        Ok(Self { path: path.to_owned(), config_digest, lock })
    }

    /// Whether the lock keeps other processes out: some file systems have no locks.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_held()
    }

    /// Path of the checkpoint of a step.
    pub(crate) fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.path.join(checkpoint_name(step))
    }

    /// Path of a step of an average.
    pub(crate) fn average_path(&self, name: &str, step: u64) -> PathBuf {
        self.path.join(AVERAGES_FOLDER).join(name).join(checkpoint_name(step))
    }

    /// Tells the rest of thalweg about the run, which began after `start_step` with `start_tokens`.
    pub(crate) fn describe(
        &self,
        storage: &dyn Storage,
        config: &TrainConfig,
        start_step: u64,
        start_tokens: u64,
    ) -> Result<(), Error> {
        let tokens_per_step = config.tokens_per_step();
        let mut text = String::new();
        // A fork of a run with other batches has no one number of tokens a step: the log counts them.
        if start_tokens == start_step * tokens_per_step {
            text.push_str(&format!("tokens_per_step = {tokens_per_step}\n"));
        }
        if let Some((from, to)) = config.schedule.stable_steps(config.n_steps()).map(|(a, b)| (a.max(start_step), b))
            && from <= to
        {
            text.push_str(&format!("stable = [{from}, {to}]\n"));
        }
        // There is no log for an average, and the log of the run does not have its loss.
        for average in &config.average {
            let folder = self.path.join(AVERAGES_FOLDER).join(&average.name);
            storage.create_folder(&folder)?;
            publish_file(storage, &folder.join(RUN_CONFIG_NAME), text.as_bytes(), RUN_FILE)?;
        }
        text.push_str(&format!("log = \"{STEP_LOG_NAME}\"\n"));
        Ok(publish_file(storage, &self.path.join(RUN_CONFIG_NAME), text.as_bytes(), RUN_FILE)?)
    }
}

/// The name of a checkpoint's folder.
pub fn checkpoint_name(step: u64) -> String {
    format!("step-{step}")
}

/// Digest of a config: equal ones give equal runs over equal files.
pub fn digest_config(config: &TrainConfig) -> String {
    bytes_digest(DigestKind::Blake3, &serde_json::to_vec(config).unwrap_or_default()).to_string()
}

pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn read_record(bytes: &[u8], path: &Path) -> Result<Value, Error> {
    let refuse = |message: String| Error::State { path: path.to_owned(), message };
    let record: Value = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
    let is_known = record["kind"] == RUN_KIND && record["version"] == 1;
    if is_known { Ok(record["config"].clone()) } else { Err(refuse("it is not a record of a training run".to_owned())) }
}

/// The first key that differs, with both values as JSON (`-` where it is missing).
fn first_difference(prefix: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    let join = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match (a, b) {
        _ if a == b => None,
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let missing = Value::Null;
                first_difference(&join(key), a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| first_difference(&join(&i.to_string()), a, b))
        }
        _ => {
            let show = |value: &Value| if value.is_null() { "-".to_owned() } else { value.to_string() };
            Some((prefix.to_owned(), show(a), show(b)))
        }
    }
}
