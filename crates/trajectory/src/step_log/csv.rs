//! CSV with a header: commas, semicolons or tabs, fields in double quotes where needed.

use std::borrow::Cow;

use super::builder::LogBuilder;
use super::columns::{ColumnMap, ColumnMatch};
use super::field::LogField;
use super::lines::{Line, LineFormat, read_text};
use super::number::{ABSENT, LogNumber};
use super::{LogError, StepLog};

/// A file with more columns than this is not a log.
const MAX_COLUMNS: usize = 65_536;
/// A row over more lines or bytes than this has a quote that is not closed.
const MAX_ROW_LINES: usize = 64;
const MAX_ROW_BYTES: usize = 1 << 16;

/// Reads CSV: the first line names the columns; every line has as many fields; an empty field has no value.
///
/// A header in the middle, as a resumed run writes it, names the columns of the lines after it. Lines with more or
/// fewer fields, or with text in a column of numbers, are skipped and counted.
///
/// # Errors
/// `Line` or `Cell` for the first damaged line where more lines are damaged than not; `NoColumn`, `NoSuchColumn`,
/// `Ambiguous`, `MicroBatches`, `TooManyRecords`.
///
/// # Example
/// ```
/// use thalweg_trajectory::{ColumnMap, Step, parse_csv};
///
/// let log = parse_csv(b"step,\"lm loss\",lr\n100,2.5,3e-4\n200,2.25,3e-4\n", &ColumnMap::default())?;
/// assert_eq!(log.last_step(), Some(Step(200)));
/// # Ok::<(), thalweg_trajectory::LogError>(())
/// ```
pub fn parse_csv(bytes: &[u8], columns: &ColumnMap) -> Result<StepLog, LogError> {
    let mut builder = LogBuilder::new(columns);
    read_text(bytes, &mut Csv::default(), &mut builder)?;
    builder.finish()
}

/// Whether a line names columns: a name is known or given, or the next line has as many fields, with numbers.
pub(super) fn is_header(line: &[u8], next: Option<&[u8]>, builder: &mut LogBuilder<'_>) -> bool {
    let separator = sniff_separator(line);
    let names = header_names(line, separator);
    let is_number = |name: &String| LogNumber::parse(name).is_some();
    if names.iter().any(is_number) {
        return false;
    }
    let below = || next.map(|next| header_names(next, separator)).unwrap_or_default();
    names.iter().any(|name| builder.find_column(name).is_some())
        || (names.len() > 1 && below().len() == names.len() && below().iter().any(is_number))
}

/// The columns of a CSV file, and a row that is not yet complete.
#[derive(Debug, Default)]
pub(super) struct Csv {
    columns: Option<Columns>,
    /// Lines of a row with an open quote.
    waiting: Vec<u8>,
    /// Where the waiting row begins, and how many lines it has.
    waiting_from: usize,
    n_waiting: usize,
}

#[derive(Debug)]
struct Columns {
    separator: u8,
    header: Vec<u8>,
    names: Vec<String>,
    wanted: Vec<Option<ColumnMatch>>,
}

impl LineFormat for Csv {
    fn read_line(&mut self, line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        if self.n_waiting == 0 {
            if !has_open_quote(line.text) {
                return self.read_row(line, builder);
            }
            self.waiting_from = line.number;
        } else {
            self.waiting.push(b'\n');
        }
        self.waiting.extend_from_slice(line.text);
        self.n_waiting += 1;
        if !has_open_quote(&self.waiting) {
            self.n_waiting = 0;
            let row = std::mem::take(&mut self.waiting);
            return self.read_row(Line { text: &row, number: self.waiting_from, ..line }, builder);
        }
        if self.n_waiting >= MAX_ROW_LINES || self.waiting.len() > MAX_ROW_BYTES {
            return self.give_up_row(line.is_ended, builder);
        }
        Ok(())
    }

    fn end(&mut self, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        if self.n_waiting == 1 {
            self.n_waiting = 0;
            builder.count_damage(
                &format!("line {}", self.waiting_from),
                LogError::Line { line: self.waiting_from, message: "a quote is opened but never closed".to_owned() },
            );
            return Ok(());
        }
        while self.n_waiting > 0 {
            self.give_up_row(true, builder)?;
        }
        Ok(())
    }
}

impl Csv {
    /// Counts the first line of the waiting row as damaged, and reads the others again.
    fn give_up_row(&mut self, is_ended: bool, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        let waiting = std::mem::take(&mut self.waiting);
        let (first, n_lines) = (self.waiting_from, self.n_waiting);
        self.n_waiting = 0;
        let error = LogError::Line { line: first, message: "a quote is opened but never closed".to_owned() };
        builder.count_damage(&format!("line {first}"), error);
        for (n, text) in waiting.split(|byte| *byte == b'\n').enumerate().skip(1) {
            let is_ended = is_ended || n + 1 < n_lines;
            let line = Line { text, number: first + n, is_ended, had_nul: false };
            // They are read line by line: a quoted field over several of them is lost.
            if has_open_quote(text) {
                builder.count_damage(&line.place(), line.error("a quote is opened but never closed"));
            } else {
                self.read_row(line, builder)?;
            }
        }
        Ok(())
    }

    fn read_row(&mut self, line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<(), LogError> {
        if line.text.trim_ascii().is_empty() {
            if line.had_nul {
                builder.count_damage(&line.place(), line.error("it is filled with NUL"));
            }
            return Ok(());
        }
        let Some(columns) = &self.columns else {
            self.columns = Some(Columns::read(line, builder)?);
            return Ok(());
        };
        if line.text == columns.header {
            builder.count_header();
            return Ok(());
        }
        match columns.read_row(line.text, builder) {
            Ok(()) => return builder.end_record(),
            Err(_) if columns.is_other_header(line.text, builder) => {
                builder.drop_record();
                builder.count_header();
                self.columns = Some(Columns::read(line, builder)?);
            }
            Err(RowError::Fields(_)) if !line.is_ended => {
                builder.drop_record();
                builder.note_torn_end(&line.place());
            }
            Err(RowError::Fields(message)) => builder.count_damage(&line.place(), line.error(message)),
            Err(RowError::Cell { column, text }) => {
                builder.count_damage(&line.place(), LogError::Cell { line: line.number, column, text });
            }
        }
        Ok(())
    }
}

/// What is wrong with a row.
#[derive(Debug)]
enum RowError {
    Fields(String),
    Cell { column: String, text: String },
}

impl Columns {
    fn read(line: Line<'_>, builder: &mut LogBuilder<'_>) -> Result<Self, LogError> {
        let separator = sniff_separator(line.text);
        let names = header_names(line.text, separator);
        if names.len() > MAX_COLUMNS {
            return Err(line.error(format!("it has more than {MAX_COLUMNS} fields")));
        }
        let wanted = names.iter().map(|name| builder.find_column(name)).collect();
        builder.drop_record();
        Ok(Self { separator, header: line.text.to_vec(), names, wanted })
    }

    fn read_row(&self, row: &[u8], builder: &mut LogBuilder<'_>) -> Result<(), RowError> {
        let fields = Fields { rest: Some(row), separator: self.separator };
        let mut n_fields = 0;
        for field in fields {
            let field = field.map_err(|message| RowError::Fields(message.to_owned()))?;
            if let Some(column) = self.wanted.get(n_fields).copied().flatten() {
                self.read_field(&field, column, n_fields, builder)?;
            }
            n_fields += 1;
        }
        if n_fields == self.names.len() {
            return Ok(());
        }
        Err(RowError::Fields(format!("it has {n_fields} fields, but the header has {}", self.names.len())))
    }

    fn read_field(
        &self,
        field: &[u8],
        column: ColumnMatch,
        idx: usize,
        builder: &mut LogBuilder<'_>,
    ) -> Result<(), RowError> {
        let text = String::from_utf8_lossy(field);
        let text = text.trim();
        if ABSENT.contains(&text) {
            builder.push_null_value(column);
            return Ok(());
        }
        if let Some(number) = LogNumber::parse(text) {
            builder.push_value(column, number);
            return Ok(());
        }
        let text = text.chars().take(40).collect();
        Err(RowError::Cell { column: self.names.get(idx).cloned().unwrap_or_default(), text })
    }

    /// Whether a row that cannot be read is a header with a step: a resumed run may write other columns.
    fn is_other_header(&self, row: &[u8], builder: &mut LogBuilder<'_>) -> bool {
        let names = header_names(row, self.separator);
        let is_name = |name: &String| name.chars().any(char::is_alphabetic) && LogNumber::parse(name).is_none();
        names.len() > 1
            && names.iter().all(is_name)
            && names.iter().any(|name| builder.find_column(name).is_some_and(|found| found.field == LogField::Step))
    }
}

fn header_names(line: &[u8], separator: u8) -> Vec<String> {
    let fields = Fields { rest: Some(line), separator };
    let text = |field: Cow<'_, [u8]>| String::from_utf8_lossy(&field).trim().to_owned();
    fields.map(|field| field.map(text).unwrap_or_default()).take(MAX_COLUMNS + 1).collect()
}

/// Whether a text has an odd number of quotes: within a field, two quotes mean one.
fn has_open_quote(text: &[u8]) -> bool {
    memchr::memchr_iter(b'"', text).count() % 2 == 1
}

/// The separator that occurs most often in the header, outside quotes.
fn sniff_separator(header: &[u8]) -> u8 {
    let count = |separator: u8| {
        let mut is_quoted = false;
        let mut n = 0usize;
        for byte in header {
            is_quoted ^= *byte == b'"';
            n += usize::from(*byte == separator && !is_quoted);
        }
        n
    };
    // The comma comes last, so that it wins a tie.
    [b'\t', b';', b','].into_iter().max_by_key(|separator| count(*separator)).unwrap_or(b',')
}

/// The fields of a row.
#[derive(Debug)]
struct Fields<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Cow<'a, [u8]>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            return Some(self.next_quoted(quoted));
        }
        let end = memchr::memchr(self.separator, rest);
        self.rest = end.and_then(|end| rest.get(end + 1..));
        Some(Ok(Cow::Borrowed(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default())))
    }
}

impl<'a> Fields<'a> {
    fn next_quoted(&mut self, mut rest: &'a [u8]) -> Result<Cow<'a, [u8]>, &'static str> {
        let mut field = Vec::new();
        self.rest = None;
        loop {
            let end = memchr::memchr(b'"', rest).ok_or("a quote is opened but never closed")?;
            let (part, tail) = rest.split_at(end);
            field.extend_from_slice(part);
            let tail = tail.get(1..).unwrap_or_default();
            // Two quotes mean one.
            if let Some(more) = tail.strip_prefix(b"\"") {
                field.push(b'"');
                rest = more;
                continue;
            }
            self.rest = match tail.split_first() {
                None => None,
                Some((byte, more)) if *byte == self.separator => Some(more),
                Some(_) => return Err("text follows a closed quote"),
            };
            return Ok(Cow::Owned(field));
        }
    }
}
