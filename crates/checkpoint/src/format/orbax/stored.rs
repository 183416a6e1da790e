//! Where the values of an Orbax checkpoint are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::Error;

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// The value itself: small ones lie in the nodes of the tree.
    Bytes(Arc<[u8]>),
    /// A part of a file, relative to the store's folder.
    Range { file: String, offset: u64, len_bytes: u64 },
}

impl Stored {
    /// The file that holds it; `None` if a node does.
    pub(super) fn file(&self) -> Option<&str> {
        match self {
            Self::Bytes(_) => None,
            Self::Range { file, .. } => Some(file),
        }
    }

    pub(super) fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range { len_bytes, .. } => *len_bytes,
        }
    }
}

/// Values by key.
pub(super) type Values = BTreeMap<String, Stored>;

pub(super) fn refuse(path: &Path, reason: String) -> Error {
    Error::Layout { path: path.to_owned(), reason }
}
