//! Network addresses: none are supported, and none may be mistaken for a path.

use std::path::Path;

use crate::Error;

/// Checks that a path is one of a file system, and not an address such as `s3://bucket/run`.
///
/// # Errors
/// `UnsupportedScheme`.
///
/// # Example
/// ```
/// use std::path::Path;
/// use thalweg_storage::check_local;
///
/// assert!(check_local(Path::new("runs/s3:/a")).is_ok());
/// let refused = check_local(Path::new("gs://bucket/run")).unwrap_err();
/// assert!(refused.to_string().contains("`gs://`"));
/// ```
pub fn check_local(path: &Path) -> Result<(), Error> {
    match scheme_of(&path.to_string_lossy()) {
        Some(scheme) => Err(Error::UnsupportedScheme { path: path.to_owned(), scheme: scheme.to_owned() }),
        None => Ok(()),
    }
}

/// The scheme before `://`, at the beginning or after a `/`: an address that was joined to a folder is still an
/// address.
fn scheme_of(text: &str) -> Option<&str> {
    let before = &text[..text.find("://")?];
    let scheme = before.rsplit('/').next()?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
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
