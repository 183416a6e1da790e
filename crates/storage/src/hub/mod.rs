//! Model hubs: what is asked of one, and the folder of the local cache where its files go.
//!
//! Who speaks to a hub is in `cloud`; which revisions and files are wanted is decided above.

mod folder;

use std::ffi::OsString;
use std::fmt::Debug;
use std::path::PathBuf;

pub use folder::{HubFolder, repository_folder_name, repository_of_folder};

use crate::Error;

/// A branch or a tag of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRef {
    /// Its name, such as `step1000`: parts between slashes, none of them empty or `..`.
    pub name: String,
    /// The commit that it names, 40 hexadecimal digits.
    pub commit: String,
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository: parts between slashes, none of them empty or `..`.
    pub path: String,
    /// Its length.
    pub len_bytes: u64,
    /// The digest of its content, which is also its name in the cache.
    pub digest: BlobDigest,
}

/// The digest by which a hub names content, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobDigest {
    /// SHA-256 of the bytes: large files.
    Sha256(String),
    /// SHA-1 of the bytes as a git blob: small files.
    Git(String),
}

impl BlobDigest {
    /// The digits.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubProgress {
    /// So many bytes were there already.
    Resumed(u64),
    /// So many bytes more were fetched.
    Fetched(u64),
}

/// A file that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct HubWish<'a> {
    /// `ORG/NAME`.
    pub repository: &'a str,
    /// The commit.
    pub commit: &'a str,
    /// The file.
    pub file: &'a HubFile,
}

/// A model hub.
pub trait Hub: Sync + Debug {
    /// Branches and tags of a repository, sorted by name.
    ///
    /// # Errors
    /// `Hub`.
    fn list_refs(&self, repository: &str) -> Result<Vec<HubRef>, Error>;

    /// All files of a commit, sorted by path.
    ///
    /// # Errors
    /// `Hub`.
    fn list_files(&self, repository: &str, commit: &str) -> Result<Vec<HubFile>, Error>;

    /// Fetches a file into the blobs of a cache's folder, whole or not at all; what an interrupted download left is
    /// used. Content that differs from its digest is never kept.
    ///
    /// # Errors
    /// `Hub`; `Io`; also once a stop was asked for.
    fn download(
        &self,
        wish: HubWish<'_>,
        folder: &HubFolder,
        progress: &(dyn Fn(HubProgress) + Sync),
    ) -> Result<(), Error>;
}

/// The folder of Hugging Face's libraries, with the cache and the token, by the variables of the environment that the
/// caller looks up.
///
/// # Example
/// ```
/// let variable = |name: &str| (name == "XDG_CACHE_HOME").then(|| "/data/cache".into());
/// assert_eq!(thalweg_storage::hub::home_folder(&variable), Some("/data/cache/huggingface".into()));
/// ```
pub fn home_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("HF_HOME")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/huggingface")))
}
