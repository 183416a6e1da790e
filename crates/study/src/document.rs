//! JSON documents of this program, read again: their kind and version, and the ranges of their numbers.
//!
//! Every reader asks here, so that another version is refused in one way, and a share over 1 or an error below 0 is
//! named with its place wherever it appears.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::{Storage, text_of};
use thalweg_tensor::{counted, display_name};

use crate::Error;

/// By how much a number may leave its range: correlations and sums of shares are rounded.
const SLACK: f64 = 1e-9;

/// How the kinds of this program begin.
const OUR_KINDS: &str = "thalweg-";

/// A kind of document, and the version of it that this program writes and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentKind {
    /// Such as `the record of a study`.
    pub(crate) what: &'static str,
    /// The text of `kind`.
    pub kind: &'static str,
    /// The number of `version`.
    pub version: u64,
}

/// What every document of this program begins with.
#[derive(Deserialize)]
pub(crate) struct Head {
    pub(crate) kind: String,
    pub(crate) version: u64,
}

impl DocumentKind {
    pub(crate) const fn new(what: &'static str, kind: &'static str, version: u64) -> Self {
        Self { what, kind, version }
    }

    /// How a file of this kind is recognised before it is replaced.
    pub const fn file(&self) -> OwnKind<'static> {
        OwnKind::json(self.what, self.kind)
    }

    /// A document of this kind as a line: its kind and version, then the fields of `body`.
    ///
    /// # Errors
    /// `Unwritable`.
    pub(crate) fn line(&self, body: &impl Serialize) -> Result<String, Error> {
        let mut document = json!({"kind": self.kind, "version": self.version});
        let body = serde_json::to_value(body).map_err(Error::Unwritable)?;
        if let (Some(document), Value::Object(body)) = (document.as_object_mut(), body) {
            document.extend(body);
        }
        json_line(&document)
    }

    /// Reads a document of this kind. Its kind and version come first: another kind has other fields.
    /// As all JSON of this crate, from bytes: types that documents share would otherwise be compiled twice.
    pub(crate) fn read<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T, Error> {
        let head: Head = serde_json::from_slice(json).map_err(|source| Error::ReportForm { path: None, source })?;
        self.check(None, &head.kind, head.version)?;
        serde_json::from_slice(json).map_err(|source| Error::ReportForm { path: None, source })
    }

    /// The same for a line, or for a file whose reader says what it is for; the error says what is wrong.
    pub(crate) fn parse<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T, String> {
        let head: Head = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let fault = self.fault_of_line(&head.kind, head.version);
        fault.map_or_else(|| serde_json::from_slice(json).map_err(|error| error.to_string()), Err)
    }

    /// Reads a file of this kind; `hint` says how to get one.
    ///
    /// # Errors
    /// `Request` for what is not one; `ReportKind` for another version; `Storage`.
    pub(crate) fn read_file<T: DeserializeOwned>(
        &self,
        storage: &dyn Storage,
        path: &Path,
        max_bytes: u64,
        hint: &str,
    ) -> Result<T, Error> {
        let bytes = storage.read_file(path, max_bytes)?;
        self.value_in(&bytes, path, hint)?;
        serde_json::from_slice(&bytes).map_err(|error| self.refuse(path, &error.to_string(), hint))
    }

    /// The same for a document whose reader asks for each field.
    ///
    /// # Errors
    /// As [`read_file`](Self::read_file).
    pub(crate) fn read_value(
        &self,
        storage: &dyn Storage,
        path: &Path,
        max_bytes: u64,
        hint: &str,
    ) -> Result<Value, Error> {
        self.value_in(&storage.read_file(path, max_bytes)?, path, hint)
    }

    fn value_in(&self, json: &[u8], path: &Path, hint: &str) -> Result<Value, Error> {
        let parsed = serde_json::from_slice(json);
        let document: Value = parsed.map_err(|error| self.refuse(path, &error.to_string(), hint))?;
        let (kind, version) = kind_of(&document);
        if kind != self.kind {
            return Err(self.refuse(path, &format!("its kind is `{}`", shown_kind(kind)), hint));
        }
        self.check(Some(path), kind, version)?;
        Ok(document)
    }

    /// A file that is not of this kind.
    pub(crate) fn refuse(&self, path: &Path, what: &str, hint: &str) -> Error {
        Error::request_with_hint(format!("`{}` is not {}: {what}", path.display(), self.what), hint)
    }

    /// Refuses a document of another kind or version; `path` is its file, where one is known.
    ///
    /// # Errors
    /// `ReportKind`.
    pub(crate) fn check(&self, path: Option<&Path>, kind: &str, version: u64) -> Result<(), Error> {
        if (kind, version) == (self.kind, self.version) {
            return Ok(());
        }
        Err(Error::ReportKind {
            path: path.map(Path::to_owned),
            what: self.what,
            expected_kind: self.kind,
            expected_version: self.version,
            kind: shown_kind(kind),
            version,
        })
    }

    /// What is wrong with the kind or version of one line of a file.
    pub(crate) fn fault_of_line(&self, kind: &str, version: u64) -> Option<String> {
        ((kind, version) != (self.kind, self.version)).then(|| {
            let kind = shown_kind(kind);
            format!("it is `{kind}` version {version}, not `{}` version {}", self.kind, self.version)
        })
    }

    /// The same for a line that another program may have written: only kinds of this program count.
    pub(crate) fn fault_of_any_line(&self, line: &Value) -> Option<String> {
        let (kind, version) = kind_of(line);
        kind.starts_with(OUR_KINDS).then(|| self.fault_of_line(kind, version))?
    }
}

/// `kind` and `version` of a document; empty and 0 where it has none.
pub(crate) fn kind_of(document: &Value) -> (&str, u64) {
    (document["kind"].as_str().unwrap_or_default(), document["version"].as_u64().unwrap_or(0))
}

/// A kind as messages show it.
pub(crate) fn shown_kind(kind: &str) -> String {
    display_name(&kind.chars().take(80).collect::<String>())
}

/// A value as a line of a file.
///
/// # Errors
/// `Unwritable`.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String, Error> {
    Ok(serde_json::to_string(value).map_err(Error::Unwritable)? + "\n")
}

/// A value as a file: the same value always gives the same text.
///
/// # Errors
/// `Unwritable`.
pub(crate) fn pretty_json(value: &impl Serialize) -> Result<String, Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(Error::Unwritable)?;
    text.push('\n');
    Ok(text)
}

/// A text that is read line by line.
pub(crate) struct Lines {
    /// The file between back-ticks, or a name of the text.
    pub(crate) file: String,
    text: String,
}

impl Lines {
    /// A text that is not a file.
    pub(crate) fn of_text(name: &str, text: &str) -> Self {
        Self { file: name.to_owned(), text: text.to_owned() }
    }

    /// A file of at most so many bytes.
    ///
    /// # Errors
    /// `Request` where it is not text; `Storage`.
    pub(crate) fn of_file(storage: &dyn Storage, path: &Path, max_bytes: u64) -> Result<Self, Error> {
        let file = format!("`{}`", path.display());
        let text = text_of(storage.read_file(path, max_bytes)?);
        let text = text.map_err(|_| Error::request(format!("{file} is not UTF-8 text")))?;
        Ok(Self { file, text })
    }

    /// What `read` makes of the lines that are not blank; it gets their numbers too.
    ///
    /// # Errors
    /// `LineForm` with what `read` says about a line, and for the first one after `most` of them.
    pub(crate) fn read<T>(
        &self,
        most: usize,
        hint: &'static str,
        mut read: impl FnMut(usize, &str) -> Result<T, String>,
    ) -> Result<Vec<T>, Error> {
        let lines = (1..).zip(self.text.lines()).filter(|(_, text)| !text.trim().is_empty());
        let read_one = |(n, (line, text)): (usize, (usize, &str))| {
            let too_many = || format!("the file has more than the limit of {}", counted(most, "line"));
            let outcome = if n < most { read(line, text) } else { Err(too_many()) };
            outcome.map_err(|what| self.fault(line, what, hint))
        };
        lines.enumerate().map(read_one).collect()
    }

    /// What is wrong with a line.
    pub(crate) fn fault(&self, line: usize, what: String, hint: &'static str) -> Error {
        // A line is parsed alone, so its JSON counts its lines from 1.
        let what = what.replace(" at line 1 column ", " at column ");
        Error::LineForm { file: self.file.clone(), line, what, hint }
    }
}

/// A value with its place in the document, to be taken as what it should be.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    value: &'a Value,
    place: String,
}

impl<'a> Field<'a> {
    /// The whole document.
    pub(crate) fn root(document: &'a Value) -> Self {
        Self { value: document, place: String::new() }
    }

    /// What is under a key; a key that is missing is as one that is null.
    pub(crate) fn at(&self, key: &str) -> Self {
        let dot = if self.place.is_empty() { "" } else { "." };
        Self { value: &self.value[key], place: format!("{}{dot}{}", self.place, display_name(key)) }
    }

    /// Nothing where it is null or missing.
    pub(crate) fn known(self) -> Option<Self> {
        (!self.value.is_null()).then_some(self)
    }

    /// The members of a list.
    pub(crate) fn list(&self) -> Result<Vec<Self>, String> {
        let members = self.value.as_array().ok_or_else(|| self.refused("a list"))?;
        let field = |(i, value): (usize, &'a Value)| Self { value, place: format!("{}[{i}]", self.place) };
        Ok(members.iter().enumerate().map(field).collect())
    }

    /// The members of a list; none where it is null or missing, as in documents without that part.
    pub(crate) fn list_if_known(&self) -> Result<Vec<Self>, String> {
        if self.value.is_null() { Ok(Vec::new()) } else { self.list() }
    }

    pub(crate) fn text(&self) -> Result<&'a str, String> {
        self.value.as_str().ok_or_else(|| self.refused("a text"))
    }

    pub(crate) fn flag(&self) -> Result<bool, String> {
        self.value.as_bool().ok_or_else(|| self.refused("`true` or `false`"))
    }

    /// A whole number, 0 or more.
    pub(crate) fn whole(&self) -> Result<u64, String> {
        self.value.as_u64().ok_or_else(|| self.refused("a whole number"))
    }

    /// A whole number that counts something that is there.
    pub(crate) fn count(&self) -> Result<u64, String> {
        self.value.as_u64().filter(|n| *n > 0).ok_or_else(|| self.refused("a whole number above 0"))
    }

    /// Any finite number.
    pub(crate) fn real(&self) -> Result<f64, String> {
        self.within([f64::NEG_INFINITY, f64::INFINITY], "a number")
    }

    /// A number that is not below 0, such as a standard error.
    pub(crate) fn size(&self) -> Result<f64, String> {
        self.within([0.0, f64::INFINITY], "a number that is at least 0")
    }

    /// A number from 0 to 1.
    pub(crate) fn share(&self) -> Result<f64, String> {
        self.within([0.0, 1.0], "a share from 0 to 1")
    }

    /// A number from -1 to 1, as a correlation or a cosine.
    pub(crate) fn correlation(&self) -> Result<f64, String> {
        self.within([-1.0, 1.0], "a number from -1 to 1")
    }

    /// A number in a range, rounding aside.
    pub(crate) fn within(&self, [low, high]: [f64; 2], expected: &str) -> Result<f64, String> {
        let holds = |x: &f64| x.is_finite() && *x >= low - SLACK && *x <= high + SLACK;
        let number = self.value.as_f64().filter(holds).ok_or_else(|| self.refused(expected))?;
        Ok(number.clamp(low, high))
    }

    /// As many numbers as are wanted, each taken by `take`.
    pub(crate) fn numbers<const N: usize>(
        &self,
        take: impl Fn(&Self) -> Result<f64, String>,
    ) -> Result<[f64; N], String> {
        let numbers = self.list()?.iter().map(take).collect::<Result<Vec<_>, _>>()?;
        <[f64; N]>::try_from(numbers).map_err(|_| self.refused(&format!("{N} numbers")))
    }

    /// The same in ascending order, such as the ends of an interval.
    pub(crate) fn ascending<const N: usize>(
        &self,
        take: impl Fn(&Self) -> Result<f64, String>,
    ) -> Result<[f64; N], String> {
        let numbers = self.numbers(take)?;
        if numbers.is_sorted() { Ok(numbers) } else { Err(self.refused(&format!("{N} numbers in ascending order"))) }
    }

    fn refused(&self, expected: &str) -> String {
        let place = if self.place.is_empty() { "it".to_owned() } else { format!("`{}`", self.place) };
        if self.value.is_null() {
            return format!("{place} is missing, but {expected} is expected");
        }
        let shown: String = self.value.to_string().chars().take(40).collect();
        format!("{place} is {}, not {expected}", display_name(&shown))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_outside_its_range_is_named_with_its_place() {
        let document = json!({"rows": [{"share": 0.5, "range": [0.1, 0.2]}, {"share": 1.5, "range": [0.2, 0.1]}]});
        let rows = Field::root(&document).at("rows").list().unwrap();
        assert_eq!(rows[0].at("share").share(), Ok(0.5));
        assert_eq!(rows[0].at("range").ascending(Field::share), Ok([0.1, 0.2]));
        let said = |result: Result<f64, String>| result.unwrap_err();
        assert_eq!(said(rows[1].at("share").share()), "`rows[1].share` is 1.5, not a share from 0 to 1");
        assert_eq!(said(rows[1].at("n").size()), "`rows[1].n` is missing, but a number that is at least 0 is expected");
        assert_eq!(
            rows[1].at("range").ascending::<2>(Field::share).unwrap_err(),
            "`rows[1].range` is [0.2,0.1], not 2 numbers in ascending order"
        );
        assert!(rows[0].at("range").ascending::<3>(Field::share).is_err());
        // A correlation that rounding took over 1 is 1.
        let rounded = json!(1.0 + 1e-12);
        assert_eq!(Field::root(&rounded).correlation(), Ok(1.0));
        assert!(Field::root(&json!(-0.1)).size().is_err() && Field::root(&json!("1")).real().is_err());
        assert!(Field::root(&json!(0)).count().is_err() && Field::root(&json!(1.5)).whole().is_err());
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_first_line() {
        let storage = thalweg_storage::MemoryStorage::new();
        let text = "\u{feff}Belmar\nTesvin\n".as_bytes();
        let path = Path::new("/titles.txt");
        storage.create_file(path, text.len() as u64).unwrap().write_all_at(0, text).unwrap();
        let lines = Lines::of_file(&storage, path, 100).unwrap().read(9, "", |_, line| Ok(line.to_owned()));
        assert_eq!(lines.unwrap(), ["Belmar", "Tesvin"]);
    }

    #[test]
    fn lines_beyond_the_limit_are_refused_and_not_ignored() {
        let read = |most| Lines::of_text("the text", "a\n\nb\n").read(most, "", |_, line| Ok(line.to_owned()));
        assert_eq!(read(2).unwrap(), ["a", "b"]);
        assert_eq!(read(1).unwrap_err().to_string(), "the text, line 3: the file has more than the limit of 1 line");
    }

    #[test]
    fn another_kind_or_version_is_refused() {
        let known = DocumentKind::new("a law of merging", "thalweg-merge-law", 1);
        assert!(known.check(None, "thalweg-merge-law", 1).is_ok());
        let said = |kind, version| known.check(Some(Path::new("law.json")), kind, version).unwrap_err();
        let newer = said("thalweg-merge-law", 2);
        assert_eq!(
            newer.to_string(),
            "`law.json` is `thalweg-merge-law` version 2, but a law of merging is `thalweg-merge-law` version 1"
        );
        assert!(newer.hint().unwrap().contains("another version of thalweg"));
        assert_eq!(said("thalweg-study", 1).hint().unwrap(), "give a law of merging");
        let line = |kind: &str| json!({"kind": kind, "k": 1});
        assert_eq!(known.fault_of_line("thalweg-merge-law", 1), None);
        let fault = known.fault_of_any_line(&line("thalweg-merge-law")).unwrap();
        assert_eq!(fault, "it is `thalweg-merge-law` version 0, not `thalweg-merge-law` version 1");
        assert_eq!(
            [line("average"), json!({"k": 1}), json!(3)].map(|line| known.fault_of_any_line(&line)),
            [None, None, None]
        );
    }
}
