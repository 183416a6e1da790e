//! Compares the tokenizers of several checkpoints: do they give a text the same tokens?
//!
//! Vocabulary, merges, added tokens and the steps before and after are compared by meaning, not by bytes: libraries
//! write the same tokenizer in several ways. Nothing is tokenized here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use thalweg_storage::Storage;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::{Checkpoint, Error, SideFile, SideFileKind};

/// A part of the tokenizers that is not the same in all checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerDifference {
    /// Such as `tokenizer.vocabulary`, or `tokenizer.spiece.model` for a file that is compared whole.
    pub key: String,
    /// For each checkpoint, the number of entries and a short digest of them; `None` if it has no such file.
    pub values: Vec<Option<String>>,
}

/// The parts in which the tokenizers differ, sorted. A checkpoint that lacks a file does not differ in it.
///
/// # Errors
/// If a tokenizer file cannot be read.
pub fn compare_tokenizer_files(
    checkpoints: &[&Checkpoint],
    storage: &dyn Storage,
) -> Result<Vec<TokenizerDifference>, Error> {
    let mut files: BTreeMap<&str, Vec<(usize, &SideFile)>> = BTreeMap::new();
    for (i, checkpoint) in checkpoints.iter().enumerate() {
        let is_read = |file: &&SideFile| file.kind == SideFileKind::Travels && is_tokenizer_file(&file.name);
        for file in checkpoint.side_files().iter().filter(is_read) {
            files.entry(&file.name).or_default().push((i, file));
        }
    }
    let mut parts: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for (name, places) in files {
        for (key, i, value) in distinct_meanings(name, &places, storage)? {
            parts.entry(key).or_insert_with(|| vec![None; checkpoints.len()])[i] = Some(value);
        }
    }
    let differs = |values: &Vec<Option<String>>| {
        let mut present = values.iter().flatten();
        let first = present.next();
        present.any(|value| Some(value) != first)
    };
    let found = parts.into_iter().filter(|(_, values)| differs(values));
    Ok(found.map(|(key, values)| TokenizerDifference { key, values }).collect())
}

fn is_tokenizer_file(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "added_tokens.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tekken.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    ];
    NAMES.contains(&name) || name.starts_with("tokenizer.model") || name.ends_with(".tiktoken")
}

/// Key, checkpoint and value of each part of one file in each checkpoint; nothing if all bytes are equal.
fn distinct_meanings(
    name: &str,
    places: &[(usize, &SideFile)],
    storage: &dyn Storage,
) -> Result<Vec<(String, usize, String)>, Error> {
    let mut known: Vec<(String, Vec<usize>)> = Vec::new();
    let mut paths = BTreeMap::new();
    for (i, file) in places {
        // Checkpoints that are files of one folder share their tokenizer.
        let digest = match paths.get(&file.path) {
            Some(digest) => String::clone(digest),
            None => bytes_digest(DigestKind::Blake3, &file.read(storage)?).to_string(),
        };
        paths.insert(&file.path, digest.clone());
        match known.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, members)) => members.push(*i),
            None => known.push((digest, vec![*i])),
        }
    }
    if known.len() < 2 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (_, members) in &known {
        let Some((_, file)) = places.iter().find(|(i, _)| members.contains(i)) else { continue };
        for (part, value) in meaning_of(name, &file.read(storage)?) {
            found.extend(members.iter().map(|&i| (format!("tokenizer.{part}"), i, value.clone())));
        }
    }
    Ok(found)
}

/// Parts of a file, each with its number of entries and a short digest.
fn meaning_of(name: &str, bytes: &[u8]) -> Vec<(String, String)> {
    let whole = || vec![(name.to_owned(), short(bytes.len(), bytes))];
    match name {
        "tokenizer.json" => {
            serde_json::from_slice::<TokenizerFile>(bytes).map_or_else(|_| whole(), TokenizerFile::parts)
        }
        "tokenizer_config.json" => {
            // Everything else in it is about how the tokenizer is used.
            let config: Option<TokenizerConfig> = serde_json::from_slice(bytes).ok();
            let added = config.and_then(|config| config.added_tokens_decoder).unwrap_or_default();
            let lines = added.iter().map(|(id, token)| format!("{id}\0{}", token.content)).collect::<Vec<_>>();
            if lines.is_empty() {
                Vec::new()
            } else {
                vec![(format!("{name}.added_tokens_decoder"), digest_lines(lines))]
            }
        }
        "vocab.json" | "added_tokens.json" => match serde_json::from_slice::<BTreeMap<String, Value>>(bytes) {
            Ok(map) => {
                let lines = map.iter().map(|(token, id)| format!("{token}\0{id}")).collect();
                vec![(name.to_owned(), digest_lines(lines))]
            }
            Err(_) => whole(),
        },
        "vocab.txt" | "merges.txt" => match std::str::from_utf8(bytes) {
            Ok(text) => {
                let is_said = |line: &&str| !line.is_empty() && !line.starts_with("#version");
                let lines = text.lines().map(str::trim_end).filter(is_said).map(str::to_owned).collect();
                vec![(name.to_owned(), digest_lines(lines))]
            }
            Err(_) => whole(),
        },
        _ => whole(),
    }
}

fn short(n: usize, bytes: &[u8]) -> String {
    let digest = bytes_digest(DigestKind::Blake3, bytes).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    format!("{n}:{}", hex.get(..12).unwrap_or(hex))
}

/// The same value with the keys of all objects in order.
pub(crate) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            map.into_iter().map(|(key, value)| (key.clone(), value)).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn digest_lines(lines: Vec<String>) -> String {
    short(lines.len(), lines.join("\n").as_bytes())
}

/// The parts of `tokenizer.json` that decide which tokens a text has.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: TokenizerModel,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    #[serde(default)]
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct TokenizerModel {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    vocab: Vocabulary,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// Tokens with their numbers, or pieces with their scores in the order of their numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Numbers(BTreeMap<String, u64>),
    Scores(Vec<(String, f64)>),
    Other(IgnoredAny),
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

/// One merge, as text with a space or as a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl TokenizerFile {
    fn parts(self) -> Vec<(String, String)> {
        let mut vocabulary = vec![self.model.kind.unwrap_or_default()];
        match self.model.vocab {
            Vocabulary::Numbers(map) => vocabulary.extend(map.into_iter().map(|(token, id)| format!("{token}\0{id}"))),
            Vocabulary::Scores(list) => {
                vocabulary.extend(list.into_iter().map(|(piece, score)| format!("{piece}\0{score:e}")));
            }
            Vocabulary::Other(_) => {}
        }
        let merge = |merge: Merge| match merge {
            Merge::Text(text) => text,
            Merge::Pair(a, b) => format!("{a} {b}"),
        };
        let mut added: Vec<String> =
            self.added_tokens.into_iter().map(|token| format!("{}\0{}", token.id, token.content)).collect();
        added.sort();
        let n_tokens = vocabulary.len() - 1;
        // What is done to a text before and after: the order of keys in an object means nothing and is sorted.
        let step = |name: &str, value: &Value| {
            let n_parts = value.as_object().map_or(0, serde_json::Map::len);
            (name.to_owned(), short(n_parts, sorted(value).to_string().as_bytes()))
        };
        vec![
            step("normalizer", &self.normalizer),
            step("pre_tokenizer", &self.pre_tokenizer),
            step("post_processor", &self.post_processor),
            ("vocabulary".to_owned(), short(n_tokens, vocabulary.join("\n").as_bytes())),
            ("merges".to_owned(), digest_lines(self.model.merges.into_iter().map(merge).collect())),
            ("added_tokens".to_owned(), digest_lines(added)),
        ]
    }
}

#[derive(Deserialize)]
struct TokenizerConfig {
    added_tokens_decoder: Option<BTreeMap<String, DecodedToken>>,
}

#[derive(Deserialize)]
struct DecodedToken {
    content: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_same(name: &str, a: &str, b: &str) {
        assert_eq!(meaning_of(name, a.as_bytes()), meaning_of(name, b.as_bytes()), "{name}");
    }

    fn check_differ(name: &str, a: &str, b: &str, part: &str) {
        let (a, b) = (meaning_of(name, a.as_bytes()), meaning_of(name, b.as_bytes()));
        let parts: Vec<&str> = a.iter().zip(&b).filter(|(a, b)| a != b).map(|(a, _)| a.0.as_str()).collect();
        assert_eq!(parts, [part]);
    }

    #[test]
    fn the_same_tokenizer_written_in_two_ways_is_the_same() {
        check_same(
            "tokenizer.json",
            r#"{"version":"1.0","truncation":null,"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}}"#,
            r#"{"model":{"merges":[["a","b"]],"vocab":{"b":1,"a":0},"type":"BPE","byte_fallback":false},"padding":{}}"#,
        );
        check_same("vocab.json", r#"{"a":0,"b":1}"#, "{\"b\": 1,\n\"a\": 0}");
        check_same("merges.txt", "#version: 0.2\na b\nb c\n", "a b\r\nb c");
        check_same("tokenizer_config.json", r#"{"model_max_length":1}"#, r#"{"model_max_length":2,"x":[]}"#);
    }

    #[test]
    fn other_tokens_are_another_tokenizer() {
        let file = |vocab: &str, merges: &str, added: &str| {
            format!(r#"{{"added_tokens":[{added}],"model":{{"type":"BPE","vocab":{{{vocab}}},"merges":[{merges}]}}}}"#)
        };
        let base = file(r#""a":0,"b":1"#, r#""a b""#, r#"{"id":2,"content":"<s>"}"#);
        let name = "tokenizer.json";
        check_differ(name, &base, &file(r#""a":1,"b":0"#, r#""a b""#, r#"{"id":2,"content":"<s>"}"#), "vocabulary");
        check_differ(name, &base, &file(r#""a":0,"b":1"#, r#""b a""#, r#"{"id":2,"content":"<s>"}"#), "merges");
        check_differ(name, &base, &file(r#""a":0,"b":1"#, r#""a b""#, r#"{"id":2,"content":"<t>"}"#), "added_tokens");
        check_differ(
            name,
            r#"{"model":{"type":"Unigram","vocab":[["a",-1.5],["b",-2.0]]}}"#,
            r#"{"model":{"type":"Unigram","vocab":[["b",-2.0],["a",-1.5]]}}"#,
            "vocabulary",
        );
        check_differ("vocab.txt", "a\nb\n", "b\na\n", "vocab.txt");
        check_differ("spiece.model", "x", "y", "spiece.model");
        check_differ("tokenizer.json", "not JSON", "not JSON either", "tokenizer.json");
    }
}
