//! One success, one mistake and the JSON of each command, as a person reads them.

use serde_json::Value;

use crate::support::{root, run, transcript};

const RUN: &str = "examples/runs/hybridstories";

fn json(arguments: &[&str]) -> (i32, Value) {
    let output = run(arguments);
    let document = serde_json::from_slice(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), document.unwrap_or_else(|error| panic!("{error}: {stderr}")))
}

#[test]
fn merge_says_what_it_did() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let out = out.to_str().unwrap();
    let first = ["merge", RUN, "--count", "3", "--interval-steps", "2000", "--end-step", "16000", "-o", out];
    insta::assert_snapshot!(transcript(&first, scratch.path()), @"");
    insta::assert_snapshot!(transcript(&first, scratch.path()), @"");
}

#[test]
fn merge_shows_what_exists_where_a_request_cannot_be_met() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let out = out.to_str().unwrap();
    insta::assert_snapshot!(transcript(&["merge", RUN, "--last", "30", "-o", out], scratch.path()), @"");
    insta::assert_snapshot!(
        transcript(&["merge", RUN, "--count", "3", "--interval-tokens", "4B", "-o", out], scratch.path()), @"");
    insta::assert_snapshot!(transcript(&["merge", RUN, "-o", out], scratch.path()), @"");
    insta::assert_snapshot!(transcript(&["merge", "no/such/run", "--last", "3", "-o", out], scratch.path()), @"");
    insta::assert_snapshot!(
        transcript(&["merge", RUN, "--last", "3", "--scheme", "wmaa", "-o", out], scratch.path()), @"");
}

#[test]
fn merge_takes_signed_coefficients_and_divides_them_only_when_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let (a, b) = (format!("{RUN}/step_14000.safetensors"), format!("{RUN}/step_16000.safetensors"));
    let (a, b) = (format!("{a}:-0.5"), format!("{b}:1.5"));
    let out = scratch.path().join("out");
    let (code, document) = json(&["merge", "-m", &a, "-m", &b, "-o", out.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0);
    let output = &document["outputs"][0];
    assert_eq!((output["divisor"].as_str(), output["scheme"].as_str()), (Some("2"), Some("custom")));
    assert_eq!(output["sources"][0]["numerator"], "-1");
    assert_eq!(output["sources"][1]["coefficient"], 1.5);
    let mixed = ["merge", "-m", &a, "-m", &format!("{RUN}/step_16000.safetensors"), "-o", "x"];
    insta::assert_snapshot!(transcript(&mixed, scratch.path()), @"");
}

#[test]
fn a_plan_is_a_document_that_merge_executes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (plan, direct, planned) = (path("plan.json"), path("direct"), path("planned"));
    let what = [RUN, "--last", "4", "--scheme", "decay:1-sqrt", "-q"];
    let made = |command: &[&str], rest: &[&str]| run(&[command, &what, rest].concat()).status.success();
    assert!(made(&["plan"], &["-o", &plan]));
    assert!(made(&["merge"], &["-o", &direct]));
    assert!(run(&["merge", "--plan", &plan, "-o", &planned, "-q"]).status.success());
    let bytes = |folder: &str| std::fs::read(format!("{folder}/model.safetensors")).unwrap();
    assert!(bytes(&direct) == bytes(&planned), "the plan gives the bytes of the command");
    insta::assert_snapshot!(transcript(&["plan", RUN, "--last", "3"], scratch.path()), @"");
}

#[test]
fn inspect_shows_runs_and_checkpoints() {
    let scratch = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(transcript(&["inspect", RUN], scratch.path()), @"");
    insta::assert_snapshot!(transcript(&["inspect", "fixtures/hf-sharded/step-20"], scratch.path()), @"");
    insta::assert_snapshot!(transcript(&["inspect", "Cargo.toml"], scratch.path()), @"");
    let (code, document) = json(&["inspect", "fixtures/hf-moe/step-20", "--json"]);
    assert_eq!((code, document["format"].as_str()), (0, Some("safetensors")));
    assert_eq!(document["n_params"].as_u64(), Some(35_264));
    assert_eq!(document["blocks_merge"], Value::Array(vec![]));
}

#[test]
fn verify_and_diff_answer_with_their_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let out = out.to_str().unwrap();
    assert!(run(&["merge", RUN, "--last", "2", "-o", out, "-q"]).status.success());
    insta::assert_snapshot!(transcript(&["verify", out, "--inputs"], scratch.path()), @"");
    let shard = format!("{out}/model.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    insta::assert_snapshot!(transcript(&["verify", out], scratch.path()), @"");
    insta::assert_snapshot!(transcript(&["verify", RUN], scratch.path()), @"");
    let (a, b) = (format!("{RUN}/step_18000.safetensors"), format!("{RUN}/step_20000.safetensors"));
    let (code, document) = json(&["diff", &a, &b, "--json"]);
    assert_eq!((code, document["equal"].as_bool()), (1, Some(false)));
    let (code, document) = json(&["diff", &a, &a, "--json"]);
    assert_eq!((code, document["equal"].as_bool(), document["distance"].as_f64()), (0, Some(true), Some(0.0)));
}

#[test]
fn explain_puts_components_beside_their_null_values() {
    let scratch = tempfile::tempdir().unwrap();
    let svg = scratch.path().join("run.svg");
    let svg = svg.to_str().unwrap();
    insta::assert_snapshot!(
        transcript(&["explain", RUN, "--steps", "8000,10000,12000", "--svg", svg], scratch.path()), @"");
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let (code, document) = json(&["explain", RUN, "--last", "5", "--json"]);
    assert_eq!((code, document["model"]["norms"].as_array().map(Vec::len)), (0, Some(5)));
    insta::assert_snapshot!(transcript(&["explain", RUN, "--last", "1"], scratch.path()), @"");
}

#[test]
fn sweep_makes_every_combination_in_one_reading() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("sweep");
    let out = out.to_str().unwrap();
    let (code, document) = json(&["sweep", RUN, "--counts", "2,3", "--schemes", "sma,ema:0.2", "-o", out, "--json"]);
    assert_eq!(code, 0);
    let trials = document["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4);
    assert!(trials.iter().all(|trial| trial["path"].as_str().is_some_and(|path| std::fs::metadata(path).is_ok())));
    let one = std::fs::metadata(root().join(RUN).join("step_20000.safetensors")).unwrap().len();
    assert!(document["bytes_read"].as_u64().unwrap() < 3 * one, "three checkpoints, each read once");
    insta::assert_snapshot!(
        transcript(&["sweep", RUN, "--schemes", "sma,best", "-o", out], scratch.path()), @"");
}

#[test]
fn recipes_are_read_and_their_mistakes_are_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let recipe = scratch.path().join("recipe.yml");
    let out = scratch.path().join("out");
    let (recipe_path, out) = (recipe.to_str().unwrap(), out.to_str().unwrap());
    std::fs::write(&recipe, format!("run: {RUN}\nlast: 3\nscheme: ema:0.2\n")).unwrap();
    assert!(run(&["merge", recipe_path, out, "-q"]).status.success());
    std::fs::write(&recipe, format!("run: {RUN}\nlats: 3\n")).unwrap();
    insta::assert_snapshot!(transcript(&["merge", recipe_path, out], scratch.path()), @"");
}

#[test]
fn every_command_has_help() {
    for command in ["", "inspect", "plan", "merge", "sweep", "verify", "diff", "explain"] {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let output = run(&arguments);
        assert!(output.status.success());
        insta::assert_snapshot!(format!("help-{command}"), String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn completions_and_man_pages_are_made_from_the_same_description() {
    let completions = run(&["generate", "completions", "bash"]);
    assert!(String::from_utf8_lossy(&completions.stdout).contains("_thalweg"));
    let page = run(&["generate", "man", "merge"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains("thalweg\\-partial") || !page.stdout.is_empty());
}

#[test]
fn usage_mistakes_exit_with_2() {
    assert_eq!(run(&["merge", "--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&["merge", RUN, "--last", "3"]).status.code(), Some(2));
}
