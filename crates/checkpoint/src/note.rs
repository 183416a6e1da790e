//! Notes for the user about a checkpoint that can be read.

use std::fmt;

use thalweg_tensor::display_name;

use crate::Params;
use crate::format::model_key::KeyKind;

/// An array some of whose chunks are not stored. They hold zeros: a writer may leave such chunks out, and half a copy
/// lacks others in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnstoredChunks {
    /// The array.
    pub name: String,
    /// Chunks that are not stored.
    pub n_missing: u64,
    /// All of its chunks.
    pub n_chunks: u64,
}

/// One remark. Shown after the result, never instead of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// There are both a single file and an index; the single file is read, as transformers does.
    SingleFilePreferred {
        /// The file that is read.
        used: String,
        /// The one that is not.
        unused: String,
    },
    /// Shards that the index does not list.
    StrayShards {
        /// Their names, sorted.
        files: Vec<String>,
    },
    /// A checkpoint without an index, whose shards are complete by their names.
    ShardsWithoutIndex {
        /// Number of shards.
        n_shards: usize,
    },
    /// The index states another total than its tensors have.
    TotalSizeWrong {
        /// What the index says.
        stated_bytes: u64,
        /// What the headers say.
        found_bytes: u64,
    },
    /// A header field that the format does not define, which was not interpreted.
    UnknownHeaderField {
        /// The file.
        file: String,
        /// The first such field.
        field: String,
    },
    /// Only the tensors under one key of the file are read.
    KeyChosen {
        /// The key.
        key: String,
    },
    /// The same file has other tensors.
    OtherKeys {
        /// Keys, and the number of tensors under each.
        keys: Vec<(String, usize)>,
        /// Those of the keys that are tensors themselves.
        lone: Vec<String>,
    },
    /// Some chunks of arrays are not stored, and others of the same arrays are.
    ChunksNotStored {
        /// The arrays.
        arrays: Vec<UnstoredChunks>,
    },
    /// A file that is from another step than the rest of the checkpoint.
    OtherStep {
        /// The file.
        file: String,
        /// The step in it.
        step: u64,
        /// The step of the others, and what says so.
        wanted: (u64, StepWitness),
    },
    /// Some files of a distributed checkpoint are newer than its metadata, which a save writes last, and some are not.
    NewerThanMetadata {
        /// The newer ones.
        files: Vec<String>,
        /// Number of files that are not newer.
        n_older: usize,
    },
    /// Files of ranks that do not record how many ranks there were.
    RanksNotRecorded {
        /// How many ranks have files.
        n_ranks: usize,
    },
    /// Entries that are not tensors.
    ObjectsLeftOut {
        /// Their names.
        names: Vec<String>,
    },
    /// Whether the module's weights or the masters are read, for a checkpoint that may have both.
    ParamsChosen {
        /// Which.
        params: Params,
    },
    /// The model is cut over ranks or layers, whose names the names of tensors begin with.
    NamedByRank {
        /// The name of a tensor.
        example: String,
    },
    /// A part that a wrapper of the module added to the names is removed from them.
    PrefixTakenOff {
        /// What is removed.
        prefix: String,
    },
    /// FP8 codes are read as the numbers that they stand for.
    Dequantised {
        /// Number of weights.
        n_tensors: usize,
        /// Rows and columns of the blocks that share a scale.
        block: [u64; 2],
    },
    /// Arrays of two-byte elements without a type, which ml_dtypes leaves of BF16.
    ReadAsBfloat16 {
        /// Number of arrays.
        n_tensors: usize,
    },
    /// Tables of rotations, which the model under its new names computes.
    RotaryTablesLeftOut {
        /// Their names.
        names: Vec<String>,
    },
    /// The folder's only candidate has another name than usual.
    UnusualName {
        /// The file.
        file: String,
    },
}

/// What says at which step a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepWitness {
    /// The name of its folder.
    FolderName,
    /// The state of its optimizer.
    Optimizer,
}

impl fmt::Display for StepWitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FolderName => "the name of the folder",
            Self::Optimizer => "the state of the optimizer",
        })
    }
}

impl Note {
    /// Whether it casts doubt on the content, so that a list of checkpoints shows it too.
    pub fn is_doubt(&self) -> bool {
        matches!(self, Self::ChunksNotStored { .. } | Self::OtherStep { .. } | Self::NewerThanMetadata { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SingleFilePreferred { used, unused } => {
                write!(f, "`{used}` is read and `{unused}` beside it is not, as transformers does")
            }
            Self::StrayShards { files } => {
                let first = files.first().map(|name| display_name(name)).unwrap_or_default();
                match files.len() {
                    1 => write!(f, "`{first}` is not part of the checkpoint and is ignored"),
                    n => write!(f, "{n} shards such as `{first}` are not part of the checkpoint and are ignored"),
                }
            }
            Self::ShardsWithoutIndex { n_shards: 1 } => f.write_str("there is no index; reading the only shard"),
            Self::ShardsWithoutIndex { n_shards } => write!(f, "there is no index; reading all {n_shards} shards"),
            Self::TotalSizeWrong { stated_bytes, found_bytes } => {
                write!(f, "the index states a `total_size` of {stated_bytes} bytes, but its tensors have {found_bytes}")
            }
            Self::UnknownHeaderField { file, field } => {
                let (file, field) = (display_name(file), display_name(field));
                write!(f, "the header of `{file}` has a field `{field}` that the format does not define; it is ignored")
            }
            Self::KeyChosen { key } => write!(f, "the tensors under key `{}` are read", display_name(key)),
            Self::OtherKeys { keys, lone } => write_other_keys(f, keys, lone),
            Self::ChunksNotStored { arrays } => write_unstored(f, arrays),
            Self::OtherStep { file, step, wanted } => write_other_step(f, (file, *step), *wanted),
            Self::NewerThanMetadata { files, n_older } => write_newer(f, files, *n_older),
            Self::RanksNotRecorded { n_ranks } => write!(
                f,
                "the files do not record how many ranks wrote them: if there were more than {n_ranks}, copy the rest, \
                 because the shapes are inferred from the files that are present"
            ),
            Self::ObjectsLeftOut { names } => {
                let first = names.first().map(|name| display_name(name)).unwrap_or_default();
                match names.len() {
                    1 => write!(f, "`{first}` is not a tensor and is left out"),
                    n => write!(f, "{n} entries such as `{first}` are not tensors and are left out"),
                }
            }
            Self::ParamsChosen { params: Params::Master } => f.write_str(
                "the F32 masters of the optimizer are read; `--params module` reads the module's own weights",
            ),
            Self::ParamsChosen { params: Params::Module } => f.write_str(
                "the module's own weights are read; `--params master` reads the F32 masters of the optimizer",
            ),
            Self::NamedByRank { example } => write_parts(f, example),
            Self::PrefixTakenOff { prefix } => {
                write!(f, "`{prefix}`, which a wrapper of the module added, is removed from the names")
            }
            Self::Dequantised { n_tensors, block: [rows, columns] } => write!(
                f,
                "FP8 weights are dequantised ({n_tensors}): each code is multiplied by the scale of its block of {rows} x {columns}, \
                 exactly"
            ),
            Self::ReadAsBfloat16 { n_tensors } => write!(
                f,
                "elements of type `V2` are read as BF16 ({n_tensors} arrays): NumPy does not record the types of ml_dtypes, \
                 and BF16 is the only one with two bytes"
            ),
            Self::RotaryTablesLeftOut { names } => {
                let first = names.first().map(|name| display_name(name)).unwrap_or_default();
                write!(
                    f,
                    "`{first}` is left out: it is a table of rotations that Hugging Face computes from the config"
                )
            }
            Self::UnusualName { file } => {
                write!(f, "`{}` is read, the only checkpoint file in the folder", display_name(file))
            }
        }
    }
}

fn write_parts(f: &mut fmt::Formatter<'_>, example: &str) -> fmt::Result {
    write!(
        f,
        "the model is cut into ranks or layers, with which names of tensors begin, such as `{}`; each part is merged by itself, \
         and only the trainer's exporter joins them",
        display_name(example)
    )
}

fn write_other_step(
    f: &mut fmt::Formatter<'_>,
    (file, step): (&str, u64),
    (wanted, witness): (u64, StepWitness),
) -> fmt::Result {
    let file = display_name(file);
    write!(
        f,
        "`{file}` is from step {step}, but {witness} says {wanted}: the files may come from two saves, and training \
         that resumes with `{file}` counts from step {step}"
    )
}

fn write_unstored(f: &mut fmt::Formatter<'_>, arrays: &[UnstoredChunks]) -> fmt::Result {
    let Some(first) = arrays.first() else { return Ok(()) };
    let name = display_name(&first.name);
    write!(f, "{} of {} chunks of `{name}`", first.n_missing, first.n_chunks)?;
    match arrays.len() {
        1 => {}
        2 => f.write_str(", and some of another array,")?,
        n => write!(f, ", and some of {} more arrays,", n - 1)?,
    }
    f.write_str(" are not stored and are read as zeros: if this is a copy, compare its files with the original")
}

fn write_newer(f: &mut fmt::Formatter<'_>, files: &[String], n_older: usize) -> fmt::Result {
    let first = files.first().map(|name| display_name(name)).unwrap_or_default();
    match files.len() {
        1 => write!(f, "`{first}` was")?,
        n => write!(f, "{n} files such as `{first}` were")?,
    }
    write!(
        f,
        " written after `.metadata`, and {n_older} before it: a save over this checkpoint may have been \
         interrupted, and its tensors may come from two steps"
    )
}

fn write_other_keys(f: &mut fmt::Formatter<'_>, keys: &[(String, usize)], lone: &[String]) -> fmt::Result {
    /// Most keys that the note names.
    const MAX_KEYS: usize = 6;
    f.write_str("other tensors are under ")?;
    for (i, (key, n_tensors)) in keys.iter().take(MAX_KEYS).enumerate() {
        write!(f, "{}`{}` ({n_tensors})", if i > 0 { ", " } else { "" }, display_name(key))?;
    }
    if keys.len() > MAX_KEYS {
        write!(f, " and {} more", keys.len() - MAX_KEYS)?;
    }
    // Averages of training state mean nothing, and nothing is under a tensor.
    let models = keys.iter().filter(|(key, _)| KeyKind::of(key) != KeyKind::State && !lone.contains(key));
    let models: Vec<String> = models.map(|(key, _)| format!("`{}`", display_name(key))).collect();
    match &*models {
        [] => Ok(()),
        _ if models.len() == keys.len() => f.write_str("; `--key` reads those"),
        _ => write!(f, "; `--key` reads those under {}", models[..models.len().min(MAX_KEYS)].join(", ")),
    }
}
