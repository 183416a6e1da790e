//! Many runs from one file: every combination of the values of some keys, several at a time.
//!
//! `[grid.axes]` gives a list for each key; `[grid] jobs` how many run at once, with the threads divided among them. A
//! cell has a separate folder, named by its values and the digest of its config, and resumes like any run.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::json;
use thalweg_merge::context::{Limits, RunContext};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use toml::{Table, Value};

use crate::Error;
use crate::config::{TrainConfig, describe_toml_error};
use crate::data::TrainData;
use crate::run_folder::{digest_config, pretty};
use crate::step_log::{StepRecord, ValidationRecord};
use crate::train::{TrainOutcome, train};
use crate::train_job::{TrainJob, TrainWatcher};

/// The most cells of a grid.
const MAX_CELLS: usize = 10_000;
/// What a grid has come to, in its folder.
pub const GRID_RECORD_NAME: &str = "grid.json";
const GRID_KIND: &str = "thalweg-train-grid";

/// What a file asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainFile {
    /// One run.
    Run(Box<TrainConfig>),
    /// Many.
    Grid(Grid),
}

/// Many runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// In the order of the axes, the last one fastest.
    pub cells: Vec<GridCell>,
    /// How many run at once.
    pub n_jobs: NonZeroUsize,
}

/// One run of a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct GridCell {
    /// Its values and the first digits of its digest: the name of its folder.
    pub name: String,
    /// Each key with its value, as JSON.
    pub values: BTreeMap<String, serde_json::Value>,
    /// Its config.
    pub config: TrainConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GridSection {
    #[serde(default)]
    jobs: Option<NonZeroUsize>,
    axes: BTreeMap<String, Vec<Value>>,
}

/// Reads the text of a config, with or without a grid; `path` is for messages.
///
/// # Errors
/// As [`TrainConfig::from_toml`]; for a grid also axes that are empty or meet no table.
pub fn parse_train_file(text: &str, path: &Path) -> Result<TrainFile, Error> {
    let mut table: Table = toml::from_str(text).map_err(|error| describe_toml_error(text, &error, path))?;
    let Some(grid) = table.remove("grid") else {
        return Ok(TrainFile::Run(Box::new(TrainConfig::from_toml(text, path)?)));
    };
    let section: GridSection = grid.try_into().map_err(|error| describe_toml_error("", &error, path))?;
    let n_cells = section.axes.values().try_fold(1_usize, |n, values| n.checked_mul(values.len()));
    let Some(n_cells) = n_cells.filter(|n| (1..=MAX_CELLS).contains(n)) else {
        return Err(Error::value("grid.axes", format!("there are no cells, or more than {MAX_CELLS}")));
    };
    let cells = (0..n_cells).map(|cell_idx| make_cell(&table, &section.axes, cell_idx, path));
    let n_jobs = section.jobs.unwrap_or(NonZeroUsize::MIN);
    Ok(TrainFile::Grid(Grid { cells: cells.collect::<Result<_, _>>()?, n_jobs }))
}

fn make_cell(
    base: &Table,
    axes: &BTreeMap<String, Vec<Value>>,
    cell_idx: usize,
    path: &Path,
) -> Result<GridCell, Error> {
    let mut table = base.clone();
    let mut rest = cell_idx;
    let mut values = BTreeMap::new();
    for (key, axis) in axes.iter().rev() {
        let value = &axis[rest % axis.len()];
        rest /= axis.len();
        set_key(&mut table, key, value.clone())?;
        values.insert(key.clone(), serde_json::to_value(value).unwrap_or_default());
    }
    let config = TrainConfig::from_table(&table, path)?;
    let digest = digest_config(&config);
    let digits = digest.rsplit(':').next().unwrap_or(&digest);
    let mut name: String = values.iter().map(|(key, value)| part_of_name(key, value)).collect();
    name.push_str(digits.get(..8).unwrap_or(digits));
    Ok(GridCell { name, values, config })
}

/// `learning_rate-0.001_`: the key's last word and its value.
fn part_of_name(key: &str, value: &serde_json::Value) -> String {
    let word = key.rsplit('.').next().unwrap_or(key);
    let value = value.to_string();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    format!("{word}-{}_", value.chars().filter(is_plain).take(40).collect::<String>())
}

/// Sets `a.b.c`; a number is the index of an entry of a list (`data.0.share`).
fn set_key(table: &mut Table, key: &str, value: Value) -> Result<(), Error> {
    let refuse = || Error::value("grid.axes", format!("`{key}` is not in any table of the config"));
    let (parents, last) = key.rsplit_once('.').map_or(("", key), |(parents, last)| (parents, last));
    let mut here: &mut Table = table;
    let mut words = parents.split('.').filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let next = here.get_mut(word).ok_or_else(refuse)?;
        here = match next {
            Value::Table(table) => table,
            Value::Array(items) => {
                let idx: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(refuse)?;
                items.get_mut(idx).and_then(Value::as_table_mut).ok_or_else(refuse)?
            }
            _ => return Err(refuse()),
        };
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// Who wants to know how a grid goes. Called from several threads.
pub trait GridWatcher: Sync {
    /// A step of a cell ended.
    fn on_step(&self, cell: &str, record: &StepRecord, n_steps: u64, seconds_left: f64);
    /// A cell ended, or failed.
    fn on_end(&self, cell: &str, outcome: &Result<TrainOutcome, Error>);
    /// A note for the user.
    fn on_note(&self, cell: &str, text: &str);
}

struct CellWatcher<'a> {
    cell: &'a str,
    watcher: &'a dyn GridWatcher,
}

impl TrainWatcher for CellWatcher<'_> {
    fn on_step(&self, record: &StepRecord, n_steps: u64, seconds_left: f64) {
        self.watcher.on_step(self.cell, record, n_steps, seconds_left);
    }

    fn on_validation(&self, _: &ValidationRecord) {}

    fn on_checkpoint(&self, _: u64, _: &Path) {}

    fn on_note(&self, text: &str) {
        self.watcher.on_note(self.cell, text);
    }
}

/// Trains every cell of a grid below `out`, each in its folder, and writes `grid.json`.
///
/// A cell that fails leaves the others going. Relative paths of the configs begin at `config_folder`.
///
/// # Errors
/// `Interrupted`; `Cells` with each one that failed; what reading the data gives.
pub fn train_grid(
    grid: &Grid,
    config_folder: &Path,
    out: &Path,
    watcher: &dyn GridWatcher,
    run: &RunContext<'_>,
) -> Result<Vec<TrainOutcome>, Error> {
    let data = load_all(grid, config_folder, run)?;
    let n_workers = grid.n_jobs.get().min(grid.cells.len()).max(1);
    let n_threads = NonZeroUsize::new(run.limits.n_threads.get() / n_workers).unwrap_or(NonZeroUsize::MIN);
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Option<Result<TrainOutcome, Error>>>> =
        Mutex::new(grid.cells.iter().map(|_| None).collect());
    let work = || {
        while let Some((cell, data)) = {
            let cell_idx = next.fetch_add(1, Ordering::Relaxed);
            grid.cells.get(cell_idx).zip(data.get(cell_idx)).map(|pair| ((cell_idx, pair.0), pair.1))
        } {
            let (cell_idx, cell) = cell;
            if run.interrupt.load(Ordering::Relaxed) {
                return;
            }
            let run =
                RunContext { limits: Limits { n_threads, ..run.limits }, storage: Arc::clone(&run.storage), ..*run };
            let run_path = out.join(&cell.name);
            let job = TrainJob { config: &cell.config, config_folder, run_path: &run_path, data };
            let outcome = train(&job, &CellWatcher { cell: &cell.name, watcher }, &run);
            watcher.on_end(&cell.name, &outcome);
            outcomes.lock().unwrap_or_else(PoisonError::into_inner)[cell_idx] = Some(outcome);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| Error::WorkerDied))
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    finish(grid, out, outcomes, run)
}

/// Cells that read the same share it.
fn load_all(grid: &Grid, folder: &Path, run: &RunContext<'_>) -> Result<Vec<Arc<TrainData>>, Error> {
    let mut known: BTreeMap<String, Arc<TrainData>> = BTreeMap::new();
    let key_of = |config: &TrainConfig| {
        json!([
            config.tokenizer,
            config.data.iter().map(|d| (&d.from, &d.validation, &d.name, d.limit)).collect::<Vec<_>>(),
            config.validation.is_some()
        ])
        .to_string()
    };
    grid.cells
        .iter()
        .map(|cell| {
            let key = key_of(&cell.config);
            if let Some(data) = known.get(&key) {
                return Ok(Arc::clone(data));
            }
            let data = Arc::new(TrainData::load(&cell.config, folder, &*run.storage)?);
            known.insert(key, Arc::clone(&data));
            Ok(data)
        })
        .collect()
}

fn finish(
    grid: &Grid,
    out: &Path,
    outcomes: Vec<Option<Result<TrainOutcome, Error>>>,
    run: &RunContext<'_>,
) -> Result<Vec<TrainOutcome>, Error> {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    let mut interrupted = None;
    for (cell, outcome) in grid.cells.iter().zip(outcomes) {
        match outcome {
            Some(Ok(outcome)) => done.push(outcome),
            Some(Err(error @ Error::Interrupted { .. })) => interrupted = Some(error),
            Some(Err(error)) => failed.push((cell.name.clone(), error.to_string())),
            None => interrupted = interrupted.or(Some(Error::Interrupted { step: 0 })),
        }
    }
    if let Some(error) = interrupted {
        return Err(error);
    }
    if !failed.is_empty() {
        return Err(Error::Cells { n_cells: grid.cells.len(), failed });
    }
    let rows: Vec<_> = grid
        .cells
        .iter()
        .map(|cell| json!({"path": PathBuf::from(&cell.name), "values": cell.values, "digest": digest_config(&cell.config)}))
        .collect();
    let document = json!({"kind": GRID_KIND, "version": 1, "cells": rows});
    run.storage.create_folder(out)?;
    let kind = OwnKind::json("the record of a grid", GRID_KIND);
    publish_file(&*run.storage, &out.join(GRID_RECORD_NAME), &pretty(&document), kind)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
kind = "thalweg-train"
version = 1
steps = 4
sequence_length = 8
batch_sequences = 2
tokenizer = "bpe-512"
[model]
hidden = 8
layers = 1
heads = 2
intermediate = 8
[[data]]
from = "stories"
[optimizer]
learning_rate = 0.001
[schedule]
kind = "constant"
[checkpoints]
every_steps = 2
"#;

    fn parse(more: &str) -> Result<TrainFile, Error> {
        parse_train_file(&format!("{BASE}{more}"), Path::new("run.toml"))
    }

    #[test]
    fn a_grid_has_every_combination_and_each_cell_its_own_digest() {
        let more =
            "[grid]\njobs = 2\n[grid.axes]\nseed = [1, 2]\n\"optimizer.learning_rate\" = [0.001, 0.002, 0.003]\n";
        let TrainFile::Grid(grid) = parse(more).unwrap() else { panic!("a grid") };
        let cells: Vec<(u64, f64)> =
            grid.cells.iter().map(|cell| (cell.config.seed, cell.config.optimizer.learning_rate)).collect();
        assert_eq!(cells, [(1, 0.001), (2, 0.001), (1, 0.002), (2, 0.002), (1, 0.003), (2, 0.003)]);
        let mut names: Vec<&str> = grid.cells.iter().map(|cell| cell.name.as_str()).collect();
        assert!(names[0].starts_with("learning_rate-0.001_seed-1_"), "{}", names[0]);
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), grid.n_jobs.get()), (6, 2));
    }

    #[test]
    fn keys_that_are_not_known_are_named_with_the_nearest_known_one() {
        let refuse = |more: &str| {
            let error = parse(more).unwrap_err();
            (error.to_string(), error.hint().unwrap_or_default())
        };
        let (message, hint) = refuse("every_step = 3\n");
        assert_eq!(message, "`run.toml`: line 21, column 1: unknown key `every_step`");
        assert_eq!(hint, "did you mean `every_steps`?");
        let (message, _) = refuse("[grid.axes]\n\"optimiser.learning_rate\" = [1.0]\n");
        assert_eq!(message, "`grid.axes`: `optimiser.learning_rate` is not in any table of the config");
        let (message, hint) = refuse("[grid.axes]\n\"optimizer.learning_rat\" = [1.0]\n");
        assert_eq!(
            (message.as_str(), hint.as_str()),
            ("`run.toml`: unknown key `learning_rat`", "did you mean `learning_rate`?")
        );
        assert!(refuse("[grid.axes]\nseed = []\n").0.contains("no cells"));
    }
}
