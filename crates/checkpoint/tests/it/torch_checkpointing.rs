//! Checkpoints of torch_checkpointing, as the package wrote them.

use std::fs;

use thalweg_checkpoint::{Checkpoint, ReadOptions, open_checkpoint, open_checkpoint_with};

use crate::support::{disk, fixture, tensor_bytes, widened};

fn open(name: &str) -> Checkpoint {
    open_checkpoint(&disk(), &fixture("torch-checkpointing").join(name)).unwrap()
}

/// Every expected tensor is there, with the same shape and bytes, and no other.
fn check_equal(name: &str, expected: &str) {
    let (checkpoint, expected) = (open(name), open(expected));
    assert_eq!(checkpoint.format_name(), "torch-checkpointing", "{name}");
    let names = |checkpoint: &Checkpoint| {
        checkpoint.catalog().entries().iter().map(|entry| (entry.name.clone(), entry.shape.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(&checkpoint), names(&expected), "{name}");
    for entry in expected.catalog().entries() {
        assert!(widened(&checkpoint, &entry.name) == tensor_bytes(&expected, &entry.name), "{name}: {}", entry.name);
    }
}

#[test]
fn runs_of_both_savers_are_read_with_and_without_metadata() {
    for step in [10, 20, 30, 40] {
        let expected = format!("expected/step-{step}.f32.safetensors");
        check_equal(&format!("run/step-{step}"), &expected);
        // Only the first of these has metadata; the distributed tensors of the others state their boxes themselves.
        check_equal(&format!("sync/step-{step}"), &expected);
        let expected = format!("one-rank/expected/step-{step}.f32.safetensors");
        check_equal(&format!("one-rank/step-{step}"), &expected);
    }
}

#[test]
fn every_layout_of_the_last_step_is_read() {
    for name in ["full", "layout", "mesh-2x2", "mesh-2x2-safetensors", "version-1.0"] {
        check_equal(&format!("{name}/step-40"), "expected/step-40.f32.safetensors");
    }
}

#[test]
fn odd_shapes_on_three_ranks_are_read() {
    let (checkpoint, expected) = (open("three-ranks/step-40"), open("three-ranks/odd.safetensors"));
    for entry in expected.catalog().entries() {
        assert!(tensor_bytes(&checkpoint, &entry.name) == tensor_bytes(&expected, &entry.name), "{}", entry.name);
    }
}

#[test]
fn consolidated_copies_are_read_as_what_they_are() {
    for name in ["consolidated/step-40", "consolidated-apart/step-40"] {
        assert_eq!(open(name).format_name(), "safetensors", "{name}");
    }
}

#[test]
fn pieces_that_nothing_describes_are_refused_and_the_hint_works() {
    let (folder, scratch) = (fixture("torch-checkpointing/safetensors"), tempfile::tempdir().unwrap());
    let refused = open_checkpoint(&disk(), &folder.join("step-20")).unwrap_err();
    assert!(refused.to_string().contains("no `metadata.pkl` to say how they fit together"), "{refused}");
    assert!(refused.hint().unwrap().contains("copy `metadata.pkl` from the first checkpoint"));
    for (from, name) in
        [("step-20", "model_0.safetensors"), ("step-20", "model_1.safetensors"), ("step-10", "metadata.pkl")]
    {
        fs::copy(folder.join(from).join(name), scratch.path().join(name)).unwrap();
    }
    let checkpoint = open_checkpoint(&disk(), scratch.path()).unwrap();
    let expected = open("expected/step-20.f32.safetensors");
    for entry in expected.catalog().entries() {
        assert!(tensor_bytes(&checkpoint, &entry.name) == tensor_bytes(&expected, &entry.name), "{}", entry.name);
    }
}

#[test]
fn other_items_are_read_when_they_are_named() {
    let options = ReadOptions { key: Some("optimizer".to_owned()), ..ReadOptions::default() };
    let path = fixture("torch-checkpointing/full/step-40");
    let checkpoint = open_checkpoint_with(&disk(), &path, &options).unwrap();
    assert!(checkpoint.catalog().entries().iter().any(|entry| entry.name.ends_with("exp_avg")));
    let options = ReadOptions { key: Some("optimiser".to_owned()), ..ReadOptions::default() };
    let error = open_checkpoint_with(&disk(), &path, &options).unwrap_err().to_string();
    assert!(error.contains("no tensors are under the key `optimiser`; the tensors are under `optimizer`"), "{error}");
}

#[test]
fn a_missing_rank_and_another_version_are_named() {
    let (folder, scratch) = (fixture("torch-checkpointing/run/step-40"), tempfile::tempdir().unwrap());
    for name in ["model_0.pt", "metadata.pkl"] {
        fs::copy(folder.join(name), scratch.path().join(name)).unwrap();
    }
    let error = open_checkpoint(&disk(), scratch.path()).unwrap_err();
    assert!(error.is_unfinished() && error.to_string().contains("`model_1.pt` is missing"), "{error}");
    fs::write(scratch.path().join("metadata.pkl"), b"\x80\x02}X\x07\x00\x00\x00versionX\x03\x00\x00\x003.0s.").unwrap();
    let error = open_checkpoint(&disk(), scratch.path()).unwrap_err().to_string();
    assert!(error.contains("its version is `3.0`, but only 2.0 and 1.0 are supported"), "{error}");
}
