//! The files beside the tensors: which of them travel to an output, and why the others stay.
//!
//! A file that is neither weights nor training state travels, byte for byte from one named source, whatever its name:
//! tokenizers, processors, templates and licences have too many names to list. Model cards stay: an output gets its
//! own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::{FileKind, FolderEntry, Storage};

use crate::Error;
use crate::format::strip_file_end;
use crate::state_names::is_state_name;

/// The name of the model's config.
pub const CONFIG_FILE_NAME: &str = "config.json";

/// The largest side file that is carried along, in bytes. The largest known `tokenizer.json` is about half of that.
pub const MAX_SIDE_FILE_BYTES: u64 = 64_000_000;

/// Names that are looked for beside a single file, whose folder may be a run folder with other files.
const NAMES: [&str; 31] = [
    CONFIG_FILE_NAME,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer.model.v7",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "qwen.tiktoken",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "params.json",
    "model_config.yaml",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENCE",
    "NOTICE",
    "USE_POLICY.md",
];

/// What happens to a file beside the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideFileKind {
    /// Config, tokenizer, templates, licence and the like: always copied.
    Travels,
    /// Code that a model brings along: only on request, since someone may run it.
    Code,
    /// It stays where it is.
    Stays(StayReason),
}

/// Why a file stays behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StayReason {
    /// Weights in this or another format.
    Weights,
    /// State of the optimizer, the scheduler or random numbers; logs; results of this checkpoint.
    TrainingState,
    /// The model card.
    Card,
    /// A file that thalweg writes beside checkpoints.
    Record,
    /// More than [`MAX_SIDE_FILE_BYTES`].
    TooLarge,
    /// A folder.
    Folder,
    /// A lock, an unfinished download or copy, or a file of the operating system.
    Temporary,
    /// A dangling link, a device, a pipe or a socket.
    NotAFile,
}

impl StayReason {
    /// The reason in a word or two.
    pub fn words(self) -> &'static str {
        match self {
            Self::Weights => "weights or their index",
            Self::TrainingState => "training state",
            Self::Card => "the output has its own",
            Self::Record => "a record of this program",
            Self::TooLarge => "larger than 64 MB",
            Self::Folder => "folders",
            Self::Temporary => "temporary",
            Self::NotAFile => "not a file",
        }
    }
}

/// A file beside the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideFile {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Its length.
    pub len_bytes: u64,
    /// Whether it travels.
    pub kind: SideFileKind,
}

impl SideFile {
    /// The whole content.
    ///
    /// # Errors
    /// `Storage`, also when it is larger than [`MAX_SIDE_FILE_BYTES`].
    pub fn read(&self, storage: &dyn Storage) -> Result<Vec<u8>, Error> {
        Ok(storage.read_file(&self.path, MAX_SIDE_FILE_BYTES)?)
    }
}

/// Name endings of weights beside those of files that hold a whole checkpoint of a known format.
const OTHER_WEIGHT_ENDS: [&str; 11] = [
    ".safetensors.index.json",
    ".bin.index.json",
    ".distcp",
    ".h5",
    ".msgpack",
    ".nemo",
    ".npy",
    ".onnx",
    ".onnx_data",
    ".pdparams",
    ".tflite",
];
/// Descriptions of weights, and markers of a finished save of them: in an output they would say what it is not.
const WEIGHT_NAMES: [&str; 10] = [
    ".metadata",
    ".metadata.json",
    "adapter_config.json",
    "_CHECKPOINT_METADATA",
    "_METADATA",
    "_sharding",
    "_strings.json",
    "array_metadatas",
    "commit_success.txt",
    "manifest.ocdbt",
];
/// Name endings of locks, unfinished downloads and copies, and files of the operating system.
const TEMPORARY_ENDS: [&str; 7] = [".tmp", ".lock", ".incomplete", ".part", ".swp", "~", ".DS_Store"];

/// Whether a name ends as those of files of weights do, in any format.
pub fn has_weights_end(name: &str) -> bool {
    strip_file_end(name).is_some() || OTHER_WEIGHT_ENDS.iter().any(|end| name.ends_with(end))
}

/// What happens to a file with this name and length.
pub(crate) fn side_file_kind(name: &str, len_bytes: u64) -> SideFileKind {
    let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let reason = if name == "thalweg.json" || starts(&["thalweg-", "thalweg.", ".thalweg"]) {
        StayReason::Record
    } else if ends(&TEMPORARY_ENDS) || starts(&["tmp-", ".nfs", "._"]) {
        StayReason::Temporary
    } else if is_state_name(name) {
        StayReason::TrainingState
    } else if has_weights_end(name) || WEIGHT_NAMES.contains(&name) {
        StayReason::Weights
    } else if name.eq_ignore_ascii_case("README.md") {
        StayReason::Card
    } else if len_bytes > MAX_SIDE_FILE_BYTES {
        StayReason::TooLarge
    } else if name.strip_suffix(".py").is_some_and(|stem| !stem.is_empty()) {
        return SideFileKind::Code;
    } else {
        return SideFileKind::Travels;
    };
    SideFileKind::Stays(reason)
}

/// The side files of a folder that was listed, sorted by name; `used` says whether a name is part of the checkpoint
/// itself.
pub(crate) fn find_in_listing(folder: &Path, entries: &[FolderEntry], used: &dyn Fn(&str) -> bool) -> Vec<SideFile> {
    let side_file = |entry: &FolderEntry| {
        let (name, path) = (entry.name.clone(), folder.join(&entry.name));
        let kind = match entry.kind {
            FileKind::Folder => SideFileKind::Stays(StayReason::Folder),
            FileKind::File => side_file_kind(&name, entry.len_bytes),
            FileKind::Other => SideFileKind::Stays(StayReason::NotAFile),
        };
        SideFile { kind, name, path, len_bytes: entry.len_bytes }
    };
    entries.iter().filter(|entry| !used(&entry.name)).map(side_file).collect()
}

/// The side files of a folder, whatever its tensors are.
///
/// # Errors
/// `Storage`.
pub fn side_files_of(storage: &dyn Storage, folder: &Path) -> Result<Vec<SideFile>, Error> {
    Ok(find_in_listing(folder, &storage.list_folder(folder)?, &|_| false))
}

/// The side files beside a single file, sorted by name.
///
/// Known names are asked for one by one: a run folder with a thousand such files is not listed a thousand times.
pub(crate) fn probe_folder(storage: &Arc<dyn Storage>, folder: &Path) -> Vec<SideFile> {
    let mut found: Vec<SideFile> = Vec::new();
    for name in NAMES {
        let path = folder.join(name);
        let Ok(info) = storage.file_info(&path) else { continue };
        if info.kind == FileKind::File {
            let kind = side_file_kind(name, info.len_bytes);
            found.push(SideFile { name: name.to_owned(), path, len_bytes: info.len_bytes, kind });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_weights_nor_training_state_travels() {
        for name in [
            "config.json",
            "vocab.txt",
            "spiece.model",
            "sentencepiece.bpe.model",
            "qwen.tiktoken",
            "tekken.json",
            "tokenizer.model.v3",
            "processor_config.json",
            "chat_template.jinja",
            "LICENSE",
            "NOTICE",
            "modules.json",
            "preprocessor.yaml",
            "speaker_embeddings_path.json",
        ] {
            assert_eq!(side_file_kind(name, 10), SideFileKind::Travels, "{name}");
        }
    }

    #[test]
    fn weights_training_state_and_records_stay() {
        for (reason, names) in [
            (
                StayReason::Weights,
                &["pytorch_model.bin", "consolidated.00.pth", "model.gguf", "flax_model.msgpack"][..],
            ),
            (
                StayReason::TrainingState,
                &[
                    "optimizer.pt",
                    "scheduler.pt",
                    "rng_state_3.pth",
                    "sampler.bin",
                    "train.pt",
                    "trainer_state.json",
                    "training_args.bin",
                    "log.jsonl",
                ],
            ),
            (StayReason::Record, &["thalweg.json", "thalweg-start.json"]),
            (StayReason::Card, &["README.md", "readme.md"]),
            (StayReason::Temporary, &["model.safetensors.lock", "x.tmp", ".DS_Store"]),
        ] {
            for name in names {
                assert_eq!(side_file_kind(name, 10), SideFileKind::Stays(reason), "{name}");
            }
        }
        assert_eq!(side_file_kind("modeling_x.py", 10), SideFileKind::Code);
        assert_eq!(side_file_kind("tokenizer.json", u64::MAX), SideFileKind::Stays(StayReason::TooLarge));
    }
}
