//! The metrics of a run in the databases and folders of trackers: trackio's and mlflow's SQLite files, mlflow's folders
//! from before 3.7.

use std::collections::{BTreeMap, BTreeSet};

use super::builder::LogBuilder;
use super::json::read_metrics;
use super::number::LogNumber;
use super::sqlite::{Database, Row, Value};
use super::{ColumnMap, LogError, MAX_LOG_RECORDS, StepLog};

/// Reads the metrics of the only run in the SQLite file of trackio or mlflow, with its write-ahead log if there is one.
///
/// # Errors
/// `Database`; `UnknownKind` for other databases; `SeveralRuns`; as [`parse_json_lines`](super::parse_json_lines) for
/// what it holds.
pub fn parse_database(file: &[u8], log: Option<&[u8]>, columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_tracker(&Database::open(file, log)?, None, &mut builder)?;
    builder.finish()
}

/// Reads the run that `run` names, by its name or id, or the only one.
///
/// Runs of one name are one run that was restarted.
pub(super) fn read_tracker(
    database: &Database<'_>,
    run: Option<&str>,
    builder: &mut LogBuilder<'_>,
) -> Result<(), LogError> {
    let Some(table) = database.table("metrics") else { return Err(LogError::UnknownKind) };
    if let Some([id, name, step, metrics]) = table.find_columns(["run_id", "run_name", "step", "metrics"]) {
        let mut runs = Runs::default();
        database.rows(table, &mut |row| {
            runs.note(text(row, id), text(row, name));
            Ok(())
        })?;
        let wanted = runs.choose(run)?;
        return database.rows(table, &mut |row| {
            let step = whole(row, step);
            let (Some(step), Some(metrics)) = (step, row.get(metrics).and_then(Value::bytes)) else { return Ok(()) };
            if !wanted.contains(text(row, id)) {
                return Ok(());
            }
            builder.set_step(step);
            read_metrics(metrics, &format!("row {}", row.id()), builder)
        });
    }
    let columns = table.find_columns(["run_uuid", "key", "value", "step", "is_nan"]);
    let Some([id, key, value, step, is_nan]) = columns else { return Err(LogError::UnknownKind) };
    let wanted = mlflow_runs(database)?.choose(run)?;
    let mut steps = SteppedMetrics::default();
    database.rows(table, &mut |row| {
        if !wanted.contains(text(row, id)) {
            return Ok(());
        }
        let is_nan = row.get(is_nan).and_then(Value::whole) == Some(1);
        let number = row.get(value).and_then(Value::real).map(|value| if is_nan { f64::NAN } else { value });
        match (whole(row, step), number) {
            (Some(step), Some(number)) => steps.add(step, text(row, key), number),
            _ => Ok(()),
        }
    })?;
    steps.write_to(builder)
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> &'r str {
    row.get(column).and_then(Value::text).unwrap_or_default()
}

fn whole(row: &Row<'_>, column: usize) -> Option<u64> {
    row.get(column).and_then(Value::whole).and_then(|step| u64::try_from(step).ok())
}

fn mlflow_runs(database: &Database<'_>) -> Result<Runs, LogError> {
    let mut runs = Runs::default();
    let Some(table) = database.table("runs") else { return Ok(runs) };
    let columns = table.find_columns(["run_uuid", "name", "lifecycle_stage"]);
    let Some([id, name, stage]) = columns else { return Ok(runs) };
    database.rows(table, &mut |row| {
        if text(row, stage) != "deleted" {
            runs.note(text(row, id), text(row, name));
        }
        Ok(())
    })?;
    Ok(runs)
}

/// The runs of a database: ids, and their names.
#[derive(Debug, Default)]
struct Runs {
    names: BTreeMap<String, String>,
}

impl Runs {
    fn note(&mut self, id: &str, name: &str) {
        if !self.names.contains_key(id) {
            self.names.insert(id.to_owned(), name.to_owned());
        }
    }

    /// Ids of the run that is meant.
    fn choose(&self, run: Option<&str>) -> Result<BTreeSet<String>, LogError> {
        /// Names that an error lists.
        const MAX_NAMES: usize = 50;
        let names: BTreeSet<&String> = self.names.values().collect();
        let listed = || names.iter().take(MAX_NAMES).map(|&name| name.clone()).collect();
        let Some(run) = run else {
            return match names.len() {
                0 | 1 => Ok(self.names.keys().cloned().collect()),
                _ => Err(LogError::SeveralRuns { names: listed() }),
            };
        };
        let is_meant = |(id, name): &(&String, &String)| *id == run || *name == run;
        let ids: BTreeSet<String> = self.names.iter().filter(is_meant).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() { Err(LogError::NoSuchRun { name: run.to_owned(), names: listed() }) } else { Ok(ids) }
    }
}

/// Single values that become records: those of one step belong together, in whatever order they come.
#[derive(Debug, Default)]
pub(super) struct SteppedMetrics {
    /// By name, then by step.
    series: BTreeMap<String, BTreeMap<u64, f64>>,
    n_values: usize,
}

impl SteppedMetrics {
    /// Adds a value. Where a metric goes back to an earlier step, the run was restarted there: what it had logged from
    /// that step on is replaced.
    pub(super) fn add(&mut self, step: u64, key: &str, value: f64) -> Result<(), LogError> {
        if self.n_values >= MAX_LOG_RECORDS {
            return Err(LogError::TooManyRecords { limit: MAX_LOG_RECORDS });
        }
        self.n_values += 1;
        if !self.series.contains_key(key) {
            self.series.insert(key.to_owned(), BTreeMap::new());
        }
        if let Some(series) = self.series.get_mut(key) {
            if series.last_key_value().is_some_and(|(last, _)| *last >= step) {
                series.split_off(&step);
            }
            series.insert(step, value);
        }
        Ok(())
    }

    /// Writes the records down, by step.
    pub(super) fn write_to(self, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        let mut steps: BTreeMap<u64, Vec<(&str, f64)>> = BTreeMap::new();
        for (key, series) in &self.series {
            for (&step, &value) in series {
                steps.entry(step).or_default().push((key, value));
            }
        }
        for (step, values) in steps {
            builder.set_step(step);
            values.into_iter().for_each(|(key, value)| builder.push(key, LogNumber::Real(value)));
            builder.end_record()?;
        }
        Ok(())
    }
}

/// Adds the lines of one file of an mlflow folder, each a time, a value and a step. The file's name is the metric's.
pub(super) fn read_metric_file(text: &str, key: &str, steps: &mut SteppedMetrics) -> Result<(), LogError> {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        let value = words.next().and_then(LogNumber::parse);
        let step = words.next().and_then(|step| step.parse().ok());
        if let (Some(value), Some(step)) = (value, step) {
            steps.add(step, key, value.real())?;
        }
    }
    Ok(())
}
