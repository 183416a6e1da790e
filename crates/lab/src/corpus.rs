//! Documents from JSON lines, packed with zstd or plain, and the corpus that is built in.
//!
//! Knows text only; see `tokens` for what a model reads.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thalweg_eval::packed::{ZstdReader, is_zstd};
use thalweg_storage::{Storage, skip_mark};

use crate::Error;

/// The largest file of a corpus that is read, packed.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// The longest line: a document with its metadata.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// The most text of one file, unpacked.
const MAX_TEXT_BYTES: u64 = 8 << 30;

/// A part of a built-in corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorpusPart {
    /// For training.
    Train,
    /// For choosing.
    Validation,
    /// For reporting.
    Test,
}

/// Names of the built-in corpora.
pub const BUILT_IN: [&str; 1] = ["stories"];

/// The packed bytes of a part of a built-in corpus; `None` if there is no corpus of that name.
///
/// `stories`: very simple short stories (TinyStories, CDLA-Sharing-1.0; African Storybook, CC BY 4.0), 8,593 documents
/// of 7.1 MB for training, 330 and 335 of 0.3 MB held out; see `corpora/README.md`.
pub fn built_in_bytes(name: &str, part: CorpusPart) -> Option<&'static [u8]> {
    match (name, part) {
        ("stories", CorpusPart::Train) => Some(include_bytes!("../../../corpora/stories/train.jsonl.zst")),
        ("stories", CorpusPart::Validation) => Some(include_bytes!("../../../corpora/stories/validation.jsonl.zst")),
        ("stories", CorpusPart::Test) => Some(include_bytes!("../../../corpora/stories/test.jsonl.zst")),
        _ => None,
    }
}

/// Names of the built-in tokenizers.
pub(crate) const BUILT_IN_TOKENIZERS: [&str; 2] = ["bpe-512", "bpe-2048"];

/// The `tokenizer.json` of a built-in tokenizer; `None` if there is none of that name.
pub fn built_in_tokenizer(name: &str) -> Option<&'static [u8]> {
    match name {
        "bpe-512" => Some(include_bytes!("../../../tokenizers/bpe-512/tokenizer.json")),
        "bpe-2048" => Some(include_bytes!("../../../tokenizers/bpe-2048/tokenizer.json")),
        _ => None,
    }
}

/// The texts of one file of JSON lines, in their order; other keys than `text` are ignored.
///
/// # Errors
/// `CorpusLine` with the number of the line that is not a document; `CorpusFile` where zstd finds a fault; `Storage`.
pub fn read_documents(storage: &dyn Storage, path: &Path) -> Result<Vec<String>, Error> {
    let bytes = storage.read_file(path, MAX_FILE_BYTES)?;
    parse_documents(&bytes, path)
}

/// The texts of JSON lines in memory, packed with zstd or plain; `path` is for messages.
///
/// # Errors
/// As [`read_documents`].
///
/// # Example
/// ```
/// use thalweg_lab::corpus::parse_documents;
///
/// let lines = b"{\"id\": \"a\", \"text\": \"One day.\"}\n{\"text\": \"Two days.\"}\n";
/// assert_eq!(parse_documents(lines, "two.jsonl".as_ref())?, ["One day.", "Two days."]);
/// # Ok::<(), thalweg_lab::Error>(())
/// ```
pub fn parse_documents(bytes: &[u8], path: &Path) -> Result<Vec<String>, Error> {
    if is_zstd(bytes) {
        parse_lines(BufReader::with_capacity(1 << 20, ZstdReader::new(bytes)), path)
    } else {
        parse_lines(bytes, path)
    }
}

#[derive(Deserialize)]
struct Document {
    text: String,
}

fn parse_lines(mut reader: impl BufRead, path: &Path) -> Result<Vec<String>, Error> {
    let mut documents = Vec::new();
    let mut line = Vec::new();
    let mut n_bytes = 0;
    for number in 1.. {
        let refuse = |message: String| Error::CorpusLine { path: path.to_owned(), line: number, message };
        line.clear();
        let read = reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line);
        let n_read =
            read.map_err(|error| Error::CorpusFile { path: path.to_owned(), message: error.to_string() })? as u64;
        if n_read == 0 {
            break;
        }
        n_bytes += n_read;
        if n_read > MAX_LINE_BYTES || n_bytes > MAX_TEXT_BYTES {
            return Err(refuse(format!(
                "it is longer than the limit of {MAX_LINE_BYTES} bytes for a line or {MAX_TEXT_BYTES} for a file"
            )));
        }
        let text = if number == 1 { skip_mark(&line) } else { &line }.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let document: Document = serde_json::from_slice(text).map_err(|error| refuse(describe_json_error(&error)))?;
        documents.push(document.text);
    }
    Ok(documents)
}

/// Without serde's own "line 1": the line is said already.
fn describe_json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    format!("{message} (column {})", error.column())
}

/// A path as a config gives it: relative ones begin at the config's folder.
pub(crate) fn resolve_path(folder: &Path, path: &str) -> PathBuf {
    folder.join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_before_the_first_line_is_skipped() {
        let texts = parse_documents("\u{feff}{\"text\": \"one\"}\n".as_bytes(), Path::new("a.jsonl")).unwrap();
        assert_eq!(texts, ["one"]);
    }

    #[test]
    fn the_built_in_corpus_has_the_documents_that_its_manifest_counts() {
        let n_documents = |part| {
            let documents = parse_documents(built_in_bytes("stories", part).unwrap(), Path::new("stories")).unwrap();
            (documents.len(), documents.iter().map(String::len).sum::<usize>())
        };
        assert_eq!(n_documents(CorpusPart::Validation), (330, 278_203));
        assert_eq!(n_documents(CorpusPart::Test), (335, 271_481));
        assert_eq!(n_documents(CorpusPart::Train), (8593, 7_086_517));
    }

    #[test]
    fn a_broken_line_is_named() {
        let refuse = |bytes: &[u8]| parse_documents(bytes, Path::new("a.jsonl")).unwrap_err().to_string();
        let missing = refuse(b"{\"text\": \"a\"}\n\n{\"txt\": \"b\"}\n");
        assert_eq!(missing, "`a.jsonl`, line 3: missing field `text` (column 12)");
        assert!(refuse(b"{\"text\": \"a\"}\n{\"text\": \"b").starts_with("`a.jsonl`, line 2: EOF while parsing"));
        assert!(refuse(b"{\"text\": \"\xff\"}").starts_with("`a.jsonl`, line 1: invalid unicode"));
        assert!(refuse(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2]).starts_with("`a.jsonl` cannot be unpacked"));
        let validation = built_in_bytes("stories", CorpusPart::Validation).unwrap();
        let twice = parse_documents(&[validation, validation].concat(), Path::new("twice")).unwrap();
        assert_eq!(twice.len(), 660, "files put behind each other are one corpus");
        let mut cut = built_in_bytes("stories", CorpusPart::Validation).unwrap().to_vec();
        cut.truncate(40_000);
        assert!(parse_documents(&cut, Path::new("cut")).is_err(), "a torn file must not read as a shorter corpus");
    }
}
