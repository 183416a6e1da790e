//! `thalweg eval`: scores, gains, mistakes, another evaluator.

use std::path::Path;

use serde_json::Value;

use crate::support::{root, run, transcript};

const MODEL: &str = "fixtures/stories260K";
const SUITE: &str = "examples/suites/quick.toml";

/// A copy of the fixture model whose parameters are F32 bytes changed by `change`.
fn copy_of_model(folder: &Path, change: impl Fn(usize, f32) -> f32) -> String {
    std::fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(root().join(MODEL).join(name), folder.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(root().join(MODEL).join("model.safetensors")).unwrap();
    let header_bytes = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    for (i, param) in bytes[8 + header_bytes..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *param = change(i, f32::from_le_bytes(*param)).to_le_bytes();
    }
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn disturbed(folder: &Path) -> String {
    copy_of_model(folder, |i, param| param * if i % 2 == 0 { 1.04 } else { 0.96 })
}

#[test]
fn eval_shows_scores_and_gains_and_a_rerun_comes_from_the_cache() {
    let scratch = tempfile::tempdir().unwrap();
    let worse = disturbed(&scratch.path().join("worse"));
    let cache = scratch.path().join("cache");
    let command = ["eval", &worse, MODEL, "--suite", SUITE, "--cache", cache.to_str().unwrap(), "-q"];
    let first = transcript(&command, scratch.path());
    insta::assert_snapshot!(first, @"");
    let again = transcript(&command, scratch.path());
    assert_eq!(again.replace(" (4 of 4 tasks from the cache)", ""), first);
    assert_eq!(again.matches("(4 of 4 tasks from the cache)").count(), 2);
}

#[test]
fn eval_as_json_has_the_keys_of_the_contract() {
    let scratch = tempfile::tempdir().unwrap();
    let worse = disturbed(&scratch.path().join("worse"));
    let output = run(&["eval", MODEL, &worse, "--baseline", &worse, "--suite", SUITE, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), document["kind"].as_str()), (Some(0), Some("thalweg-eval")));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    insta::assert_snapshot!(keys(&document), @"");
    insta::assert_snapshot!(keys(&document["scores"][0]), @"");
    insta::assert_snapshot!(keys(&document["comparisons"][0]), @"");
    let first = &document["comparisons"][0];
    assert_eq!((first["a"].as_str(), first["b"].as_str()), (Some(&*worse), Some(MODEL)));
    let [low, gain, high] =
        [&first["interval_95"][0], &first["gain"], &first["interval_95"][1]].map(|x| x.as_f64().unwrap());
    assert!(0.0 < low && low < gain && gain < high, "{low} {gain} {high}");
    // transformers in float64 gives 0.848171.
    let value = document["scores"].as_array().unwrap().iter().find(|score| score["checkpoint"] == MODEL).unwrap();
    assert!((value["value"].as_f64().unwrap() - 0.848_171_3).abs() < 1e-5);
}

#[test]
fn eval_says_what_does_not_fit() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let head = "kind = \"thalweg-suite\"\nversion = 1\ncontext_length = 64\n[[task]]\nname = \"t\"\nkind = \"text\"\n";
    let say = |suite: &str, rows: &str, checkpoint: &str| {
        std::fs::write(path("suite.toml"), format!("{head}{suite}")).unwrap();
        std::fs::write(path("rows.jsonl"), rows).unwrap();
        transcript(&["eval", checkpoint, "--suite", &path("suite.toml")], scratch.path())
    };
    let rows = "{\"id\": \"a\", \"text\": \"One day a cat met a dog.\"}\n";
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\nlimits = 3\n", rows, MODEL), @"");
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", &format!("{rows}{{\"id\": \"b\", \"text\": \n"), MODEL), @"");
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", "", MODEL), @"");
    let bare = disturbed(&scratch.path().join("bare"));
    std::fs::remove_file(scratch.path().join("bare/tokenizer.json")).unwrap();
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", rows, &bare), @"");
    let broken = copy_of_model(&scratch.path().join("broken"), |i, param| if i == 9000 { f32::NAN } else { param });
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", rows, &broken), @"");
    let config = std::fs::read_to_string(scratch.path().join("broken/config.json")).unwrap();
    let smaller = config.replace("\"vocab_size\": 512", "\"vocab_size\": 500");
    std::fs::write(scratch.path().join("broken/config.json"), smaller).unwrap();
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", rows, &broken), @"");
}

#[test]
fn another_evaluator_is_run_and_its_results_are_compared() {
    let scratch = tempfile::tempdir().unwrap();
    let (a, b) = (disturbed(&scratch.path().join("a")), disturbed(&scratch.path().join("it's b")));
    let script = "n=$(echo {checkpoint} | wc -c); mkdir -p {out}/model; echo \"{\\\"results\\\": {\\\"piqa\\\": \
        {\\\"acc,none\\\": 0.$n, \\\"acc_stderr,none\\\": 0.01}}, \\\"n-samples\\\": {\\\"piqa\\\": {\\\"effective\\\": 100}}}\" \
        > {out}/model/results_1.json";
    let output = run(&["eval", &a, &b, "--eval-command", script, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &document["comparisons"][0];
    assert_eq!(
        (first["task"].as_str(), first["n"].as_u64(), &first["paired"]),
        (Some("piqa/acc"), Some(100), &Value::Bool(false))
    );
    assert_eq!(document["scores"].as_array().unwrap().len(), 2);
    insta::assert_snapshot!(transcript(&["eval", &a, "--eval-command", "false {checkpoint} {out}"], scratch.path()), @"");
    insta::assert_snapshot!(transcript(&["eval", &a, "--eval-command", "score {checkpoint}"], scratch.path()), @"");
}
