//! What can go wrong between a path and a checkpoint, and what to do about it.

use std::path::{Path, PathBuf};

use thalweg_tensor::{counted, counted_are, display_name};

use crate::format::dcp::error::DcpError;
use crate::format::header_error::HeaderError;
use crate::format::key_fault::KeyFault;
use crate::format::torch::error::TorchError;
use crate::format::torch_checkpointing::error::TcError;
use crate::index::IndexError;

/// How many facts of one kind a message lists before it only counts.
const MAX_LISTED: usize = 10;

/// Where a config comes from that a trainer's files lack.
const ASSETS_HINT: &str = "give the folder of the model's Hugging Face assets, `config.json` and the tokenizer, with `--hf-assets DIR`; \
     torchtitan's `scripts/download_hf_assets.py --assets config tokenizer` fetches them";

/// A checkpoint that cannot be opened, written or verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage refused; its message says the path.
    #[error(transparent)]
    Storage(#[from] thalweg_storage::Error),
    /// Tensor bytes could not be read or written; the message says the file and the tensor.
    #[error(transparent)]
    Access(#[from] thalweg_tensor::AccessError),
    /// Nothing exists at the path.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A folder or file in which no known format is recognised.
    #[error("`{}` holds no readable checkpoint: {found}", path.display())]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: String,
        /// How to convert it to a checkpoint that can be read, if the format is known.
        converter: Option<&'static str>,
    },
    /// A folder whose entries are named like the checkpoints of a run.
    #[error("`{}` holds no checkpoint that can be read: it holds `{}`, as a run does", path.display(), display_name(name))]
    HoldsCheckpoints {
        /// The folder.
        path: PathBuf,
        /// One of the entries.
        name: String,
    },
    /// A small text file that points to a file kept elsewhere.
    #[error("`{}` is a {kind} pointer, not the file that it points to", path.display())]
    Pointer {
        /// The text file.
        path: PathBuf,
        /// Which tool's pointer it is, such as Git LFS.
        kind: &'static str,
        /// What to run to fetch the file.
        fetch: &'static str,
    },
    /// A file that is not what its name says.
    #[error("`{}` is {found}", path.display())]
    Impostor {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Several files could be meant.
    #[error("`{}` holds {} files, any of which could be the checkpoint", path.display(), candidates.len())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// Their names.
        candidates: Vec<String>,
    },
    /// A save or copy that did not finish.
    #[error("`{}` is unfinished: {}", path.display(), summarise(faults, "fault"))]
    Unfinished {
        /// The folder or index.
        path: PathBuf,
        /// Missing and cut-off files, at least one.
        faults: Vec<UnfinishedFault>,
    },
    /// What a merge that was interrupted left: some of its tensors may not be written yet.
    #[error("`{}` is the output of a merge that was interrupted", path.display())]
    InterruptedMerge {
        /// The folder.
        path: PathBuf,
    },
    /// A header that breaks the format's rules.
    #[error("`{}`: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<HeaderError>,
    },
    /// A torch.save file that cannot be read.
    #[error("`{}`: {source}", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TorchError>,
    },
    /// A distributed checkpoint that cannot be read.
    #[error("`{}`: {source}", path.display())]
    Dcp {
        /// The metadata, or a file of pieces.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<DcpError>,
    },
    /// A tree of arrays of which it is not clear which part is meant.
    #[error("`{}`: {source}", path.display())]
    TreeKey {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with the key.
        source: Box<KeyFault>,
    },
    /// A key is asked for in a format without keys.
    #[error("`{}`: a safetensors checkpoint has no keys, but `--key {}` asks for one", path.display(), display_name(key))]
    NoKeys {
        /// The checkpoint.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A checkpoint of torch_checkpointing that cannot be read.
    #[error("`{}`: {source}", path.display())]
    TorchCheckpointing {
        /// The metadata, a file of an item, or the folder.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TcError>,
    },
    /// An index that breaks the format's rules.
    #[error("`{}`: {source}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<IndexError>,
    },
    /// Index and shards disagree.
    #[error("`{}` does not agree with its shards: {}", path.display(), summarise(faults, "difference"))]
    IndexMismatch {
        /// The index.
        path: PathBuf,
        /// Every difference, at least one.
        faults: Vec<IndexFault>,
    },
    /// A trainer's files that do not fit together as its layout requires.
    #[error("`{}`: {reason}", path.display())]
    Layout {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that ends before what its format writes last.
    #[error("`{}`: {reason}", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The module's weights were asked for, and only the masters are there.
    #[error("`{}`: ZeRO-3 leaves the module's weights out of it", path.display())]
    NoModuleWeights {
        /// The file.
        path: PathBuf,
    },
    /// The masters were asked for, and they have no names: DeepSpeed without ZeRO keeps them in lists.
    #[error("`{}`: DeepSpeed without ZeRO writes no masters under the names of the parameters", path.display())]
    NoMasters {
        /// The file.
        path: PathBuf,
    },
    /// Masters of experts were asked for, and it is not known which ranks have which.
    #[error(
        "`{}`: the masters of experts are supported only without tensor and pipeline parallelism, as ZeRO-1 and 2 cut them over the \
         ranks with the same experts",
        path.display()
    )]
    ExpertMasters {
        /// The file of an expert.
        path: PathBuf,
    },
    /// DeepSpeed's AutoEP cut the masters of experts.
    #[error("`{}` has experts that AutoEP cut over groups of ranks: their masters cannot be joined", path.display())]
    AutoExperts {
        /// The model's file.
        path: PathBuf,
    },
    /// A `config.json` that is not a JSON object.
    #[error("`{}` is not a JSON object: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the position.
        message: String,
    },
    /// An output without tensors.
    #[error("there is no tensor to write")]
    NothingToWrite,
    /// A name that an output cannot hold.
    #[error("tensor `{}` cannot be written: {reason}", display_name(tensor))]
    UnwritableTensor {
        /// The tensor.
        tensor: String,
        /// Why not.
        reason: &'static str,
    },
    /// A shard whose header would be longer than any reader takes.
    #[error(
        "the header of `{file}` would be {found_bytes} bytes long, more than the {limit_bytes} that readers accept"
    )]
    HeaderTooLong {
        /// The shard.
        file: String,
        /// What it would be.
        found_bytes: u64,
        /// What readers take.
        limit_bytes: u64,
    },
    /// A name that cannot be a file of a checkpoint's folder.
    #[error("`{}` is not a plain file name", display_name(name))]
    BadFileName {
        /// The name.
        name: String,
    },
    /// A file of the output would be written twice.
    #[error("`{name}` appears twice among the files of the output")]
    DuplicateFile {
        /// The name.
        name: String,
    },
    /// Something exists where the output would go.
    #[error(
        "`{}` was created by another program while this command ran; the finished output is in `{}`",
        path.display(),
        stage.display()
    )]
    OutputExists {
        /// The path.
        path: PathBuf,
        /// The folder in which the output is complete but for its name.
        stage: PathBuf,
    },
    /// A stage that was left by something else.
    #[error("`{}` was not staged for this output: {reason}", path.display())]
    StageMismatch {
        /// The file of the stage.
        path: PathBuf,
        /// What differs, with both values.
        reason: String,
    },
    /// A name map that does not fit a checkpoint.
    #[error("`{path}` cannot be renamed: {source}")]
    Rename {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        source: Box<crate::RenameError>,
    },
    /// A checkpoint that does not become one of Hugging Face.
    #[error("`{}`: {source}", path.display())]
    ToHuggingFace {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        source: Box<crate::ToHuggingFaceError>,
    },
    /// A folder of assets without the config.
    #[error("`{}` holds no `config.json`", path.display())]
    NoConfig {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint whose rows of queries and keys cannot be put in order, because the number of heads is not known.
    #[error("cannot tell how many attention heads `{}` has: there is no `config.json`", path.display())]
    NoHeads {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A config that does not describe the checkpoint.
    #[error("`{}` is not the config of `{}`: {}", path.display(), checkpoint.display(), summarise(faults, "difference"))]
    OtherConfig {
        /// The config, or its folder.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Every difference, at least one.
        faults: Vec<crate::ConfigFault>,
    },
    /// A parameter whose name is like those of the optimizer's state, which is read too.
    #[error("`{}`: parameter `{}` has a name that looks like optimizer state", path.display(), display_name(tensor))]
    LikeOptimizer {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        tensor: String,
    },
    /// A checkpoint whose files cannot be those of an output.
    #[error("an output cannot have the files of `{path}`: {reason}")]
    CannotKeepFiles {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The kind of problem with a checkpoint that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A save or copy that has not finished, or was interrupted.
    Unfinished,
    /// Files that break the rules of their format, or contradict each other.
    Damaged,
    /// A pointer where a file should be.
    Pointer,
    /// A format that thalweg does not read.
    OtherFormat,
    /// Several files, any of which could be meant.
    Ambiguous,
    /// Anything else, such as files that the system does not let us read.
    Unreadable,
}

/// A file that is missing or cut off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfinishedFault {
    /// There are shards, but not the index that a save writes last.
    #[error("{} there, but no `{index}`", counted_are(*n_shards, "shard"))]
    NoIndex {
        /// How many shards.
        n_shards: usize,
        /// The name that is missing.
        index: String,
    },
    /// The marker that a save writes last is not there.
    #[error("`{file}`, which a save writes last, is missing")]
    NotCommitted {
        /// Its name.
        file: String,
    },
    /// The index lists a shard that is not there.
    #[error("shard `{}` is missing", display_name(file))]
    MissingShard {
        /// Its name.
        file: String,
    },
    /// A file that the trainer cannot do without has no bytes.
    #[error("`{}` is empty", display_name(file))]
    EmptyFile {
        /// Its name.
        file: String,
    },
    /// A shard ends before bytes that the metadata places in it.
    #[error(
        "shard `{}` ends at byte {found_bytes}, but at least {wanted_bytes} bytes are expected",
        display_name(file)
    )]
    ShortShard {
        /// Its name.
        file: String,
        /// One past the last byte that is needed.
        wanted_bytes: u64,
        /// Where it ends.
        found_bytes: u64,
    },
    /// A shard ends early.
    #[error("shard `{}` is cut off: {source}", display_name(file))]
    TruncatedShard {
        /// Its name.
        file: String,
        /// Where it ends.
        source: HeaderError,
    },
}

impl UnfinishedFault {
    /// The file that is missing or cut off.
    pub fn file(&self) -> &str {
        match self {
            Self::NoIndex { index: file, .. }
            | Self::NotCommitted { file }
            | Self::MissingShard { file }
            | Self::EmptyFile { file }
            | Self::ShortShard { file, .. }
            | Self::TruncatedShard { file, .. } => file,
        }
    }
}

/// A difference between an index and its shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// The shard that the index names does not hold the tensor, and no other does.
    #[error("tensor `{}` is not in shard `{}`, which the index names", display_name(tensor), display_name(file))]
    TensorNotInShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        file: String,
    },
    /// Another shard than the named one holds the tensor.
    #[error(
        "tensor `{}` is in shard `{}`, but the index says `{}`",
        display_name(tensor),
        display_name(found),
        display_name(expected)
    )]
    TensorElsewhere {
        /// The tensor.
        tensor: String,
        /// What the index says.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// A shard holds a tensor that the index does not list.
    #[error("tensor `{}` of shard `{}` is not in the index", display_name(tensor), display_name(file))]
    TensorNotInIndex {
        /// The tensor.
        tensor: String,
        /// The shard.
        file: String,
    },
    /// Two shards hold a tensor of this name.
    #[error(
        "tensor `{}` is in shard `{}` and in `{}`",
        display_name(tensor),
        display_name(first),
        display_name(second)
    )]
    TensorInTwoShards {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: String,
        /// The other.
        second: String,
    },
}

fn summarise<T: std::fmt::Display>(facts: &[T], noun: &str) -> String {
    match facts {
        [only] => only.to_string(),
        [first, others @ ..] => format!("{first} (and {})", counted(others.len(), &format!("more {noun}"))),
        [] => String::new(),
    }
}

fn list_facts<T: std::fmt::Display>(facts: &[T]) -> Vec<String> {
    let mut lines: Vec<String> = facts.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    if facts.len() > MAX_LISTED {
        lines.push(format!("and {} more", facts.len() - MAX_LISTED));
    }
    lines
}

impl Error {
    /// The checkpoint or file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Storage(error) => error.path(),
            Self::NotFound { path }
            | Self::NotACheckpoint { path, .. }
            | Self::HoldsCheckpoints { path, .. }
            | Self::Pointer { path, .. }
            | Self::Impostor { path, .. }
            | Self::Ambiguous { path, .. }
            | Self::Unfinished { path, .. }
            | Self::InterruptedMerge { path }
            | Self::Header { path, .. }
            | Self::Torch { path, .. }
            | Self::Dcp { path, .. }
            | Self::TreeKey { path, .. }
            | Self::NoKeys { path, .. }
            | Self::TorchCheckpointing { path, .. }
            | Self::Index { path, .. }
            | Self::IndexMismatch { path, .. }
            | Self::Layout { path, .. }
            | Self::CutOff { path, .. }
            | Self::NoModuleWeights { path }
            | Self::NoMasters { path }
            | Self::ExpertMasters { path }
            | Self::AutoExperts { path }
            | Self::Config { path, .. }
            | Self::OutputExists { path, .. }
            | Self::StageMismatch { path, .. }
            | Self::Rename { path, .. }
            | Self::ToHuggingFace { path, .. }
            | Self::NoConfig { path }
            | Self::NoHeads { path }
            | Self::OtherConfig { path, .. }
            | Self::LikeOptimizer { path, .. }
            | Self::CannotKeepFiles { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The facts below the first line: all mismatches of an input, up to a limit.
    ///
    /// Empty where the first line says it all.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::Unfinished { faults, .. } if faults.len() > 1 => list_facts(faults),
            Self::IndexMismatch { faults, .. } if faults.len() > 1 => list_facts(faults),
            Self::OtherConfig { faults, .. } if faults.len() > 1 => list_facts(faults),
            Self::Ambiguous { candidates, .. } => {
                list_facts(&candidates.iter().map(|name| display_name(name)).collect::<Vec<_>>())
            }
            _ => Vec::new(),
        }
    }

    /// What to do next, where there is a next move.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Storage(thalweg_storage::Error::Changed { .. }) => {
                "wait until no program is writing to the checkpoint, then rerun the command"
            }
            Self::HoldsCheckpoints { .. } => "give one of the checkpoints in it, or use a command that takes a run",
            Self::NotACheckpoint { converter: Some(converter), .. } => converter,
            Self::NotACheckpoint { .. } => {
                "give a folder with `model.safetensors`, `pytorch_model.bin` or an index of one of them, or a file"
            }
            Self::Pointer { fetch, .. } => fetch,
            Self::Impostor { .. } => "save or download the checkpoint again as safetensors",
            Self::Ambiguous { .. } => "give the path of the one you mean",
            Self::CutOff { .. } => "wait until the save has finished, or copy the file again",
            Self::Unfinished { .. } => "wait until the save has finished, or copy the missing files again",
            Self::Header { source, .. } if source.is_truncated() => "the file is incomplete: copy or save it again",
            Self::Header { source, .. } if matches!(**source, HeaderError::TooLong { .. }) => {
                "it is not a safetensors file: save or copy it again"
            }
            Self::Torch { source, .. } => return source.hint(),
            Self::Dcp { source, .. } => return source.hint(),
            Self::TorchCheckpointing { source, .. } => return source.hint(),
            Self::TreeKey { .. } => KeyFault::HINT,
            Self::NoKeys { .. } => "leave out `--key`",
            Self::IndexMismatch { .. } => "this folder may mix files from two saves: copy the checkpoint again",
            Self::Rename { .. } => "change the rules of `--rename` so that no two tensors get the same name",
            Self::ToHuggingFace { source, .. } => source.hint(),
            Self::NoConfig { .. } | Self::NoHeads { .. } => ASSETS_HINT,
            Self::OtherConfig { .. } => "give the `config.json` of this model: `--hf-assets` names its folder",
            Self::UnwritableTensor { .. } => "`--format safetensors` writes the tensors of any checkpoint",
            Self::LikeOptimizer { .. } => "use `--optimizer newest`, which does not read that state",
            Self::CannotKeepFiles { .. } => "`--format safetensors` writes only the tensors",
            Self::InterruptedMerge { .. } => "rerun the merge: it resumes",
            Self::NoModuleWeights { .. } => "leave out `--params module`: then the masters are read",
            Self::ExpertMasters { .. } => {
                "`--params module --format safetensors` merges the module's own weights, without the optimizer's state"
            }
            Self::AutoExperts { .. } => "convert the checkpoint with DeepSpeed's `ds_to_universal.py`",
            Self::NoMasters { .. } => "leave out `--params master`: then the module's own weights are read",
            Self::OutputExists { .. } => {
                "move it away and rerun the command, which resumes and gives the output its name"
            }
            Self::StageMismatch { .. } => "discard the partial output and start over",
            Self::Storage(error) => return error.hint(),
            _ => return None,
        })
    }

    /// Whether the checkpoint is merely not complete: a save or copy still under way, or broken off.
    pub fn is_unfinished(&self) -> bool {
        self.fault() == Fault::Unfinished
    }

    /// Whether a store could not be reached or refused, or an object was replaced: this says nothing about the
    /// checkpoint, so no other may be taken instead.
    pub fn is_of_store(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            let is_of_store = match (error.downcast_ref::<thalweg_storage::Error>(), error.downcast_ref::<Self>()) {
                (Some(error), _) | (None, Some(Self::Storage(error))) => error.is_of_store(),
                _ => false,
            };
            if is_of_store {
                return true;
            }
            source = error.source();
        }
        false
    }

    /// What kind of problem with a checkpoint this is.
    pub fn fault(&self) -> Fault {
        if let Some(fault) = self.key_fault() {
            return match fault {
                KeyFault::SeveralKeys { .. } => Fault::Ambiguous,
                KeyFault::NoSuchKey { .. } | KeyFault::IsTensor { .. } => Fault::Unreadable,
            };
        }
        match self {
            Self::Unfinished { .. } | Self::CutOff { .. } => Fault::Unfinished,
            Self::Header { source, .. } if source.is_truncated() => Fault::Unfinished,
            Self::Torch { source, .. } if source.is_truncated() => Fault::Unfinished,
            Self::Torch { source, .. } if source.is_part_of_ranks() => Fault::OtherFormat,
            Self::Torch { .. } | Self::Layout { .. } => Fault::Damaged,
            Self::Header { .. } | Self::Index { .. } | Self::IndexMismatch { .. } | Self::Config { .. } => {
                Fault::Damaged
            }
            Self::Pointer { .. } => Fault::Pointer,
            Self::NotACheckpoint { .. } | Self::HoldsCheckpoints { .. } | Self::Impostor { .. } => Fault::OtherFormat,
            Self::Ambiguous { .. } => Fault::Ambiguous,
            _ => Fault::Unreadable,
        }
    }
}

impl Error {
    /// Which part of a saved state is meant, where that is the problem.
    fn key_fault(&self) -> Option<&KeyFault> {
        match self {
            Self::Torch { source, .. } => match &**source {
                TorchError::Key(fault) => Some(fault),
                _ => None,
            },
            Self::Dcp { source, .. } => match &**source {
                DcpError::Key(fault) => Some(fault),
                _ => None,
            },
            Self::TorchCheckpointing { source, .. } => match &**source {
                TcError::Key(fault) => Some(fault),
                _ => None,
            },
            Self::TreeKey { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A missing path becomes `NotFound`; any other failure keeps the message of the storage.
pub(crate) fn storage_error(path: &Path, error: thalweg_storage::Error) -> Error {
    if error.is_not_found() { Error::NotFound { path: path.to_owned() } } else { Error::Storage(error) }
}
