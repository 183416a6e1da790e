//! Where an evaluator left its results, and the files of items beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_storage::{FileKind, FolderEntry, Storage};

use super::every_eval::InstanceReading;
use super::harness::SampleReading;
use super::items::TaskItems;
use super::olmo::{PredictionReading, file_stem};
use super::read::read_with;
use super::results::{ExternalResults, attach, check_usable};
use super::score::quote_python_numbers;
use crate::Error;

/// The largest file of results.
const MAX_RESULTS_BYTES: u64 = 256_000_000;
/// The largest file of items: it holds their prompts too.
const MAX_ITEMS_BYTES: u64 = 1_000_000_000;
/// Folders that are looked into: lm-evaluation-harness makes one named after the model.
const MAX_DEPTH: usize = 2;
/// The folder of items that olmo-eval makes beside `metrics.json`.
const PREDICTIONS: &str = "predictions";
const PREDICTIONS_END: &str = "-predictions.jsonl";

/// The file itself, or the last file of results by name in a folder. Files whose names begin with `results` take
/// precedence over other JSON files, and these over tables.
///
/// # Errors
/// `Storage`.
pub fn find_results(storage: &dyn Storage, path: &Path) -> Result<Option<PathBuf>, Error> {
    find_at(storage, path, 0)
}

fn find_at(storage: &dyn Storage, path: &Path, depth: usize) -> Result<Option<PathBuf>, Error> {
    let kind = match storage.file_info(path) {
        Ok(info) => info.kind,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if kind == FileKind::File {
        return Ok(Some(path.to_owned()));
    }
    let entries = storage.list_folder(path)?;
    let files = entries.iter().filter_map(|entry| Some((rank(entry)?, entry)));
    if let Some((_, last)) = files.max_by_key(|(rank, entry)| (*rank, &entry.name)) {
        return Ok(Some(path.join(&last.name)));
    }
    for folder in entries.iter().filter(|entry| entry.kind == FileKind::Folder && depth < MAX_DEPTH) {
        if let Some(found) = find_at(storage, &path.join(&folder.name), depth + 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// How likely a file holds results; `None` if it does not.
fn rank(entry: &FolderEntry) -> Option<u8> {
    let has_end = |end: &str| entry.kind == FileKind::File && entry.name.ends_with(end);
    match () {
        () if has_end(".json") && entry.name.starts_with("results") => Some(3),
        () if has_end(".json") => Some(2),
        () if has_end(".csv") => Some(1),
        () if has_end(".jsonl") && entry.name.starts_with("samples_") => Some(0),
        () => None,
    }
}

/// Reads a file of results, with what each item scored where the files beside it say that.
///
/// # Errors
/// As for the bytes of such a file; `Storage`.
pub fn read_results_file(storage: &dyn Storage, file: &Path) -> Result<ExternalResults, Error> {
    let name = name_of(file);
    if let Some(task) = name.strip_suffix(".jsonl").and_then(|name| name.strip_prefix("samples_")) {
        return samples_alone(storage, file, task.rsplit_once('_').map_or(task, |(task, _)| task));
    }
    let bytes = storage.read_file(file, MAX_RESULTS_BYTES)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    read_with(&bytes, file, |document, results| {
        let beside = Beside { storage, folder, results };
        if document["evaluation_results"].is_array() {
            return beside.instances(document, name.strip_suffix(".json").unwrap_or(name));
        }
        if document["tasks"].is_array() {
            return beside.predictions(document);
        }
        match name.strip_prefix("results_").and_then(|name| name.strip_suffix(".json")) {
            Some(date) if document["results"].is_object() => beside.samples(document, date),
            _ => Ok(BTreeMap::new()),
        }
    })
}

fn name_of(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn samples_alone(storage: &dyn Storage, file: &Path, task: &str) -> Result<ExternalResults, Error> {
    let mut reading = SampleReading::new(task);
    for_each_line(storage, file, |sample| reading.take(sample))?;
    let mut results = ExternalResults::default();
    attach(&mut results, reading.found);
    check_usable(&results, file)?;
    Ok(results)
}

/// The files of items beside results.
struct Beside<'a> {
    storage: &'a dyn Storage,
    folder: &'a Path,
    results: &'a ExternalResults,
}

impl Beside<'_> {
    /// lm-evaluation-harness: `samples_TASK_DATE.jsonl`, of the same date as the results.
    fn samples(&self, document: &Value, date: &str) -> Result<BTreeMap<String, TaskItems>, Error> {
        let names: BTreeSet<String> = self.names(self.folder)?.into_iter().collect();
        let mut found = BTreeMap::new();
        for task in document["results"].as_object().into_iter().flatten().map(|(task, _)| task) {
            let name = format!("samples_{task}_{date}.jsonl");
            if names.contains(&name) {
                let mut reading = SampleReading::new(task);
                for_each_line(self.storage, &self.folder.join(name), |sample| reading.take(sample))?;
                found.extend(reading.found);
            }
        }
        Ok(found)
    }

    /// olmo-eval: a file for each task, `SPEC_HASH-predictions.jsonl`, with the end of the hash.
    fn predictions(&self, document: &Value) -> Result<BTreeMap<String, TaskItems>, Error> {
        let folder = self.folder.join(PREDICTIONS);
        if !self.names(self.folder)?.iter().any(|name| name == PREDICTIONS) {
            return Ok(BTreeMap::new());
        }
        let mut files: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
        for model in self.names(&folder)? {
            let of_model = folder.join(model);
            for name in self.names(&of_model)? {
                let Some(stem) = name.strip_suffix(PREDICTIONS_END) else { continue };
                let (task, hash) = split_hash(stem);
                files.entry(task.to_owned()).or_default().push((of_model.join(&name), hash.to_owned()));
            }
        }
        let mut found = BTreeMap::new();
        for task in document["tasks"].as_array().into_iter().flatten() {
            let Some(spec) = task["task"].as_str() else { continue };
            let of_task = files.get(&file_stem(spec)).into_iter().flatten();
            let mut candidates =
                of_task.filter(|(_, hash)| task["task_hash"].as_str().is_none_or(|whole| whole.ends_with(&**hash)));
            // Several are of different settings, and nothing says which of them the scores are of.
            let (Some((file, _)), None) = (candidates.next(), candidates.next()) else { continue };
            let mut reading = PredictionReading::new(spec);
            for_each_line(self.storage, file, |prediction| {
                reading.take(prediction);
                Ok(())
            })?;
            found.extend(reading.found);
        }
        Ok(found)
    }

    /// Every Eval Ever: the file that the results name, which is beside them wherever it was written, or one with the
    /// same name as the results.
    fn instances(&self, document: &Value, stem: &str) -> Result<BTreeMap<String, TaskItems>, Error> {
        let named = document["detailed_evaluation_results"]["file_path"].as_str();
        let named = named.and_then(|path| path.rsplit(['/', '\\']).next()).map(str::to_owned);
        let names = self.names(self.folder)?;
        let likely = [named, Some(format!("{stem}.jsonl")), Some(format!("{stem}_samples.jsonl"))];
        let Some(name) = likely.into_iter().flatten().find(|name| names.contains(name)) else {
            return Ok(BTreeMap::new());
        };
        let mut reading = InstanceReading::new(document);
        for_each_line(self.storage, &self.folder.join(name), |instance| {
            reading.take(instance);
            Ok(())
        })?;
        Ok(reading.finish(&self.results.scores))
    }

    fn names(&self, folder: &Path) -> Result<Vec<String>, Error> {
        match self.storage.list_folder(folder) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
            // A file among the folders of models, for example.
            Err(_) if folder != self.folder => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The name of a task's file without the six digits of a hash at its end, and these.
fn split_hash(stem: &str) -> (&str, &str) {
    let is_hash = |end: &str| end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_hexdigit());
    stem.rsplit_once('_').filter(|(_, end)| is_hash(end)).unwrap_or((stem, ""))
}

/// Each line as JSON; empty lines are skipped.
fn for_each_line(
    storage: &dyn Storage,
    file: &Path,
    mut take: impl FnMut(&Value) -> Result<(), String>,
) -> Result<(), Error> {
    let bytes = storage.read_file(file, MAX_ITEMS_BYTES)?;
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let fault = |what: String| Error::ResultsInvalid { path: file.to_owned(), what };
        let value: Value = serde_json::from_slice(&quote_python_numbers(line))
            .map_err(|error| fault(format!("line {} is not JSON, from column {} on", i + 1, error.column())))?;
        take(&value).map_err(|what| fault(format!("line {}: {what}", i + 1)))?;
    }
    Ok(())
}
