//! The log of a run: loss, learning rate, gradient norm and tokens by step, from any of four kinds of file.
//!
//! The parsers are pure functions on bytes and survive any input; only [`StepLog::open`] touches storage. What the
//! numbers mean is decided elsewhere: `phase`, `spike`, `trajectory`.

mod columns;
mod csv;
mod events;
mod json;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::{FileKind, Storage};
use thalweg_tensor::display_name;

pub use columns::{ColumnMap, LogField};
pub use csv::parse_csv;
pub use events::parse_event_file;
pub use json::{TrainerState, parse_json_lines, parse_trainer_progress, parse_trainer_state};

use crate::{Error, Step, Tokens};
use columns::LogBuilder;

/// The largest log that is read.
pub const MAX_LOG_BYTES: u64 = 512 << 20;
/// The most records of one log: bounds memory at about 80 bytes each.
pub const MAX_LOG_RECORDS: usize = 3_000_000;

/// One step of a log. A value that was not logged at this step is `None`; a loss may be NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogEntry {
    /// The step.
    pub step: Step,
    /// Training tokens so far.
    pub tokens: Option<Tokens>,
    /// Training loss.
    pub loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
}

/// Something a user should know about a log that was read all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogNote {
    /// The last line or record is cut off and was left out.
    TornEnd {
        /// Where it begins: `line 12` or `byte 480`.
        at: String,
    },
    /// The run went back to an earlier step; what had been logged from there on was replaced.
    Rewound {
        /// The step that had been reached.
        from: Step,
        /// The step at which the log goes on.
        to: Step,
    },
    /// Records whose step is missing or not a whole number.
    NoStep {
        /// How many.
        n_records: usize,
    },
    /// Event records too large to hold scalars, such as images.
    LargeRecords {
        /// How many.
        n_records: usize,
    },
}

impl fmt::Display for LogNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornEnd { at } => write!(f, "the log ends in the middle of a record ({at}), which is left out"),
            Self::Rewound { from, to } => {
                write!(f, "the log goes back from step {from} to step {to}; the later record of each step is used")
            }
            Self::NoStep { n_records } => write!(f, "{n_records} records of the log have no step and are left out"),
            Self::LargeRecords { n_records } => {
                write!(f, "{n_records} event records are too large to be scalars and are left out")
            }
        }
    }
}

/// A log that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No column holds this field.
    #[error("there is no {field} among the columns: {}", list_names(found))]
    NoColumn {
        /// The field.
        field: LogField,
        /// The names that are there, sorted, at most 50.
        found: Vec<String>,
    },
    /// The column that the user named is not there.
    #[error("there is no column `{}` for the {field} among: {}", display_name(name), list_names(found))]
    NoSuchColumn {
        /// The field.
        field: LogField,
        /// The name that was asked for.
        name: String,
        /// The names that are there, sorted, at most 50.
        found: Vec<String>,
    },
    /// A line that breaks the format's rules.
    #[error("line {line}: {message}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value that should be a number.
    #[error("line {line}: column `{}` holds `{}`, which is no number", display_name(column), display_name(text))]
    Cell {
        /// Counted from 1.
        line: usize,
        /// The column.
        column: String,
        /// What stands there, shortened.
        text: String,
    },
    /// A JSON document that breaks the rules.
    #[error("{message}")]
    Json {
        /// What is wrong, with the position.
        message: String,
    },
    /// A trainer's state without a history.
    #[error("there is no `log_history`")]
    NoHistory,
    /// An event record that breaks the format's rules.
    #[error("record at byte {at_byte}: {message}")]
    Record {
        /// Where the record begins.
        at_byte: u64,
        /// What is wrong.
        message: &'static str,
    },
    /// More records than are read.
    #[error("there are more than {limit} records")]
    TooManyRecords {
        /// The most that are read.
        limit: usize,
    },
    /// No kind of log is recognised.
    #[error("it is neither JSON lines nor CSV with a header, nor a trainer's state, nor an event file")]
    UnknownKind,
}

fn list_names(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{}`", display_name(name))).collect::<Vec<_>>().join(", ")
}

/// A run's log: one entry for each step, ascending, and which columns it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLog {
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) columns: BTreeMap<LogField, String>,
    pub(crate) notes: Vec<LogNote>,
}

/// The four kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogKind {
    JsonLines,
    Csv,
    TrainerState,
    Events,
}

impl StepLog {
    /// A log from entries that are in memory already, sorted here; the last of several at one step counts.
    pub fn from_entries(entries: impl IntoIterator<Item = LogEntry>) -> Self {
        let by_step: BTreeMap<Step, LogEntry> = entries.into_iter().map(|entry| (entry.step, entry)).collect();
        Self { entries: by_step.into_values().collect(), columns: BTreeMap::new(), notes: Vec::new() }
    }

    /// Reads a log of any kind; a folder is read as TensorBoard's event files in the order of their names.
    ///
    /// # Errors
    /// `NotFound`; `Log` with what is wrong; `Storage`, also if the file is larger than [`MAX_LOG_BYTES`].
    pub fn open(storage: &Arc<dyn Storage>, path: &Path, columns: &ColumnMap) -> Result<Self, Error> {
        let refuse = |source| Error::Log { path: path.to_owned(), source: Box::new(source) };
        let info = storage.file_info(path).map_err(|error| Error::from_storage(path, error))?;
        if info.kind == FileKind::Folder {
            return read_event_folder(storage, path, columns);
        }
        let bytes = storage.read_file(path, MAX_LOG_BYTES)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match sniff_kind(&name, &bytes).map_err(refuse)? {
            LogKind::JsonLines => parse_json_lines(&bytes, columns),
            LogKind::Csv => parse_csv(&bytes, columns),
            LogKind::TrainerState => parse_trainer_state(&bytes, columns),
            LogKind::Events => parse_event_file(&bytes, columns),
        }
        .map_err(refuse)
    }

    /// The entries, by step.
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// The name of the column that each field was read from.
    pub fn columns(&self) -> &BTreeMap<LogField, String> {
        &self.columns
    }

    /// What a user should know.
    pub fn notes(&self) -> &[LogNote] {
        &self.notes
    }

    /// The newest step; `None` for an empty log.
    pub fn last_step(&self) -> Option<Step> {
        self.entries.last().map(|entry| entry.step)
    }

    /// The steps that were logged with a loss, and it.
    pub fn losses(&self) -> impl Iterator<Item = (Step, f64)> {
        self.entries.iter().filter_map(|entry| Some((entry.step, entry.loss?)))
    }

    /// The steps that were logged with a learning rate, and it.
    pub fn learning_rates(&self) -> impl Iterator<Item = (Step, f64)> {
        self.entries.iter().filter_map(|entry| Some((entry.step, entry.learning_rate?)))
    }
}

fn read_event_folder(storage: &Arc<dyn Storage>, path: &Path, columns: &ColumnMap) -> Result<StepLog, Error> {
    let mut builder = LogBuilder::new(columns);
    let mut n_files = 0;
    for entry in storage.list_folder(path)? {
        if entry.kind == FileKind::File && entry.name.contains("tfevents") {
            let path = path.join(&entry.name);
            let bytes = storage.read_file(&path, MAX_LOG_BYTES)?;
            events::read_events(&bytes, &mut builder)
                .map_err(|source| Error::Log { path, source: Box::new(source) })?;
            n_files += 1;
        }
    }
    let refuse = |source| Error::Log { path: path.to_owned(), source: Box::new(source) };
    if n_files == 0 { Err(refuse(LogError::UnknownKind)) } else { builder.finish().map_err(refuse) }
}

fn sniff_kind(name: &str, bytes: &[u8]) -> Result<LogKind, LogError> {
    if name.contains("tfevents") {
        return Ok(LogKind::Events);
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let first_line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    match text.first() {
        Some(b'{') => {
            let is_state = name.ends_with(".json") && json::has_history(text);
            // A document over many lines begins with a line that is no object of its own.
            let spread = first_line == b"{";
            Ok(if is_state || spread { LogKind::TrainerState } else { LogKind::JsonLines })
        }
        Some(byte) if (byte.is_ascii_graphic() || *byte == b'\xef') && *byte != b'[' && !first_line.contains(&0) => {
            Ok(LogKind::Csv)
        }
        _ => Err(LogError::UnknownKind),
    }
}
