//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! The index only says where; the headers of the shards say what. Its file names come from whatever wrote
//! the file, so they may name plain files below the checkpoint's folder and nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use thalweg_tensor::display_name;

use crate::json::{TextSeed, describe_json_error};

/// The largest index that is read, in bytes.
pub(crate) const MAX_INDEX_BYTES: u64 = 100_000_000;

/// What an index says: tensors sorted by name, files sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardIndex {
    /// Shard files, relative to the folder of the index, each once.
    pub files: Vec<String>,
    /// Tensor name and the position of its file in `files`, sorted by name, names unique.
    pub tensors: Vec<(Box<str>, u32)>,
    /// `metadata.total_size` where it is a whole number: informative, sometimes wrong.
    pub total_size: Option<u64>,
}

/// Why an index is refused. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Not UTF-8.
    #[error("the index is not UTF-8 at byte {at_byte}")]
    NotUtf8 {
        /// Position in the file.
        at_byte: usize,
    },
    /// The JSON text is broken or a value has the wrong type.
    #[error("the index is malformed: {message}, at byte {at_byte}")]
    Json {
        /// What is wrong, with what was expected.
        message: String,
        /// Position in the file.
        at_byte: usize,
    },
    /// There is no tensor in it.
    #[error("the `weight_map` of the index is empty")]
    NoTensors,
    /// A name appears twice.
    #[error("tensor `{}` appears twice in the index", display_name(tensor))]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// A file name that is not a plain name below the folder.
    #[error("tensor `{}` points to `{}`, {fault}", display_name(tensor), display_name(file))]
    ForbiddenFile {
        /// The first tensor that names it.
        tensor: String,
        /// What the index says.
        file: String,
        /// Which rule it breaks.
        fault: FileNameFault,
    },
}

/// Which rule a file name in an index breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileNameFault {
    /// No characters, or a part between two slashes has none.
    Empty,
    /// A character that a terminal does not show as it is, such as NUL or an escape.
    Control,
    /// A backslash.
    Backslash,
    /// An address.
    Url,
    /// Begins at the root or at a drive.
    Absolute,
    /// A part is `.` or `..`.
    Dots,
}

impl fmt::Display for FileNameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "which has an empty part",
            Self::Control => "which holds a control character",
            Self::Backslash => "which holds a backslash",
            Self::Url => "which is a URL; only files below the folder are opened",
            Self::Absolute => "which is an absolute path; only files below the folder are opened",
            Self::Dots => "which holds `.` or `..`; only files below the folder are opened",
        })
    }
}

/// Whether an index may name this file: a plain name, or a relative child.
///
/// # Errors
/// The rule that it breaks.
///
/// # Example
/// ```
/// use thalweg_checkpoint::index::{FileNameFault, check_file_name};
///
/// assert_eq!(check_file_name("model-00001-of-00002.safetensors"), Ok(()));
/// assert_eq!(check_file_name("../secret"), Err(FileNameFault::Dots));
/// ```
pub fn check_file_name(name: &str) -> Result<(), FileNameFault> {
    let begins_with_drive = name.as_bytes().get(1) == Some(&b':');
    let fault = if display_name(name) != name {
        FileNameFault::Control
    } else if name.contains('\\') {
        FileNameFault::Backslash
    } else if name.contains("://") {
        FileNameFault::Url
    } else if name.starts_with('/') || begins_with_drive {
        FileNameFault::Absolute
    } else if name.split('/').any(str::is_empty) {
        FileNameFault::Empty
    } else if name.split('/').any(|part| matches!(part, "." | "..")) {
        FileNameFault::Dots
    } else {
        return Ok(());
    };
    Err(fault)
}

/// Reads the text of an index.
///
/// # Errors
/// The first fault found: syntax, then duplicate names, then file names.
///
/// # Example
/// ```
/// let index = thalweg_checkpoint::index::parse_index(br#"{"weight_map":{"w":"model-00001-of-00001.safetensors"}}"#)?;
/// assert_eq!(index.files, ["model-00001-of-00001.safetensors"]);
/// # Ok::<(), thalweg_checkpoint::index::IndexError>(())
/// ```
pub fn parse_index(bytes: &[u8]) -> Result<ShardIndex, IndexError> {
    let text = std::str::from_utf8(bytes).map_err(|error| IndexError::NotUtf8 { at_byte: error.valid_up_to() })?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = parser.deserialize_map(IndexVisitor).and_then(|raw| parser.end().map(|()| raw));
    let mut raw = parsed.map_err(|error| {
        let (message, at_byte) = describe_json_error(text, &error);
        IndexError::Json { message, at_byte }
    })?;
    if raw.weight_map.is_empty() {
        return Err(IndexError::NoTensors);
    }
    raw.weight_map.sort();
    if let Some(pair) = raw.weight_map.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(IndexError::DuplicateTensor { tensor: pair[0].0.to_string() });
    }
    let mut files: BTreeMap<&str, u32> = BTreeMap::new();
    for (tensor, file) in &raw.weight_map {
        if files.contains_key(&**file) {
            continue;
        }
        check_file_name(file).map_err(|fault| IndexError::ForbiddenFile {
            tensor: tensor.to_string(),
            file: file.to_string(),
            fault,
        })?;
        files.insert(file, 0);
    }
    for (number, position) in (0..).zip(files.values_mut()) {
        *position = number;
    }
    let tensors = raw.weight_map.iter().filter_map(|(tensor, file)| Some((Box::from(&**tensor), *files.get(&**file)?)));
    Ok(ShardIndex {
        tensors: tensors.collect(),
        total_size: raw.total_size,
        files: files.into_keys().map(str::to_owned).collect(),
    })
}

struct RawIndex<'a> {
    weight_map: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    total_size: Option<u64>,
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = RawIndex<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut weight_map = None;
        let mut total_size = None;
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "weight_map" if weight_map.is_some() => return Err(A::Error::duplicate_field("weight_map")),
                "weight_map" => weight_map = Some(map.next_value_seed(WeightMapSeed)?),
                // Writers differ in what they put here, and nothing is based on it.
                "metadata" => total_size = map.next_value::<Metadata>()?.total_size,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let weight_map = weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))?;
        Ok(RawIndex { weight_map, total_size })
    }
}

/// `metadata`, whatever it is: kept is one number, so that a large tree costs nothing.
#[derive(Default)]
struct Metadata {
    total_size: Option<u64>,
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MetadataVisitor)
    }
}

struct MetadataVisitor;

/// Values that are not objects, and numbers that are not sizes, are skipped.
impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut total_size = None;
        while let Some(key) = map.next_key_seed(TextSeed)? {
            if key == "total_size" {
                total_size = map.next_value::<Metadata>()?.total_size;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Metadata { total_size })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Metadata, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Metadata::default())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Metadata, E> {
        Ok(Metadata { total_size: Some(number) })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Metadata, E> {
        Ok(Metadata::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Metadata, E> {
        Ok(Metadata::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Metadata, E> {
        Ok(Metadata::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Metadata, E> {
        Ok(Metadata::default())
    }

    fn visit_unit<E>(self) -> Result<Metadata, E> {
        Ok(Metadata::default())
    }
}

struct WeightMapSeed;

impl<'de> DeserializeSeed<'de> for WeightMapSeed {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMapSeed {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names in `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry_seed(TextSeed, TextSeed)? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_the_folder_pass() {
        for good in ["model.safetensors", "a/b.safetensors", "weights..old.safetensors", ".hidden"] {
            assert_eq!(check_file_name(good), Ok(()), "{good}");
        }
        for (bad, fault) in [
            ("", FileNameFault::Empty),
            ("a//b", FileNameFault::Empty),
            ("a/", FileNameFault::Empty),
            ("/etc/passwd", FileNameFault::Absolute),
            ("C:x", FileNameFault::Absolute),
            ("..", FileNameFault::Dots),
            ("a/../b", FileNameFault::Dots),
            ("./a", FileNameFault::Dots),
            ("a\\b", FileNameFault::Backslash),
            ("a\0b", FileNameFault::Control),
            ("a\u{1b}[2J", FileNameFault::Control),
            ("a\u{202e}b", FileNameFault::Control),
            ("https://x/y", FileNameFault::Url),
        ] {
            assert_eq!(check_file_name(bad), Err(fault), "{bad:?}");
        }
    }

    #[test]
    fn files_and_tensors_are_sorted_and_files_stand_once() {
        let index = parse_index(br#"{"weight_map":{"c":"2","a":"2","b":"1"},"metadata":{"total_size":"x"}}"#).unwrap();
        assert_eq!(index.files, ["1", "2"]);
        assert_eq!(index.tensors, [("a".into(), 1), ("b".into(), 0), ("c".into(), 1)]);
        assert_eq!(index.total_size, None);
    }

    #[test]
    fn the_total_is_taken_from_whatever_the_metadata_is() {
        let total = |metadata: &str| {
            parse_index(format!(r#"{{"metadata":{metadata},"weight_map":{{"a":"1"}}}}"#).as_bytes()).unwrap().total_size
        };
        assert_eq!(total(r#"{"x":[{}],"total_size":7,"total_parameters":3}"#), Some(7));
        for other in
            ["null", "[1,[2]]", "true", "-1", "1.5", "\"7\"", "{}", r#"{"total_size":7.0}"#, r#"{"total_size":[]}"#]
        {
            assert_eq!(total(other), None, "{other}");
        }
    }

    #[test]
    fn an_escaped_name_is_the_same_name() {
        let error = parse_index(br#"{"weight_map":{"a":"1","\u0061":"2"}}"#).unwrap_err();
        assert_eq!(error, IndexError::DuplicateTensor { tensor: "a".to_owned() });
    }
}
