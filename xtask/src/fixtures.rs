//! The fixtures are what their list says: every file listed, every digest right, every folder with the script that
//! made it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

/// The list of digests, in the form of `sha256sum`.
const LIST: &str = "SHA256SUMS";

/// Faults of the fixtures, and of the inputs that are kept for fuzzing.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut faults = check_digests(root, "fixtures")?;
    faults.extend(check_digests(root, "fuzz/corpus")?);
    let folder = root.join("fixtures");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    faults.extend(folders_without_script(&folder, &readme)?);
    Ok(faults)
}

/// Every file below `name` is listed with its digest, and nothing else is.
fn check_digests(root: &Path, name: &str) -> Result<Vec<String>, String> {
    let mut found = BTreeMap::new();
    collect(&root.join(name), "", &mut found)?;
    let folder = name;
    let list = found.remove(LIST).ok_or_else(|| format!("{folder}: there is no {LIST}"))?;
    let list = String::from_utf8(list).map_err(|error| format!("{folder}/{LIST}: {error}"))?;
    let mut faults = Vec::new();
    for line in list.lines() {
        let Some((digest, name)) = line.split_once("  ") else {
            faults.push(format!("{folder}/{LIST}: `{line}` is not a digest and name"));
            continue;
        };
        match found.remove(name) {
            Some(content) if hex_digest(&content) == digest => {}
            Some(_) => faults.push(format!("{folder}/{name} is not what {LIST} says: restore it, or list it again")),
            None => faults.push(format!("{folder}/{name} is listed and not there")),
        }
    }
    faults.extend(found.keys().map(|name| format!("{folder}/{name} is not in {LIST}")));
    Ok(faults)
}

/// Each folder needs a row in the README that names a script which is there.
fn folders_without_script(folder: &Path, readme: &str) -> Result<Vec<String>, String> {
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| format!("fixtures: {error}"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_dir() || name == "make" {
            continue;
        }
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap_or("");
        let mut words = row.split('`').skip(1).step_by(2);
        if !words.any(|word| word.contains('/') && folder.join(word).is_file()) {
            faults.push(format!("fixtures/{name}: its row in fixtures/README.md must name the script that made it"));
        }
    }
    faults.sort();
    Ok(faults)
}

fn hex_digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut hex, byte| {
        let _cannot_fail = write!(hex, "{byte:02x}");
        hex
    })
}

fn collect(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            // What Python leaves beside a script that was imported.
            if !name.ends_with("__pycache__") {
                collect(&entry.path(), &format!("{name}/"), found)?;
            }
        } else {
            found.insert(name, std::fs::read(entry.path()).map_err(fail)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_missing_and_unlisted_files_are_found() {
        let root = std::env::temp_dir().join(format!("thalweg-xtask-fixtures-{}", std::process::id()));
        let folder = root.join("fixtures");
        std::fs::create_dir_all(root.join("fuzz/corpus")).unwrap();
        std::fs::write(root.join("fuzz/corpus").join(LIST), "").unwrap();
        std::fs::create_dir_all(folder.join("set")).unwrap();
        std::fs::create_dir_all(folder.join("make")).unwrap();
        let put = |name: &str, content: &str| std::fs::write(folder.join(name), content).unwrap();
        put("README.md", "| `set` | what | `make/set.py` |\n");
        put("make/set.py", "");
        put("set/a", "abc");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let readme = hex_digest(b"| `set` | what | `make/set.py` |\n");
        let whole = format!("{readme}  README.md\n{empty}  make/set.py\n{abc}  set/a\n");
        put(LIST, &whole);
        assert_eq!(check(&root), Ok(vec![]));
        put("set/a", "abd");
        put("set/b", "");
        std::fs::remove_file(folder.join("make/set.py")).unwrap();
        let faults = check(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[0].contains("make/set.py is listed and not there"));
        assert!(faults[1].contains("set/a is not what"));
        assert!(faults[2].contains("set/b is not in"));
        assert!(faults[3].contains("must name the script"));
    }
}
