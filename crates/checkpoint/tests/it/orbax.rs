//! Checkpoints of Orbax, MaxText's and levanter's folders, and stores of tensorstore, as the packages wrote them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use thalweg_checkpoint::{Checkpoint, Error, Note, ReadOptions, open_checkpoint, open_checkpoint_with};
use thalweg_tensor::{Dtype, TensorSource};
use thalweg_testkit::copy_folder;

use crate::support::{disk, fixture, tensor_bytes, write};

fn open(path: &Path) -> Checkpoint {
    open_checkpoint(&disk(), path).unwrap_or_else(|error| panic!("{error} {:?}", error.details()))
}

/// Every expected tensor is there, with the same type, shape and bytes, and no other.
fn check_equal(name: &str, expected: &str) {
    let found = open(&fixture("orbax").join(name));
    let expected = open(&fixture("orbax").join(expected));
    assert_eq!(found.format_name(), "orbax");
    let names = |checkpoint: &Checkpoint| {
        let entries = checkpoint.catalog().entries().iter();
        entries.map(|entry| (entry.name.clone(), entry.dtype, entry.shape.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(&found), names(&expected), "{name}");
    for entry in expected.catalog().entries() {
        assert!(tensor_bytes(&found, &entry.name) == tensor_bytes(&expected, &entry.name), "{name}: {}", entry.name);
    }
}

#[test]
fn runs_of_orbax_maxtext_and_levanter_are_read() {
    for step in [10, 20] {
        check_equal(&format!("manager/{step}"), &format!("manager/expected/step-{step}.safetensors"));
        check_equal(&format!("manager/{step}/default"), &format!("manager/expected/step-{step}.safetensors"));
        check_equal(&format!("maxtext/{step}"), &format!("maxtext/expected/step-{step}.safetensors"));
        check_equal(&format!("levanter/step-{step}"), &format!("levanter/expected/step-{step}.safetensors"));
    }
}

#[test]
fn both_versions_of_zarr_in_and_outside_a_store_and_in_small_chunks_are_read() {
    for name in ["zarr2-plain", "zarr3-plain", "zarr3-ocdbt", "zarr2-small-chunks", "zarr3-small-chunks"] {
        check_equal(&format!("variants/{name}"), "variants/expected/step-20.safetensors");
    }
}

#[test]
fn whatever_tensorstore_writes_is_read() {
    let folder = fixture("orbax/tensorstore");
    let whole = ReadOptions { key: Some(".".to_owned()), ..ReadOptions::default() };
    let found = open_checkpoint_with(&disk(), &folder, &whole).unwrap();
    let expected = open(&folder.join("expected/step-0.safetensors"));
    assert!(expected.catalog().entries().len() > 20);
    for entry in expected.catalog().entries() {
        assert!(tensor_bytes(&found, &entry.name) == tensor_bytes(&expected, &entry.name), "{}", entry.name);
    }
    assert_eq!(found.catalog().entries().len(), expected.catalog().entries().len());
    // A chunk that is too large to be kept unpacked, in pieces and backwards.
    let tensor_idx = found.catalog().find("w.large").unwrap();
    let all = tensor_bytes(&expected, "w.large");
    for part in (0..90).rev().chain(0..90) {
        let mut out = vec![0; 4000];
        found.read_elements(tensor_idx, part * 1000..(part + 1) * 1000, &mut out).unwrap();
        assert!(out == all[usize::try_from(part).unwrap() * 4000..][..4000], "{part}");
    }
}

#[test]
fn the_optimizer_is_beside_the_model() {
    let checkpoint = open(&fixture("orbax/manager/20"));
    assert_eq!(checkpoint.findings().key.as_deref(), Some("params"));
    let others: BTreeSet<&str> = checkpoint.findings().other_keys.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(others, BTreeSet::from(["opt_state", "step"]));
    let key = |key: &str| ReadOptions { key: Some(key.to_owned()), ..ReadOptions::default() };
    let open_key = |name: &str| open_checkpoint_with(&disk(), &fixture("orbax/manager/20"), &key(name));
    let names = |checkpoint: &Checkpoint| {
        checkpoint.catalog().entries().iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>()
    };
    assert!(names(&open_key("opt_state.mu").unwrap()).iter().all(|name| name.starts_with("opt_state.mu.")));
    let whole = open_key(".").unwrap();
    assert!(names(&whole).contains(&"step".to_owned()) && names(&whole).contains(&"opt_state.count".to_owned()));
    let step = &whole.catalog().entries()[whole.catalog().find("step").unwrap()];
    assert_eq!((step.dtype, tensor_bytes(&whole, "step")), (Dtype::I32, vec![20, 0, 0, 0]));
    let error = open_key("parms").unwrap_err();
    assert!(
        error.to_string().contains("`params`") && error.hint().is_some_and(|hint| hint.contains("--key")),
        "{error}"
    );
    let maxtext = open(&fixture("orbax/maxtext/20"));
    assert_eq!(maxtext.findings().key.as_deref(), Some("params.params"));
}

/// A copy of a fixture that may be broken.
fn copy_of(name: &str, as_name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(as_name);
    copy_folder(&fixture("orbax").join(name), &path);
    (folder, path)
}

fn check_unfinished(path: &Path, reason: &str) {
    let error = open_checkpoint(&disk(), path).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains(reason), "{error}");
}

#[test]
fn saves_that_were_not_committed_are_unfinished() {
    // As on a bucket: the folder has its final name from the beginning, and the marker comes last.
    let (_folder, step) = copy_of("manager/10", "10");
    fs::remove_file(step.join("commit_success.txt")).unwrap();
    open(&step);
    let text = fs::read_to_string(step.join("_CHECKPOINT_METADATA")).unwrap();
    let (before, after) = text.split_once("\"commit_timestamp_nsecs\": ").unwrap();
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    write(&step.join("_CHECKPOINT_METADATA"), format!("{before}\"commit_timestamp_nsecs\": null{rest}"));
    check_unfinished(&step, "`commit_success.txt`");
    // As on a disk: the folder is renamed last.
    let (_folder, step) = copy_of("manager/10", "10.orbax-checkpoint-tmp-17");
    check_unfinished(&step, "`commit_success.txt`");
    check_unfinished(&step.join("default"), "`commit_success.txt`");
    // The manifest of all processes comes after theirs.
    let (_folder, step) = copy_of("manager/10", "10");
    fs::remove_file(step.join("default/manifest.ocdbt")).unwrap();
    check_unfinished(&step, "`manifest.ocdbt` is missing");
    let (_folder, step) = copy_of("levanter/step-10", "step-10");
    write(&step.join("metadata.json"), "");
    check_unfinished(&step, "`metadata.json`");
    fs::remove_file(step.join("metadata.json")).unwrap();
    check_unfinished(&step, "`metadata.json`");
}

fn data_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_data = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("d"));
    entries.flat_map(|path| if path.is_dir() { data_files(&path) } else { vec![path] }).filter(is_data).collect()
}

#[test]
fn data_files_that_are_missing_or_cut_are_unfinished() {
    let n_files = data_files(&fixture("orbax/manager/10")).len();
    assert!(n_files > 2);
    for number in 0..n_files {
        let (_folder, step) = copy_of("manager/10", "10");
        let file = data_files(&step).swap_remove(number);
        let bytes = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        fs::remove_file(&file).unwrap();
        let check = |what: &str| {
            // Files of older versions of the store are not needed.
            match open_checkpoint(&disk(), &step) {
                Ok(_) => false,
                Err(error) => {
                    assert!(error.is_unfinished() && error.to_string().contains(name), "{what}: {error}");
                    true
                }
            }
        };
        let is_needed = check("missing");
        write(&file, &bytes[..bytes.len() / 2]);
        assert!(!is_needed || check("cut"));
    }
}

/// Opens a checkpoint and reads all of it; an error is fine, a panic is not. Whether it was read.
fn read_all(path: &Path) -> bool {
    let Ok(checkpoint) = open_checkpoint(&disk(), path) else { return false };
    let read = |(tensor_idx, entry): (usize, &thalweg_tensor::TensorEntry)| {
        let mut out = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
        checkpoint.read_elements(tensor_idx, 0..entry.n_elements(), &mut out).is_ok()
    };
    checkpoint.catalog().entries().iter().enumerate().all(read)
}

#[test]
fn changed_bytes_are_refused_or_change_only_elements() {
    let (_folder, step) = copy_of("variants/zarr3-small-chunks", "20");
    let manifest = step.join("manifest.ocdbt");
    for path in [vec![manifest], data_files(&step)].concat() {
        let bytes = fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 60) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            write(&path, &changed);
            read_all(&step);
        }
        write(&path, &bytes);
    }
    assert!(read_all(&step));
}

#[test]
fn descriptions_that_are_broken_are_refused_by_the_name_of_their_array() {
    let name = "params.decoder.bias";
    let broken = [
        ("\"zstd\"", "\"blosc\"", "compressed by \"blosc\""),
        ("\"shape\":[5]", "\"shape\":[1099511627776]", "chunks are stored"),
        ("\"shape\":[5]", "\"shape\":[5,5]", "do not match shape"),
        ("\"chunks\":[5]", "\"chunks\":[0]", "do not match shape"),
        ("\"chunks\":[5]", "\"chunks\":[4611686018427387904]", "overflows 64 bits"),
        ("\"chunks\":[5]", "\"chunks\":[4000000]", "cannot expand to"),
        ("\"order\":\"C\"", "\"order\":\"F\"", "\"F\""),
        ("{", "[", "not JSON"),
    ];
    for (part, other, reason) in broken {
        let (_folder, step) = copy_of("variants/zarr2-plain", "20");
        let path = step.join(name).join(".zarray");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(part), "{text}");
        write(&path, text.replacen(part, other, 1));
        let error = open_checkpoint(&disk(), &step).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{other}: {error}");
    }
    let (_folder, step) = copy_of("variants/zarr2-plain", "20");
    let path = step.join(name).join(".zarray");
    let text = fs::read_to_string(&path).unwrap();
    write(&path, text.replace("\"bfloat16\"", "\"int4\""));
    assert!(open(&step).findings().unreadable.iter().any(|one| one.name == name && one.reason.contains("int4")));
    fs::remove_dir_all(step.join(name)).unwrap();
    let error = open_checkpoint(&disk(), &step).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("nothing of it is stored"), "{error}");
    // A chunk that is cut is found when it is read.
    let (_folder, step) = copy_of("variants/zarr2-plain", "20");
    let chunk = step.join(name).join("0");
    let bytes = fs::read(&chunk).unwrap();
    write(&chunk, &bytes[..bytes.len() - 3]);
    let checkpoint = open(&step);
    let tensor_idx = checkpoint.catalog().find(name).unwrap();
    let error = checkpoint.read_elements(tensor_idx, 0..5, &mut [0; 10]).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn folders_of_something_else_are_not_taken_for_orbax() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model", "default", "items"] {
        let path = folder.path().join(name).join("x");
        write(&path.join(name).join("readme.txt"), "x");
        let error = open_checkpoint(&disk(), &path).unwrap_err();
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
    }
    // One file of a checkpoint is not the checkpoint.
    let error = open_checkpoint(&disk(), &fixture("orbax/manager/10/default/manifest.ocdbt")).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("the folder")), "{error}");
    assert!(open(&fixture("orbax/maxtext/10")).notes().iter().any(|note| matches!(note, Note::KeyChosen { .. })));
}
