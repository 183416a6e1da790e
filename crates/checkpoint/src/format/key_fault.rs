//! Why the tensors under a key of a file cannot be told.

use thalweg_tensor::{display_name, nearest_name};

/// How many keys a message lists.
const MAX_KEYS: usize = 8;

/// Why it is not clear which part is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// Several parts could be meant.
    #[error("the tensors are under {}, and it is not clear which ones to read", list_keys(keys))]
    SeveralKeys {
        /// The keys.
        keys: Vec<String>,
    },
    /// The requested key does not exist.
    #[error("no tensors are under the key `{}`; the tensors are under {}", display_name(key), list_keys(keys))]
    NoSuchKey {
        /// The requested key.
        key: String,
        /// The keys that exist.
        keys: Vec<String>,
    },
    /// The requested key names one tensor.
    #[error(
        "`{}` is a single tensor, not a key with tensors below it; those keys are {}",
        display_name(key),
        list_keys(keys)
    )]
    IsTensor {
        /// The requested key.
        key: String,
        /// The keys that tensors are under.
        keys: Vec<String>,
    },
}

impl KeyFault {
    /// The error for a key that does not exist; lists the most similar key first.
    pub(crate) fn no_such_key(key: &str, mut keys: Vec<String>) -> Self {
        if let Some(near) = nearest_name(key, keys.iter().map(String::as_str)).map(str::to_owned) {
            keys.sort_by_key(|name| *name != near);
        }
        Self::NoSuchKey { key: key.to_owned(), keys }
    }

    /// What to do next.
    pub(crate) const HINT: &str = "name one of them with `--key`; `--key .` is the whole file";
}

fn list_keys(keys: &[String]) -> String {
    let shown: Vec<String> = keys.iter().take(MAX_KEYS).map(|key| format!("`{}`", display_name(key))).collect();
    match keys.len() {
        0 => "no key".to_owned(),
        n if n > MAX_KEYS => format!("{} and {} more", shown.join(", "), n - MAX_KEYS),
        _ => shown.join(", "),
    }
}
