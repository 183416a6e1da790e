//! Archives of NumPy arrays and GGUF files on the command line: runs of them, what is written, what is refused.

use std::fs;
use std::path::Path;

use serde_json::Value;
use thalweg_testkit::Scratch;

use crate::support::{check, root, run_in};
use crate::torch::tensors;

fn fixture(name: &str) -> String {
    root().join("fixtures").join(name).display().to_string()
}

/// A folder with copies of fixtures under other names.
fn run_of(files: &[(&str, &str)]) -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("run")).unwrap();
    for (from, to) in files {
        fs::copy(fixture(from), scratch.join("run").join(to)).unwrap();
    }
    scratch
}

fn json(scratch: &Scratch, line: &str) -> Value {
    let output = run_in(scratch, line);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error} {output:?}"))
}

#[test]
fn a_run_of_archives_is_merged_into_one_as_the_same_checkpoints_of_torch_are() {
    let scratch = run_of(&[("npz/step-60.npz", "step-60.npz"), ("npz/step-80.npz", "step-80.npz")]);
    fs::write(scratch.join("run/step-100.npz"), &fs::read(fixture("npz/step-60.npz")).unwrap()[..50_000]).unwrap();
    check(&scratch, "inspect run", 0, &["a run of 3 checkpoints, 2 finished", "step-100.npz", "unfinished: "]);
    assert_eq!(json(&scratch, "inspect run/step-80.npz --json")["format"], "npz");
    for scheme in ["sma", "wma", "ema:0.2"] {
        check(&scratch, &format!("merge run --last 2 --scheme {scheme} -o {scheme}"), 0, &["written as npz"]);
        check(&scratch, &format!("verify {scheme} --inputs"), 0, &["and so do its 2 sources"]);
        assert!(scratch.join(scheme).join("model.npz").is_file());
        let both = ["step-60.pt", "step-80.pt"].map(|name| fixture(&format!("torch/trainstate/{name}")));
        let of_torch = format!("merge -m {} -m {} --scheme {scheme} --format npz -o torch-{scheme}", both[0], both[1]);
        check(&scratch, &of_torch, 0, &[]);
        let found = fs::read(scratch.join(scheme).join("model.npz")).unwrap();
        assert!(found == fs::read(scratch.join(format!("torch-{scheme}/model.npz"))).unwrap(), "{scheme}");
    }
}

#[test]
fn a_deflated_archive_is_merged_within_the_memory_that_was_given() {
    let scratch = run_of(&[("npz/step-80.npz", "step-80.npz")]);
    let text = check(&scratch, "merge -m run/step-80.npz --memory 20MB -o out", 2, &["memory"]);
    assert!(!scratch.join("out").exists(), "{text}");
    check(&scratch, "merge -m run/step-80.npz --memory 200MB -o out", 0, &[]);
}

#[test]
fn arrays_that_are_not_numbers_stop_a_merge_by_name() {
    let scratch = run_of(&[("npz/others.npz", "others.npz")]);
    check(&scratch, "inspect run/others.npz", 0, &["objects", "a pickle, which thalweg never opens"]);
    check(&scratch, "merge -m run/others.npz -o out", 2, &["`objects`", "`float8`", "`text`"]);
    assert!(!scratch.join("out").exists());
}

#[test]
fn an_archive_is_one_file() {
    let scratch = run_of(&[("npz/step-80.npz", "step-80.npz")]);
    for command in ["convert run/step-80.npz", "merge -m run/step-80.npz"] {
        let line = format!("{command} --format npz --out-shard-size 10kB -o out");
        check(&scratch, &line, 2, &["`npz` is a single file", "hint: leave out `--out-shard-size`"]);
        let line = format!("{command} --format npz -o out-{}", &command[..5]);
        check(&scratch, &line, 0, &[]);
    }
}

#[test]
fn types_that_numpy_lacks_are_refused_and_the_hint_works() {
    let scratch = Scratch::new();
    let source = root().join("fixtures/hostile/safetensors/all-dtypes.safetensors").display().to_string();
    let line = format!("convert {source} --format npz -o out");
    check(&scratch, &line, 2, &["cannot be written", "hint: `--format safetensors`"]);
    check(&scratch, &line.replace("npz", "safetensors"), 0, &[]);
}

#[test]
fn a_run_of_gguf_files_is_merged_with_the_metadata_of_the_newest() {
    let scratch = run_of(&[("gguf/step-10.gguf", "step-10.gguf"), ("gguf/step-20.gguf", "step-20.gguf")]);
    check(&scratch, "inspect run", 0, &["a run of 2 checkpoints, 2 finished"]);
    assert_eq!(json(&scratch, "inspect run/step-10.gguf --json")["format"], "gguf");
    check(&scratch, "merge run --last 2 -o out", 0, &["written as gguf; everything else is as in `step-20.gguf`"]);
    check(&scratch, "verify out --inputs", 0, &["and so do its 2 sources"]);
    let (newest, merged) = ("run/step-20.gguf", "out/step-20.gguf");
    let [newest, merged] = [newest, merged].map(|name| fs::read(scratch.join(name)).unwrap());
    // The last value of the header is the offset of the last tensor, and the data begin at the next multiple of 32.
    let header_end = newest.windows(13).rposition(|window| window == b"output.weight").unwrap();
    assert!(newest[..header_end] == merged[..header_end] && newest != merged && newest.len() == merged.len());
    check(&scratch, "merge run --last 2 --format safetensors -o plain", 0, &[]);
    assert!(tensors(&scratch.join("out")) == tensors(&scratch.join("plain")));
}

#[test]
fn what_is_not_shaped_like_gguf_is_refused_and_the_hint_works() {
    let scratch = run_of(&[("gguf/step-10.gguf", "step-10.gguf"), ("npz/step-80.npz", "step-80.npz")]);
    let cases = [
        ("merge -m run/step-80.npz --format gguf", "has the format `npz`"),
        ("merge -m run/step-10.gguf --format gguf --dtype f32", "`--dtype` gives its tensors another element type"),
        ("merge -m run/step-10.gguf --format gguf --drop output.weight", "`--drop` leaves out tensors"),
    ];
    for (number, (line, reason)) in cases.iter().enumerate() {
        let line = format!("{line} -o out{number}");
        check(&scratch, &line, 2, &[reason, "hint: `--format safetensors`"]);
        check(&scratch, &line.replace("--format gguf", "--format safetensors"), 0, &[]);
    }
}

#[test]
fn quantised_tensors_stop_a_merge_by_name() {
    let scratch = run_of(&[("gguf/quantised.gguf", "quantised.gguf")]);
    check(&scratch, "inspect run/quantised.gguf", 0, &["blk.0.attn_q.weight", "`Q8_0`"]);
    check(&scratch, "merge -m run/quantised.gguf -o out", 2, &["`blk.0.attn_q.weight`", "`Q8_0`"]);
    assert!(!Path::new(&scratch.join("out")).exists());
}

#[test]
fn files_whose_names_have_no_known_step_are_a_run_under_a_pattern() {
    let scratch =
        run_of(&[("torch/trainstate/step-60.pt", "my-60-x.pt"), ("torch/trainstate/step-80.pt", "my-80-x.pt")]);
    let said = ["`my-60-x.pt`, `my-80-x.pt`", "hint: ", "`--checkpoint-pattern 'my-{step}-x'`"];
    check(&scratch, "merge run --last 2 -o out", 2, &said);
    check(&scratch, "merge run --checkpoint-pattern my-{step}-x --last 2 -o out", 0, &["steps 60, 80"]);
}
