//! Typed access to a table of a suite, where unknown keys are errors.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::Error;

/// A table with its place, for messages.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: PathBuf,
    place: String,
    table: &'a Table,
}

impl<'a> Fields<'a> {
    /// Checks that every key is known.
    pub(crate) fn new(path: &Path, place: String, table: &'a Table, known: &[&'static str]) -> Result<Self, Error> {
        let fields = Self { path: path.to_owned(), place, table };
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(fields.unknown("key", key, known.to_vec())),
            None => Ok(fields),
        }
    }

    pub(crate) fn inner(&self, key: &str, table: &'a Table, known: &[&'static str]) -> Result<Self, Error> {
        Fields::new(&self.path, format!("`{key}` of {}", self.place), table, known)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(crate) fn invalid(&self, what: String) -> Error {
        Error::SuiteInvalid { path: self.path.clone(), what: format!("{}: {what}", self.place) }
    }

    pub(crate) fn missing(&self, key: &str) -> Error {
        self.invalid(format!("there is no `{key}`"))
    }

    pub(crate) fn unknown(&self, what: &'static str, found: &str, known: Vec<&'static str>) -> Error {
        let (path, place, found) = (self.path.clone(), self.place.clone(), found.to_owned());
        Error::UnknownName { path, place, what, found, known }
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let wrong = || self.invalid(format!("`{key}` must be {expected}, {} found", value.type_str()));
        read(value).map(Some).ok_or_else(wrong)
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<String>, Error> {
        self.typed(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, Error> {
        self.typed(key, "a whole number", Value::as_integer)
    }

    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "a whole number above zero", |value| {
            value.as_integer().filter(|&n| n > 0).and_then(|n| usize::try_from(n).ok())
        })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        self.typed(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    pub(crate) fn table(&self, key: &str) -> Result<Option<&'a Table>, Error> {
        self.typed(key, "a table", Value::as_table)
    }

    pub(crate) fn tables(&self, key: &str) -> Result<Vec<&'a Table>, Error> {
        let tables = self.typed(key, "a list of tables (`[[task]]`)", |value| {
            value.as_array()?.iter().map(Value::as_table).collect::<Option<Vec<_>>>()
        })?;
        Ok(tables.unwrap_or_default())
    }

    /// Keys with the text, whole number or truth value that they must have.
    pub(crate) fn conditions(&self, key: &str) -> Result<Vec<(String, String)>, Error> {
        let Some(table) = self.table(key)? else { return Ok(Vec::new()) };
        let condition =
            |(name, value): (&String, &Value)| match value {
                Value::String(text) => Ok((name.clone(), text.clone())),
                Value::Integer(n) => Ok((name.clone(), n.to_string())),
                Value::Boolean(b) => Ok((name.clone(), b.to_string())),
                other => Err(self
                    .invalid(format!("`{key}.{name}` must be a text or a whole number, {} found", other.type_str()))),
            };
        table.iter().map(condition).collect()
    }
}
