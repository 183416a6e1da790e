//! Reads sets: JSON lines or plain text, packed by zstd or not. It does not know tokens or models.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use thalweg_storage::{Storage, text_of};
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::packed::ZstdReader;

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// The most that a packed file may unpack to.
const MAX_UNPACKED_BYTES: u64 = 4 << 30;

/// A file of data, unpacked.
#[derive(Debug)]
pub(crate) struct DataFile {
    /// BLAKE3 of the file as it is stored.
    pub(crate) digest: Digest,
    /// The content, unpacked.
    pub(crate) text: String,
}

/// Reads a file whole; one whose name ends in `.zst` is unpacked.
pub(crate) fn read_data(storage: &dyn Storage, path: &Path) -> Result<DataFile, Error> {
    let bytes = storage.read_file(path, MAX_FILE_BYTES)?;
    let digest = bytes_digest(DigestKind::Blake3, &bytes);
    let refuse = |what: String| Error::DataInvalid { path: path.to_owned(), what };
    let bytes = if path.extension().is_some_and(|end| end == "zst") { unpack(&bytes).map_err(refuse)? } else { bytes };
    let text = text_of(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        Error::RowInvalid { path: path.to_owned(), line, what: "the text is not UTF-8".to_owned() }
    })?;
    Ok(DataFile { digest, text })
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut reader = ZstdReader::new(packed).take(MAX_UNPACKED_BYTES + 1);
    reader.read_to_end(&mut out).map_err(|error| error.to_string())?;
    if out.len() as u64 > MAX_UNPACKED_BYTES {
        return Err(format!("it decompresses to more than {MAX_UNPACKED_BYTES} bytes"));
    }
    Ok(out)
}

/// Objects of a JSON-lines text with their line numbers from 1; empty lines are skipped.
pub(crate) fn json_lines<'a>(
    path: &'a Path,
    text: &'a str,
) -> impl Iterator<Item = Result<(usize, Value), Error>> + 'a {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(move |(line, content)| {
        let refuse = |what| Error::RowInvalid { path: path.to_owned(), line, what };
        match serde_json::from_str::<Value>(content) {
            Ok(row) if row.is_object() => Ok((line, row)),
            Ok(_) => Err(refuse("a row must be a JSON object".to_owned())),
            // The column stays true, the line number is that of the file.
            Err(error) => {
                let text = error.to_string();
                let what = text.split(" at line ").next().unwrap_or(&text);
                Err(refuse(format!("broken JSON at column {}: {what}", error.column())))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use thalweg_storage::MemoryStorage;

    use super::*;

    fn store(storage: &MemoryStorage, name: &str, bytes: &[u8]) {
        storage.create_file(Path::new(name), bytes.len() as u64).unwrap().write_all_at(0, bytes).unwrap();
    }

    #[test]
    fn broken_lines_are_named_by_file_and_line() {
        let path = Path::new("/set.jsonl");
        let rows = |text: &str| json_lines(path, text).map(|row| row.map_err(|e| e.to_string())).last().unwrap();
        assert_eq!(rows("{\"a\":1}\n\n{\"b\":2}").unwrap().0, 3);
        assert_eq!(
            rows("{\"a\":1}\n{\"b\":").unwrap_err(),
            "`/set.jsonl`, line 2: broken JSON at column 5: EOF while parsing a value"
        );
        assert_eq!(rows("[1]").unwrap_err(), "`/set.jsonl`, line 1: a row must be a JSON object");
    }

    #[test]
    fn text_that_is_not_utf8_is_named_by_line() {
        let storage = MemoryStorage::new();
        store(&storage, "/bad.txt", b"one\ntwo\n\xff");
        let error = read_data(&storage, Path::new("/bad.txt")).unwrap_err();
        assert_eq!(error.to_string(), "`/bad.txt`, line 3: the text is not UTF-8");
    }
}
