//! Entities that are frequent in one corpus and rare in another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thalweg_storage::Storage;

use super::titles::TitleFinder;
use crate::Error;
use crate::document::{DocumentKind, Lines};

/// The lines of a file of entities.
pub const ENTITIES: DocumentKind = DocumentKind::new("a file of entities", "thalweg-forget-entities", 1);
/// The longest title that is looked for; longer lines are refused.
const MAX_TITLE_BYTES: usize = 512;
/// The largest file of titles or entities.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// An entity, and how often it is in each corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityRecord {
    /// Always `thalweg-forget-entities`.
    pub kind: String,
    /// Always 1.
    pub version: u64,
    /// Its text.
    pub entity: String,
    /// Its type, such as `PER`; empty where the titles have none.
    #[serde(rename = "type", default)]
    pub entity_type: String,
    /// Times in the corpus that is learned.
    pub n_corpus: u64,
    /// Times in the corpus that follows.
    pub n_reference: u64,
}

/// What was counted and chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntitySet {
    /// Titles that were counted.
    pub n_titles: usize,
    /// Those that are in the corpus at all.
    pub n_found: usize,
    /// Those that are chosen, most frequent in the corpus first.
    pub entities: Vec<EntityRecord>,
}

/// A title with its type.
type Titles = BTreeMap<String, String>;

/// Counts titles in two corpora and keeps those of the upper half by frequency in the first and of the lower half in
/// the second.
///
/// With ties: a title is in the upper half if it occurs and fewer than half of all titles are more frequent, in the
/// lower half if fewer than half are less frequent.
///
/// # Errors
/// `Request` without titles; `Lab` for a corpus that does not read; `Storage`.
pub fn choose_entities(
    corpus: &[PathBuf],
    reference: &[PathBuf],
    titles: &Path,
    storage: &dyn Storage,
) -> Result<EntitySet, Error> {
    let titles = read_titles(storage, titles)?;
    let names: Vec<&str> = titles.keys().map(String::as_str).collect();
    let finder = TitleFinder::new(&names)?;
    let count = |paths: &[PathBuf]| -> Result<Vec<u64>, Error> {
        let mut counts = vec![0; names.len()];
        for path in paths {
            let documents = thalweg_lab::corpus::read_documents(storage, path)?;
            let found = documents.par_iter().map(|text| finder.find(text)).collect::<Vec<_>>();
            found.iter().flatten().for_each(|(title, _)| counts[*title] += 1);
        }
        Ok(counts)
    };
    let (in_corpus, in_reference) = (count(corpus)?, count(reference)?);
    let chosen = choose(&in_corpus, &in_reference);
    let record = |i: usize| EntityRecord {
        kind: ENTITIES.kind.to_owned(),
        version: ENTITIES.version,
        entity: names[i].to_owned(),
        entity_type: titles[names[i]].clone(),
        n_corpus: in_corpus[i],
        n_reference: in_reference[i],
    };
    let n_found = in_corpus.iter().filter(|n| **n > 0).count();
    Ok(EntitySet { n_titles: names.len(), n_found, entities: chosen.into_iter().map(record).collect() })
}

/// Places of the entities that are chosen, most frequent in the corpus first.
fn choose(in_corpus: &[u64], in_reference: &[u64]) -> Vec<usize> {
    let sorted = |counts: &[u64]| {
        let mut sorted = counts.to_vec();
        sorted.sort_unstable();
        sorted
    };
    let (corpus, reference) = (sorted(in_corpus), sorted(in_reference));
    let n = in_corpus.len();
    let n_more = |count: u64| n - corpus.partition_point(|other| *other <= count);
    let n_less = |count: u64| reference.partition_point(|other| *other < count);
    let is_chosen = |i: &usize| in_corpus[*i] > 0 && 2 * n_more(in_corpus[*i]) < n && 2 * n_less(in_reference[*i]) < n;
    let mut chosen: Vec<usize> = (0..n).filter(is_chosen).collect();
    chosen.sort_by_key(|i| (std::cmp::Reverse(in_corpus[*i]), *i));
    chosen
}

/// Titles, one on each line: a text, or a JSON object with `title` and maybe `type`.
fn read_titles(storage: &dyn Storage, path: &Path) -> Result<Titles, Error> {
    let lines = Lines::of_file(storage, path, MAX_FILE_BYTES)?;
    let mut titles = Titles::new();
    for (title, kind) in lines.read(usize::MAX, TITLE_HINT, |_, line| read_title(line.trim()))? {
        if title.chars().any(char::is_alphanumeric) {
            // Dumps of Wikipedia write titles with underscores.
            titles.entry(title.replace('_', " ")).or_insert(kind);
        }
    }
    if titles.is_empty() {
        return Err(Error::request_with_hint(format!("{} has no titles", lines.file), TITLE_HINT));
    }
    Ok(titles)
}

/// A title with its type, which may be empty.
fn read_title(line: &str) -> Result<(String, String), String> {
    let (title, kind) = match line.starts_with('{') {
        false => (line.to_owned(), String::new()),
        true => {
            let value: Value = serde_json::from_slice(line.as_bytes()).map_err(|error| error.to_string())?;
            let title = ["title", "entity", "text"].iter().find_map(|key| value[key].as_str());
            let title = title.ok_or("the object has no text `title`")?.trim().to_owned();
            (title, value["type"].as_str().unwrap_or_default().to_owned())
        }
    };
    if title.len() > MAX_TITLE_BYTES {
        return Err(format!("a title of {} bytes is longer than {MAX_TITLE_BYTES}", title.len()));
    }
    Ok((title, kind))
}

const TITLE_HINT: &str =
    "write one title on each line, or JSON objects such as {\"title\": \"Paris\", \"type\": \"LOC\"}";
const ENTITY_HINT: &str = "`thalweg forget entities` writes such files";

/// Reads what `forget entities` wrote.
///
/// # Errors
/// `LineForm`, `Request` where there is none, `Storage`.
pub fn read_entities(storage: &dyn Storage, path: &Path) -> Result<Vec<EntityRecord>, Error> {
    let lines = Lines::of_file(storage, path, MAX_FILE_BYTES)?;
    let entities = lines.read(usize::MAX, ENTITY_HINT, |_, line| read_entity(line))?;
    if entities.is_empty() {
        return Err(Error::request_with_hint(format!("{} has no entities", lines.file), ENTITY_HINT));
    }
    Ok(entities)
}

fn read_entity(line: &str) -> Result<EntityRecord, String> {
    let entity: EntityRecord = ENTITIES.parse(line.as_bytes())?;
    match entity.entity.len() {
        1..=MAX_TITLE_BYTES => Ok(entity),
        n => Err(format!("an entity has 1 to {MAX_TITLE_BYTES} bytes, not {n}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_and_lower_halves_are_told_by_rank_and_ties_are_kept() {
        // Four titles: the upper half in the corpus are 9 and 5, the lower half in the reference 0 and 2.
        assert_eq!(choose(&[9, 5, 4, 1], &[7, 2, 0, 8]), [1]);
        assert_eq!(choose(&[9, 5, 4, 1], &[0, 2, 7, 8]), [0, 1]);
        // All are equally frequent: all are in both halves.
        assert_eq!(choose(&[3, 3, 3], &[1, 1, 1]), [0, 1, 2]);
        // What does not occur is in no upper half, even where most titles do not occur.
        assert_eq!(choose(&[0, 0, 0, 0, 2], &[0, 0, 0, 0, 0]), [4]);
        // Three titles: one less frequent one is fewer than half of three, two are not.
        assert_eq!(choose(&[5, 5, 5], &[0, 1, 2]), [0, 1]);
    }
}
