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
    let sample = |i: usize, value: f64| json!({"doc_id": i, "doc_hash": format!("{i:x}"), "filter": "none", "metrics": ["acc"], "acc": value});
    write(&inner.join("samples_arc_easy_2026-11-28T10-00-00.jsonl"), &lines(more, sample));
    // Samples of another day are of other scores.
    write(&inner.join("samples_arc_easy_2026-11-27T10-00-00.jsonl"), "this is not read");
}

/// As olmo-eval writes it.
fn olmo(folder: &Path, more: bool) {
    let results = json!({"tasks": [{"task": "arc_easy:mc", "task_hash": "0123456789abcdef", "num_instances": N_ITEMS,
        "metrics": {"accuracy": {"logprob": mean(more)}}}]});
    write(&folder.join("metrics.json"), &results.to_string());
    let prediction = |i: usize, value: f64| json!({"doc_id": i, "native_id": format!("Mercury_{i}"), "instance_metrics": {"accuracy": {"logprob": value}}});
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
    insta::assert_snapshot!(transcript(&all, scratch.path()), @"
    exit 0
    --- stdout
    [OUT]/a
      task                                  value  std. err.   items
      arc_easy/acc                         0.3333     0.0400     120
    [OUT]/b
      task                                  value  std. err.   items
      arc_easy/acc                         0.4667     0.0400     120
    [OUT]/c
      task                                  value  std. err.   items
      arc_easy/acc                         0.3333     0.0400     120

    gain of [OUT]/b
    over [OUT]/a (positive is better)
      task                                   gain  95 % interval        detectable      items  verdict
      arc_easy/acc                        +0.1333  [+0.0716, +0.1950]       0.0880        120  better

    gain of [OUT]/c
    over [OUT]/a (positive is better)
      task                                   gain  95 % interval        detectable      items  verdict
      arc_easy/acc                        +0.0000  [+0.0000, +0.0000]            -        120  cannot be told apart

    Verdicts use p < 0.05 after Holm's adjustment. Detectable is the smallest true difference that such a
    comparison would find 80 % of the time.
    --- stderr
    ");
}

#[test]
fn the_last_results_go_beside_the_model() {
    let scratch = tempfile::tempdir().unwrap();
    let results = scratch.path().join("results_1.json");
    let document = json!({"results": {"arc_easy": {"acc,none": 0.5}}, "configs": {"arc_easy": {"dataset_path": "allenai/ai2_arc"}}});
    write(&results, &document.to_string());
    let (results, model) = (results.display().to_string(), scratch.path().display().to_string());
    let output = run(&["eval", "--results", &results, "--card", &model]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(".eval_results/thalweg.yaml"), "{said}");
    let text = std::fs::read_to_string(scratch.path().join(".eval_results/thalweg.yaml")).unwrap();
    assert!(text.contains("id: \"allenai/ai2_arc\"") && text.contains("value: 0.5"), "{text}");
    let output = run(&["eval", "--results", &results, "--card", &results]);
    assert_eq!(output.status.code(), Some(2));
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
    insta::assert_snapshot!(transcript(&["eval", "--results", &a, &b], scratch.path()), @"
    exit 0
    --- stdout
    [OUT]/a.csv
      task                                  value  std. err.   items
      CORE/centered                        0.1200          -       -
    [OUT]/b.csv
      task                                  value  std. err.   items
      CORE/centered                        0.1300          -       -

    gain of [OUT]/b.csv
    over [OUT]/a.csv (positive is better)
      task                                   gain  95 % interval        detectable      items  verdict
      CORE/centered                       +0.0100  -                             - not paired  -
    --- stderr
    ");
}

#[test]
fn mistakes_with_results() {
    let scratch = tempfile::tempdir().unwrap();
    let nothing = scratch.path().join("nothing").display().to_string();
    insta::assert_snapshot!(transcript(&["eval", "--results", &nothing], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/nothing` has no results
    hint: give a file of results, or the folder that the evaluator wrote
    ");
    let samples = scratch.path().join("r/samples_t_2026.jsonl");
    write(&samples, "{\"doc_hash\": \"a\", \"metrics\": [\"acc\"], \"acc\": 1}\n\n{\"doc_hash\":\n");
    let samples = samples.display().to_string();
    insta::assert_snapshot!(transcript(&["eval", "--results", &samples], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: results `[OUT]/r/samples_t_2026.jsonl`: line 3 is not JSON, from column 12 on
    ");
    let output = run(&["eval", "--results", &nothing, "--suite", "s.toml"]);
    assert_eq!(output.status.code(), Some(2));
}
