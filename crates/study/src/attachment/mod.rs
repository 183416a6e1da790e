//! What other commands found, for the page of a study: pictures and a table from the JSON document that each of them
//! prints.
//!
//! Reads laws of merging, searches for mixtures and their validation, curves of forgetting, and extrapolations. A
//! document of another version, or with a number out of its range, is refused. A number that is missing where the
//! document may leave it out is shown as a dash.

mod extrapolation;
mod forgetting;
mod law;
mod mixture;
#[cfg(test)]
pub(crate) mod samples;

use std::path::Path;

use serde_json::Value;
use thalweg_storage::{Storage, skip_mark};

pub(crate) use mixture::mixture_key;

use crate::Error;
use crate::document::{DocumentKind, Field, kind_of, shown_kind};
use crate::study_view::measure_words;
use crate::svg::{Chart, RangeRow};
use crate::text::or_dash;

/// The largest document that is read.
const MAX_BYTES: u64 = 64 << 20;
/// Rows of a table, and members of a list, that are shown.
const MAX_ROWS: usize = 500;

/// A part of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Its heading.
    pub(crate) title: &'static str,
    /// What was found, in a sentence or two.
    pub(crate) lead: String,
    /// Its pictures, each with what is said below it.
    pub(crate) figures: Vec<(Picture, String)>,
    /// Names of the columns.
    pub(crate) columns: Vec<&'static str>,
    /// Cells by row.
    pub(crate) rows: Vec<Vec<String>>,
}

/// A picture of a part of a page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Picture {
    Chart(Chart),
    /// Several charts of the same kind beside each other.
    Charts(Vec<Chart>),
    /// Ranges of shares, and what their marks and bars are called.
    Ranges {
        rows: Vec<RangeRow>,
        label: &'static str,
    },
    /// Shares of components beside those of a random walk.
    Shares {
        shares: Vec<f64>,
        of_walk: Vec<f64>,
    },
}

/// A document with the function that reads it.
type Reader = (DocumentKind, fn(&Field<'_>) -> Result<Attachment, String>);

/// All documents that a page takes.
const READERS: [Reader; 5] = [
    (DocumentKind::new("a law of merging", "thalweg-merge-law", 1), law::read_law),
    (DocumentKind::new("a search for a mixture", "thalweg-mix-search", 1), mixture::read_search),
    (DocumentKind::new("a validation of mixtures", "thalweg-mix-validation", 1), mixture::read_validation),
    (DocumentKind::new("a curve of forgetting", "thalweg-forget-curve", 1), forgetting::read_curve),
    (DocumentKind::new("an extrapolation", "thalweg-extrapolation", 1), extrapolation::read_extrapolation),
];

/// Reads what `law merge`, `mix search`, `mix validate`, `forget curve` or `extrapolate` printed with `--json`.
///
/// # Errors
/// `Request` for anything else, and for a document without a part or with a number out of its range; `ReportKind` for
/// another version; `Storage`.
pub fn read_attachment(storage: &dyn Storage, path: &Path) -> Result<Attachment, Error> {
    let bytes = storage.read_file(path, MAX_BYTES)?;
    let refuse = |what: String| {
        Error::request_with_hint(
            format!("`{}` cannot be shown on a page: {what}", path.display()),
            "give what `law merge`, `mix search`, `mix validate`, `forget curve` or `extrapolate` prints with `--json`",
        )
    };
    let document: Value = serde_json::from_slice(skip_mark(&bytes)).map_err(|error| refuse(error.to_string()))?;
    let (kind, version) = kind_of(&document);
    let Some((known, read)) = READERS.iter().find(|(known, _)| known.kind == kind) else {
        return Err(refuse(format!("its kind is `{}`", shown_kind(kind))));
    };
    known.check(Some(path), kind, version)?;
    let mut found = read(&Field::root(&document)).map_err(refuse)?;
    found.rows.truncate(MAX_ROWS);
    Ok(found)
}

/// A number with four digits after the point, or a dash.
fn real(value: Option<f64>) -> String {
    or_dash(value, |x| format!("{x:.4}"))
}

/// A score as people read it: `code/nats_per_token` as `code, nats per token`.
fn score_words(score: &str) -> String {
    let split = score.rsplit_once(['/', ' ']);
    split.map_or_else(|| score.to_owned(), |(task, name)| format!("{task}, {}", measure_words(name)))
}

/// The first members of a list, as many as are shown.
fn shown<'a>(list: &Field<'a>) -> Result<Vec<Field<'a>>, String> {
    let mut members = list.list()?;
    members.truncate(MAX_ROWS);
    Ok(members)
}

/// What `take` makes of a part that may be missing.
fn optional<'a, T>(field: Field<'a>, take: impl FnOnce(&Field<'a>) -> Result<T, String>) -> Result<Option<T>, String> {
    field.known().as_ref().map(take).transpose()
}

/// The reason why nothing can be predicted or written, as a sentence to follow another one.
fn refusal(document: &Field<'_>) -> Result<String, String> {
    let why = optional(document.at("refusal"), |field| Ok(field.text()?.to_owned()))?;
    Ok(why.map_or_else(String::new, |why| format!(" No: {why}.")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::samples::documents;
    use super::*;

    fn read(document: &Value) -> Result<Attachment, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("found.json");
        std::fs::write(&path, document.to_string()).unwrap();
        read_attachment(&thalweg_storage::LocalStorage::default(), &path).map_err(|error| {
            let text = format!("{error}; {}", error.hint().unwrap_or_default());
            text.replace(&*folder.path().to_string_lossy(), "[IN]")
        })
    }

    #[test]
    fn each_kind_has_pictures_and_rows() {
        assert_eq!(documents().len(), READERS.len(), "a document of each kind");
        for document in documents() {
            let found = read(&document).unwrap();
            assert!(!found.figures.is_empty() && !found.rows.is_empty() && !found.lead.is_empty(), "{document}");
            assert!(found.rows.iter().all(|row| row.len() == found.columns.len()), "{found:?}");
        }
    }

    #[test]
    fn another_version_of_any_kind_is_refused_with_both_versions() {
        for document in documents() {
            for version in [json!(2), json!(0), json!("1"), Value::Null] {
                let mut other = document.clone();
                other["version"] = version;
                let said = read(&other).unwrap_err();
                let kind = document["kind"].as_str().unwrap();
                assert!(said.contains(&format!("`[IN]/found.json` is `{kind}` version")), "{said}");
                assert!(
                    said.contains(&format!("is `{kind}` version 1; another version of thalweg wrote it")),
                    "{said}"
                );
            }
        }
    }

    /// Every place of a document that holds a number, as a pointer.
    fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Number(_) if at != "/version" => found.push(at.to_owned()),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(i, one)| numbers(one, &format!("{at}/{i}"), found))
            }
            Value::Object(members) => {
                members.iter().for_each(|(key, one)| numbers(one, &format!("{at}/{key}"), found));
            }
            _ => {}
        }
    }

    #[test]
    fn a_text_where_any_number_should_be_is_refused_with_its_place() {
        for document in documents() {
            let mut places = Vec::new();
            numbers(&document, "", &mut places);
            for place in places {
                let mut other = document.clone();
                *other.pointer_mut(&place).unwrap() = json!("many");
                let said = read(&other).unwrap_err();
                assert!(said.contains("is \"many\", not "), "{place}: {said}");
                // The last name of the place is in the message.
                let name = place.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap();
                assert!(said.contains(name) && said.contains("cannot be shown on a page"), "{place}: {said}");
            }
        }
    }

    #[test]
    fn numbers_out_of_their_range_are_refused_in_every_kind() {
        let cases: [&[(&str, f64)]; 5] = [
            &[("/points/0/k", 0.0), ("/points/1/sd", -0.1), ("/curve/0/interval_95/0", 2.6), ("/predictions/0/k", 0.0)],
            &[
                ("/region/0/data_share", 1.5),
                ("/region/0/coefficient", -0.1),
                ("/region/0/data_share_quantiles/1", 0.9),
                ("/predictor/0/left_out_spearman", -1.1),
                ("/predictor/0/left_out_error", -0.1),
                ("/models/0/data_shares/web & <b>", 1.2),
            ],
            &[("/rows/0/spearman", 1.01), ("/rows/0/spearman_interval_95/0", 0.95), ("/n_matched", -1.0)],
            &[
                ("/rows/1/values/m_ex", 1.54),
                ("/rows/0/values/ppl", 0.5),
                ("/rows/0/standard_errors/ppl", -0.2),
                ("/rows/0/retention", -0.5),
            ],
            &[
                ("/line/component_shares/0", 1.2),
                ("/line/random_walk_shares/1", -0.2),
                ("/line/random_walk_cosine", 1.25),
                ("/candidates/1/gain_standard_error", -0.1),
                ("/candidates/1/alpha", -1.0),
            ],
        ];
        for (document, cases) in documents().iter().zip(cases) {
            for (place, value) in cases {
                let mut other = document.clone();
                *other.pointer_mut(place).unwrap() = json!(value);
                let said = read(&other).unwrap_err();
                assert!(said.contains("cannot be shown on a page: `"), "{place}: {said}");
            }
        }
    }

    #[test]
    fn other_documents_and_broken_ones_are_refused() {
        assert!(
            read(&json!({"kind": "thalweg-study", "version": 2})).unwrap_err().contains("its kind is `thalweg-study`")
        );
        assert!(read(&json!([1, 2])).unwrap_err().contains("its kind is ``"));
        for document in documents() {
            let bare = json!({"kind": document["kind"], "version": 1});
            let said = read(&bare).unwrap_err();
            assert!(said.contains("is missing, but "), "{said}");
        }
    }
}
