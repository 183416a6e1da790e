//! Verification finds every changed byte and says where.

use std::fs;
use std::path::{Path, PathBuf};

use thalweg_merge::verify::{SourceState, Verdict, Verification, VerifyScope, verify_output};

use crate::support::{PLAIN, Runner, data_start, f32_tensor, mean, shards, tensors, write_checkpoint};

struct Scene {
    _folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    out: PathBuf,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..2).map(|i| folder.path().join(format!("c{i}"))).collect();
    for (value, source) in [1.0_f32, 2.0].into_iter().zip(&sources) {
        let list = tensors([("a", f32_tensor(&[value; 10])), ("b", f32_tensor(&[value; 20]))]);
        write_checkpoint(source, &list);
        fs::write(source.join("config.json"), "{}").unwrap();
    }
    let out = folder.path().join("out");
    let plan = mean(&sources, &out);
    Runner::default().merge(&plan);
    Scene { _folder: folder, sources, out }
}

fn verify(out: &Path, scope: VerifyScope) -> Verification {
    Runner::default().with_context(|run| verify_output(out, scope, run)).0.unwrap()
}

fn faults(verdicts: &[Verdict]) -> Vec<&str> {
    verdicts.iter().filter(|verdict| verdict.fault.is_some()).map(|verdict| verdict.name.as_str()).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_untouched_output_and_its_sources_are_equal() {
    let scene = scene();
    let found = verify(&scene.out, VerifyScope::OutputAndInputs);
    assert!(found.is_equal() && found.compared_bytes, "{found:?}");
    assert_eq!(found.sources.len(), 2);
}

#[test]
fn one_flipped_bit_is_found_in_every_byte_of_the_data() {
    let scene = scene();
    let shard = &shards(&scene.out)[0];
    let start = data_start(&fs::read(shard).unwrap());
    for (at, name) in [(start, "a"), (start + 39, "a"), (start + 40, "b"), (start + 119, "b")] {
        flip(shard, at);
        let found = verify(&scene.out, VerifyScope::Output);
        assert_eq!(faults(&found.tensors), [name]);
        assert!(!found.is_equal());
        flip(shard, at);
    }
    assert!(verify(&scene.out, VerifyScope::Output).is_equal());
}

#[test]
fn every_changed_byte_of_the_header_is_found() {
    let scene = scene();
    let shard = &shards(&scene.out)[0];
    for at in 0..data_start(&fs::read(shard).unwrap()) {
        flip(shard, at);
        let found = Runner::default().with_context(|run| verify_output(&scene.out, VerifyScope::Output, run)).0;
        let is_equal = found.as_ref().is_ok_and(Verification::is_equal);
        assert!(!is_equal, "byte {at} of the header");
        flip(shard, at);
    }
}

#[test]
fn a_changed_side_file_is_found() {
    let scene = scene();
    fs::write(scene.out.join("config.json"), "[]").unwrap();
    assert_eq!(faults(&verify(&scene.out, VerifyScope::Output).files), ["config.json"]);
}

#[test]
fn a_truncated_and_a_missing_file_are_found() {
    let scene = scene();
    let shard = &shards(&scene.out)[0];
    let bytes = fs::read(shard).unwrap();
    fs::write(shard, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(faults(&verify(&scene.out, VerifyScope::Output).files), ["model.safetensors"]);
    fs::remove_file(shard).unwrap();
    let found = verify(&scene.out, VerifyScope::Output);
    assert_eq!(faults(&found.files), ["model.safetensors"]);
    assert!(found.files.iter().any(|verdict| verdict.fault.as_deref() == Some("missing")));
}

#[test]
fn a_changed_source_is_found_when_sources_are_asked_for() {
    let scene = scene();
    let file = &shards(&scene.sources[1])[0];
    flip(file, data_start(&fs::read(file).unwrap()) + 5);
    assert!(verify(&scene.out, VerifyScope::Output).is_equal());
    let found = verify(&scene.out, VerifyScope::OutputAndInputs);
    assert!(found.output_is_equal() && !found.sources_are_equal());
    assert!(matches!(&found.sources[1].state, SourceState::Changed(_)), "{:?}", found.sources);
    assert_eq!(found.sources[0].state, SourceState::Unchanged);
}

#[test]
fn a_missing_source_is_a_fault_and_no_failure() {
    let scene = scene();
    fs::remove_dir_all(&scene.sources[0]).unwrap();
    let found = verify(&scene.out, VerifyScope::OutputAndInputs);
    assert!(found.output_is_equal() && !found.sources_are_equal());
    assert_eq!(found.sources[0].state, SourceState::Missing);
}

#[test]
fn shards_with_empty_and_scalar_tensors_of_several_types_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let empty = |dtype: &str| (dtype.to_owned(), vec![0, 3], Vec::new());
    let list = tensors([
        ("a", empty("BF16")),
        ("b", f32_tensor(&[1.0])),
        ("c", empty("F32")),
        ("d", ("F32".to_owned(), Vec::new(), 2.0_f32.to_le_bytes().to_vec())),
        ("e", empty("F16")),
        ("f", ("U8".to_owned(), vec![3], vec![1, 2, 3])),
        ("g", empty("I64")),
        ("h", ("BF16".to_owned(), vec![1], vec![0x80, 0x3f])),
    ]);
    let sources = [folder.path().join("c0"), folder.path().join("c1")];
    sources.iter().for_each(|source| write_checkpoint(source, &list));
    for shard_bytes in [1, 7, 1_000] {
        let mut plan = mean(&sources, &folder.path().join(format!("out{shard_bytes}")));
        plan.outputs[0].out_shard_bytes = shard_bytes;
        Runner::default().execute(&plan, PLAIN).unwrap();
        let found = verify(&plan.outputs[0].path, VerifyScope::OutputAndInputs);
        assert!(found.is_equal(), "{shard_bytes}: {found:?}");
    }
}

/// Replaces the first `from` in the receipt's text.
fn edit_receipt(out: &Path, from: &str, to: &str) {
    let path = out.join("thalweg.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn every_fact_of_a_receipt_is_checked() {
    let path = |scene: &Scene| scene.sources[1].display().to_string();
    type Edit<'a> = (&'a str, &'a dyn Fn(&Scene) -> (String, String));
    let edits: [Edit<'_>; 8] = [
        ("a numerator", &|_| ("\"numerator\": \"1\"".into(), "\"numerator\": \"2\"".into())),
        ("the divisor", &|_| ("\"divisor\": \"2\"".into(), "\"divisor\": \"3\"".into())),
        ("a path", &|scene| (path(scene), path(scene) + "x")),
        ("a step", &|_| ("\"step\": null".into(), "\"step\": 7".into())),
        ("a coefficient", &|_| ("\"coefficient\": 0.5".into(), "\"coefficient\": 0.25".into())),
        ("a digest", &|_| ("blake3:".into(), "blake3:0".into())),
        ("the scheme", &|_| ("\"scheme\": \"custom\"".into(), "\"scheme\": \"sma\"".into())),
        ("the tool", &|_| ("thalweg test".into(), "thalweg best".into())),
    ];
    for (what, edit) in edits {
        let scene = scene();
        let (from, to) = edit(&scene);
        edit_receipt(&scene.out, &from, &to);
        let found = verify(&scene.out, VerifyScope::Output);
        assert!(!faults(&found.facts).is_empty(), "{what}");
    }
}

#[test]
fn every_flipped_bit_of_a_receipt_is_found() {
    let scene = scene();
    let path = scene.out.join("thalweg.json");
    let text = fs::read(&path).unwrap();
    // One bit of every byte except whitespace, which means nothing.
    for at in (0..text.len()).filter(|&at| !text[at].is_ascii_whitespace()) {
        let mut changed = text.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let found = Runner::default().with_context(|run| verify_output(&scene.out, VerifyScope::Output, run)).0;
        assert!(!found.as_ref().is_ok_and(Verification::is_equal), "byte {at}: {:?}", char::from(changed[at]));
    }
}

#[test]
fn a_receipt_of_an_earlier_version_is_checked_without_its_digest() {
    let scene = scene();
    let path = scene.out.join("thalweg.json");
    let mut receipt: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    receipt.as_object_mut().unwrap().remove("receipt_digest");
    fs::write(&path, serde_json::to_string(&receipt).unwrap()).unwrap();
    assert!(verify(&scene.out, VerifyScope::Output).is_equal());
    receipt["plan"]["sources"][0]["numerator"] = "2".into();
    fs::write(&path, serde_json::to_string(&receipt).unwrap()).unwrap();
    assert!(!verify(&scene.out, VerifyScope::Output).is_equal());
}

#[test]
fn tensors_beside_an_output_are_named() {
    let scene = scene();
    for name in ["model-00001-of-00002.safetensors", "pytorch_model.bin", "notes.md"] {
        fs::write(scene.out.join(name), "x").unwrap();
    }
    let found = verify(&scene.out, VerifyScope::Output);
    assert!(found.is_equal(), "{found:?}");
    assert_eq!(found.strays, ["model-00001-of-00002.safetensors", "pytorch_model.bin"]);
}
