//! Which column is which, and how records become entries: the names trainers use, and what happens when a run went back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::{LogEntry, LogError, LogNote, MAX_LOG_RECORDS, StepLog};
use crate::{Error, Step, Tokens};

/// Names kept for the error that lists them.
const MAX_NAMES: usize = 50;
/// Longer names are no column of ours, and would only fill memory.
const MAX_NAME_BYTES: usize = 256;

/// What is read from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogField {
    /// The step.
    Step,
    /// Training tokens so far.
    Tokens,
    /// Training loss.
    Loss,
    /// Learning rate.
    LearningRate,
    /// Norm of the gradient.
    GradNorm,
}

impl LogField {
    const ALL: [Self; 5] = [Self::Step, Self::Tokens, Self::Loss, Self::LearningRate, Self::GradNorm];

    /// Names as trainers write them, the first that occurs is taken: a state of Hugging Face's Trainer ends with the
    /// mean `train_loss` of the whole run beside the `loss` of each step.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Step => &["step", "global_step", "iteration", "_step"],
            Self::Tokens => &["tokens", "num_tokens", "num_input_tokens_seen", "consumed_tokens"],
            Self::Loss => &["loss", "train_loss", "lm_loss"],
            Self::LearningRate => &["learning_rate", "lr"],
            Self::GradNorm => &["grad_norm", "gradient_norm"],
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for LogField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Loss => "loss",
            Self::LearningRate => "learning rate",
            Self::GradNorm => "gradient norm",
        })
    }
}

/// Names of columns that the user gives, for fields whose names are not known ones.
///
/// # Example
/// ```
/// use thalweg_trajectory::{ColumnMap, LogField};
///
/// let columns: ColumnMap = "loss=train/ce,lr=opt/lr".parse()?;
/// assert_eq!(columns.get(LogField::LearningRate), Some("opt/lr"));
/// # Ok::<(), thalweg_trajectory::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnMap {
    names: BTreeMap<LogField, String>,
}

impl ColumnMap {
    /// The name given for a field.
    pub fn get(&self, field: LogField) -> Option<&str> {
        self.names.get(&field).map(String::as_str)
    }

    /// Sets the name for a field.
    pub fn set(&mut self, field: LogField, name: &str) {
        self.names.insert(field, name.to_owned());
    }
}

impl FromStr for ColumnMap {
    type Err = Error;

    /// Reads `loss=NAME,lr=NAME,...`; the words on the left are the known names of a field.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |part: &str| Error::BadColumns { text: part.to_owned() };
        let mut map = Self::default();
        for part in text.split(',') {
            let (word, name) = part.split_once('=').ok_or_else(|| refuse(part))?;
            let word = simplify(word.trim());
            let field = LogField::ALL.into_iter().find(|field| field.names().contains(&&*word));
            let name = name.trim();
            let fresh =
                field.is_some_and(|field| !name.is_empty() && map.names.insert(field, name.to_owned()).is_none());
            if !fresh {
                return Err(refuse(part));
            }
        }
        Ok(map)
    }
}

/// One spelling for what trainers spell in many ways: `lm loss`, `learning-rate`, `train.loss`.
fn simplify(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            ' ' | '-' => '_',
            '.' => '/',
            _ => c.to_ascii_lowercase(),
        })
        .collect()
}

/// A number as it was written: whole ones stay exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LogNumber {
    Whole(u64),
    Real(f64),
}

impl LogNumber {
    /// Reads a number in decimal, NaN and infinities as Python and others write them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        text.parse().ok().map(Self::Real)
    }

    fn real(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }

    /// The number if it is whole: data frames write steps as `1000.0`.
    fn whole(self) -> Option<u64> {
        match self {
            Self::Whole(n) => Some(n),
            Self::Real(x) => {
                let fits = (0.0..9.0e15).contains(&x) && x.fract() == 0.0;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, just checked")]
                fits.then_some(x as u64)
            }
        }
    }
}

/// Which field a name may be, and how good a match it is (0 is best).
#[derive(Debug, Clone, Copy)]
struct Match {
    field: LogField,
    rank: u8,
}

#[derive(Debug, Clone, Copy)]
struct Ranked<T> {
    rank: u8,
    value: T,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    step: Option<Ranked<u64>>,
    tokens: Option<Ranked<u64>>,
    reals: [Option<Ranked<f64>>; 3],
}

/// Collects records of columns whose meaning is settled at the end, when all names are known.
#[derive(Debug)]
pub(super) struct LogBuilder<'a> {
    map: &'a ColumnMap,
    seen: BTreeMap<String, Option<Match>>,
    names: BTreeSet<String>,
    best: [Option<(u8, String)>; 5],
    records: Vec<Record>,
    current: Record,
    is_current_useful: bool,
    n_without_step: usize,
    n_large: usize,
    notes: Vec<LogNote>,
}

impl<'a> LogBuilder<'a> {
    pub(super) fn new(map: &'a ColumnMap) -> Self {
        Self {
            map,
            seen: BTreeMap::new(),
            names: BTreeSet::new(),
            best: Default::default(),
            records: Vec::new(),
            current: Record::default(),
            is_current_useful: false,
            n_without_step: 0,
            n_large: 0,
            notes: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, note: LogNote) {
        self.notes.push(note);
    }

    pub(super) fn count_large_record(&mut self) {
        self.n_large += 1;
    }

    /// Whether a column of this name may be one of the fields.
    pub(super) fn is_wanted(&mut self, name: &str) -> bool {
        self.match_name(name).is_some()
    }

    /// Sets the step of the current record where the format itself has one.
    pub(super) fn set_step(&mut self, step: u64) {
        self.current.step = Some(Ranked { rank: 0, value: step });
        if self.best[0].is_none() {
            self.best[0] = Some((0, "step".to_owned()));
        }
    }

    /// Adds a value of the current record.
    pub(super) fn push(&mut self, name: &str, number: LogNumber) {
        let Some(Match { field, rank }) = self.match_name(name) else { return };
        let replaces = |old: Option<u8>| old.is_none_or(|old| rank <= old);
        match field {
            LogField::Step | LogField::Tokens => {
                let slot = if field == LogField::Step { &mut self.current.step } else { &mut self.current.tokens };
                let Some(value) = number.whole() else { return };
                if replaces(slot.map(|old| old.rank)) {
                    *slot = Some(Ranked { rank, value });
                }
            }
            _ => {
                let slot = &mut self.current.reals[field.index() - 2];
                if replaces(slot.map(|old| old.rank)) {
                    *slot = Some(Ranked { rank, value: number.real() });
                }
            }
        }
        self.is_current_useful |= field != LogField::Step;
        let best = &mut self.best[field.index()];
        if best.as_ref().is_none_or(|(old, _)| rank < *old) {
            *best = Some((rank, name.to_owned()));
        }
    }

    /// The step of the current record.
    pub(super) fn current_step(&self) -> Option<u64> {
        self.current.step.map(|step| step.value)
    }

    /// Ends the current record.
    pub(super) fn end_record(&mut self) -> Result<(), LogError> {
        let record = std::mem::take(&mut self.current);
        if std::mem::take(&mut self.is_current_useful) {
            if self.records.len() == MAX_LOG_RECORDS {
                return Err(LogError::TooManyRecords { limit: MAX_LOG_RECORDS });
            }
            self.records.push(record);
        }
        Ok(())
    }

    /// Forgets the current record: it turned out to be cut off.
    pub(super) fn drop_record(&mut self) {
        self.current = Record::default();
        self.is_current_useful = false;
    }

    fn match_name(&mut self, name: &str) -> Option<Match> {
        if name.len() > MAX_NAME_BYTES {
            return None;
        }
        if let Some(known) = self.seen.get(name) {
            return *known;
        }
        let found = self.look_up(name);
        if self.names.len() < MAX_NAMES {
            self.names.insert(name.to_owned());
        }
        // Names beyond this are looked up again each time: memory stays bounded.
        if self.seen.len() < 4096 {
            self.seen.insert(name.to_owned(), found);
        }
        found
    }

    fn look_up(&self, name: &str) -> Option<Match> {
        if let Some((field, _)) = self.map.names.iter().find(|(_, given)| *given == name) {
            return Some(Match { field: *field, rank: 0 });
        }
        let simple = simplify(name);
        let bare = simple.strip_prefix("train/").or_else(|| simple.strip_prefix("trainer/"));
        for field in LogField::ALL {
            if self.map.names.contains_key(&field) {
                continue;
            }
            let position = |wanted: &str| field.names().iter().position(|known| *known == wanted);
            let plain = position(&simple).map(|idx| 2 * idx);
            let prefixed = bare.and_then(position).map(|idx| 2 * idx + 1);
            if let Some(rank) = plain.or(prefixed).and_then(|rank| u8::try_from(rank).ok()) {
                return Some(Match { field, rank });
            }
        }
        None
    }

    /// Settles the columns and makes the entries.
    pub(super) fn finish(mut self) -> Result<StepLog, LogError> {
        let found = || self.names.iter().cloned().collect::<Vec<_>>();
        for (field, name) in &self.map.names {
            if self.best[field.index()].is_none() {
                return Err(LogError::NoSuchColumn { field: *field, name: name.clone(), found: found() });
            }
        }
        for field in [LogField::Step, LogField::Loss] {
            if self.best[field.index()].is_none() {
                return Err(LogError::NoColumn { field, found: found() });
            }
        }
        let ranks = self.best.each_ref().map(|best| best.as_ref().map(|(rank, _)| *rank));
        let mut merger = EntryMerger::default();
        for record in std::mem::take(&mut self.records) {
            match pick(record.step, ranks[0]) {
                Some(step) => merger.push(LogEntry {
                    step: Step(step),
                    tokens: pick(record.tokens, ranks[1]).map(Tokens),
                    loss: pick(record.reals[0], ranks[2]),
                    learning_rate: pick(record.reals[1], ranks[3]),
                    grad_norm: pick(record.reals[2], ranks[4]),
                }),
                None => self.n_without_step += 1,
            }
        }
        let mut notes = self.notes;
        notes.extend(merger.rewound);
        if self.n_without_step > 0 {
            notes.push(LogNote::NoStep { n_records: self.n_without_step });
        }
        if self.n_large > 0 {
            notes.push(LogNote::LargeRecords { n_records: self.n_large });
        }
        let named = LogField::ALL.into_iter().zip(self.best);
        let columns = named.filter_map(|(field, best)| Some((field, best?.1))).collect();
        Ok(StepLog { entries: merger.entries.into_values().collect(), columns, notes })
    }
}

fn pick<T>(value: Option<Ranked<T>>, rank: Option<u8>) -> Option<T> {
    value.filter(|value| Some(value.rank) == rank).map(|value| value.value)
}

/// Merges records of one step, and forgets what a run that went back has overwritten.
#[derive(Debug, Default)]
struct EntryMerger {
    entries: BTreeMap<Step, LogEntry>,
    rewound: Vec<LogNote>,
}

impl EntryMerger {
    fn push(&mut self, new: LogEntry) {
        let newest = self.entries.last_key_value().map(|(step, _)| *step);
        let Some(old) = self.entries.get_mut(&new.step) else {
            if new != (LogEntry { step: new.step, tokens: None, loss: None, learning_rate: None, grad_norm: None }) {
                self.entries.insert(new.step, new);
            }
            return;
        };
        // A second loss at a step that lies behind: the run was resumed from before it. What the broken-off attempt
        // logged later is not part of the run any more. A lone line out of order has a step of its own, or no loss.
        if let Some(newest) = newest
            && newest > new.step
            && new.loss.is_some()
            && old.loss.is_some()
        {
            let _abandoned = self.entries.split_off(&new.step);
            self.entries.insert(new.step, new);
            // A log that jumps back all the time would fill memory with notes.
            if self.rewound.len() < 100 {
                self.rewound.push(LogNote::Rewound { from: newest, to: new.step });
            }
            return;
        }
        old.tokens = new.tokens.or(old.tokens);
        old.loss = new.loss.or(old.loss);
        old.learning_rate = new.learning_rate.or(old.learning_rate);
        old.grad_norm = new.grad_norm.or(old.grad_norm);
    }
}
