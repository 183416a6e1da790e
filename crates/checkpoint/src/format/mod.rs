//! The formats that can be read: one file and one line in `FORMATS` each.
//!
//! A format turns files into a list of logical tensors with the places of their bytes. It never reads tensor
//! bytes and never does arithmetic.

pub mod dcp;
pub mod deepspeed;
mod flat;
pub mod gguf;
pub(crate) mod header_error;
pub mod huggingface;
pub(crate) mod key_fault;
pub mod megatron_dist;
pub mod megatron_legacy;
pub(crate) mod model_key;
pub mod nanotron;
pub mod npz;
pub mod orbax;
pub(crate) mod placement;
pub mod safetensors;
mod stated_step;
pub mod torch;
pub mod torch_checkpointing;
mod tree_path;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::{FolderEntry, ReadAt, Storage};
use thalweg_tensor::TensorCatalog;

use crate::unpacked::ShardedArray;
use crate::{CatalogCache, Error, Note, OpenPiece, Params, ReadOptions, UnstoredChunks};

/// Every format, in the order in which they are asked whether a path is theirs.
pub const FORMATS: &[&dyn Format] = &[
    &megatron_dist::MegatronDist,
    &dcp::Dcp,
    &dcp::DcpSafetensors,
    &torch_checkpointing::TorchCheckpointing,
    &huggingface::HuggingFace,
    &megatron_legacy::MegatronLegacy,
    &nanotron::Nanotron,
    &deepspeed::DeepSpeedUniversal,
    &deepspeed::DeepSpeedZero,
    &torch::Torch,
    &gguf::Gguf,
    &npz::Npz,
    &torch::rank_folders::RankFolders,
    &orbax::Orbax,
];

/// The format of a place; `None` if it has none.
///
/// # Errors
/// `Storage` if a folder cannot be listed.
pub(crate) fn format_of(storage: &dyn Storage, place: &Place) -> Result<Option<&'static dyn Format>, Error> {
    for format in FORMATS.iter().filter(|format| format.recognises(place)) {
        if format.confirms(storage, place)? {
            return Ok(Some(*format));
        }
    }
    Ok(None)
}

/// The name of a file that may hold a whole checkpoint, without its ending; `None` for other names.
///
/// # Example
/// ```
/// use thalweg_checkpoint::strip_file_end;
///
/// assert_eq!(strip_file_end("step-10.safetensors"), Some("step-10"));
/// assert_eq!(strip_file_end("step-10.pth.tar"), Some("step-10"));
/// assert_eq!(strip_file_end("step-10.log"), None);
/// ```
pub fn strip_file_end(name: &str) -> Option<&str> {
    FORMATS.iter().flat_map(|format| format.file_ends()).find_map(|end| name.strip_suffix(end))
}

/// A way to keep a checkpoint in files.
pub trait Format: Debug + Sync {
    /// Name as `inspect` shows it.
    fn name(&self) -> &'static str;

    /// Names of files, any of which shows that a folder is one checkpoint of this format and not a run of several.
    fn marks(&self) -> &'static [&'static str];

    /// Endings of the names of files that each hold a whole checkpoint, as the steps of a run may.
    fn file_ends(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether names that vary, such as those of shards, show that a folder is one checkpoint of this format, if
    /// [`confirms`](Self::confirms) says so too.
    fn is_certain(&self, _place: &Place) -> bool {
        false
    }

    /// Whether the files store each element of a tensor once, so that writing other elements into copies of the files
    /// makes another checkpoint. False for formats in which every rank keeps its copy of what is not cut.
    fn stores_elements_once(&self) -> bool {
        false
    }

    /// The other copy of the parameters that the files may hold, if `params` was read: masters beside the module's
    /// weights, for example.
    fn other_params(&self, _place: &Place, _params: Option<Params>) -> Option<Params> {
        None
    }

    /// Whether this path is in this format, by the names of files and the first bytes of a single one.
    fn recognises(&self, place: &Place) -> bool;

    /// Whether a look into the folders of a recognised path confirms it, for formats whose names others use too.
    ///
    /// # Errors
    /// `Storage` if a folder cannot be listed.
    fn confirms(&self, _storage: &dyn Storage, _place: &Place) -> Result<bool, Error> {
        Ok(true)
    }

    /// Reads the headers; those that `cache` has seen before need not be parsed again.
    ///
    /// # Errors
    /// Whatever makes the files unreadable, unfinished or contradictory.
    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error>;
}

/// First bytes of a file that formats may look at.
pub const HEAD_BYTES: u64 = 64;

/// What a user pointed at.
#[derive(Debug, Clone)]
pub enum Place {
    /// One file.
    File {
        /// Its path.
        path: PathBuf,
        /// Its first bytes, at most [`HEAD_BYTES`].
        head: Box<[u8]>,
    },
    /// A folder and the names in it, sorted.
    Folder {
        /// Its path.
        path: PathBuf,
        /// What it holds.
        entries: Vec<FolderEntry>,
    },
}

impl Place {
    /// The path itself.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Folder { path, .. } => path,
        }
    }

    /// The folder that holds shards and side files.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Folder { path, .. } => path,
            Self::File { path, .. } => path.parent().unwrap_or(Path::new("")),
        }
    }

    /// The names of folders in the folder that was given; none where a file was given.
    pub(crate) fn folder_names(&self) -> impl Iterator<Item = &str> {
        let entries: &[FolderEntry] = match self {
            Self::Folder { entries, .. } => entries,
            Self::File { .. } => &[],
        };
        entries.iter().filter(|entry| entry.kind == thalweg_storage::FileKind::Folder).map(|entry| &*entry.name)
    }

    /// The names of files in the folder that was given; none where a file was given.
    pub(crate) fn file_names(&self) -> impl Iterator<Item = &str> {
        let entries: &[FolderEntry] = match self {
            Self::Folder { entries, .. } => entries,
            Self::File { .. } => &[],
        };
        entries.iter().filter(|entry| entry.kind != thalweg_storage::FileKind::Folder).map(|entry| &*entry.name)
    }
}

/// Which file of a place is meant, for formats that keep a checkpoint in one file: its name, its path, and what to say
/// about the choice. In a folder that is `usual`, or the only file whose name ends with `end`.
pub(crate) fn choose_file(place: &Place, usual: &str, end: &str) -> Result<(String, PathBuf, Option<Note>), Error> {
    if let Place::File { path, .. } = place {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok((name, path.clone(), None));
    }
    let files: Vec<&str> = place.file_names().filter(|name| name.ends_with(end)).collect();
    let (name, note) = match files[..] {
        _ if files.contains(&usual) => (usual, None),
        [only] => (only, Some(Note::UnusualName { file: only.to_owned() })),
        _ => {
            let candidates = files.into_iter().map(str::to_owned).collect();
            return Err(Error::Ambiguous { path: place.path().to_owned(), candidates });
        }
    };
    Ok((name.to_owned(), place.folder().join(name), note))
}

/// A file of a checkpoint, open for positioned reads.
#[derive(Debug, Clone)]
pub struct OpenFile {
    /// Name relative to the checkpoint's folder.
    pub name: String,
    /// Path.
    pub path: PathBuf,
    /// The open file.
    pub reader: Arc<dyn ReadAt>,
}

/// A tensor that exists but cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its name.
    pub name: String,
    /// Why not, as the end of a sentence about it.
    pub reason: String,
}

/// What opening found besides the tensors. `inspect` shows it, and merges refuse by name what cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The key that the tensors are under, in files that hold several things.
    pub key: Option<String>,
    /// Which values of the parameters were read, for a checkpoint that may have both.
    pub params: Option<Params>,
    /// Other keys with tensors, and the number of tensors under each.
    pub other_keys: Vec<(String, usize)>,
    /// Those of the other keys that are tensors themselves, and so cannot be asked for.
    pub lone_keys: Vec<String>,
    /// Arrays that are read although some of their chunks are not stored.
    pub unstored: Vec<UnstoredChunks>,
    /// Tensors that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Names of classes and functions that the files mention. They are never looked up.
    pub foreign_names: Vec<String>,
    /// The left sides of the rules of a name map that fit no tensor.
    pub idle_renames: Vec<String>,
    /// How many files of ranks the model is cut into, each with its part under the name of the file; 0 for a model that
    /// is read whole.
    pub n_ranks: usize,
}

impl Findings {
    /// Adds the findings of another file of the same checkpoint.
    pub fn join(&mut self, other: Self) {
        self.key = self.key.take().or(other.key);
        self.params = self.params.or(other.params);
        for (key, n_tensors) in other.other_keys {
            match self.other_keys.iter_mut().find(|(known, _)| *known == key) {
                Some((_, n_known)) => *n_known += n_tensors,
                None => self.other_keys.push((key, n_tensors)),
            }
        }
        self.lone_keys.extend(other.lone_keys);
        self.unstored.extend(other.unstored);
        self.unreadable.extend(other.unreadable);
        self.foreign_names.extend(other.foreign_names);
        self.foreign_names.sort();
        self.foreign_names.dedup();
    }
}

/// What a format makes of a place.
#[derive(Debug, Default)]
pub struct FormatContent {
    /// The files; pieces count them from 0.
    pub files: Vec<OpenFile>,
    /// The tensors.
    pub catalog: Arc<TensorCatalog>,
    /// How many of the tensors belong to the state of an optimizer that was asked for.
    pub n_state: usize,
    /// Remarks of the first file's header.
    pub metadata: BTreeMap<String, String>,
    /// Notes for the user.
    pub notes: Vec<Note>,
    /// What opening found besides the tensors.
    pub findings: Findings,
    /// Whether some of the tensors are packed, so that reading them takes up to 32 MiB more.
    pub is_packed: bool,
    /// Arrays whose chunks are in shards: which of them are stored is known once they were read.
    pub(crate) sharded: Vec<ShardedArray>,
    /// The name of the format, if the files are read as those of another one.
    pub format_name: Option<&'static str>,
    /// Opens pieces whose files describe them more fully than the catalog does.
    pub opener: Option<Arc<dyn OpenPiece>>,
}
