//! The log of a run: loss, learning rate, gradient norm and tokens by step, from any of seven kinds of file.
//!
//! The parsers are pure functions on bytes and survive any input; only `open` touches storage. What the
//! numbers mean is decided elsewhere: `phase`, `spike`, `trajectory`.

mod attempt;
mod builder;
mod columns;
mod console;
mod csv;
mod error;
mod events;
mod field;
mod json;
mod kind;
mod lines;
mod null_losses;
mod number;
mod open;
mod sqlite;
mod step_rivals;
mod trackers;
mod wandb;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use thalweg_storage::Storage;
use thalweg_tensor::{counted, display_name};

pub use columns::ColumnMap;
pub use console::parse_console;
pub use csv::parse_csv;
pub use error::LogError;
pub use events::parse_event_file;
pub use field::LogField;
pub use json::{TrainerState, parse_json_lines, parse_trainer_progress, parse_trainer_state};
pub use trackers::parse_database;
pub use wandb::parse_wandb_lines;

use crate::{Error, Step, Tokens, TokensPerStep};

/// The largest log that is read.
pub const MAX_LOG_BYTES: u64 = 512 << 20;
/// The most records of one log: bounds memory at about 80 bytes each.
pub(crate) const MAX_LOG_RECORDS: usize = 3_000_000;

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
    /// The first record of a log is its newest.
    NewestFirst,
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
                write!(f, "the log ends in the middle of a record ({}), which is ignored", display_name(at))
            }
            Self::StepsCounted { log_every } => {
                write!(
                    f,
                    "the losses are counted, {log_every} steps apart (`--log-every`); the steps in the log are not used"
                )
            }
            Self::Rewound { from, to } => {
                write!(
                    f,
                    "the log goes back from step {from} to step {to}: its earlier entries from step {to} on are replaced"
                )
            }
            Self::NoStep { n_records: 1 } => f.write_str("1 record of the log has no step and is ignored"),
            Self::NoStep { n_records } => write!(f, "{n_records} records of the log have no step and are ignored"),
            Self::LargeRecords { n_records } => {
                write!(f, "{n_records} event records are too large to be scalars and are ignored")
            }
            Self::Damaged { n_lines: 1, first } => {
                write!(f, "1 damaged line of the log was skipped: {}", display_name(first))
            }
            Self::Damaged { n_lines, first } => {
                write!(f, "{n_lines} damaged lines of the log were skipped, the first at {}", display_name(first))
            }
            Self::RepeatedHeader { n_lines } => {
                write!(f, "the log repeats its header {}", counted(*n_lines, "time"))
            }
            Self::NullLosses { from, n_records } => write!(
                f,
                "the loss is null or empty from step {from} to the end of the log ({n_records} records): some loggers \
                 write NaN this way, so it counts as NaN"
            ),
            Self::NewestFirst => f.write_str("the log begins with its newest record, so it is read from its end"),
            Self::Reordered => f.write_str("the logs are read in the order of their steps, not in the order given"),
            Self::LossByEnding { name } => {
                write!(f, "the loss is read from `{}`, the only column that ends in `loss`", display_name(name))
            }
        }
    }
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
