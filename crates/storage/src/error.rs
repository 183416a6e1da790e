//! What can go wrong below: the path and the act are always said.

use std::io;
use std::path::PathBuf;

/// A failed act on storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an act on a path.
    #[error("cannot {act} `{}`: {}", path.display(), describe_io_error(source))]
    Io {
        /// What was tried, as a verb: `open`, `read`, `write`, `sync`, `rename`.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file ended before the bytes that were asked for.
    #[error("`{}` ends at byte {found_bytes}, {wanted_bytes} expected", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// One past the last byte that was asked for.
        wanted_bytes: u64,
        /// Its length.
        found_bytes: u64,
    },
    /// A file is not the one that was opened first: size, time or identity differ.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A small file is larger than its reader allows.
    #[error("`{}` holds {found_bytes} bytes, more than the {limit_bytes} allowed for such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit_bytes: u64,
        /// Its length.
        found_bytes: u64,
    },
    /// Something other than a regular file is where a file is expected.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// An output was staged elsewhere on a storage without renames: it could never become visible.
    #[error("`{}` cannot become `{}`: this storage cannot rename, so an output is written in its place",
        stage.display(), target.display())]
    NotInPlace {
        /// Where it was written.
        stage: PathBuf,
        /// What it was to become.
        target: PathBuf,
    },
    /// What is at a path is not ours to replace.
    #[error("`{}` {holds}", path.display())]
    MayNotReplace {
        /// The path.
        path: PathBuf,
        /// What it is or holds.
        holds: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// Nothing can be written to a path.
    #[error("nothing can be written to `{}`: {what}", path.display())]
    NoPlace {
        /// The path.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// A path is an address on the network.
    #[error("`{}`: addresses with `{scheme}://` are not supported, only local paths", path.display())]
    UnsupportedScheme {
        /// The address as it was given.
        path: PathBuf,
        /// The part before `://`.
        scheme: String,
    },
    /// Another process holds the lock.
    #[error("`{}` is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

impl Error {
    /// What to do next, if anything helps.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MayNotReplace { hint, .. } => Some(hint),
            Self::NoPlace { .. } => Some("choose another place"),
            Self::UnsupportedScheme { scheme, .. } if scheme.eq_ignore_ascii_case("file") => {
                Some("give the path alone, without `file://`")
            }
            Self::UnsupportedScheme { .. } => {
                Some("mount it and give a local path, or copy inputs and outputs with a separate tool")
            }
            Self::Locked { .. } => Some("wait until the other process has ended"),
            _ => None,
        }
    }

    /// Whether the path does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the disk is full or a quota is used up.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// The system's words without "(os error 2)", which does not help.
pub fn describe_io_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
