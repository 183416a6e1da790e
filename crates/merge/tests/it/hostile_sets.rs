//! Sets of checkpoints that do not fit together, or fit in a way that breaks careless arithmetic.

use std::path::PathBuf;

use thalweg_merge::plan::{MergePlan, NonFloatPolicy};
use thalweg_merge::{Coefficients, Error};

use crate::support::{Setting, fixtures, merge, output_plan};

type Merged = Result<std::collections::BTreeMap<String, crate::support::RawTensor>, Error>;

fn sources(set: &str) -> Vec<PathBuf> {
    let folder = fixtures().join("hostile/sets").join(set);
    let mut sources: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    sources.sort();
    sources
}

/// The plain mean, or these coefficients.
fn merge_set(set: &str, given: Option<(&[i32], i32)>) -> Merged {
    let sources = sources(set);
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let coefficients = match given {
        Some((c, d)) => Coefficients::new(c.to_vec(), d).unwrap(),
        None => Coefficients::new(vec![1; sources.len()], i64::try_from(sources.len()).unwrap()).unwrap(),
    };
    let mut output = output_plan(&sources, &coefficients, &out);
    if set == "int-tensors" {
        output.policy.non_float = NonFloatPolicy::Newest;
    }
    let merged = merge(&MergePlan::new(vec![output]).unwrap(), Setting::default());
    assert_eq!(merged.is_ok(), out.exists(), "{set}: an output exists only if the merge was done");
    merged
}

fn bits(merged: &Merged, name: &str) -> Vec<u32> {
    let (dtype, _, bytes) = &merged.as_ref().unwrap()[name];
    let width = if dtype == "F32" { 4 } else { 2 };
    bytes.chunks(width).map(|chunk| chunk.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte))).collect()
}

#[test]
fn every_set_has_the_verdict_of_its_manifest() {
    let manifest = std::fs::read(fixtures().join("hostile/MANIFEST.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let cases = manifest.as_array().cloned().unwrap_or_else(|| manifest["cases"].as_array().unwrap().clone());
    let mut n_sets = 0;
    for case in &cases {
        let Some(set) = case["path"].as_str().and_then(|path| path.strip_prefix("sets/")) else { continue };
        // An empty folder cannot be kept in a repository: see the test below.
        if set == "empty-folder" {
            continue;
        }
        n_sets += 1;
        let given: Option<(&[i32], i32)> = (set == "bf16-double-rounding").then_some((&[1, 1, 2], 2));
        let merged = merge_set(set, given);
        match case["verdict"].as_str().unwrap() {
            "accept" => assert!(merged.is_ok(), "{set}: {}", merged.unwrap_err()),
            "reject" => assert!(merged.is_err(), "{set} must be refused: {}", case["must"]),
            _ => {}
        }
    }
    assert!(n_sets >= 20, "{n_sets} sets");
}

#[test]
fn numbers_that_break_careless_arithmetic_come_out_right() {
    let largest = merge_set("flt-max", None);
    assert!(bits(&largest, "w").iter().all(|&bits| bits & 0x7FFF_FFFF == 0x7F7F_FFFF), "{largest:x?}");
    assert_eq!(bits(&merge_set("subnormals", None), "w"), [2, 3, 0x807F_FFFF]);
    assert_eq!(bits(&merge_set("cancel", None), "w")[0], 0x3EAA_AAAB);
    assert_eq!(bits(&merge_set("bf16-tie", None), "w"), [0x3F80, 0x3F82]);
}

#[test]
fn differences_are_all_told_with_both_facts() {
    let error = merge_set("shape-mismatch", None).unwrap_err().to_string();
    assert!(error.contains("`w`") && error.contains('['), "{error}");
    let error = merge_set("missing-tensor", None).unwrap_err().to_string();
    assert!(error.contains("`v`") && error.contains("missing in"), "{error}");
}

#[test]
fn an_empty_folder_is_no_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let mut sources = sources("single");
    sources.push(scratch.path().join("empty"));
    std::fs::create_dir(&sources[1]).unwrap();
    let coefficients = Coefficients::new(vec![1, 1], 2).unwrap();
    let output = output_plan(&sources, &coefficients, &scratch.path().join("out"));
    let error = merge(&MergePlan::new(vec![output]).unwrap(), Setting::default()).unwrap_err().to_string();
    assert!(error.contains("empty"), "{error}");
}
