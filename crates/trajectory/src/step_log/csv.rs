//! CSV with a header: commas, semicolons or tabs, fields in double quotes where needed.

use std::borrow::Cow;

use super::columns::{ColumnMap, LogBuilder, LogNumber};
use super::{LogError, LogNote, StepLog};

/// More columns than this are no log.
const MAX_COLUMNS: usize = 65_536;
/// What people and libraries write for a value that is not there.
const ABSENT: [&str; 7] = ["", "NA", "N/A", "n/a", "null", "None", "-"];

/// Reads CSV: the first line names the columns; every line has as many fields; an empty field is no value.
///
/// # Errors
/// `Line` for a line with more or fewer fields or an open quote; `Cell` for text in a column of numbers; `NoColumn`,
/// `NoSuchColumn`, `TooManyRecords`.
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
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut builder = LogBuilder::new(columns);
    let mut rows = Rows { rest: bytes, line: 1, separator: sniff_separator(bytes) };
    let Some(header) = rows.next_row() else { return builder.finish() };
    let header = header?;
    let names: Vec<Cow<'_, str>> = header.fields.iter().map(|field| field_text(field)).collect();
    let wanted: Vec<bool> = names.iter().map(|name| builder.is_wanted(name.trim())).collect();
    while let Some(row) = rows.next_row() {
        let row = match row {
            Ok(row) if row.fields.len() == names.len() => row,
            Ok(row) if matches!(&row.fields[..], [only] if only.trim_ascii().is_empty()) => continue,
            Ok(row) if row.is_cut_off => {
                builder.note(LogNote::TornEnd { at: format!("line {}", row.line) });
                break;
            }
            Ok(row) => {
                let message = format!("it has {} fields, the header has {}", row.fields.len(), names.len());
                return Err(LogError::Line { line: row.line, message });
            }
            Err(error) => return Err(error),
        };
        for ((field, name), _) in row.fields.iter().zip(&names).zip(&wanted).filter(|(_, wanted)| **wanted) {
            let text = field_text(field);
            let text = text.trim();
            if ABSENT.contains(&text) {
                continue;
            }
            let Some(number) = LogNumber::parse(text) else {
                let text = text.chars().take(40).collect();
                return Err(LogError::Cell { line: row.line, column: name.trim().to_owned(), text });
            };
            builder.push(name.trim(), number);
        }
        builder.end_record()?;
    }
    builder.finish()
}

/// The separator that stands most often in the header, outside quotes.
fn sniff_separator(bytes: &[u8]) -> u8 {
    let header = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
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

#[derive(Debug)]
struct Row<'a> {
    /// Line on which it begins, from 1.
    line: usize,
    fields: Vec<Cow<'a, [u8]>>,
    /// Whether the file ends without a line break behind it.
    is_cut_off: bool,
}

#[derive(Debug)]
struct Rows<'a> {
    rest: &'a [u8],
    line: usize,
    separator: u8,
}

impl<'a> Rows<'a> {
    fn next_row(&mut self) -> Option<Result<Row<'a>, LogError>> {
        if self.rest.is_empty() {
            return None;
        }
        let line = self.line;
        let mut fields = Vec::new();
        loop {
            if fields.len() == MAX_COLUMNS {
                return Some(Err(LogError::Line { line, message: format!("it has more than {MAX_COLUMNS} fields") }));
            }
            match self.next_field() {
                Ok(field) => fields.push(field),
                Err(message) => return Some(Err(LogError::Line { line, message: message.to_owned() })),
            }
            match self.rest.split_first() {
                Some((byte, tail)) if *byte == self.separator => self.rest = tail,
                Some((_, tail)) => {
                    // `next_field` stops at a separator or a line break.
                    self.rest = tail;
                    self.line += 1;
                    return Some(Ok(Row { line, fields, is_cut_off: false }));
                }
                None => return Some(Ok(Row { line, fields, is_cut_off: true })),
            }
        }
    }

    fn next_field(&mut self) -> Result<Cow<'a, [u8]>, &'static str> {
        if let Some(quoted) = self.rest.strip_prefix(b"\"") {
            return self.next_quoted(quoted);
        }
        let separator = self.separator;
        let end = self.rest.iter().position(|byte| *byte == separator || *byte == b'\n').unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Cow::Borrowed(field.strip_suffix(b"\r").unwrap_or(field)))
    }

    fn next_quoted(&mut self, mut rest: &'a [u8]) -> Result<Cow<'a, [u8]>, &'static str> {
        let mut field = Vec::new();
        loop {
            let Some(end) = rest.iter().position(|byte| *byte == b'"') else {
                return Err("a quote is opened and not closed");
            };
            let (part, tail) = rest.split_at(end);
            self.line += part.iter().filter(|byte| **byte == b'\n').count();
            field.extend_from_slice(part);
            let tail = tail.get(1..).unwrap_or_default();
            // Two quotes stand for one.
            let Some(more) = tail.strip_prefix(b"\"") else {
                self.rest = tail.strip_prefix(b"\r").unwrap_or(tail);
                let is_end =
                    matches!(self.rest.first(), None | Some(b'\n')) || self.rest.first() == Some(&self.separator);
                return if is_end { Ok(Cow::Owned(field)) } else { Err("text follows a closed quote") };
            };
            field.push(b'"');
            rest = more;
        }
    }
}

fn field_text<'a>(field: &'a [u8]) -> Cow<'a, str> {
    String::from_utf8_lossy(field)
}
