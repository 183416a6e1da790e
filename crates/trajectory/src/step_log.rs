//! The log of a run: loss, learning rate, gradient norm and tokens by step, from any of five kinds of file.
//!
//! The parsers are pure functions on bytes and survive any input; only `open` touches storage. What the
//! numbers mean is decided elsewhere: `phase`, `spike`, `trajectory`.

mod attempt;
mod builder;
mod columns;
mod console;
mod csv;
mod events;
mod json;
mod kind;
mod lines;
mod null_losses;
mod number;
mod open;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::display_name;

pub use columns::{ColumnMap, LogField};
pub use console::parse_console;
pub use csv::parse_csv;
pub use events::parse_event_file;
pub use json::{TrainerState, parse_json_lines, parse_trainer_progress, parse_trainer_state};

use crate::{Error, Step, Tokens, TokensPerStep};

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
    /// Losses are counted although the log has steps, because the user said how far apart they are.
    StepsCounted {
        /// Steps between two losses.
        log_every: u64,
    },
    /// The last line or record is cut off and was left out.
    TornEnd {
        /// Where it begins: `line 12` or `byte 480`.
        at: String,
    },
    /// The run went back to an earlier step; what had been logged from there on was replaced.
    Rewound {
        /// The step that had been reached.
        from: Step,
        /// The step at which the log continues.
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
    /// Lines or event records that are torn, glued together or filled with NUL bytes.
    Damaged {
        /// How many.
        n_lines: usize,
        /// Where the first one is: `line 12`.
        first: String,
    },
    /// Lines that name the columns of a CSV file again.
    RepeatedHeader {
        /// How many.
        n_lines: usize,
    },
    /// The loss is null or empty to the end of the log, and nowhere before.
    NullLosses {
        /// The first such step.
        from: Step,
        /// How many.
        n_records: usize,
    },
    /// Several logs that were not given in the order of their steps.
    Reordered,
    /// The loss was read from a column whose name is not known, because only its name ends in `loss`.
    LossByEnding {
        /// The column.
        name: String,
    },
}

impl fmt::Display for LogNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornEnd { at } => {
                write!(f, "the log ends in the middle of a record ({}), which is left out", display_name(at))
            }
            Self::StepsCounted { log_every } => {
                write!(
                    f,
                    "the losses are counted, {log_every} steps apart (`--log-every`); the steps in the log are not used"
                )
            }
            Self::Rewound { from, to } => {
                write!(f, "the log goes back from step {from} to step {to}: what it had from step {to} on is replaced")
            }
            Self::NoStep { n_records: 1 } => f.write_str("1 record of the log has no step and is left out"),
            Self::NoStep { n_records } => write!(f, "{n_records} records of the log have no step and are left out"),
            Self::LargeRecords { n_records } => {
                write!(f, "{n_records} event records are too large to be scalars and are left out")
            }
            Self::Damaged { n_lines: 1, first } => {
                write!(f, "1 damaged line of the log was skipped: {}", display_name(first))
            }
            Self::Damaged { n_lines, first } => {
                write!(f, "{n_lines} damaged lines of the log were skipped, the first at {}", display_name(first))
            }
            Self::RepeatedHeader { n_lines } => {
                write!(f, "the log repeats its header {n_lines} {}", if *n_lines == 1 { "time" } else { "times" })
            }
            Self::NullLosses { from, n_records } => write!(
                f,
                "the loss is null or empty from step {from} to the end of the log ({n_records} records): writers that \
                 have no NaN store it so, and it counts as NaN"
            ),
            Self::Reordered => f.write_str("the logs are read in the order of their steps, not in the order given"),
            Self::LossByEnding { name } => {
                write!(f, "the loss is read from `{}`, the only column that ends in `loss`", display_name(name))
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
    /// The column of the step holds no whole numbers.
    #[error("column `{}` holds {value}, which is not a whole number and so not a step", display_name(name))]
    NotWhole {
        /// The column.
        name: String,
        /// Its first value that is not whole.
        value: String,
    },
    /// Two columns that are equally good for one field.
    #[error("several columns may be the {field}: {}", list_names(names))]
    Ambiguous {
        /// The field.
        field: LogField,
        /// The columns.
        names: Vec<String>,
    },
    /// A log that counts micro-batches where it should count steps.
    #[error(
        "the column `step` counts micro-batches: on each line it is one less than `{}`, as Lightning's CSV logger leaves it",
        display_name(column)
    )]
    MicroBatches {
        /// The column with the number of the micro-batch.
        column: String,
    },
    /// Steps that begin again and again.
    #[error(
        "{} after step {last}, {n_restarts} times: they count within an epoch, and are not steps of the run",
        column.as_ref().map_or_else(
            || "the steps begin again".to_owned(),
            |name| format!("the steps in column `{}` begin again", display_name(name))
        )
    )]
    WithinEpoch {
        /// Their column, if it has a name.
        column: Option<String>,
        /// How often they begin again.
        n_restarts: usize,
        /// The last one before they do.
        last: Step,
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
    #[error("line {line}: column `{}` holds `{}`, which is not a number", display_name(column), display_name(text))]
    Cell {
        /// Counted from 1.
        line: usize,
        /// The column.
        column: String,
        /// What is there, shortened.
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
    #[error("it is not JSON lines, CSV with a header, a trainer's state, an event file or console output with losses")]
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

/// What a user says about a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Names of columns.
    pub columns: ColumnMap,
    /// Tokens in each step, for logs that count micro-batches and tokens.
    pub tokens_per_step: Option<TokensPerStep>,
    /// Steps from one loss to the next, for logs that have no steps.
    pub log_every: Option<u64>,
}

impl StepLog {
    /// A log from entries that are in memory already, sorted here; the last of several at one step counts.
    pub fn from_entries(entries: impl IntoIterator<Item = LogEntry>) -> Self {
        let by_step: BTreeMap<Step, LogEntry> = entries.into_iter().map(|entry| (entry.step, entry)).collect();
        Self { entries: by_step.into_values().collect(), columns: BTreeMap::new(), notes: Vec::new() }
    }

    /// Reads a file or folder as [`StepLog::open_all`] does.
    ///
    /// # Errors
    /// As [`StepLog::open_all`].
    pub fn open(storage: &Arc<dyn Storage>, path: &Path, columns: &ColumnMap) -> Result<Self, Error> {
        let options = LogOptions { columns: columns.clone(), ..LogOptions::default() };
        Self::open_all(storage, &[path.to_owned()], &options)
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
