//! Compares the small files beside the tensors that decide how a model is used: templates, special tokens, defaults of
//! generation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_storage::Storage;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::tokenizer::sorted;
use crate::{CONFIG_FILE_NAME, Checkpoint, Error, SideFile, SideFileKind};

/// Larger files are vocabularies, which are compared by meaning.
const MAX_COMPARED_BYTES: u64 = 1 << 20;
/// Keys that say who wrote a file, not what it means.
const WRITERS: [&str; 2] = ["_commit_hash", "transformers_version"];

type Bytes = [u8; 32];

/// What is known of the small travelling files of checkpoints that are compared in several groups.
#[derive(Debug, Default)]
pub struct SideFileComparison {
    /// Digest of the bytes, by path.
    bytes: BTreeMap<PathBuf, Bytes>,
    /// Digest of the meaning, by digest of the bytes.
    meanings: BTreeMap<Bytes, Bytes>,
}

impl SideFileComparison {
    /// The names of the small travelling files that are not the same in all checkpoints that have them, sorted.
    ///
    /// JSON is compared by its values. The model's config is not among them: its differences are refused, not noted.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn differing(&mut self, checkpoints: &[&Checkpoint], storage: &dyn Storage) -> Result<Vec<String>, Error> {
        let mut files: BTreeMap<&str, Vec<&SideFile>> = BTreeMap::new();
        let is_compared = |file: &&SideFile| {
            file.kind == SideFileKind::Travels && file.name != CONFIG_FILE_NAME && file.len_bytes <= MAX_COMPARED_BYTES
        };
        for file in checkpoints.iter().flat_map(|checkpoint| checkpoint.side_files().iter().filter(is_compared)) {
            files.entry(&file.name).or_default().push(file);
        }
        let mut differing = Vec::new();
        for (name, places) in files {
            // Checkpoints that are files of one folder share the files beside them.
            let paths: BTreeSet<&Path> = places.iter().map(|file| &*file.path).collect();
            if paths.len() > 1 && self.differ(&paths, storage)? {
                differing.push(name.to_owned());
            }
        }
        Ok(differing)
    }

    fn differ(&mut self, paths: &BTreeSet<&Path>, storage: &dyn Storage) -> Result<bool, Error> {
        let digest = |bytes: &[u8]| bytes_digest(DigestKind::Blake3, bytes).to_bytes();
        let mut kinds: BTreeMap<Bytes, &Path> = BTreeMap::new();
        for &path in paths {
            let known = match self.bytes.get(path) {
                Some(known) => *known,
                None => {
                    let read = digest(&storage.read_file(path, MAX_COMPARED_BYTES)?);
                    self.bytes.insert(path.to_owned(), read);
                    read
                }
            };
            kinds.insert(known, path);
        }
        // Equal bytes mean the same.
        if kinds.len() < 2 {
            return Ok(false);
        }
        let mut meanings = BTreeSet::new();
        for (bytes, path) in kinds {
            let meaning = match self.meanings.get(&bytes) {
                Some(known) => *known,
                None => {
                    let found = digest(&meaning_of(&storage.read_file(path, MAX_COMPARED_BYTES)?));
                    self.meanings.insert(bytes, found);
                    found
                }
            };
            meanings.insert(meaning);
        }
        Ok(meanings.len() > 1)
    }
}

/// The same bytes for the same JSON, in whatever order and spacing it was written.
fn meaning_of(bytes: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return bytes.to_vec() };
    if let Value::Object(map) = &mut value {
        // Records of this program say which checkpoint they are of: they always differ.
        if map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("thalweg-")) {
            return b"a record of this program".to_vec();
        }
        WRITERS.iter().for_each(|key| drop(map.remove(*key)));
    }
    sorted(&value).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::meaning_of;

    #[test]
    fn json_is_compared_by_its_values() {
        let a = br#"{"temperature": 0.6, "eos_token_id": [1, 2], "transformers_version": "4.50.0"}"#;
        let b = br#"{"eos_token_id":[1,2],"temperature":0.6,"transformers_version":"5.1.0"}"#;
        assert_eq!(meaning_of(a), meaning_of(b));
        assert_ne!(meaning_of(a), meaning_of(br#"{"temperature": 0.7, "eos_token_id": [1, 2]}"#));
        let record = |step: u64| format!(r#"{{"kind":"thalweg-training-checkpoint","step":{step}}}"#).into_bytes();
        assert_eq!(meaning_of(&record(1)), meaning_of(&record(2)));
        assert_ne!(meaning_of(b"{{ bos_token }}"), meaning_of(b"{{bos_token}}"));
    }
}
