//! What can go wrong below: the path and the act are always said.

use std::io;
use std::path::{Path, PathBuf};

/// What paths may be.
const SUPPORTED: &str = if cfg!(feature = "cloud") {
    "local paths and `s3://`, `gs://`, `az://`, `https://`"
} else {
    "local paths: this program was built without object stores"
};

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
    /// The folder to upload lacks the manifest of an output.
    #[error("`{}` is not a finished output, so it is not uploaded", path.display())]
    NotAnOutput {
        /// The folder.
        path: PathBuf,
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
    #[error("cannot write to `{}`: {what}", path.display())]
    NoPlace {
        /// The path.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// A path is an address on the network.
    #[error("`{}`: addresses with `{scheme}://` are not supported, only {}", path.display(), SUPPORTED)]
    UnsupportedScheme {
        /// The address as it was given.
        path: PathBuf,
        /// The part before `://`.
        scheme: String,
    },
    /// An object store refused a request, or could not be reached.
    #[error("cannot {act} `{}`: {what}", path.display())]
    Remote {
        /// What was tried, as a verb.
        act: &'static str,
        /// The address.
        path: PathBuf,
        /// The kind of refusal.
        fault: RemoteFault,
        /// What the store answered, without anything secret.
        what: String,
    },
    /// A model hub refused a request, could not be reached, or answered what cannot be trusted.
    #[error("cannot {act}: {what}")]
    Hub {
        /// What was tried, as a verb and its object.
        act: String,
        /// The kind of refusal.
        fault: HubFault,
        /// What the hub answered, without anything secret.
        what: String,
    },
    /// Where something is asked for, an upload was begun and has not ended.
    #[error("`{}` is an unfinished upload", path.display())]
    UnfinishedUpload {
        /// The address.
        path: PathBuf,
    },
    /// An address holds a password or a signature, which would end up in receipts.
    #[error("`{shown}` holds {what}, which would be copied into plans, receipts and messages")]
    SecretInAddress {
        /// The address without it.
        shown: String,
        /// What it holds.
        what: &'static str,
    },
    /// Another process holds the lock.
    #[error("`{}` is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// Why an object store gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteFault {
    /// The bucket or container does not exist.
    NoBucket,
    /// There are no credentials, or the store does not know them.
    NoCredentials,
    /// The credentials have expired.
    Expired,
    /// The credentials do not allow this.
    Denied,
    /// Nothing answers at the address, or the connection breaks.
    Unreachable,
    /// The store answers that it is busy or broken.
    Busy,
    /// An answer holds other bytes than it should.
    Garbled,
    /// The store or its server cannot do this.
    Unsupported,
    /// The variables by which the store is opened are missing or wrong.
    Settings,
    /// A stop was asked for while the store was waited for.
    Interrupted,
    /// Anything else.
    Other,
}

impl RemoteFault {
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::NoBucket => "check the bucket and `AWS_ENDPOINT_URL`, `AWS_REGION` or their equivalents",
            Self::NoCredentials => {
                "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or their equivalents for other stores; for a public \
                 bucket set `AWS_SKIP_SIGNATURE=true`, `GOOGLE_SKIP_SIGNATURE=true` or `AZURE_SKIP_SIGNATURE=true`"
            }
            Self::Expired => "get new credentials and rerun the command: finished work is kept",
            Self::Denied => "use credentials with permission to list, read and write there",
            Self::Unreachable | Self::Busy | Self::Garbled => {
                "rerun the command when the store is available: finished work is kept"
            }
            Self::Unsupported => "copy the files to a local folder first",
            Self::Settings => "see docs/storage.md for the variables of each store",
            Self::Interrupted => "rerun the command to resume",
            Self::Other => return None,
        })
    }
}

/// Why a model hub gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubFault {
    /// There is no such repository, or it is private.
    NoRepository,
    /// There is no such revision or file.
    NotFound,
    /// The terms of the repository must be accepted first.
    Gated,
    /// The hub does not know the token.
    BadToken,
    /// The token does not allow this.
    Denied,
    /// The hub asks for fewer requests, or is broken for now.
    Busy,
    /// Nothing answers, or the connection breaks.
    Unreachable,
    /// An answer that cannot be right.
    Garbled,
    /// The variables by which the hub is found are wrong.
    Settings,
    /// Anything else.
    Other,
}

impl HubFault {
    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::NoRepository => {
                "check the name, which has the form `ORG/NAME`; for a private repository, set `HF_TOKEN` to a token that may read it, or log in with `hf auth login`"
            }
            Self::NotFound => "the repository has changed since it was listed: rerun the command",
            Self::Gated => {
                "open that page in a browser, accept the terms, set `HF_TOKEN` to a token of that account, and rerun the command"
            }
            Self::BadToken => "set `HF_TOKEN` to a valid token, or unset it for a public repository",
            Self::Denied => {
                "use a token that may read this repository, and check its permissions in the hub's settings"
            }
            Self::Busy => "rerun the command later: what was fetched is kept",
            Self::Unreachable => "check the network and `HF_ENDPOINT`, and rerun the command: what was fetched is kept",
            Self::Garbled => "rerun the command; if it happens again, do not trust this hub or the proxy before it",
            Self::Settings => "see docs/hub.md for the variables",
            Self::Other => return None,
        })
    }
}

impl Error {
    /// The file or folder that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::Truncated { path, .. }
            | Self::Changed { path }
            | Self::TooLarge { path, .. }
            | Self::NotAFile { path }
            | Self::NotAnOutput { path }
            | Self::MayNotReplace { path, .. }
            | Self::NoPlace { path, .. }
            | Self::UnsupportedScheme { path, .. }
            | Self::Remote { path, .. }
            | Self::UnfinishedUpload { path }
            | Self::Locked { path } => Some(path),
            _ => None,
        }
    }

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
            Self::Remote { fault, .. } => fault.hint(),
            Self::Hub { fault, .. } => fault.hint(),
            Self::UnfinishedUpload { .. } => {
                Some("rerun the command that wrote it, or remove what it left behind with `thalweg clean`")
            }
            Self::SecretInAddress { .. } => Some(
                "pass credentials in the store's environment variables, such as `AWS_ACCESS_KEY_ID`, and give only the address",
            ),
            Self::Changed { path } if crate::is_address(path) => {
                Some("the object was replaced: rerun the command once no program is writing there")
            }
            Self::Locked { .. } => Some("wait until the other process has ended"),
            Self::Io { .. } if self.is_disk_full() => Some("free some space, or write to another disk"),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => Some(
                "the file system or a limit (`ulimit -f`) allows no larger files: raise the limit, choose another \
                 disk, or write smaller files with `--out-shard-size`",
            ),
            _ => None,
        }
    }

    /// Whether the path does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether something new may be written to the path: nothing is there, or an upload that has not ended.
    pub fn is_free(&self) -> bool {
        self.is_not_found() || matches!(self, Self::UnfinishedUpload { .. })
    }

    /// Whether this is about a store as a whole, or about an object that was replaced, and says nothing about what a
    /// file holds: code that skips what cannot be read must not skip for this.
    pub fn is_of_store(&self) -> bool {
        match self {
            Self::Remote { .. } => true,
            Self::Changed { path } => crate::is_address(path),
            _ => false,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_a_way_on_whatever_was_written() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = Error::Io { act: "write", path: "/page.html".into(), source: kind.into() };
            assert_eq!(error.hint(), Some("free some space, or write to another disk"));
        }
    }
}
