//! The training state: everything besides the config that the next step depends on.
//!
//! A folder `state/step-N` of the run: flat arenas as safetensors, and the manifest `state.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thalweg_checkpoint::{FolderFiles, open_checkpoint};
use thalweg_storage::guard::clear_stage;
use thalweg_storage::{FileKind, Storage};
use thalweg_trajectory::layout::{is_temporary_name, parse_folder_name};

use crate::Error;
use crate::averages::{RunningAverage, RunningRecord};
use crate::folder::{FlatData, FlatSource, FlatTensor, WHAT, read_flat_f32, read_flat_f64, write_source};
use crate::step_log::LogLengths;

/// `kind` of a state.
const STATE_KIND: &str = "thalweg-training-state";
const STATE_VERSION: u32 = 1;
const STATE_NAME: &str = "state.json";
/// All arenas are in one file.
const STATE_SHARD_NAME: &str = "model.safetensors";
const MAX_STATE_BYTES: u64 = 1 << 20;
/// The folder of the states in a run.
pub(crate) const STATES_FOLDER: &str = "state";

/// Behind the name of a state that is on its way out.
const REMOVED_SUFFIX: &str = ".tmp";

const PARAMS: &str = "params";
const FIRST_MOMENTS: &str = "first_moments";
const SECOND_MOMENTS: &str = "second_moments";

/// What `state.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StateRecord {
    pub(crate) kind: String,
    pub(crate) version: u32,
    pub(crate) step: u64,
    pub(crate) tokens: u64,
    /// Updates that the moments have seen.
    pub(crate) n_updates: u64,
    /// Digest of the config.
    pub(crate) config_digest: String,
    /// Name and digest of each domain's tokens.
    pub(crate) data: Vec<(String, String)>,
    pub(crate) logs: LogLengths,
    pub(crate) averages: Vec<RunningRecord>,
}

/// Parameters, moments and counters between two steps, as read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainState {
    pub(crate) record: StateRecord,
    pub(crate) params: Vec<f32>,
    pub(crate) first_moments: Vec<f32>,
    pub(crate) second_moments: Vec<f32>,
    pub(crate) averages: Vec<RunningAverage>,
}

/// What a state is written from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateArenas<'a> {
    pub(crate) params: &'a [f32],
    pub(crate) first_moments: &'a [f32],
    pub(crate) second_moments: &'a [f32],
    pub(crate) averages: &'a [RunningAverage],
}

impl StateRecord {
    pub(crate) fn kind_and_version() -> (String, u32) {
        (STATE_KIND.to_owned(), STATE_VERSION)
    }
}

/// The folder of a state.
pub(crate) fn state_path(run: &Path, step: u64) -> PathBuf {
    run.join(STATES_FOLDER).join(format!("step-{step}"))
}

/// Writes a state whole or not at all.
pub(crate) fn write_state(
    storage: &Arc<dyn Storage>,
    run: &Path,
    arenas: StateArenas<'_>,
    record: &StateRecord,
) -> Result<(), Error> {
    let flat = |name: &str, data| FlatTensor { name: name.to_owned(), data };
    let mut tensors = vec![
        flat(PARAMS, FlatData::F32(arenas.params)),
        flat(FIRST_MOMENTS, FlatData::F32(arenas.first_moments)),
        flat(SECOND_MOMENTS, FlatData::F32(arenas.second_moments)),
    ];
    tensors.extend(
        arenas.averages.iter().map(|average| flat(&average_name(&average.record), FlatData::F64(&average.values))),
    );
    let json = serde_json::to_vec_pretty(record).unwrap_or_default();
    let files = FolderFiles {
        files: &[],
        manifest: (STATE_NAME, &json),
        kind: STATE_KIND,
        what: WHAT,
        earlier: &[],
        shard_bytes: u64::MAX,
    };
    write_source(storage, &state_path(run, record.step), &FlatSource::new(tensors), files)
}

fn average_name(record: &RunningRecord) -> String {
    format!("average.{}", record.name)
}

/// Reads a state whose arenas have `n_params` elements.
///
/// # Errors
/// `State` with what is wrong; `Checkpoint`; `Storage`.
pub(crate) fn read_state(storage: &Arc<dyn Storage>, path: &Path, n_params: usize) -> Result<TrainState, Error> {
    let record = read_state_record(storage, path)?;
    let refuse = |message: String| Error::State { path: path.to_owned(), message };
    let checkpoint = open_checkpoint(storage, path)?;
    let arena = |name: &str| {
        let found = read_flat_f32(&checkpoint, name, n_params)?;
        found.ok_or_else(|| refuse(format!("there is no `{name}` of {n_params} elements")))
    };
    let average = |record: &RunningRecord| {
        let name = average_name(record);
        let values = read_flat_f64(&checkpoint, &name, n_params)?;
        let values = values.ok_or_else(|| refuse(format!("there is no `{name}` of {n_params} elements")))?;
        Ok(RunningAverage { record: record.clone(), values })
    };
    Ok(TrainState {
        params: arena(PARAMS)?,
        first_moments: arena(FIRST_MOMENTS)?,
        second_moments: arena(SECOND_MOMENTS)?,
        averages: record.averages.iter().map(average).collect::<Result<_, Error>>()?,
        record,
    })
}

fn read_state_record(storage: &Arc<dyn Storage>, path: &Path) -> Result<StateRecord, Error> {
    let refuse = |message: String| Error::State { path: path.to_owned(), message };
    let bytes = storage.read_file(&path.join(STATE_NAME), MAX_STATE_BYTES)?;
    let record: StateRecord = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    if record.kind != STATE_KIND || record.version != STATE_VERSION {
        let (kind, version) = (&record.kind, record.version);
        return Err(refuse(format!(
            "`{STATE_KIND}` version {STATE_VERSION} expected, `{kind}` version {version} found"
        )));
    }
    Ok(record)
}

/// Steps of the states in a run folder, ascending.
pub(crate) fn state_steps(storage: &dyn Storage, run: &Path) -> Result<Vec<u64>, Error> {
    let entries = match storage.list_folder(&run.join(STATES_FOLDER)) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_state = |kind: FileKind, name: &str| kind == FileKind::Folder && !is_temporary_name(name);
    let entries = entries.iter().filter(|entry| is_state(entry.kind, &entry.name));
    let mut steps: Vec<u64> = entries.filter_map(|entry| Some(parse_folder_name(&entry.name)?.step.0)).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// Removes all but the newest `n_kept` states; 0 keeps all.
///
/// A state first gets a temporary name, so that none is ever seen half removed.
pub(crate) fn remove_old_states(storage: &dyn Storage, run: &Path, n_kept: usize) -> Result<(), Error> {
    let folder = run.join(STATES_FOLDER);
    // Only the files of a state are ever removed.
    let names: BTreeSet<String> = [STATE_NAME, STATE_SHARD_NAME].map(str::to_owned).into();
    for entry in storage.list_folder(&folder)? {
        let state = entry.name.strip_suffix(REMOVED_SUFFIX).and_then(|name| name.strip_prefix("step-"));
        if state.is_some_and(|step| step.parse::<u64>().is_ok()) {
            clear_stage(storage, &folder.join(&entry.name), &names)?;
        }
    }
    let steps = state_steps(storage, run)?;
    let n_removed = if n_kept == 0 { 0 } else { steps.len().saturating_sub(n_kept) };
    for &step in steps.iter().take(n_removed) {
        let path = state_path(run, step);
        let mut removed = path.clone().into_os_string();
        removed.push(REMOVED_SUFFIX);
        storage.rename(&path, removed.as_ref())?;
        storage.sync_folder(&folder)?;
        clear_stage(storage, removed.as_ref(), &names)?;
    }
    Ok(())
}
