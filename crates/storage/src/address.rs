//! Network addresses such as `s3://bucket/run`: none may be mistaken for a path. Which kinds of stores there are.

use std::path::{Path, PathBuf};

/// Whether a path is an address, with a scheme at its beginning.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::is_address;
///
/// assert!(is_address(Path::new("s3://bucket/run")));
/// assert!(!is_address(Path::new("runs/a")));
/// ```
pub fn is_address(path: &Path) -> bool {
    path.to_str().and_then(split_scheme).is_some()
}

/// The path without `/` at its end, and with each `/` or `/.` inside only once. Of an address the `//` stays.
pub fn tidy_path(path: &Path) -> PathBuf {
    match is_address(path) {
        true => path.components().as_path().to_owned(),
        false => path.components().collect(),
    }
}

/// The scheme of an address and what follows `://`.
pub(crate) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let scheme = scheme_of(text)?;
    Some((scheme, text.strip_prefix(scheme)?.strip_prefix("://")?))
}

/// The scheme before `://`, at the beginning or after a `/`: an address that was joined to a folder is still an
/// address.
pub(crate) fn scheme_of(text: &str) -> Option<&str> {
    let before = &text[..text.find("://")?];
    let scheme = before.rsplit('/').next()?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
}

/// The kinds of stores that addresses name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    S3,
    Google,
    Azure,
    Http,
    Https,
}

/// Schemes of other addresses, which people have and this program refuses.
const OTHER_SCHEMES: [&str; 4] = ["hf", "file", "ssh", "hdfs"];

impl StoreKind {
    /// The kind that a scheme names.
    pub(crate) fn parse(scheme: &str) -> Option<Self> {
        Some(match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Self::S3,
            "gs" | "gcs" => Self::Google,
            "az" | "azure" => Self::Azure,
            "http" => Self::Http,
            "https" => Self::Https,
            _ => return None,
        })
    }

    /// Whether it is a plain web server, which cannot list or store objects.
    pub(crate) fn is_read_only(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// Whether people write addresses with this scheme, supported or not.
pub(crate) fn is_known_scheme(scheme: &str) -> bool {
    StoreKind::parse(scheme).is_some() || OTHER_SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_is_found_by_name_and_no_path_is_one() {
        let addresses =
            ["s3://b/k", "gs://b", "hf://org/name", "https://host/x", "az+v2.1-x://a", "run/s3://b", "file:///x"];
        let schemes = ["s3", "gs", "hf", "https", "az+v2.1-x", "s3", "file"];
        for (address, scheme) in addresses.into_iter().zip(schemes) {
            assert_eq!(scheme_of(address), Some(scheme));
        }
        for path in ["/runs/a", "a:b", "s3:/bucket", "runs//a", "//a", ":///x", "3a://b", "a b://c", "model:1.5"] {
            assert_eq!(scheme_of(path), None, "{path}");
        }
    }
}
