//! The folder of one repository in a local hub cache: `models--ORG--NAME` with `blobs`, `snapshots` and `refs`.
//!
//! The layout is that of `huggingface_hub`, so that every library finds what is fetched. Blobs are named by their
//! digest; a snapshot holds links to them; a ref names a snapshot. Written in that order, so a ref never names what is
//! not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::HubFile;
use crate::Error;
use crate::local::io_error;

/// Marks a link or a ref that is being written.
const NEW_SUFFIX: &str = ".thalweg-new";

/// `ORG/NAME` or `NAME` as its folder is called in a cache; `None` for what cannot be such a name.
///
/// # Example
/// ```
/// use thalweg_storage::hub::repository_folder_name;
///
/// assert_eq!(repository_folder_name("org/small").as_deref(), Some("models--org--small"));
/// assert_eq!(repository_folder_name("../small"), None);
/// ```
pub fn repository_folder_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    (parts.len() <= 2 && parts.iter().all(plain)).then(|| format!("models--{}", parts.join("--")))
}

/// The repository whose folder has this name; the inverse of [`repository_folder_name`].
pub fn repository_of_folder(name: &str) -> Option<String> {
    let repository = name.strip_prefix("models--")?.replace("--", "/");
    (repository_folder_name(&repository).as_deref() == Some(name)).then_some(repository)
}

/// The folder of one repository in a local cache, for writing.
#[derive(Debug, Clone)]
pub struct HubFolder {
    path: PathBuf,
}

impl HubFolder {
    /// The folder of `ORG/NAME` in the cache at `root`; `None` if that cannot be a name.
    pub fn new(root: &Path, repository: &str) -> Option<Self> {
        let name = repository_folder_name(repository)?;
        Some(Self { path: root.join(name) })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the content of a file is, or will be.
    pub(crate) fn blob_path(&self, file: &HubFile) -> PathBuf {
        self.path.join("blobs").join(file.digest.digits())
    }

    /// The lock that Hugging Face's libraries take for a blob.
    #[cfg(feature = "cloud")]
    pub(crate) fn lock_path(&self, file: &HubFile) -> PathBuf {
        let locks = self.path.with_file_name(".locks");
        locks.join(self.path.file_name().unwrap_or_default()).join(format!("{}.lock", file.digest.digits()))
    }

    /// Whether the content of a file is there, by its length.
    pub fn has_blob(&self, file: &HubFile) -> bool {
        fs::metadata(self.blob_path(file)).is_ok_and(|blob| blob.is_file() && blob.len() == file.len_bytes)
    }

    /// Bytes that an interrupted download of a file left.
    pub fn partial_bytes(&self, file: &HubFile) -> u64 {
        let left = fs::metadata(self.partial_path(file)).map_or(0, |partial| partial.len());
        if left <= file.len_bytes { left } else { 0 }
    }

    /// Where the content of a file is while it arrives.
    pub(crate) fn partial_path(&self, file: &HubFile) -> PathBuf {
        self.path.join("blobs").join(format!("{}.incomplete", file.digest.digits()))
    }

    /// Where the files of a commit are, or will be.
    pub fn snapshot_path(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    /// Makes files visible in the snapshot of a commit, whose content is there.
    ///
    /// # Errors
    /// `Io`.
    pub fn link_snapshot(&self, commit: &str, files: &[HubFile]) -> Result<PathBuf, Error> {
        let snapshot = self.snapshot_path(commit);
        for file in files {
            let link = snapshot.join(&file.path);
            // A library that makes no links has put a copy there.
            if fs::metadata(&link).is_ok_and(|found| found.len() == file.len_bytes) {
                continue;
            }
            let folder = link.parent().unwrap_or(&snapshot);
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
            let up = "../".repeat(file.path.split('/').count() + 1);
            let target = PathBuf::from(format!("{up}blobs/{}", file.digest.digits()));
            let new = new_name(&link);
            // Where there are no symbolic links, a second name for the same content does as well.
            std::os::unix::fs::symlink(&target, &new)
                .or_else(|_| fs::hard_link(self.blob_path(file), &new))
                .map_err(io_error("link", &link))?;
            fs::rename(&new, &link).map_err(io_error("link", &link))?;
        }
        Ok(snapshot)
    }

    /// Lets a ref name a commit, whose snapshot is there.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_ref(&self, name: &str, commit: &str) -> Result<(), Error> {
        let path = self.path.join("refs").join(name);
        if fs::read(&path).is_ok_and(|known| known == commit.as_bytes()) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        // Beside `refs`, so that what a kill leaves is not taken for a ref.
        let new = new_name(&self.path.join("ref"));
        let written = fs::File::create(&new).and_then(|mut file| {
            file.write_all(commit.as_bytes())?;
            file.sync_all()
        });
        written.map_err(io_error("write", &new))?;
        fs::rename(&new, &path).map_err(io_error("write", &path))
    }
}

/// A name beside `path` that no other thread or process uses: several revisions may be written at once.
fn new_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!("{NEW_SUFFIX}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::BlobDigest;
    use super::*;

    #[test]
    fn names_of_repositories_are_plain() {
        for bad in ["", "..", "a/b/c", "org/.hidden", "org/na me", "org/../x"] {
            assert_eq!(repository_folder_name(bad), None, "{bad:?}");
        }
        assert_eq!(repository_of_folder("models--org--small").as_deref(), Some("org/small"));
        assert_eq!(repository_of_folder("datasets--org--small"), None);
    }

    #[test]
    fn links_are_relative_and_a_ref_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let folder = HubFolder::new(root.path(), "org/small").unwrap();
        let digest = BlobDigest::Git("ab".repeat(20));
        let file = HubFile { path: "sub/config.json".to_owned(), len_bytes: 2, digest };
        fs::create_dir_all(folder.path().join("blobs")).unwrap();
        fs::write(folder.blob_path(&file), "{}").unwrap();
        assert!(folder.has_blob(&file));
        let commit = "cd".repeat(20);
        let snapshot = folder.link_snapshot(&commit, std::slice::from_ref(&file)).unwrap();
        let target = fs::read_link(snapshot.join("sub/config.json")).unwrap();
        assert_eq!(target, PathBuf::from(format!("../../../blobs/{}", "ab".repeat(20))));
        assert_eq!(fs::read_to_string(snapshot.join("sub/config.json")).unwrap(), "{}");
        for commit in [&commit, &"ef".repeat(20)] {
            folder.write_ref("pr/1", commit).unwrap();
            assert_eq!(fs::read_to_string(folder.path().join("refs/pr/1")).unwrap(), *commit);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
