//! What git holds stays small: caches and data that a tool wrote beside the sources are easily added with them.

use std::path::Path;
use std::process::Command;

/// The largest file that git may hold. A script that makes the file is committed instead of a larger one.
const MAX_BYTES: u64 = 4 << 20;

/// Faults of the files that git holds. A tree that is not git's, such as an unpacked archive, has none.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return Vec::new() };
    faults_of(&String::from_utf8_lossy(&listed.stdout), |name| Some(root.join(name).metadata().ok()?.len()))
}

fn faults_of(names: &str, size_of: impl Fn(&str) -> Option<u64>) -> Vec<String> {
    let large = |name: &str| {
        let n_bytes = size_of(name).filter(|n_bytes| *n_bytes > MAX_BYTES)?;
        Some(format!(
            "{name}: git holds {n_bytes} bytes, {MAX_BYTES} at most: ignore it, or keep the script that makes it"
        ))
    };
    names.split_terminator('\0').filter_map(large).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_above_the_limit_are_faults() {
        let sizes = |name: &str| match name {
            "a/cache.db" => Some(MAX_BYTES + 1),
            "model.bin" => Some(MAX_BYTES),
            _ => None,
        };
        let faults = faults_of("model.bin\0a/cache.db\0removed\0", sizes);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("a/cache.db: git holds 4194305 bytes"), "{faults:?}");
    }
}
