//! PyTorch files on the command line: they are found, merged, and refused by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thalweg_checkpoint::open_checkpoint;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::TensorSource;

use crate::support::{root, run};

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// The exit code and messages of a command.
fn refusal(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Element type, shape and bytes of each tensor, by name.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, (String, String, Vec<u8>)> {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let checkpoint = open_checkpoint(&storage, path).unwrap();
    let catalog = Arc::clone(checkpoint.catalog());
    let read = |(number, entry): (usize, &thalweg_tensor::TensorEntry)| {
        let mut bytes = vec![0; usize::try_from(entry.n_bytes()).unwrap()];
        checkpoint.read_elements(number, 0..entry.n_elements(), &mut bytes).unwrap();
        (entry.name.to_string(), (entry.dtype.to_string(), entry.shape.to_string(), bytes))
    };
    catalog.entries().iter().enumerate().map(read).collect()
}

#[track_caller]
pub(crate) fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (tensors(found), tensors(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in &found {
        assert!(*tensor == expected[name], "{name} differs");
    }
}

#[test]
fn sharded_bin_files_merge_bit_for_bit_as_safetensors_do() {
    for (scheme, words) in [
        ("sma", &["--scheme", "sma"][..]),
        ("wma", &["--scheme", "wma"]),
        ("ema", &["--scheme", "ema", "--alpha", "0.2"]),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("merged");
        let mut arguments =
            vec!["merge", "fixtures/torch/bin-sharded", "--last", "4", "-o", out.to_str().unwrap(), "--json"];
        arguments.extend(words);
        json(&arguments);
        assert_same(&out, &root().join(format!("fixtures/hf-sharded/expected/{scheme}.safetensors")));
        let verdict = run(&["verify", out.to_str().unwrap(), "--inputs"]);
        assert_eq!(verdict.status.code(), Some(0), "{}", String::from_utf8_lossy(&verdict.stderr));
    }
}

#[test]
fn a_training_state_is_inspected_and_merged_by_its_model_or_by_a_key() {
    let file = "fixtures/torch/trainstate/step-80.pt";
    let inspected = json(&["inspect", file, "--json"]);
    assert_eq!(inspected["format"], "torch");
    assert_eq!(inspected["key"], "model");
    let keys: Vec<&str> =
        inspected["other_keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert!(keys.contains(&"optimizer"), "{keys:?}");
    let run_folder = json(&["inspect", "fixtures/torch/trainstate", "--json"]);
    let steps: Vec<u64> =
        run_folder["checkpoints"].as_array().unwrap().iter().map(|one| one["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [60, 80]);

    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("one");
    json(&["merge", "-m", file, "-o", out.to_str().unwrap(), "--json"]);
    assert_same(&out, &root().join("fixtures/torch/trainstate/expected/step-80.f32.safetensors"));

    // The plan and the receipt record what was read, and `verify` reads the same again.
    let out = scratch.path().join("named");
    json(&[
        "merge",
        "fixtures/torch/trainstate",
        "--last",
        "2",
        "--key",
        "model",
        "-o",
        out.to_str().unwrap(),
        "--json",
    ]);
    let receipt: Value = serde_json::from_slice(&std::fs::read(out.join("thalweg.json")).unwrap()).unwrap();
    assert_eq!(receipt["plan"]["reading"]["key"], "model");
    assert_eq!(run(&["verify", out.to_str().unwrap(), "--inputs"]).status.code(), Some(0));
}

#[test]
fn the_error_about_a_missing_key_lists_those_that_exist() {
    let file = "fixtures/torch/trainstate/step-80.pt";
    let (code, message) = refusal(&["inspect", file, "--key", "modle"]);
    assert_eq!(code, 2);
    assert!(
        message.contains("no tensors are under the key `modle`; the tensors are under `model`, `optimizer`"),
        "{message}"
    );
    assert!(message.contains("`--key`"), "{message}");
    // The hint works.
    assert_eq!(json(&["inspect", file, "--key", "model", "--json"])["key"], "model");
    assert!(json(&["inspect", file, "--key", ".", "--json"])["tensors"].as_array().unwrap().len() > 21);
}

#[test]
fn tensors_that_cannot_be_read_stop_a_merge_by_name_and_not_an_inspection() {
    let file = "fixtures/torch/quirks/meta-and-sparse.pt";
    let inspected = json(&["inspect", file, "--json"]);
    let blocks: Vec<&str> =
        inspected["blocks_merge"].as_array().unwrap().iter().map(|block| block.as_str().unwrap()).collect();
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let (code, message) = refusal(&["merge", "-m", file, "-o", out.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(message.contains("cannot be read: it is sparse") && message.contains("meta tensor"), "{message}");
    assert!(!out.exists());
}

#[test]
fn text_of_a_file_that_is_not_a_checkpoint_is_named() {
    for (file, wanted) in [
        ("fixtures/hostile/pickle/text.pt", "run `git lfs pull`"),
        ("fixtures/hostile/pickle/os-system-reduce.pt", "system"),
        ("fixtures/hostile/pickle/truncated-zip.pt", "wait until the save has finished"),
        ("fixtures/torch/quirks/whole-module.pt", "save a state dict"),
    ] {
        let (code, message) = refusal(&["inspect", file]);
        assert!(code == 2 && message.contains(wanted), "{code} {message}");
    }
}

#[test]
fn masters_are_merged_unless_the_weights_of_the_module_are_asked_for_and_the_receipt_says_which() {
    let folder = "fixtures/deepspeed/zero1/global_step80";
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("masters");
    json(&["merge", "-m", folder, "-o", out.to_str().unwrap(), "--json"]);
    assert_same(&out, &root().join("fixtures/deepspeed/expected/zero1-masters.safetensors"));
    let receipt: Value = serde_json::from_slice(&std::fs::read(out.join("thalweg.json")).unwrap()).unwrap();
    assert_eq!(receipt["sources"][0]["format"], "deepspeed-zero");
    assert_eq!(receipt["sources"][0]["params"], "master");
    let module = json(&["inspect", folder, "--params", "module", "--json"]);
    assert!(module["dtypes"]["BF16"].as_u64().unwrap() > 0 && module["dtypes"]["F32"].is_null(), "{module}");
    let plan = json(&["plan", "-m", folder, "--params", "module", "--json"]);
    assert_eq!(plan["outputs"][0]["reading"]["params"], "module", "{plan}");
}

#[test]
fn a_run_of_megatron_is_merged_up_to_what_its_tracker_names() {
    let run_folder = json(&["inspect", "fixtures/megatron-legacy", "--json"]);
    let steps: Vec<u64> =
        run_folder["checkpoints"].as_array().unwrap().iter().map(|one| one["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [60, 80]);
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("rank0");
    let files = [60, 80].map(|step| format!("fixtures/megatron-legacy/iter_00000{step}/mp_rank_00/model_optim_rng.pt"));
    json(&["merge", &files[0], &files[1], "-o", out.to_str().unwrap(), "--json"]);
    assert_same(&out, &root().join("fixtures/megatron-legacy/expected/rank0-sma.safetensors"));
    let whole = scratch.path().join("whole");
    json(&["merge", "fixtures/megatron-legacy", "--last", "2", "-o", whole.to_str().unwrap(), "--json"]);
    // The vocabulary is split by rows: rank 0 holds the first half.
    let (whole, rank) = (tensors(&whole), tensors(&out));
    let name = "embedding.word_embeddings.weight";
    assert_eq!(whole[name].2[..rank[name].2.len()], rank[name].2);
}
