//! `eval --results`: what other programs wrote, compared item by item.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{run, transcript};

/// The items that a model answers: every third, and with `more` every fifth beside.
fn is_right(i: usize, more: bool) -> bool {
    i.is_multiple_of(3) || more && i % 5 == 1
}

const N_ITEMS: usize = 120;

fn mean(more: bool) -> f64 {
    (0..N_ITEMS).map(|i| f64::from(u8::from(is_right(i, more)))).sum::<f64>() / 120.0
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// One JSON object on each line, for each item; the order differs from model to model.
fn lines(more: bool, line: impl Fn(usize, f64) -> Value) -> String {
    let value = |i: usize| line(i, f64::from(u8::from(is_right(i, more))));
    let order: Vec<usize> = if more { (0..N_ITEMS).rev().collect() } else { (0..N_ITEMS).collect() };
    order.into_iter().fold(String::new(), |mut text, i| {
        let _ = writeln!(text, "{}", value(i));
        text
    })
}

/// As lm-evaluation-harness writes it with `--log_samples`.
fn harness(folder: &Path, more: bool) {
    let inner = folder.join("my__model");
    let results = json!({"results": {"arc_easy": {"alias": "arc_easy", "acc,none": mean(more), "acc_stderr,none": 0.04}},
        "n-samples": {"arc_easy": {"original": N_ITEMS, "effective": N_ITEMS}}});
    write(&inner.join("results_2026-11-28T10-00-00.json"), &results.to_string());
    let sample = |i: usize, value: f64| {
        json!({"doc_id": i, "doc_hash": format!("{i:x}"), "filter": "none", "metrics": ["acc"], "acc": value})
    };
    write(&inner.join("samples_arc_easy_2026-11-28T10-00-00.jsonl"), &lines(more, sample));
    // Samples of another day are of other scores.
    write(&inner.join("samples_arc_easy_2026-11-27T10-00-00.jsonl"), "this is not read");
}

/// As olmo-eval writes it.
fn olmo(folder: &Path, more: bool) {
    let results = json!({"tasks": [{"task": "arc_easy:mc", "task_hash": "0123456789abcdef", "num_instances": N_ITEMS,
        "metrics": {"accuracy": {"logprob": mean(more)}}}]});
    write(&folder.join("metrics.json"), &results.to_string());
    let prediction = |i: usize, value: f64| {
        json!({"doc_id": i, "native_id": format!("Mercury_{i}"), "instance_metrics": {"accuracy": {"logprob": value}}})
    };
    let predictions = folder.join("predictions/my_model");
    write(&predictions.join("arc_easy_mc_abcdef-predictions.jsonl"), &lines(more, prediction));
    // The same task with other settings.
    write(&predictions.join("arc_easy_mc_fedcba-predictions.jsonl"), "this is not read");
}

/// In the schema of Every Eval Ever.
fn every_eval(folder: &Path, more: bool) {
    let result = |metric: &str, score: f64| {
        json!({"evaluation_name": "arc", "metric_config": {"evaluation_description": metric, "lower_is_better": false},
            "score_details": {"score": score}})
    };
    let results = json!({"schema_version": "0.2.2", "evaluation_results": [result("acc_norm", 0.9), result("acc", mean(more))],
        "detailed_evaluation_results": {"format": "jsonl", "file_path": "/elsewhere/e70acf51_samples.jsonl"}});
    write(&folder.join("e70acf51.json"), &results.to_string());
    let instance = |i: usize, value: f64| {
        json!({"evaluation_name": "arc", "sample_id": i.to_string(), "sample_hash": format!("hash {i}"),
            "evaluation": {"score": value, "is_correct": value > 0.5}})
    };
    write(&folder.join("e70acf51_samples.jsonl"), &lines(more, instance));
}

#[test]
fn items_are_paired_in_the_files_of_every_evaluator() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, task, make) in [
        ("harness", "arc_easy/acc", harness as fn(&Path, bool)),
        ("olmo", "arc_easy:mc/accuracy:logprob", olmo),
        ("every-eval", "arc/acc", every_eval),
    ] {
        let folders = [false, true].map(|more| {
            let folder = scratch.path().join(name).join(more.to_string());
            make(&folder, more);
            folder.display().to_string()
        });
        let output = run(&["eval", "--results", &folders[0], &folders[1], "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{name}: {said}"));
        let rows = document["comparisons"].as_array().unwrap();
        let row = rows.iter().find(|row| row["task"] == task).unwrap_or_else(|| panic!("{name}: {document}"));
        assert_eq!((&row["paired"], &row["n"], &row["n_left_out"]), (&true.into(), &120.into(), &0.into()), "{name}");
        assert_eq!(row["verdict"], "better", "{name}: {row}");
        assert!((row["gain"].as_f64().unwrap() - (mean(true) - mean(false))).abs() < 1e-12, "{name}: {row}");
    }
}

#[test]
fn results_are_told_with_what_could_have_been_found() {
    let scratch = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| scratch.path().join(name));
    harness(&a, false);
    harness(&b, true);
    harness(&c, false);
    let paths = [&a, &b, &c].map(|path| path.display().to_string());
    let all = [&["eval", "--results"], &paths.each_ref().map(String::as_str)[..]].concat();
    insta::assert_snapshot!(transcript(&all, scratch.path()), @"");
}

#[test]
fn tables_of_nanochat_have_scores_and_no_noise() {
    let scratch = tempfile::tempdir().unwrap();
    let [a, b] = ["a.csv", "b.csv"].map(|name| scratch.path().join(name));
    let table = |core: &str| {
        format!("{:<35}, {:<10}, {:<10}\n{:<35}, {:<10}, {core:<10}\n", "Task", "Accuracy", "Centered", "CORE", "")
    };
    write(&a, &table("0.120000"));
    write(&b, &table("0.130000"));
    let (a, b) = (a.display().to_string(), b.display().to_string());
    insta::assert_snapshot!(transcript(&["eval", "--results", &a, &b], scratch.path()), @"");
}

#[test]
fn mistakes_with_results() {
    let scratch = tempfile::tempdir().unwrap();
    let nothing = scratch.path().join("nothing").display().to_string();
    insta::assert_snapshot!(transcript(&["eval", "--results", &nothing], scratch.path()), @"");
    let samples = scratch.path().join("r/samples_t_2026.jsonl");
    write(&samples, "{\"doc_hash\": \"a\", \"metrics\": [\"acc\"], \"acc\": 1}\n\n{\"doc_hash\":\n");
    let samples = samples.display().to_string();
    insta::assert_snapshot!(transcript(&["eval", "--results", &samples], scratch.path()), @"");
    let output = run(&["eval", "--results", &nothing, "--suite", "s.toml"]);
    assert_eq!(output.status.code(), Some(2));
}
