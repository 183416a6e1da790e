//! Why a log cannot be read.

use thalweg_tensor::display_name;

use super::field::LogField;
use crate::Step;

/// A log that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No column holds this field.
    #[error("no column holds the {field}; the columns are {}", list_names(found))]
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
    #[error("column `{}` holds {value}, which is not a whole number, so it is not a step", display_name(name))]
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
        "the column `step` counts micro-batches: on each line it is one less than `{}`, as in the logs of Lightning's CSVLogger",
        display_name(column)
    )]
    MicroBatches {
        /// The column with the number of the micro-batch.
        column: String,
        /// Whether the log has tokens, from which steps follow.
        has_tokens: bool,
    },
    /// Two columns that mean the step and differ.
    #[error(
        "the columns `{}` and `{}` both mean the step and differ, such as {} and {} on one line",
        display_name(&names[0]),
        display_name(&names[1]),
        values[0],
        values[1]
    )]
    StepsDisagree {
        /// The columns.
        names: [String; 2],
        /// What they hold in the first record in which they differ.
        values: [Step; 2],
    },
    /// Losses that are only on the progress bars of epochs.
    #[error("its losses are on progress bars that count the batches of an epoch, which are not steps of the run")]
    EpochBars,
    /// A folder without a file that is known to be a log.
    #[error(
        "no file in this folder is an event file or has the usual name of a log, such as `metrics.csv`{}",
        if found.is_empty() { String::new() } else { format!("; it holds {}", list_names(found)) }
    )]
    NoLogInFolder {
        /// Names of files in it that may be logs, at most three.
        found: Vec<String>,
    },
    /// A log that must be unpacked or written in another encoding first.
    #[error("it is {what}")]
    Packed {
        /// What it is.
        what: &'static str,
        /// The command that makes a log of it.
        command: &'static str,
    },
    /// Steps that restart repeatedly.
    #[error(
        "{} after step {last}, {n_restarts} times: they restart in each epoch, so they are not steps of the run",
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
    /// A database that breaks the format's rules.
    #[error("the database cannot be read: {message}")]
    Database {
        /// What is wrong.
        message: String,
    },
    /// A database of several runs, without a word which is meant.
    #[error("it holds several runs: {}", list_names(names))]
    SeveralRuns {
        /// Their names, sorted, at most 50.
        names: Vec<String>,
    },
    /// A database without the run that is meant.
    #[error("it holds no run `{}`, but {}", display_name(name), list_names(names))]
    NoSuchRun {
        /// The name or id that was asked for.
        name: String,
        /// The names that are there, sorted, at most 50.
        names: Vec<String>,
    },
    /// No kind of log is recognised.
    #[error(
        "it is not JSON lines, CSV with a header, a trainer's state, an event file, a database of trackio or mlflow, or \
         console output with losses"
    )]
    UnknownKind,
}

fn list_names(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{}`", display_name(name))).collect::<Vec<_>>().join(", ")
}
