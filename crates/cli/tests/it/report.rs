//! `thalweg report` and `thalweg demo` as a person meets them. The demo itself is run by the tests of `study`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{run, transcript};

/// A record of three models, made up.
fn record() -> Value {
    let scores = |nll: f64| {
        let score = |split: &str| {
            json!({"split": split, "nll_nats": nll, "standard_error": 0.01, "bits_per_byte": nll * 0.5,
                "n_documents": 20, "n_tokens": 5000})
        };
        json!([score("validation"), score("test")])
    };
    let model = |name: &str, role: &str, merge: Value, nll: f64| json!({"name": name, "role": role, "step": 300, "merge": merge, "scores": scores(nll), "digest": null});
    let source = |step: u64| json!({"step": step, "coefficient": 0.5});
    let merge =
        json!({"scheme": "sma", "interval_steps": 100, "sources": [source(200), source(300)], "plan_digest": null});
    let gain = |name: &str, over: &str, gain: f64| {
        json!({"model": name, "over": over, "split": "test", "gain_nats": gain,
            "interval_95": [gain - 0.01, gain + 0.01], "n_documents": 20})
    };
    json!({
        "kind": "thalweg-report", "version": 1, "tool": "thalweg test", "title": "Made up", "caution": null, "seed": 0,
        "tokens_per_step": 1000, "phases": [], "checkpoints": [100, 200, 300], "training": [],
        "anneal": {"fork_step": 200, "end_step": 300, "curve": "linear", "floor": 0.0, "training": []},
        "models": [
            model("raw, step 300", "raw", Value::Null, 2.5),
            model("sma of 2, step 300", "merged", merge, 2.4),
            model("annealed, step 300", "annealed", Value::Null, 2.3),
        ],
        "gains": [
            gain("sma of 2, step 300", "raw, step 300", 0.1),
            gain("annealed, step 300", "raw, step 300", 0.2),
            gain("annealed, step 300", "sma of 2, step 300", 0.1),
        ],
        "choice": {"model": "sma of 2, step 300", "by": "validation", "n_candidates": 1},
        "baseline": "raw, step 300", "facts": [], "seconds": [], "commands": [],
    })
}

fn write_record(folder: &Path, record: &Value) {
    std::fs::write(folder.join("report.json"), serde_json::to_vec(record).unwrap()).unwrap();
}

#[test]
fn report_makes_the_page_again_from_the_record() {
    let scratch = tempfile::tempdir().unwrap();
    write_record(scratch.path(), &record());
    let folder = scratch.path().to_str().unwrap();
    insta::assert_snapshot!(transcript(&["report", folder], scratch.path()), @"");
    let page = std::fs::read(scratch.path().join("report.html")).unwrap();
    assert!(page.starts_with(b"<!DOCTYPE html>"));
    let other = scratch.path().join("other.html");
    assert!(run(&["report", folder, "-o", other.to_str().unwrap(), "-q"]).status.success());
    assert!(std::fs::read(other).unwrap() == page, "the same record gives the same page");
    let output = run(&["report", folder, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["kind"], &document["version"]), (&json!("thalweg-report-summary"), &json!(1)));
    assert_eq!(document["gains"][0]["gain_nats"], 0.1);
}

#[test]
fn report_says_what_is_wrong_with_a_folder_or_a_record() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_str().unwrap().to_owned();
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"");
    let mut broken = record();
    broken["gains"][0]["over"] = json!("raw, step 7");
    write_record(scratch.path(), &broken);
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"");
    assert!(!scratch.path().join("report.html").exists());
}

#[test]
fn demo_leaves_a_folder_of_something_else_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let run_folder = scratch.path().join("run");
    std::fs::create_dir(&run_folder).unwrap();
    std::fs::write(run_folder.join("precious.txt"), "mine").unwrap();
    let folder = scratch.path().to_str().unwrap();
    insta::assert_snapshot!(transcript(&["demo", "--quick", "-q", "-o", folder], scratch.path()), @"");
    assert_eq!(std::fs::read(run_folder.join("precious.txt")).unwrap(), b"mine");
}
