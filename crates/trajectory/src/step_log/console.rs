//! Reads what trainers print: lines of Megatron and torchtitan, dictionaries of Hugging Face's Trainer, and the like.
//!
//! Each line is searched for names of columns that are known or given, each followed by a number. Everything else is
//! ignored.

use std::borrow::Cow;

use super::builder::LogBuilder;
use super::columns::ColumnMap;
use super::field::LogField;
use super::lines::{Line, LineFormat, read_text};
use super::number::LogNumber;
use super::{LogError, StepLog};

/// The most words of one name, such as `lm loss`.
const MAX_WORDS: usize = 4;
/// The longest number.
const MAX_NUMBER_BYTES: usize = 32;
/// Levels that loggers put before a message.
const LEVELS: [&str; 4] = ["INFO", "WARNING", "DEBUG", "ERROR"];

/// Reads the console output of a trainer.
///
/// These forms are known: `iteration 100/ 5000 | lm loss: 2.5E+00 |` of Megatron, `step: 10  loss: 2.5` of torchtitan,
/// a line with the step and indented metrics below it as OLMo-core prints them, and printed dictionaries. The
/// dictionaries of Hugging Face's Trainer have no step: it is taken from the progress bar after each, `10/5000 [`.
///
/// # Errors
/// `NoColumn` if no line has a loss, or none has a step; `NoSuchColumn`; `TooManyRecords`.
///
/// # Example
/// ```
/// use thalweg_trajectory::{ColumnMap, Step, parse_console};
///
/// let text = b" iteration      100/    5000 | learning rate: 3.0E-04 | lm loss: 2.5E+00 | grad norm: 0.4 |\n";
/// let log = parse_console(text, &ColumnMap::default())?;
/// assert_eq!((log.last_step(), log.entries()[0].loss), (Some(Step(100)), Some(2.5)));
/// # Ok::<(), thalweg_trajectory::LogError>(())
/// ```
pub fn parse_console(bytes: &[u8], columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_text(bytes, &mut Console::default(), &mut builder)?;
    builder.finish()
}

/// The state between lines.
#[derive(Debug, Default)]
pub(super) struct Console {
    /// The process whose lines are read: all processes of a group print the same.
    rank: Option<u64>,
    /// The step of a line, for the indented lines below it.
    heading: Option<u64>,
    /// Whether the record that is being read has values and no step.
    is_waiting: bool,
    /// Whether nothing was printed since that record.
    is_at_record: bool,
    bars: Bars,
    /// The bars of epochs, which Lightning draws.
    epoch_bars: EpochBars,
}

/// Bars that count the batches of an epoch. They give no step: an epoch's batches are not the run's steps.
#[derive(Debug, Default)]
struct EpochBars {
    /// How many had values.
    n: usize,
    /// The title and the count of the last one: the same bar is often drawn again.
    last: Option<(Vec<u8>, u64)>,
}

/// The progress bars between records without a step.
#[derive(Debug, Default)]
struct Bars {
    /// Steps of the bar that counts: the one with the most steps, because evaluations have bars too. The preparation
    /// of data may have a bar with still more, which no record follows.
    total: u64,
    newest: Option<u64>,
    /// Whether a record has its step from the bar that counts.
    has_given: bool,
    n_with: usize,
    n_without: usize,
}

impl LineFormat for Console {
    fn read_line(&mut self, line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        let text = strip_colours(line.text);
        for part in text.split(|byte| *byte == b'\r') {
            self.read_part(part, builder)?;
        }
        Ok(())
    }

    fn end(&mut self, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        self.end_record(builder)?;
        if builder.is_file_empty() && self.epoch_bars.n > 0 {
            return Err(LogError::EpochBars);
        }
        // Bars and dictionaries that do not alternate were buffered separately: nothing shows which belong together.
        if self.bars.n_without > self.bars.n_with && self.bars.n_with > 0 && !builder.counts_records() {
            return Err(LogError::NoColumn { field: LogField::Step, found: builder.listed() });
        }
        Ok(())
    }
}

impl Bars {
    /// Whether a bar counts. Trainer redraws its bar directly after each dictionary that it prints, which makes that
    /// bar the one of training, whatever larger ones came before.
    fn count(&mut self, bar: &Bar<'_>, is_at_record: bool) -> bool {
        let takes_over = is_at_record && !self.has_given;
        if bar.total < self.total && !takes_over {
            return false;
        }
        if bar.total != self.total {
            self.total = bar.total;
            self.has_given = false;
        }
        self.newest = Some(bar.done);
        true
    }
}

impl Console {
    fn read_part(&mut self, part: &[u8], builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        if part.trim_ascii().is_empty() {
            return Ok(());
        }
        let is_at_record = std::mem::take(&mut self.is_at_record);
        if let Some(bar) = read_bar(part) {
            if self.bars.count(&bar, is_at_record) {
                self.take_bar(&bar, builder)?;
            }
            return Ok(());
        }
        let rank = read_rank(part);
        if let Some(rank) = rank
            && *self.rank.get_or_insert(rank) != rank
        {
            return Ok(());
        }
        // Metrics below a line with their step. A dictionary is a whole record, wherever a bar left the cursor.
        let is_indented = self.heading.is_some()
            && (part.starts_with(b"  ") || part.starts_with(b"\t"))
            && memchr::memmem::find(part, b"{'").is_none();
        if !is_indented {
            if !holds_a_name(part, builder) {
                return Ok(());
            }
            self.end_record(builder)?;
            self.heading = None;
        }
        let mut step = None;
        let mut has_values = false;
        for (name, number) in (Pairs { text: part, at: 0 }) {
            let Some(column) = builder.find_column(strip_level(name)) else { continue };
            if column.field == LogField::Step {
                if let Some(n) = number.whole()
                    && step.is_none_or(|(rank, _)| column.rank < rank)
                {
                    step = Some((column.rank, n));
                }
            } else {
                builder.push_value(column, number);
                has_values = true;
            }
        }
        let step = step.map(|(_, step)| step).or_else(|| leading_count(part));
        self.heading = step.or(self.heading);
        if has_values {
            match self.heading {
                Some(step) => builder.set_step(step),
                None => {
                    self.is_waiting = true;
                    self.is_at_record = true;
                }
            }
        }
        Ok(())
    }

    /// Ends the record that is being read.
    fn end_record(&mut self, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        if !builder.has_values() {
            builder.drop_record();
            return Ok(());
        }
        if std::mem::take(&mut self.is_waiting) && !builder.counts_records() {
            match self.bars.newest.take() {
                Some(step) => {
                    builder.set_step(step);
                    self.bars.n_with += 1;
                    self.bars.has_given = true;
                }
                None => self.bars.n_without += 1,
            }
        }
        builder.end_record()
    }

    fn take_bar(&mut self, bar: &Bar<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        // Trainer redraws its bar after each dictionary that it prints. A record with its own step keeps it.
        if self.is_waiting || builder.has_values() {
            self.end_record(builder)?;
        }
        // Values may follow a bar: `10/5000 [00:10<1:23:20, loss=2.5]`. The bars of epochs restart at 0.
        let is_of_epoch = memchr::memmem::find(bar.title, b"poch").is_some();
        let mut step = Some(bar.done).filter(|_| !is_of_epoch);
        for (name, number) in (Pairs { text: bar.values, at: 0 }) {
            let Some(column) = builder.find_column(name) else { continue };
            match column.field {
                LogField::Step => step = number.whole().or(step),
                _ => builder.push_value(column, number),
            }
        }
        if !builder.has_values() {
            builder.drop_record();
            return Ok(());
        }
        match step {
            Some(step) => builder.set_step(step),
            None => {
                let drawn = (bar.title.trim_ascii().to_vec(), bar.done);
                let is_new = self.epoch_bars.last.as_ref() != Some(&drawn);
                self.epoch_bars.n += 1;
                self.epoch_bars.last = Some(drawn);
                if !is_new || !builder.counts_records() {
                    builder.drop_record();
                    return Ok(());
                }
            }
        }
        builder.end_record()
    }
}

/// Removes the escape sequences that set colours in a terminal.
fn strip_colours(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(0x1b, text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(0x1b, rest) {
        let (before, escape) = rest.split_at(at);
        out.extend_from_slice(before);
        let body = escape.get(1..).unwrap_or_default();
        let end = body.iter().skip(1).position(|byte| byte.is_ascii_alphabetic());
        let skip = if body.first() == Some(&b'[') { end.map_or(body.len(), |end| end + 2) } else { 0 };
        rest = body.get(skip..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// A progress bar as tqdm draws it: `title:  1%|▏ | 10/5000 [00:10<1:23:20, loss=2.5]`.
#[derive(Debug, PartialEq, Eq)]
struct Bar<'a> {
    title: &'a [u8],
    done: u64,
    total: u64,
    values: &'a [u8],
}

fn read_bar(part: &[u8]) -> Option<Bar<'_>> {
    let (title, rest) = part.split_at(memchr::memmem::find(part, b"%|")?);
    let (head, values) = rest.split_at(memchr::memmem::find(rest, b" [")?);
    let counts = head.get(memchr::memrchr(b'|', head)? + 1..)?;
    let (done, total) = std::str::from_utf8(counts).ok()?.trim().split_once('/')?;
    Some(Bar { title, done: done.parse().ok()?, total: total.parse().ok()?, values })
}

/// The step in `10/2000 train_loss:3.98`, at the beginning of a line.
fn leading_count(part: &[u8]) -> Option<u64> {
    let word = part.trim_ascii_start().split(u8::is_ascii_whitespace).next()?;
    let (done, total) = std::str::from_utf8(word).ok()?.split_once('/')?;
    let (done, total): (u64, u64) = (done.parse().ok()?, total.parse().ok()?);
    (done <= total).then_some(done)
}

/// The process in `[rank0]:` or `[default0]:`.
fn read_rank(part: &[u8]) -> Option<u64> {
    let after = [&b"[rank"[..], b"[default"].into_iter().find_map(|word| {
        let at = memchr::memmem::find(part.get(..part.len().min(64))?, word)?;
        part.get(at + word.len()..)
    })?;
    let end = after.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(after.get(..end)?).ok()?.parse().ok()
}

/// Whether a line may hold a value. Most console lines do not, and need not be searched.
fn holds_a_name(part: &[u8], builder: &LogBuilder<'_>) -> bool {
    let holds = |word: &[u8]| memchr::memmem::find(part, word).is_some();
    let known: [&[u8]; 7] = [b"loss", b"Loss", b"LOSS", b"step", b"Step", b"iter", b"Iter"];
    known.into_iter().any(holds) || builder.given_names().any(|name| holds(name.as_bytes()))
}

fn strip_level(name: &str) -> &str {
    LEVELS.iter().find_map(|level| name.strip_prefix(level)?.strip_prefix(' ')).unwrap_or(name)
}

/// The names in a line that are followed by a number.
#[derive(Debug)]
struct Pairs<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, LogNumber);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.text.len() {
            let start = self.at;
            let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_');
            let rest = self.text.get(start..)?;
            let token_bytes = rest.iter().take_while(|byte| is_token(byte)).count();
            let length = token_bytes + thousands(rest, token_bytes);
            self.at = start + length.max(1);
            let is_begun = start == 0 || !self.text.get(start - 1).is_some_and(|byte| matches!(byte, b'/' | b','));
            if length == 0 || length > MAX_NUMBER_BYTES || !is_begun {
                continue;
            }
            let token = std::str::from_utf8(rest.get(..length)?).unwrap_or_default().trim_end_matches('.');
            let Some(number) = LogNumber::parse(&token.replace(',', "")) else { continue };
            let before = self.text.get(..start)?;
            if let Some(name) = name_before(before) {
                return Some((name, number));
            }
        }
        None
    }
}

/// Length in bytes of the groups such as `,350` after the first digits of a number.
fn thousands(text: &[u8], n_first: usize) -> usize {
    let is_first =
        (1..=3).contains(&n_first) && text.get(..n_first).is_some_and(|first| first.iter().all(u8::is_ascii_digit));
    let is_group = |rest: &[u8]| {
        matches!(rest, [b',', a, b, c, ..] if [a, b, c].iter().all(|byte| byte.is_ascii_digit()))
            && !rest.get(4).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'))
    };
    let mut n = 0;
    while is_first && text.get(n_first + n..).is_some_and(is_group) {
        n += 4;
    }
    n
}

/// The name that a number belongs to, with or without a colon or an equals sign between them.
fn name_before(text: &[u8]) -> Option<&str> {
    let trim = |text: &'_ [u8], odd: fn(&u8) -> bool| text.iter().rposition(|byte| !odd(byte)).map(|last| last + 1);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let is_blank_or_quote = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\'' | b'"');
    let text = text.get(..trim(text, is_blank_or_quote)?)?;
    let text = text.strip_suffix(b":").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let text = text.get(..trim(text, is_blank)?)?;
    if let Some((quote @ (b'\'' | b'"'), inner)) = text.split_last() {
        let start = memchr::memrchr(*quote, inner)? + 1;
        return std::str::from_utf8(inner.get(start..)?).ok();
    }
    let mut start = text.len();
    for _ in 0..MAX_WORDS {
        let end = match start {
            start if start == text.len() => start,
            // One blank is part of a name, two separate names.
            _ if text.get(..start)?.ends_with(b" ") => start - 1,
            _ => break,
        };
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-' | b'(' | b')');
        let n = text.get(..end)?.iter().rev().take_while(|byte| is_part(byte)).count();
        let word = text.get(end - n..end)?;
        // `LR (group 0)` has a number in it.
        let is_closed = word.last() == Some(&b')');
        if !is_closed && !word.first().is_some_and(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'(')) {
            break;
        }
        start = end - n;
    }
    let name = std::str::from_utf8(text.get(start..)?).ok()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(&str, f64)> {
        Pairs { text: text.as_bytes(), at: 0 }.map(|(name, number)| (name, number.real())).collect()
    }

    #[test]
    fn names_and_numbers_are_found_in_lines() {
        let megatron =
            "iteration      100/  500000 | learning rate: 1.000000E-04 | lm loss: 6.7E+00 | loss scale: 1.0 |";
        let found = [("iteration", 100.0), ("learning rate", 1e-4), ("lm loss", 6.7), ("loss scale", 1.0)];
        assert_eq!(pairs(megatron), found);
        assert_eq!(pairs("{'loss': '2.5', 'epoch': 0.1}"), [("loss", 2.5), ("epoch", 0.1)]);
        assert!(pairs("{'loss': nan}")[0].1.is_nan());
        assert_eq!(pairs("step: 10  loss:  7.1234  memory: 10.00GiB(12%)"), [("step", 10.0), ("loss", 7.1234)]);
        assert_eq!(pairs("it found 3 places"), [("it found", 3.0)]);
        assert_eq!(
            pairs("step: 1,350 loss: 2.6 tokens: 1,234,567"),
            [("step", 1350.0), ("loss", 2.6), ("tokens", 1_234_567.0)]
        );
        assert_eq!(pairs("step: 1,35 loss: 2.6"), [("step", 1.0), ("loss", 2.6)]);
        assert_eq!(
            pairs("validation loss at iteration 10 | validation loss: 2.5"),
            [("validation loss at iteration", 10.0), ("validation loss", 2.5)]
        );
        let bar = read_bar("  1%|▏         | 10/5000 [00:10<1:23:20,  1.00s/it]".as_bytes()).unwrap();
        assert_eq!((bar.done, bar.total), (10, 5000));
        assert_eq!(&*strip_colours(b"\x1b[31mstep: 1\x1b[0m\x1b"), b"step: 1");
        assert_eq!(read_rank(b"[rank12]:[titan] x"), Some(12));
    }

    #[test]
    fn a_line_that_says_its_step_keeps_it_beside_a_progress_bar() {
        let line =
            |step: u64| format!("\r 12%|#  | {}/2000 [00:10<1:23]\nstep: {step} loss: 2.5 lr: 3.0e-04\n", step + 3);
        let text: String = (1..=20).map(|i| line(10 * i)).collect();
        let log = parse_console(text.as_bytes(), &ColumnMap::default()).unwrap();
        let steps: Vec<u64> = log.entries().iter().map(|entry| entry.step.0).collect();
        assert_eq!(steps, (1..=20).map(|i| 10 * i).collect::<Vec<_>>());
    }
}
