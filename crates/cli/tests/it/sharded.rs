//! Distributed checkpoints on the command line: runs of them are merged, mixed, and refused by name.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use thalweg_tensor::Dtype;
use thalweg_testkit::{Sharding, TinyCheckpoint, copy_folder};

use crate::support::{root, run};
use crate::torch::assert_same;

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// The exit code and messages of a command.
fn refusal(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Merges all of a run by each scheme. The result must be the exact average, and `verify` must accept it and its
/// sources.
fn check_run(folder: &str, n_steps: &str) {
    for (scheme, words) in [
        ("sma", &["--scheme", "sma"][..]),
        ("wma", &["--scheme", "wma"]),
        ("ema", &["--scheme", "ema", "--alpha", "0.2"]),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("merged");
        let mut arguments = vec!["merge", folder, "--last", n_steps, "-o", out.to_str().unwrap(), "--json"];
        arguments.extend(words);
        json(&arguments);
        assert_same(&out, &root().join(folder).join(format!("expected/{scheme}.safetensors")));
        let verdict = run(&["verify", out.to_str().unwrap(), "--inputs"]);
        assert_eq!(verdict.status.code(), Some(0), "{}", String::from_utf8_lossy(&verdict.stderr));
    }
}

#[test]
fn runs_of_shards_merge_to_the_exact_averages() {
    check_run("fixtures/dcp-2d", "2");
    check_run("fixtures/dcp-hf-sharded", "4");
    check_run("fixtures/torch-checkpointing/one-rank", "4");
    check_run("fixtures/trainers/torchtitan", "2");
    check_run("fixtures/trainers/lightning-sharded", "2");
}

#[test]
fn sources_may_be_sharded_in_different_ways_and_be_of_different_formats() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let expected = "fixtures/dcp-fsdp2/expected/step-80.f32.safetensors";
    let mut arguments = vec!["merge", "-o", out.to_str().unwrap(), "--json"];
    for source in [
        "fixtures/dcp-fsdp2/step-80",
        "fixtures/dcp-variants/file-per-item",
        "fixtures/dcp-variants/flat-keys",
        expected,
    ] {
        arguments.extend(["-m", source]);
    }
    json(&arguments);
    assert_same(&out, &root().join(expected));
    let compared = run(&["diff", "fixtures/dcp-variants/async", expected]);
    assert_eq!(compared.status.code(), Some(0), "{}", String::from_utf8_lossy(&compared.stderr));
}

#[test]
fn every_folder_is_named_by_its_format() {
    for (path, format) in [
        ("fixtures/dcp-fsdp2/step-80", "dcp"),
        ("fixtures/dcp-hf-sharded/step-80", "dcp"),
        ("fixtures/megatron-torch_dist/iter_0000080", "megatron-dist"),
        ("fixtures/torch-checkpointing/full/step-40", "torch-checkpointing"),
        ("fixtures/torch-checkpointing/consolidated/step-40", "safetensors"),
    ] {
        assert_eq!(json(&["inspect", path, "--json"])["format"], format, "{path}");
    }
    let inspected = json(&["inspect", "fixtures/dcp-fsdp2/step-80", "--json"]);
    assert_eq!(inspected["key"], "model");
    let moments = json(&["inspect", "fixtures/dcp-fsdp2/step-80", "--key", "optim.state", "--json"]);
    assert!(moments["tensors"][0]["name"].as_str().unwrap().ends_with("exp_avg"), "{}", moments["tensors"][0]);
}

/// The steps of a run, and whether each is finished.
fn states(folder: &Path) -> Vec<(u64, bool)> {
    let document = json(&["inspect", folder.to_str().unwrap(), "--json"]);
    let state = |one: &Value| (one["step"].as_u64().unwrap(), one["finished"].as_bool().unwrap());
    document["checkpoints"].as_array().unwrap().iter().map(state).collect()
}

#[test]
fn a_save_that_has_not_ended_is_unfinished_in_a_run() {
    let scratch = tempfile::tempdir().unwrap();
    let titan = scratch.path().join("titan");
    copy_folder(&root().join("fixtures/dcp-2d"), &titan);
    assert_eq!(states(&titan), [(20, true), (40, true)]);
    fs::rename(titan.join("step-40/.metadata"), titan.join("step-40/.metadata.tmp")).unwrap();
    assert_eq!(states(&titan), [(20, true), (40, false)]);
    let (code, message) = refusal(&["inspect", titan.join("step-40").to_str().unwrap()]);
    assert!(code == 2 && message.contains("no `.metadata`"), "{message}");

    let olmo = scratch.path().join("olmo");
    copy_folder(&root().join("fixtures/dcp-2d/step-20"), &olmo.join("step20/model_and_optim"));
    copy_folder(&root().join("fixtures/dcp-2d/step-40"), &olmo.join("step40/model_and_optim"));
    fs::write(olmo.join("step20/config.json"), "{}").unwrap();
    assert_eq!(json(&["inspect", olmo.join("step20").to_str().unwrap(), "--json"])["format"], "dcp");
    fs::remove_file(olmo.join("step40/model_and_optim/.metadata")).unwrap();
    assert_eq!(states(&olmo), [(20, true), (40, false)]);

    let megatron = scratch.path().join("megatron");
    copy_folder(&root().join("fixtures/megatron-torch_dist"), &megatron);
    assert_eq!(states(&megatron), [(60, true), (80, true)]);
    fs::write(megatron.join("latest_checkpointed_iteration.txt"), "60").unwrap();
    assert_eq!(states(&megatron), [(60, true), (80, false)]);
}

#[test]
fn what_contradicts_itself_is_refused_by_name_and_nothing_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    for (name, expected) in [
        ("dtype-differs", "the metadata says BF16"),
        ("chunk-overlap", "more than one chunk contains"),
        ("file-truncated", "ends at byte"),
        ("relative-path-parent", "only files below the folder"),
        ("metadata-os-system", "`os.system`"),
    ] {
        let path = format!("fixtures/hostile/dcp/{name}");
        let (code, message) = refusal(&["inspect", &path]);
        assert!(code == 2 && message.contains(expected) && message.contains(name), "{name}: {code} {message}");
        let (code, message) = refusal(&["merge", "-m", &path, "-o", out.to_str().unwrap()]);
        assert!(code == 2 && message.contains(expected), "{name}: {code} {message}");
        assert!(fs::read_dir(scratch.path()).unwrap().next().is_none(), "{name}");
    }
}

#[test]
fn more_shards_than_descriptors_are_merged() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let tensor = |checkpoint: TinyCheckpoint, i: usize, value: f64| {
        checkpoint.tensor(&format!("layer.{i}"), Dtype::F32, &[300], &[value; 300])
    };
    for value in [1.0, 2.0, 6.0] {
        let checkpoint = (0..40).fold(TinyCheckpoint::new(), |checkpoint, i| tensor(checkpoint, i, value + i as f64));
        checkpoint.sharding(Sharding::Shards(40)).write_to_disk(&run.join(format!("step-{value}")));
    }
    let out = scratch.path().join("out");
    let limited = r#"ulimit -n 20 && exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_thalweg"), "merge", "--last", "3"]).arg(&run);
    let output = command.arg("-o").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = (0..40).fold(TinyCheckpoint::new(), |checkpoint, i| tensor(checkpoint, i, 3.0 + i as f64));
    let expected_path = scratch.path().join("expected.safetensors");
    fs::write(&expected_path, expected.single_file()).unwrap();
    assert_same(&out, &expected_path);
}
