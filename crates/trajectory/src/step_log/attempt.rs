//! Puts records in order: runs that went back, lines out of order, and several logs of one run.

use super::{LogEntry, LogNote};
use crate::Step;

/// The most notes that are kept: a log that goes back all the time would fill memory with them.
const MAX_REWIND_NOTES: usize = 100;

impl LogEntry {
    /// Takes over the values of a later record of the same step.
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

/// Least returns to the beginning that show that steps count within an epoch: a run that crashed may start over.
const LEAST_ROUNDS: usize = 2;

/// The times that a log went back to its beginning. Where steps count within an epoch, all epochs but the last end
/// alike.
#[derive(Debug, Default)]
struct Rounds {
    n: usize,
    /// The lowest and the highest last step.
    ends: Option<(Step, Step)>,
    /// The largest spacing of steps at the end of a round.
    spacing: u64,
    /// Times that it went back to another step.
    n_others: usize,
}

impl Rounds {
    fn add(&mut self, end: Step, spacing: u64) {
        self.n += 1;
        self.spacing = self.spacing.max(spacing);
        self.ends = Some(self.ends.map_or((end, end), |(low, high)| (low.min(end), high.max(end))));
    }

    /// Where all rounds end, if they end alike, give or take the spacing of the steps.
    fn end_of_all(&self) -> Option<Step> {
        let (low, high) = self.ends.filter(|_| self.n >= LEAST_ROUNDS && self.n_others == 0)?;
        (high.0 - low.0 <= self.spacing).then_some(high)
    }
}

/// The records of a file as they were read, kept until it is clear that the newest is not the first: tables that were
/// exported or sorted by time often are that way round.
#[derive(Debug)]
struct Unsorted {
    /// `None` once it is clear.
    records: Option<Vec<LogEntry>>,
    last: Option<Step>,
    n_rises: usize,
    n_falls: usize,
}

impl Default for Unsorted {
    fn default() -> Self {
        Self { records: Some(Vec::new()), last: None, n_rises: 0, n_falls: 0 }
    }
}

impl Unsorted {
    /// So many more steps up than down show that a file begins with its oldest record.
    const CLEAR_LEAD: usize = 16;
    /// So many steps down, and so many for each one up, show that it begins with its newest: a run that is resumed goes
    /// back now and then only.
    const LEAST_FALLS: usize = 3;
    const FALLS_PER_RISE: usize = 4;

    fn push(&mut self, new: &LogEntry) {
        let Some(records) = &mut self.records else { return };
        self.n_rises += usize::from(self.last.is_some_and(|last| last < new.step));
        self.n_falls += usize::from(self.last.is_some_and(|last| last > new.step));
        self.last = Some(new.step);
        records.push(*new);
        if self.n_rises > self.n_falls + Self::CLEAR_LEAD {
            self.records = None;
        }
    }

    /// The records, if the newest is the first.
    fn take_newest_first(&mut self) -> Option<Vec<LogEntry>> {
        let is_newest_first =
            self.n_falls >= Self::LEAST_FALLS && self.n_falls >= Self::FALLS_PER_RISE.saturating_mul(self.n_rises);
        self.records.take().filter(|_| is_newest_first)
    }
}

/// The records of one file, put in order as they are read.
///
/// A loss at an earlier step than the last one means that the run was resumed: everything that the previous attempt
/// logged from that step on is discarded, whatever the spacing of its steps. A single line that fills a gap is merely
/// out of order, and so is a line without a loss.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Ascending.
    entries: Vec<LogEntry>,
    /// Lines out of order, each with the number of times that the run had gone back by then.
    stragglers: Vec<(usize, LogEntry)>,
    /// The steps that the run went back to.
    rewinds: Vec<Step>,
    /// A line that is either out of order or the first after the run went back: the next line decides.
    pending: Option<LogEntry>,
    last_loss: Option<Step>,
    /// The losses before each time that the run went back to its beginning.
    rounds: Rounds,
    notes: Vec<LogNote>,
    unsorted: Unsorted,
    /// When the file was started, in seconds since 1970, if its name says so.
    begun_at: Option<u64>,
}

impl Attempt {
    pub(super) fn new(begun_at: Option<u64>) -> Self {
        Self { begun_at, ..Self::default() }
    }

    pub(super) fn push(&mut self, new: LogEntry) {
        self.unsorted.push(&new);
        self.push_in_order(new);
    }

    fn push_in_order(&mut self, new: LogEntry) {
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
            // Later entries hold only values such as a learning rate.
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

    /// Whether the line before this one left a gap in the spacing of steps that this step fills.
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
        self.count_round(new.step);
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

    /// Counts a return to where the log begins, give or take the spacing of its steps.
    fn count_round(&mut self, to: Step) {
        let spacing = self.spacing();
        let is_beginning = self.entries.first().is_some_and(|first| to.0 <= first.step.0.saturating_add(spacing));
        match self.last_loss.filter(|_| is_beginning) {
            Some(end) => self.rounds.add(end, spacing),
            None => self.rounds.n_others += 1,
        }
    }

    /// The spacing of the last steps.
    fn spacing(&self) -> u64 {
        let mut last = self.entries.iter().rev().map(|entry| entry.step.0);
        last.next().zip(last.next()).map_or(0, |(last, before)| last - before)
    }

    /// How often the steps begin again where they count within an epoch, and where they last do.
    fn epochs(&self) -> Option<(usize, Step)> {
        let end = self.rounds.end_of_all()?;
        // The last epoch may be cut short.
        self.last_loss_left().is_none_or(|last| last.0 <= end.0.saturating_add(self.rounds.spacing)).then_some(())?;
        Some((self.rounds.n, end))
    }

    /// Clears one field of all records so far, because a column with a better name has appeared.
    pub(super) fn forget(&mut self, clear: impl Fn(&mut LogEntry)) {
        self.entries.iter_mut().chain(self.pending.as_mut()).for_each(&clear);
        self.stragglers.iter_mut().for_each(|(_, entry)| clear(entry));
        self.unsorted.records.iter_mut().flatten().for_each(&clear);
    }

    /// Discards all records so far and returns their number.
    pub(super) fn clear(&mut self) -> usize {
        let n = self.entries.len() + self.stragglers.len() + usize::from(self.pending.is_some());
        *self = Self { begun_at: self.begun_at, ..Self::default() };
        n
    }

    fn finish(&mut self) {
        if let Some(records) = self.unsorted.take_newest_first() {
            *self = Self { begun_at: self.begun_at, notes: vec![LogNote::NewestFirst], ..Self::default() };
            records.into_iter().rev().for_each(|record| self.push_in_order(record));
        }
        self.settle_pending(true);
        let mut lowest = Step(u64::MAX);
        // For each time that the run went back, the lowest step that it went back to then or later.
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

/// Adds entries in any order to ascending ones. At the same step the added values replace the old ones.
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
/// Each attempt replaces what earlier ones have from its first loss on. A file without a loss, such as one that holds
/// only learning rates, replaces nothing.
///
/// # Errors
/// How often the steps begin again, and after which one, if they count within an epoch.
pub(super) fn join_attempts(mut attempts: Vec<Attempt>) -> Result<(Vec<LogEntry>, Vec<LogNote>), (usize, Step)> {
    attempts.iter_mut().for_each(Attempt::finish);
    if let Some(epochs) = attempts.iter().find_map(Attempt::epochs) {
        return Err(epochs);
    }
    attempts.retain(|attempt| !attempt.entries.is_empty() || !attempt.notes.is_empty());
    let mut notes = Vec::new();
    let (attempts, rest): (Vec<Attempt>, Vec<Attempt>) =
        attempts.into_iter().partition(|attempt| attempt.first_loss().is_some());
    let mut entries: Vec<LogEntry> = Vec::new();
    for attempt in in_order(attempts, &mut notes) {
        let first = attempt.first_loss();
        notes.extend(attempt.notes);
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
    notes.truncate(MAX_REWIND_NOTES);
    Ok((entries, notes))
}

/// Sorts attempts by the time in their names. Without such times they stay as given, except that a log that begins and
/// ends before the previous one does is moved before it, as with `log.1`, `log.10`, `log.2` from a shell.
fn in_order(mut attempts: Vec<Attempt>, notes: &mut Vec<LogNote>) -> Vec<Attempt> {
    if attempts.iter().all(|attempt| attempt.begun_at.is_some()) {
        attempts.sort_by_key(|attempt| attempt.begun_at);
        return attempts;
    }
    let mut ordered: Vec<Attempt> = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let (first, last) = (attempt.first_loss(), attempt.last_loss_left());
        // One that began later and came further would otherwise be discarded whole.
        let is_later = |other: &&Attempt| {
            other.first_loss() > last || (other.first_loss() > first && other.last_loss_left() > last)
        };
        let n_later = ordered.iter().rev().take_while(is_later).count();
        if n_later > 0 && !notes.contains(&LogNote::Reordered) {
            notes.push(LogNote::Reordered);
        }
        ordered.insert(ordered.len() - n_later, attempt);
    }
    ordered
}
