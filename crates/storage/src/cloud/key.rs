//! An address as a store and a key in it.

use std::path::{Path, PathBuf};

use crate::address::{StoreKind, split_scheme};
use crate::error::Error;

/// The object that says that an upload has not ended.
pub const UPLOAD_MARKER: &str = "thalweg-upload.json";

/// Where an address points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) scheme: StoreKind,
    /// Bucket, container, or host with port.
    pub(super) bucket: String,
    /// Without `/` at either end; empty for the bucket itself.
    pub(super) key: String,
}

impl StoreKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Location {
    /// The location of an address; `None` for a path and for schemes that are not supported.
    ///
    /// # Errors
    /// `SecretInAddress` for a password or a query; `NoPlace` without a bucket.
    pub(super) fn parse(path: &Path) -> Result<Option<Self>, Error> {
        let Some((scheme, rest)) = path.to_str().and_then(split_scheme) else { return Ok(None) };
        let Some(scheme) = StoreKind::parse(scheme) else { return Ok(None) };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let shown = |rest: &str| format!("{}://{rest}", scheme.name());
        if let Some((_, host)) = bucket.rsplit_once('@') {
            let rest = rest.replace(bucket, host);
            let rest = rest.split('?').next().unwrap_or_default();
            return Err(Error::SecretInAddress { shown: shown(rest), what: "a user name or a password" });
        }
        if let Some((before, _)) = rest.split_once('?')
            && (scheme.is_read_only() || rest.to_ascii_lowercase().contains("sig"))
        {
            return Err(Error::SecretInAddress { shown: shown(before), what: "a query, perhaps with a signature" });
        }
        if bucket.is_empty() {
            let what = "the address names no bucket".to_owned();
            return Err(Error::NoPlace { path: path.to_owned(), what });
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in key.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        Ok(Some(Self { scheme, bucket: bucket.to_owned(), key: parts.join("/") }))
    }

    /// The store's own address, such as `s3://bucket`.
    pub(super) fn root(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.bucket)
    }

    /// The whole address.
    pub(super) fn path(&self) -> PathBuf {
        match self.key.is_empty() {
            true => self.root().into(),
            false => format!("{}/{}", self.root(), self.key).into(),
        }
    }
}

/// The key above; `None` for the bucket itself.
pub(super) fn parent_key(key: &str) -> Option<&str> {
    match key.rsplit_once('/') {
        Some((above, _)) => Some(above),
        None if key.is_empty() => None,
        None => Some(""),
    }
}

/// The key of something in a folder.
pub(super) fn join_key(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether `key` is `folder` or below it.
pub(super) fn is_within(key: &str, folder: &str) -> bool {
    folder.is_empty() || key.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A number that tells names and contents apart.
pub(super) fn number_of(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(address: &str) -> Option<(String, String)> {
        let location = Location::parse(Path::new(address)).unwrap()?;
        Some((location.root(), location.key))
    }

    #[test]
    fn addresses_are_split_and_made_normal() {
        let known = |root: &str, key: &str| Some((root.to_owned(), key.to_owned()));
        assert_eq!(parsed("s3://b/run/step-1"), known("s3://b", "run/step-1"));
        assert_eq!(parsed("s3a://b//run/./x/../step-1/"), known("s3://b", "run/step-1"));
        assert_eq!(parsed("gs://b"), known("gs://b", ""));
        assert_eq!(parsed("az://c/x"), known("az://c", "x"));
        assert_eq!(parsed("https://host:8080/a/b.safetensors"), known("https://host:8080", "a/b.safetensors"));
        assert_eq!(parsed("run/s3:/b"), None);
        assert_eq!(parsed("hdfs://b/x"), None);
    }

    #[test]
    fn secrets_in_addresses_are_refused_without_being_said() {
        let secret = "hunter2";
        for address in [
            "https://me:hunter2@host/run",
            "s3://hunter2@bucket/run",
            "https://host/run?X-Amz-Signature=hunter2",
            "az://container/run?sv=1&sig=hunter2",
            "https://me:hunter2@host/run?token=hunter2",
        ] {
            let error = Location::parse(Path::new(address)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        }
    }

    #[test]
    fn keys_know_what_is_above_and_within() {
        assert_eq!((parent_key("a/b"), parent_key("a"), parent_key("")), (Some("a"), Some(""), None));
        assert!(is_within("a/b", "a") && is_within("a", "a") && is_within("x", ""));
        assert!(!is_within("ab", "a"));
    }
}
