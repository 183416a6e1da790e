//! The order of records: a run that went back, lines out of order, and several logs of one run.

use super::{LogEntry, LogNote};
use crate::Step;

/// Notes of going back that are kept: a log that jumps back all the time would fill memory with them.
const MAX_REWIND_NOTES: usize = 100;

impl LogEntry {
    /// Takes what the later record of the same step has.
    pub(super) fn take(&mut self, later: &Self) {
        self.tokens = later.tokens.or(self.tokens);
        self.loss = later.loss.or(self.loss);
        self.learning_rate = later.learning_rate.or(self.learning_rate);
        self.grad_norm = later.grad_norm.or(self.grad_norm);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_none() && self.loss.is_none() && self.learning_rate.is_none() && self.grad_norm.is_none()
    }
}

/// The records of one file, put in order as they come.
///
/// A record whose loss lies before the last one's is that of a run which was resumed: whatever the broken-off attempt
/// had logged from there on is not part of the run any more, on whatever steps it was logged. A lone line that fills a
/// hole is merely out of order, and so is a line without a loss.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Ascending.
    entries: Vec<LogEntry>,
    /// Lines out of order, and how often the run had gone back by then.
    stragglers: Vec<(usize, LogEntry)>,
    /// The step of each time that the run went back to.
    rewinds: Vec<Step>,
    /// A line that may be out of order, or the first after going back: the next one tells.
    pending: Option<LogEntry>,
    last_loss: Option<Step>,
    notes: Vec<LogNote>,
    /// Seconds that the name of the file says it was begun at.
    begun_at: Option<u64>,
}

impl Attempt {
    pub(super) fn new(begun_at: Option<u64>) -> Self {
        Self { begun_at, ..Self::default() }
    }

    pub(super) fn push(&mut self, new: LogEntry) {
        if let Some(pending) = self.pending.as_mut() {
            if pending.step == new.step {
                pending.take(&new);
                return;
            }
            let goes_on = self.last_loss.is_some_and(|last| new.step > last);
            self.settle_pending(goes_on);
        }
        match self.entries.last_mut() {
            Some(last) if last.step == new.step => last.take(&new),
            Some(last) if last.step > new.step => return self.push_earlier(new),
            _ => self.entries.push(new),
        }
        if new.loss.is_some() {
            self.last_loss = Some(new.step);
        }
    }

    fn push_earlier(&mut self, new: LogEntry) {
        if new.loss.is_none() {
            return self.stragglers.push((self.rewinds.len(), new));
        }
        match self.last_loss {
            // Only a learning rate or the like was logged beyond.
            None => self.stragglers.push((self.rewinds.len(), new)),
            Some(last) if last <= new.step => self.stragglers.push((self.rewinds.len(), new)),
            Some(_) if self.fills_hole(new.step) => {
                self.pending = Some(new);
                return;
            }
            Some(_) => return self.rewind(new),
        }
        self.last_loss = Some(new.step);
    }

    /// Whether the line before this one left a hole in the grid of steps into which it fits.
    fn fills_hole(&self, step: Step) -> bool {
        let mut last = self.entries.iter().rev().map(|entry| entry.step.0);
        match (last.next(), last.next(), last.next()) {
            (_, None, _) => true,
            (Some(newest), Some(before), Some(earlier)) if before < step.0 => {
                let gap = before - earlier;
                step.0 - before >= gap && newest - step.0 >= gap
            }
            _ => false,
        }
    }

    fn settle_pending(&mut self, is_out_of_order: bool) {
        let Some(pending) = self.pending.take() else { return };
        if is_out_of_order {
            self.stragglers.push((self.rewinds.len(), pending));
        } else {
            self.rewind(pending);
        }
    }

    fn rewind(&mut self, new: LogEntry) {
        if let Some(from) = self.last_loss
            && self.notes.len() < MAX_REWIND_NOTES
        {
            self.notes.push(LogNote::Rewound { from, to: new.step });
        }
        self.entries.truncate(self.entries.partition_point(|entry| entry.step < new.step));
        self.rewinds.push(new.step);
        self.entries.push(new);
        self.last_loss = Some(new.step);
    }

    /// Forgets one field of everything so far: a column of a better name has come up.
    pub(super) fn forget(&mut self, clear: impl Fn(&mut LogEntry)) {
        self.entries.iter_mut().chain(self.pending.as_mut()).for_each(&clear);
        self.stragglers.iter_mut().for_each(|(_, entry)| clear(entry));
    }

    /// Forgets everything so far, and says how many entries that were.
    pub(super) fn clear(&mut self) -> usize {
        let n = self.entries.len() + self.stragglers.len() + usize::from(self.pending.is_some());
        *self = Self { begun_at: self.begun_at, ..Self::default() };
        n
    }

    fn finish(&mut self) {
        self.settle_pending(true);
        let mut lowest = Step(u64::MAX);
        // The lowest step that was gone back to from each time on.
        let mut lowest_from: Vec<Step> = self
            .rewinds
            .iter()
            .rev()
            .map(|step| {
                lowest = lowest.min(*step);
                lowest
            })
            .collect();
        lowest_from.reverse();
        let is_void = |(n, entry): &(usize, LogEntry)| lowest_from.get(*n).is_some_and(|step| *step <= entry.step);
        let mut stragglers = std::mem::take(&mut self.stragglers);
        stragglers.retain(|straggler| !is_void(straggler));
        overlay(&mut self.entries, stragglers.into_iter().map(|(_, entry)| entry).collect());
        self.entries.retain(|entry| !entry.is_empty());
        self.rewinds = Vec::new();
    }

    fn first_loss(&self) -> Option<Step> {
        self.entries.iter().find(|entry| entry.loss.is_some()).map(|entry| entry.step)
    }

    fn last_loss_left(&self) -> Option<Step> {
        last_loss_of(&self.entries)
    }
}

fn last_loss_of(entries: &[LogEntry]) -> Option<Step> {
    entries.iter().rev().find(|entry| entry.loss.is_some()).map(|entry| entry.step)
}

/// Adds entries in any order to ascending ones; of one step, the later ones count.
fn overlay(entries: &mut Vec<LogEntry>, mut later: Vec<LogEntry>) {
    later.sort_by_key(|entry| entry.step);
    let Some(first) = later.first() else { return };
    let tail = entries.split_off(entries.partition_point(|entry| entry.step < first.step));
    let mut tail = tail.into_iter().peekable();
    let mut add = |entry: LogEntry| match entries.last_mut().filter(|last| last.step == entry.step) {
        Some(last) => last.take(&entry),
        None => entries.push(entry),
    };
    for entry in later {
        while let Some(earlier) = tail.next_if(|earlier| earlier.step <= entry.step) {
            add(earlier);
        }
        add(entry);
    }
    tail.for_each(add);
}

/// Makes one log of the attempts of a run.
///
/// The first loss of each attempt voids what earlier ones have from there on. A file without a loss, such as one with
/// the learning rates alone, voids nothing.
pub(super) fn join_attempts(mut attempts: Vec<Attempt>) -> (Vec<LogEntry>, Vec<LogNote>) {
    attempts.iter_mut().for_each(Attempt::finish);
    attempts.retain(|attempt| !attempt.entries.is_empty() || !attempt.notes.is_empty());
    let mut notes = Vec::new();
    let (attempts, rest): (Vec<Attempt>, Vec<Attempt>) =
        attempts.into_iter().partition(|attempt| attempt.first_loss().is_some());
    let mut entries: Vec<LogEntry> = Vec::new();
    for attempt in in_order(attempts, &mut notes) {
        notes.extend(attempt.notes);
        let first = attempt.entries.iter().find(|entry| entry.loss.is_some()).map(|entry| entry.step);
        if let (Some(from), Some(to)) = (last_loss_of(&entries), first)
            && to <= from
        {
            notes.push(LogNote::Rewound { from, to });
            entries.truncate(entries.partition_point(|entry| entry.step < to));
        }
        if entries.is_empty() {
            entries = attempt.entries;
        } else {
            overlay(&mut entries, attempt.entries);
        }
    }
    let rest: Vec<LogEntry> = rest.into_iter().flat_map(|attempt| attempt.entries).collect();
    overlay(&mut entries, rest);
    if let Some(more) = notes.len().checked_sub(MAX_REWIND_NOTES) {
        notes.truncate(notes.len() - more);
    }
    (entries, notes)
}

/// By the time in their names; else as given, but a log that ends before the one before it begins is read first, as
/// with `log.1`, `log.10`, `log.2` from a shell.
fn in_order(mut attempts: Vec<Attempt>, notes: &mut Vec<LogNote>) -> Vec<Attempt> {
    if attempts.iter().all(|attempt| attempt.begun_at.is_some()) {
        attempts.sort_by_key(|attempt| attempt.begun_at);
        return attempts;
    }
    let mut ordered: Vec<Attempt> = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let last = attempt.last_loss_left();
        let n_later = ordered.iter().rev().take_while(|other| other.first_loss() > last).count();
        if n_later > 0 && !notes.contains(&LogNote::Reordered) {
            notes.push(LogNote::Reordered);
        }
        ordered.insert(ordered.len() - n_later, attempt);
    }
    ordered
}
