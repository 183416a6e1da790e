//! What a hub's answers mean. They come from outside: every name, length and digest is checked before it is used.

use serde::Deserialize;

use super::fault::{Fault, shown};
use crate::hub::{BlobDigest, HubFile, HubRef};

/// The largest run known publishes some thousand branches.
pub(super) const MAX_REFS: usize = 100_000;
pub(super) const MAX_FILES: usize = 200_000;
/// No file is larger: 2^56 bytes.
const MAX_FILE_BYTES: u64 = 1 << 56;

#[derive(Deserialize)]
struct RawRefs {
    #[serde(default)]
    branches: Vec<RawRef>,
    #[serde(default)]
    tags: Vec<RawRef>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRef {
    name: String,
    target_commit: String,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<RawLarge>,
}

#[derive(Deserialize)]
struct RawLarge {
    oid: String,
    size: u64,
}

fn is_hex(text: &str, n_digits: usize) -> bool {
    text.len() == n_digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a path or a name of a ref stays below the folder that it is put in: parts between slashes, none of them
/// empty, `.` or `..`, and no characters that are special somewhere.
fn is_plain_path(path: &str) -> bool {
    let is_fine = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    path.len() <= 1024 && path.split('/').all(is_fine) && !path.contains(|c: char| c == '\\' || c.is_control())
}

fn not_json(error: &serde_json::Error) -> Fault {
    Fault::garbled(format!("the hub's response is malformed at byte {}", error.column()))
}

/// Branches and tags.
pub(super) fn parse_refs(body: &[u8]) -> Result<Vec<HubRef>, Fault> {
    let raw: RawRefs = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    let checked = raw.branches.into_iter().chain(raw.tags).map(|found| {
        if !is_plain_path(&found.name) {
            return Err(Fault::garbled(format!("`{}` cannot be the name of a revision", shown(&found.name))));
        }
        if !is_hex(&found.target_commit, 40) {
            return Err(Fault::garbled(format!(
                "revision `{}` names `{}`, which is not a commit",
                found.name,
                shown(&found.target_commit)
            )));
        }
        Ok(HubRef { name: found.name, commit: found.target_commit })
    });
    checked.collect()
}

/// Files of one page of a listing; folders are skipped, because their files are listed too.
pub(super) fn parse_files(body: &[u8]) -> Result<Vec<HubFile>, Fault> {
    let raw: Vec<RawEntry> = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    raw.into_iter().filter(|entry| entry.kind == "file").map(check_file).collect()
}

fn check_file(entry: RawEntry) -> Result<HubFile, Fault> {
    if !is_plain_path(&entry.path) {
        return Err(Fault::garbled(format!("the file `{}` would be outside the cache", shown(&entry.path))));
    }
    let wrong = |what: &str| Fault::garbled(format!("the file `{}` has {what}", entry.path));
    let (digest, len_bytes) = match entry.lfs {
        Some(large) if !is_hex(&large.oid, 64) => return Err(wrong("an invalid SHA-256")),
        Some(large) => (BlobDigest::Sha256(large.oid), large.size),
        None if !is_hex(&entry.oid, 40) => return Err(wrong("an invalid SHA-1")),
        None => (BlobDigest::Git(entry.oid.clone()), entry.size),
    };
    if len_bytes > MAX_FILE_BYTES || len_bytes != entry.size {
        return Err(wrong("an impossible length"));
    }
    Ok(HubFile { path: entry.path, len_bytes, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(fault: Fault) -> String {
        match fault {
            Fault::Hub { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_leaves_the_folder_that_it_is_put_in() {
        for fine in ["config.json", "a/b.safetensors", "stage1-step1000-tokens5B", "refs/pr/1", "..a"] {
            assert!(is_plain_path(fine), "{fine}");
        }
        for bad in ["", "..", "a/../b", "/etc/passwd", "a//b", "a/", "a\\b", "a\nb", "a\0b", "./a"] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn hostile_names_commits_and_lengths_are_refused() {
        let oid = "a".repeat(40);
        for (name, commit, fact) in [
            ("../../etc", &*oid, "cannot be the name"),
            ("/etc", &oid, "cannot be the name"),
            ("a\u{1b}[2J", &oid, "cannot be the name"),
            ("step1", "../../../etc", "not a commit"),
            ("step1", "ABCDEF", "not a commit"),
        ] {
            let body = serde_json::json!({"branches": [{"name": name, "targetCommit": commit}], "tags": []});
            let told = said(parse_refs(body.to_string().as_bytes()).unwrap_err());
            assert!(told.contains(fact) && !told.contains('\u{1b}'), "{told}");
        }
        let large = |oid: &str, size: u64| serde_json::json!({"oid": oid, "size": size, "pointerSize": 130});
        let sha = "b".repeat(64);
        for (entry, fact) in [
            (serde_json::json!({"type": "file", "path": "../x", "size": 1, "oid": oid}), "outside the cache"),
            (serde_json::json!({"type": "file", "path": "/etc/x", "size": 1, "oid": oid}), "outside the cache"),
            (serde_json::json!({"type": "file", "path": "x", "size": 1, "oid": "zz"}), "SHA-1"),
            (
                serde_json::json!({"type": "file", "path": "x", "size": 1, "oid": oid, "lfs": large("../..", 1)}),
                "SHA-256",
            ),
            (serde_json::json!({"type": "file", "path": "x", "size": 1, "oid": oid, "lfs": large(&sha, 2)}), "length"),
            (serde_json::json!({"type": "file", "path": "x", "size": u64::MAX, "oid": oid}), "length"),
            (serde_json::json!({"type": "file", "path": "x", "size": -1, "oid": oid}), "response is malformed"),
            (serde_json::json!({"error": "x"}), "response is malformed"),
        ] {
            let told = said(parse_files(serde_json::json!([entry]).to_string().as_bytes()).unwrap_err());
            assert!(told.contains(fact), "{told}");
        }
    }
}
