//! Every odd or broken file of the fixtures gets the verdict that its manifest states.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use thalweg_checkpoint::{Checkpoint, Error, open_checkpoint};

use crate::support::{disk, f32_bytes, fixture, safetensors_bytes, tensor_bytes};

fn manifest(group: &str) -> Vec<(String, String)> {
    let bytes = fs::read(fixture("hostile/MANIFEST.json")).unwrap();
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&bytes).unwrap();
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let cases = entries.iter().map(|entry| (text(entry, "path"), text(entry, "verdict")));
    cases.filter(|(path, _)| path.starts_with(group)).collect()
}

fn open(path: &Path) -> Result<Checkpoint, Error> {
    open_checkpoint(&disk(), path)
}

/// All that a user sees of an error.
fn shown(error: &Error) -> String {
    format!("{error}\n{}", error.details().join("\n"))
}

#[test]
fn every_header_gets_the_verdict_of_the_manifest() {
    let cases = manifest("safetensors/");
    assert_eq!(cases.len(), 56);
    for (path, verdict) in cases {
        let result = open(&fixture("hostile").join(&path));
        match (verdict.as_str(), &result) {
            ("accept", Ok(_)) | ("either", Ok(_)) => {}
            ("reject" | "either", Err(error)) => {
                let file = path.rsplit('/').next().unwrap();
                assert!(error.to_string().contains(file), "{path} is not named: {error}");
                assert!(error.to_string().len() < 1000, "{path}: {error}");
            }
            _ => panic!("{path} must be {verdict}ed: {result:?}"),
        }
    }
}

#[test]
fn every_index_gets_the_verdict_of_the_manifest() {
    let cases = manifest("index/");
    assert_eq!(cases.len(), 26);
    for (path, verdict) in cases.iter().filter(|(path, _)| !path.ends_with(".sh")) {
        let result = open(&fixture("hostile").join(path));
        match (verdict.as_str(), &result) {
            ("accept", Ok(checkpoint)) | ("either", Ok(checkpoint)) => {
                // The single file beside the index holds other values, and it is the one that is read.
                let expected = if path.ends_with("single-and-index") { [9.0, 9.0] } else { [1.0, 2.0] };
                assert_eq!(tensor_bytes(checkpoint, "a"), f32_bytes(&expected), "{path}");
            }
            ("reject" | "either", Err(error)) => {
                assert!(shown(error).contains(path.rsplit('/').next().unwrap()), "{path} is not named: {error}");
            }
            _ => panic!("{path} must be {verdict}ed: {result:?}"),
        }
    }
}

#[test]
fn errors_say_the_file_the_tensor_and_both_facts() {
    let cases = [
        (
            "safetensors/shape-size-mismatch.safetensors",
            "tensor `w` with shape [3] and dtype F32 needs 12 bytes, but its range has 8",
        ),
        (
            "safetensors/negative-offset.safetensors",
            "tensor `w`: invalid type: integer `-8`, expected a whole number that fits in 64 bits",
        ),
        (
            "safetensors/three-offsets.safetensors",
            "tensor `w`: invalid length 3, expected an array of two whole numbers",
        ),
        ("safetensors/unknown-dtype.safetensors", "tensor `w` has the unknown dtype `F128`"),
        ("safetensors/duplicate-key-escaped.safetensors", "tensor `w` appears twice in the header"),
        ("safetensors/duplicate-key-same-range.safetensors", "tensor `w` appears twice in the header"),
        ("safetensors/missing-dtype.safetensors", "tensor `w`: missing field `dtype`"),
        (
            "safetensors/truncated-data.safetensors",
            "the file ends inside tensor `w`: 8 bytes of data expected, 4 found",
        ),
        ("safetensors/hole-at-start.safetensors", "tensor `a` begins at byte 4, 0 expected"),
        ("safetensors/header-len-u64-max.safetensors", "the header claims 18446744073709551615 bytes"),
        ("safetensors/not-utf8.safetensors", "the header is not UTF-8 at byte 3"),
        ("index/missing-shard", "is unfinished: shard `model-00001-of-00002.safetensors` is missing"),
        ("index/tensor-not-in-shard", "tensor `c` is not in shard `model-00002-of-00002.safetensors`"),
        ("index/tensor-not-in-index", "is not in the index"),
        (
            "index/tensor-in-two-shards",
            "tensor `b` is in shard `model-00001-of-00002.safetensors` and in `model-00002-of-00002.safetensors`",
        ),
        ("index/parent-path", "only files below the folder are opened"),
        ("index/absolute-path", "which is an absolute path"),
        ("index/url", "which is a URL; only files below the folder"),
        ("index/nul-in-name", "which holds a control character"),
        ("index/weight-map-duplicate", "appears twice in the index"),
        ("index/weight-map-empty", "`weight_map` of the index is empty"),
        ("index/index-truncated", "the text ends while parsing a string"),
        ("index/weight-map-list", "expected an object of file names in `weight_map`"),
    ];
    for (path, expected) in cases {
        let error = open(&fixture("hostile").join(path)).unwrap_err();
        assert!(shown(&error).contains(expected), "{path}: {}", shown(&error));
    }
}

#[test]
fn what_can_be_read_all_the_same_is_told() {
    let notes = |path: &str| {
        let checkpoint = open(&fixture("hostile/index").join(path)).unwrap();
        checkpoint.notes().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(notes("good"), "");
    assert!(notes("shard-not-in-index").contains("is not part of the checkpoint and is ignored"));
    assert!(notes("total-size-wrong").contains("states a `total_size` of"));
    assert!(
        notes("single-and-index")
            .contains("`model.safetensors` is read and `model.safetensors.index.json` beside it is not")
    );
    let odd = open(&fixture("hostile/safetensors/unknown-field.safetensors")).unwrap();
    assert!(odd.notes()[0].to_string().contains("that the format does not define"));
}

#[test]
fn odd_but_whole_files_are_read_right() {
    let file = |name: &str| open(&fixture("hostile/safetensors").join(name)).unwrap();
    let differs = file("header-order-differs.safetensors");
    assert_eq!(tensor_bytes(&differs, "a"), f32_bytes(&[1.0]));
    assert_eq!(tensor_bytes(&differs, "z"), f32_bytes(&[2.0]));
    assert_eq!(file("odd-names.safetensors").catalog().entries().len(), 11);
    assert_eq!(file("all-dtypes.safetensors").catalog().entries().len(), 22);
    assert_eq!(file("no-tensors.safetensors").catalog().entries().len(), 0);
    let shapes: Vec<String> =
        file("zero-size.safetensors").catalog().entries().iter().map(|entry| entry.shape.to_string()).collect();
    assert_eq!(shapes, ["[0, 4]", "[]", "[3, 0]"]);
}

/// The folders that `make_links.sh` makes, made here because not every store keeps links.
#[test]
fn links_pipes_and_devices_neither_block_nor_leave_the_rules() {
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let good = fixture("hostile/index/good");
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = scratch.path().join(name);
        fs::create_dir(&path).unwrap();
        for file in ["model.safetensors.index.json", second] {
            fs::copy(good.join(file), path.join(file)).unwrap();
        }
        path
    };
    let must_fail = |path: &Path, expected: &str| {
        let error = open(path).unwrap_err();
        let all = shown(&error);
        assert!(all.contains(first) && all.contains(expected), "{}: {all}", path.display());
    };
    let path = folder("loop");
    symlink("loop2", path.join(first)).unwrap();
    symlink(first, path.join("loop2")).unwrap();
    must_fail(&path, "cannot open");
    let path = folder("self");
    symlink(first, path.join(first)).unwrap();
    must_fail(&path, "cannot open");
    let path = folder("dangling");
    symlink("nowhere", path.join(first)).unwrap();
    must_fail(&path, "is missing");
    let path = folder("todir");
    fs::create_dir(path.join("d")).unwrap();
    symlink("d", path.join(first)).unwrap();
    must_fail(&path, "is not a regular file");
    let path = folder("fifo");
    if Command::new("mkfifo").arg(path.join(first)).status().is_ok_and(|status| status.success()) {
        must_fail(&path, "is not a regular file");
    }
    let path = folder("devzero");
    symlink("/dev/zero", path.join(first)).unwrap();
    must_fail(&path, "is not a regular file");
    let path = folder("dirloop");
    symlink(".", path.join("again")).unwrap();
    fs::copy(good.join(first), path.join(first)).unwrap();
    assert_eq!(tensor_bytes(&open(&path).unwrap(), "b"), f32_bytes(&[3.0, 4.0]));
}

#[test]
fn a_hub_cache_is_read_through_its_links() {
    let scratch = tempfile::tempdir().unwrap();
    let good = fixture("hostile/index/good");
    let (blobs, snapshot) = (scratch.path().join("blobs"), scratch.path().join("snapshots/0123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for (number, entry) in fs::read_dir(&good).unwrap().enumerate() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), blobs.join(number.to_string())).unwrap();
        symlink(format!("../../blobs/{number}"), snapshot.join(entry.file_name())).unwrap();
    }
    let checkpoint = open(&snapshot).unwrap();
    assert_eq!(tensor_bytes(&checkpoint, "a"), f32_bytes(&[1.0, 2.0]));
    assert_eq!(tensor_bytes(&checkpoint, "b"), f32_bytes(&[3.0, 4.0]));
}

#[test]
fn a_damaged_header_is_not_taken_for_another_kind_of_file() {
    // Lengths that begin like a page, a pickle and a gzip file.
    for n_bytes in [0x3c, 0x80, 0x180, 0x8b1f] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#;
        fs::write(&path, safetensors_bytes(&format!("{header:<n_bytes$}"), &[0; 8])).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, Error::Header { .. }), "{error}");
    }
    // A pickle under that name is still one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01u.").unwrap();
    assert!(matches!(open(&path).unwrap_err(), Error::Impostor { .. }));
}
