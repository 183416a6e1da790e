//! SQLite files, read only: the rows of a table, in the order in which they were inserted.
//!
//! Enough of the documented file format (<https://sqlite.org/fileformat2.html>) for the tables of metrics that trackers
//! keep: no indexes, no queries, UTF-8 only. Every number in a file is checked before it is used.

mod pages;
mod record;

use std::collections::BTreeSet;

pub(super) use self::record::{Row, Value};

pub(super) use self::pages::LOG_HEADER_BYTES;
use self::pages::Pages;
use self::record::{read_record, read_varint};
use super::LogError;

const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
/// No file is large enough for a deeper tree.
const MAX_DEPTH: usize = 40;
/// A longer row is not one of scalars.
const MAX_ROW_BYTES: u64 = 16 << 20;

/// Whether a file begins like an SQLite database.
pub(super) fn is_database(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// A database.
#[derive(Debug)]
pub(super) struct Database<'a> {
    pages: Pages<'a>,
    tables: Vec<Table>,
}

/// A table of a database.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    root: u32,
    columns: Vec<String>,
}

impl Table {
    /// The places of columns in a row; `None` unless all are there.
    pub(super) fn find_columns<const N: usize>(&self, names: [&str; N]) -> Option<[usize; N]> {
        let mut places = [0; N];
        for (place, name) in places.iter_mut().zip(names) {
            *place = self.columns.iter().position(|column| column == name)?;
        }
        Some(places)
    }
}

impl<'a> Database<'a> {
    /// Opens a file, with its write-ahead log if there is one.
    pub(super) fn open(file: &'a [u8], log: Option<&'a [u8]>) -> Result<Self, LogError> {
        let pages = Pages::new(file, log)?;
        let mut database = Self { pages, tables: Vec::new() };
        let mut tables = Vec::new();
        database.for_each_row(1, &mut |row| {
            let text = |idx: usize| row.get(idx).and_then(Value::text);
            if let (Some("table"), Some(name), Some(sql)) = (text(0), text(1), text(4)) {
                let root = row.get(3).and_then(Value::whole).and_then(|root| u32::try_from(root).ok()).unwrap_or(0);
                // A virtual table has no pages.
                if root > 0 {
                    tables.push(Table { name: name.to_owned(), root, columns: column_names(sql) });
                }
            }
            Ok(())
        })?;
        database.tables = tables;
        Ok(database)
    }

    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// Calls `each` for every row, by row id.
    pub(super) fn rows(
        &self,
        table: &Table,
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        self.for_each_row(table.root, each)
    }

    fn for_each_row(&self, root: u32, each: &mut dyn FnMut(&Row<'_>) -> Result<(), LogError>) -> Result<(), LogError> {
        let mut walk = Walk { seen: BTreeSet::new(), left_bytes: self.pages.n_bytes() };
        self.walk(root, 0, &mut walk, each)
    }

    fn walk(
        &self,
        number: u32,
        depth: usize,
        walk: &mut Walk,
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        // A page that is met twice would make the walk go in circles.
        if depth > MAX_DEPTH || !walk.seen.insert(number) {
            return Err(damaged("a table's pages lead back to themselves"));
        }
        let page = self.pages.page(number)?;
        let start = if number == 1 { HEADER_BYTES } else { 0 };
        let kind = page.get(start).copied();
        let n_cells = read_u16(page, start + 3)?;
        let header_bytes = match kind {
            Some(LEAF) => 8,
            Some(INTERIOR) => 12,
            _ => return Err(damaged("a page of a table is of another kind")),
        };
        for cell in 0..usize::from(n_cells) {
            let at = usize::from(read_u16(page, start + header_bytes + 2 * cell)?);
            if kind == Some(INTERIOR) {
                self.walk(read_u32(page, at)?, depth + 1, walk, each)?;
            } else {
                each(&self.read_row(page, at, walk)?)?;
            }
        }
        match kind {
            Some(INTERIOR) => self.walk(read_u32(page, start + 8)?, depth + 1, walk, each),
            _ => Ok(()),
        }
    }

    /// The row of the leaf's cell at `at`.
    fn read_row(&self, page: &'a [u8], at: usize, walk: &mut Walk) -> Result<Row<'a>, LogError> {
        let mut rest = page.get(at..).ok_or_else(cut_off)?;
        let n_bytes = read_varint(&mut rest).ok_or_else(cut_off)?;
        let row_id = read_varint(&mut rest).ok_or_else(cut_off)?;
        if n_bytes > MAX_ROW_BYTES {
            return Err(damaged("a row is too long to be one of numbers"));
        }
        walk.left_bytes = walk.left_bytes.checked_sub(n_bytes).ok_or_else(|| damaged("its rows overlap"))?;
        read_record(self.pages.payload(rest, n_bytes)?, row_id.cast_signed())
    }
}

/// One way through the pages of a table.
struct Walk {
    seen: BTreeSet<u32>,
    /// Rows hold no more bytes than the file, unless they overlap.
    left_bytes: u64,
}

const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

fn damaged(what: &str) -> LogError {
    LogError::Database { message: what.to_owned() }
}

fn cut_off() -> LogError {
    damaged("it is cut off")
}

fn read_u16(bytes: &[u8], at: usize) -> Result<u16, LogError> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>);
    found.map(|bytes| u16::from_be_bytes(*bytes)).ok_or_else(cut_off)
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, LogError> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    found.map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(cut_off)
}

/// The names of the columns in a `CREATE TABLE` statement.
fn column_names(sql: &str) -> Vec<String> {
    const CONSTRAINTS: [&str; 5] = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];
    let inner = sql.split_once('(').map_or("", |(_, inner)| inner);
    let (mut parts, mut depth, mut quote) = (vec![String::new()], 0_usize, None);
    for one in inner.chars() {
        match (quote, one) {
            (Some(end), _) => quote = (one != end).then_some(end),
            (None, '"' | '`' | '\'') => quote = Some(one),
            (None, '[') => quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => break,
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(one);
        }
    }
    let name_of = |part: &String| {
        let part = part.trim();
        let quoted = part.strip_prefix(['"', '`', '[']).and_then(|rest| rest.split(['"', '`', ']']).next());
        let word = quoted.or_else(|| part.split_whitespace().next())?;
        let is_constraint = quoted.is_none() && CONSTRAINTS.iter().any(|one| word.eq_ignore_ascii_case(one));
        (!is_constraint && !word.is_empty()).then(|| word.to_owned())
    };
    parts.iter().filter_map(name_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_among_quotes_defaults_and_constraints() {
        let sql = "CREATE TABLE \"metrics\" (\n\t\"key\" VARCHAR(250) NOT NULL, value FLOAT, step BIGINT DEFAULT ',)' NOT NULL, \n\
                   CONSTRAINT metric_pk PRIMARY KEY (\"key\", step), CHECK (value IN (0, 1)), log_id TEXT)";
        assert_eq!(column_names(sql), ["key", "value", "step", "log_id"]);
        assert!(column_names("CREATE VIRTUAL").is_empty());
    }
}
