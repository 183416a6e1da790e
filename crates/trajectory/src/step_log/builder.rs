//! Collects records into a log. Which column holds which field is decided at the end, when all names are known.

use std::collections::BTreeMap;

use super::attempt::{Attempt, join_attempts};
use super::columns::{ColumnMap, ColumnMatch, ColumnNames, ENDING_RANK, GIVEN_RANK, is_iteration_name};
use super::field::LogField;
use super::null_losses::NullLosses;
use super::number::LogNumber;
use super::step_rivals::StepRivals;
use super::{LogEntry, LogError, LogNote, LogOptions, MAX_LOG_RECORDS, StepLog};
use crate::{Step, Tokens, TokensPerStep};

/// Columns with names that only end in `loss` that are remembered: with two, the choice is ambiguous.
const MAX_ENDINGS: usize = 2;

/// A value and its column.
#[derive(Debug, Clone, Copy)]
struct Value {
    column: ColumnMatch,
    number: LogNumber,
}

/// Lines and records that break the rules of their format.
#[derive(Debug, Default)]
struct Damage {
    n: usize,
    /// Where the first one is.
    first: Option<String>,
    n_in_file: usize,
    /// What is wrong with the first one in the file.
    error: Option<LogError>,
}

/// How columns `step` and `iter` of the same records compare.
#[derive(Debug, Default)]
struct MicroBatches {
    n_records: usize,
    n_one_less: usize,
    column: String,
}

/// Collects the records of one or several log files.
#[derive(Debug)]
pub(super) struct LogBuilder<'a> {
    names: ColumnNames<'a>,
    tokens_per_step: Option<TokensPerStep>,
    /// Steps between two losses, for a log without steps.
    log_every: Option<u64>,
    n_counted: u64,
    /// Whether some of the records that are counted have a step.
    has_own_steps: bool,
    attempts: Vec<Attempt>,
    attempt: Attempt,
    /// The column with the best rank of each field so far.
    best: [Option<ColumnMatch>; 5],
    values: [Option<Value>; 5],
    iteration: Option<(u16, u64)>,
    micro_batches: MicroBatches,
    rivals: StepRivals,
    /// Two columns of one record with equal ranks.
    clash: Option<(ColumnMatch, ColumnMatch)>,
    endings: Vec<u16>,
    /// The first value of a step's column that is not a whole number.
    not_whole: Option<(u16, f64)>,
    n_records: usize,
    n_in_file: usize,
    n_useful_in_file: usize,
    n_without_step: usize,
    n_large: usize,
    n_headers: usize,
    damage: Damage,
    /// Records whose loss is null, since the last number.
    nulls: NullLosses,
    /// The name of the file, if there are several.
    file: Option<String>,
    notes: Vec<LogNote>,
}

impl<'a> LogBuilder<'a> {
    pub(super) fn new(map: &'a ColumnMap) -> Self {
        Self {
            names: ColumnNames::new(map),
            tokens_per_step: None,
            log_every: None,
            n_counted: 0,
            has_own_steps: false,
            attempts: Vec::new(),
            attempt: Attempt::default(),
            best: [None; 5],
            values: [None; 5],
            iteration: None,
            micro_batches: MicroBatches::default(),
            rivals: StepRivals::default(),
            clash: None,
            endings: Vec::new(),
            not_whole: None,
            n_records: 0,
            n_in_file: 0,
            n_useful_in_file: 0,
            n_without_step: 0,
            n_large: 0,
            n_headers: 0,
            damage: Damage::default(),
            nulls: NullLosses::default(),
            file: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn with_options(options: &'a LogOptions) -> Self {
        Self { tokens_per_step: options.tokens_per_step, log_every: options.log_every, ..Self::new(&options.columns) }
    }

    /// Whether records without a step get one by counting, because the user said how far apart they are.
    pub(super) fn counts_records(&self) -> bool {
        self.log_every.is_some()
    }

    /// The names that the user gave.
    pub(super) fn given_names(&self) -> impl Iterator<Item = &str> {
        self.names.map().iter().map(|(_, name)| name)
    }

    /// The names of columns so far.
    pub(super) fn listed(&self) -> Vec<String> {
        self.names.listed()
    }

    /// Begins a file, with its name if there are several.
    pub(super) fn begin_file(&mut self, name: Option<&str>, begun_at: Option<u64>) {
        self.file = name.map(str::to_owned);
        self.attempt = Attempt::new(begun_at);
        (self.n_in_file, self.n_useful_in_file) = (0, 0);
        (self.damage.n_in_file, self.damage.error) = (0, None);
    }

    /// Ends a file.
    ///
    /// # Errors
    /// The first damage, if more records of the file are damaged than read, or none that was read is useful.
    pub(super) fn end_file(&mut self) -> Result<(), LogError> {
        self.drop_record();
        if (self.damage.n_in_file > self.n_in_file || self.n_useful_in_file == 0)
            && let Some(error) = self.damage.error.take()
        {
            return Err(error);
        }
        self.attempts.push(std::mem::take(&mut self.attempt));
        Ok(())
    }

    /// Whether the file that is being read has no record so far.
    pub(super) fn is_file_empty(&self) -> bool {
        self.n_in_file == 0
    }

    /// A place in the file that is being read: `line 12`.
    fn place(&self, at: &str) -> String {
        self.file.as_ref().map_or_else(|| at.to_owned(), |file| format!("`{file}` {at}"))
    }

    pub(super) fn note_torn_end(&mut self, at: &str) {
        let at = self.place(at);
        self.notes.push(LogNote::TornEnd { at });
    }

    /// Counts a damaged line or record, and drops the current record.
    pub(super) fn count_damage(&mut self, at: &str, error: LogError) {
        self.drop_record();
        if self.damage.first.is_none() {
            self.damage.first = Some(self.place(at));
        }
        self.damage.error.get_or_insert(error);
        self.damage.n += 1;
        self.damage.n_in_file += 1;
    }

    pub(super) fn count_large_record(&mut self) {
        self.n_large += 1;
    }

    pub(super) fn count_header(&mut self) {
        self.n_headers += 1;
    }

    /// What a column of this name means.
    pub(super) fn find_column(&mut self, name: &str) -> Option<ColumnMatch> {
        self.names.find(name)
    }

    /// Sets the step of the current record, for formats with a field for it.
    pub(super) fn set_step(&mut self, step: u64) {
        let column = ColumnMatch { field: LogField::Step, rank: GIVEN_RANK, id: u16::MAX };
        self.values[0] = Some(Value { column, number: LogNumber::Whole(step) });
    }

    /// Adds a value of the current record under its name.
    pub(super) fn push(&mut self, name: &str, number: LogNumber) {
        if let Some(column) = self.names.find(name) {
            self.push_value(column, number);
        }
    }

    /// Adds a value of the current record.
    pub(super) fn push_value(&mut self, column: ColumnMatch, number: LogNumber) {
        let is_whole = matches!(column.field, LogField::Step | LogField::Tokens);
        if is_whole && number.whole().is_none() {
            if column.field == LogField::Step {
                self.not_whole.get_or_insert((column.id, number.real()));
            }
            return;
        }
        if column.field == LogField::Step && column.rank != GIVEN_RANK && is_iteration_name(self.names.name(column.id))
        {
            self.iteration = number.whole().map(|n| (column.id, n));
        }
        if let Some(step) = number.whole().filter(|_| column.field == LogField::Step) {
            self.rivals.push(column, step);
        }
        if column.rank == ENDING_RANK && self.endings.len() < MAX_ENDINGS && !self.endings.contains(&column.id) {
            self.endings.push(column.id);
        }
        let Some(slot) = self.values.get_mut(column.field.index()) else { return };
        match slot {
            Some(old) if old.column.rank < column.rank => {}
            // Of two columns of equal rank the first counts. For step and loss this is an error.
            Some(old) if old.column.rank == column.rank && old.column.id != column.id => {
                let matters = matches!(column.field, LogField::Step | LogField::Loss) && column.rank != ENDING_RANK;
                if matters && self.clash.is_none() {
                    self.clash = Some((old.column, column));
                }
            }
            _ => *slot = Some(Value { column, number }),
        }
    }

    /// Notes that the current record has a column without a value.
    pub(super) fn push_null(&mut self, name: &str) {
        if let Some(column) = self.names.find(name) {
            self.push_null_value(column);
        }
    }

    /// As [`push_null`](Self::push_null).
    pub(super) fn push_null_value(&mut self, column: ColumnMatch) {
        if column.field == LogField::Loss {
            self.nulls.current = Some(column.id);
        }
    }

    /// The step of the current record.
    pub(super) fn current_step(&self) -> Option<u64> {
        self.values[0].and_then(|step| step.number.whole())
    }

    /// Whether the current record has anything but a step.
    pub(super) fn has_values(&self) -> bool {
        self.values.iter().skip(1).any(Option::is_some)
    }

    /// Ends the current record.
    pub(super) fn end_record(&mut self) -> Result<(), LogError> {
        self.n_in_file += 1;
        self.count_step();
        let is_useful = self.has_values();
        if is_useful {
            if self.n_records == MAX_LOG_RECORDS {
                return Err(LogError::TooManyRecords { limit: MAX_LOG_RECORDS });
            }
            self.n_records += 1;
            self.n_useful_in_file += 1;
        }
        self.note_better_columns();
        self.nulls.end_record(self.current_step(), self.best[LogField::Loss.index()], self.loss_of_record());
        self.rivals.end_record();
        if is_useful {
            self.keep_record();
        }
        self.drop_record();
        Ok(())
    }

    fn loss_of_record(&self) -> Option<u16> {
        self.values[LogField::Loss.index()].map(|loss| loss.column.id)
    }

    /// Gives a record its step by counting, if the user said how far apart losses are. A step that it has does not
    /// count.
    fn count_step(&mut self) {
        let Some(log_every) = self.log_every else { return };
        let has_loss = self.values[LogField::Loss.index()].is_some();
        self.n_counted += u64::from(has_loss);
        self.has_own_steps |= self.values[0].is_some();
        if has_loss || self.values[0].is_some() {
            self.set_step(self.n_counted.saturating_mul(log_every));
        }
    }

    /// Discards what was read from a column when one with a better name appears.
    fn note_better_columns(&mut self) {
        for (best, value) in self.best.iter_mut().zip(self.values) {
            let Some(column) = value.map(|value| value.column) else { continue };
            let Some(old) = best else {
                *best = Some(column);
                continue;
            };
            if column.rank >= old.rank {
                continue;
            }
            *best = Some(column);
            for attempt in self.attempts.iter_mut().chain([&mut self.attempt]) {
                match column.field {
                    LogField::Step => self.n_without_step += attempt.clear(),
                    LogField::Tokens => attempt.forget(|entry| entry.tokens = None),
                    LogField::Loss => attempt.forget(|entry| entry.loss = None),
                    LogField::LearningRate => attempt.forget(|entry| entry.learning_rate = None),
                    LogField::GradNorm => attempt.forget(|entry| entry.grad_norm = None),
                }
            }
        }
    }

    fn keep_record(&mut self) {
        let [step, tokens, loss, learning_rate, grad_norm] = self.values.map(|value| {
            let value = value?;
            let best = self.best.get(value.column.field.index()).copied().flatten();
            (best?.rank == value.column.rank).then_some(value.number)
        });
        let Some(step) = step.and_then(LogNumber::whole) else {
            self.n_without_step += 1;
            return;
        };
        if let Some((column, iteration)) = self.iteration
            && self.values[0].is_some_and(|step| step.column.id != column && step.column.rank != GIVEN_RANK)
        {
            self.micro_batches.n_records += 1;
            self.micro_batches.n_one_less += usize::from(iteration.checked_sub(1) == Some(step));
            if self.micro_batches.column.is_empty() {
                self.names.name(column).clone_into(&mut self.micro_batches.column);
            }
        }
        let entry = LogEntry {
            step: Step(step),
            tokens: tokens.and_then(LogNumber::whole).map(Tokens),
            loss: loss.map(LogNumber::real),
            learning_rate: learning_rate.map(LogNumber::real),
            grad_norm: grad_norm.map(LogNumber::real),
        };
        if !entry.is_empty() {
            self.attempt.push(entry);
        }
    }

    /// Drops the current record.
    pub(super) fn drop_record(&mut self) {
        self.values = [None; 5];
        self.iteration = None;
        self.nulls.current = None;
        self.names.begin_record();
    }

    /// Decides about the columns and makes the log. Starting and ending files is optional if there is only one.
    pub(super) fn finish(mut self) -> Result<StepLog, LogError> {
        if self.attempts.is_empty() {
            self.end_file()?;
        }
        self.check_columns()?;
        // A step that was set by counting, or that the user named, has no rival.
        if let Some(pair) = self.rivals.disagreement().filter(|_| self.takes_a_known_step()) {
            let names = pair.map(|(id, _)| self.names.name(id).to_owned());
            return Err(LogError::StepsDisagree { names, values: pair.map(|(_, step)| Step(step)) });
        }
        let joined = join_attempts(std::mem::take(&mut self.attempts));
        let (mut entries, order_notes) = joined.map_err(|(n_restarts, last)| self.within_epoch(n_restarts, last))?;
        if self.micro_batches.n_records > 0 && self.micro_batches.n_records == self.micro_batches.n_one_less {
            entries = self.steps_by_tokens(entries)?;
        }
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(order_notes);
        notes.extend(self.nulls.take_as_nan(&mut entries));
        notes.extend(self.count_notes());
        let columns: BTreeMap<LogField, String> = LogField::ALL
            .into_iter()
            .zip(self.best)
            .filter_map(|(field, best)| Some((field, self.names.name(best?.id).to_owned())))
            .collect();
        Ok(StepLog { entries, columns, notes })
    }

    fn takes_a_known_step(&self) -> bool {
        let best = self.best[LogField::Step.index()];
        // `completed_steps` and the like say what they count, whatever is beside them.
        best.is_some_and(StepRivals::is_unclear)
    }

    fn within_epoch(&self, n_restarts: usize, last: Step) -> LogError {
        let column = self.best[LogField::Step.index()].filter(|column| column.id != u16::MAX);
        let column = column.map(|column| self.names.name(column.id).to_owned());
        LogError::WithinEpoch { column, n_restarts, last }
    }

    fn count_notes(&mut self) -> Vec<LogNote> {
        let mut notes = Vec::new();
        if let Some(first) = self.damage.first.take() {
            notes.push(LogNote::Damaged { n_lines: self.damage.n, first });
        }
        if self.n_headers > 0 {
            notes.push(LogNote::RepeatedHeader { n_lines: self.n_headers });
        }
        if self.n_without_step > 0 {
            notes.push(LogNote::NoStep { n_records: self.n_without_step });
        }
        if let Some(log_every) = self.log_every.filter(|_| self.has_own_steps) {
            notes.push(LogNote::StepsCounted { log_every });
        }
        if self.n_large > 0 {
            notes.push(LogNote::LargeRecords { n_records: self.n_large });
        }
        if let Some(loss) = self.best[LogField::Loss.index()].filter(|loss| loss.rank == ENDING_RANK) {
            notes.push(LogNote::LossByEnding { name: self.names.name(loss.id).to_owned() });
        }
        notes
    }

    fn check_columns(&self) -> Result<(), LogError> {
        let found = || self.names.listed();
        if self.best[LogField::Step.index()].is_none()
            && let Some((id, value)) = self.not_whole
        {
            return Err(LogError::NotWhole { name: self.names.name(id).to_owned(), value: value.to_string() });
        }
        for (field, name) in self.names.map().iter() {
            if self.best.get(field.index()).copied().flatten().is_none() {
                return Err(LogError::NoSuchColumn { field, name: name.to_owned(), found: found() });
            }
        }
        for field in [LogField::Step, LogField::Loss] {
            let Some(best) = self.best.get(field.index()).copied().flatten() else {
                return Err(LogError::NoColumn { field, found: found() });
            };
            if best.rank == ENDING_RANK && self.endings.len() > 1 {
                return Err(LogError::NoColumn { field, found: found() });
            }
            if let Some((a, b)) = self.clash.filter(|(a, _)| a.field == field && a.rank == best.rank) {
                let names = [a, b].map(|column| self.names.name(column.id).to_owned()).to_vec();
                return Err(LogError::Ambiguous { field, names });
            }
        }
        Ok(())
    }

    /// Computes the steps of a log that counts micro-batches from its tokens.
    fn steps_by_tokens(&self, entries: Vec<LogEntry>) -> Result<Vec<LogEntry>, LogError> {
        let has_tokens = self.best[LogField::Tokens.index()].is_some();
        let refuse = || LogError::MicroBatches { column: self.micro_batches.column.clone(), has_tokens };
        let TokensPerStep(per_step) = self.tokens_per_step.ok_or_else(refuse)?;
        let mut by_step: Vec<LogEntry> = Vec::new();
        for entry in entries {
            let Some(step) = entry.tokens.and_then(|tokens| tokens.0.checked_div(per_step)) else { continue };
            let entry = LogEntry { step: Step(step), ..entry };
            match by_step.last_mut() {
                Some(last) if last.step >= entry.step => last.take(&entry),
                _ => by_step.push(entry),
            }
        }
        if by_step.is_empty() { Err(refuse()) } else { Ok(by_step) }
    }
}
