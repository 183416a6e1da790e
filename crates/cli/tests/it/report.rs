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
    insta::assert_snapshot!(transcript(&["report", folder], scratch.path()), @"
    exit 0
    --- stdout
    model                           test loss         gain   95 % interval
    raw, step 300                      2.5000            -
    sma of 2, step 300 *               2.4000      +0.1000   +0.0900 to +0.1100  better
    annealed, step 300                 2.3000      +0.2000   +0.1900 to +0.2100  better

    Merging helps. The average of the newest 2 checkpoints (sma) lowers the test loss of the newest one by 0.100 nats a token (95 % interval +0.090 to +0.110; 20 documents, 1 seed).
    A real anneal (linear, 100 steps from step 200) gains 0.200 over the same checkpoint (95 % interval +0.190 to +0.210). It is ahead of the merge by 0.100 (95 % interval +0.090 to +0.110): the merge brings 50 % of what the anneal brings, with no further training.

    The page is `[OUT]/report.html`.
    --- stderr
    ");
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
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]` holds neither `report.json` nor `study.json`
    hint: give the folder of a demo (`thalweg demo` makes one) or of a study (`thalweg sweep --suite` makes one)
    ");
    let mut broken = record();
    broken["gains"][0]["over"] = json!("raw, step 7");
    write_record(scratch.path(), &broken);
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: the report is not whole: there is no model `raw, step 7`
    hint: rerun the command that made it: it resumes
    ");
    assert!(!scratch.path().join("report.html").exists());
}

#[test]
fn report_makes_page_and_table_of_a_study_and_does_not_guess_between_two_records() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_str().unwrap();
    let study = json!({
        "kind": "thalweg-study", "version": 1, "tool": "thalweg test", "command": "thalweg recover run", "title": "Made up",
        "run_path": "run", "recovery": [100, 200],
        "cost": {"bytes_read": 0, "n_evaluations": 0, "n_tokens": 0, "seconds": 0.0},
    });
    std::fs::write(scratch.path().join("study.json"), study.to_string()).unwrap();
    insta::assert_snapshot!(transcript(&["report", folder], scratch.path()), @"
    exit 0
    --- stdout
    Resume from a merge of 2 checkpoints. The start point is the average of steps 100, 200.

    The page is `[OUT]/report.html`, the table `[OUT]/study.csv`.
    --- stderr
    ");
    let page = std::fs::read_to_string(scratch.path().join("report.html")).unwrap();
    assert!(page.contains("thalweg merge run --steps 100,200 -o start-point"));
    let document: Value = serde_json::from_slice(&run(&["report", folder, "--json"]).stdout).unwrap();
    assert_eq!((&document["kind"], &document["recovery"]), (&json!("thalweg-study-summary"), &json!([100, 200])));
    write_record(scratch.path(), &record());
    insta::assert_snapshot!(transcript(&["report", folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]` holds both `report.json` and `study.json`, whose pages have one name
    hint: move one of them to another folder
    ");
}

#[test]
fn demo_leaves_a_folder_of_something_else_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let run_folder = scratch.path().join("run");
    std::fs::create_dir(&run_folder).unwrap();
    std::fs::write(run_folder.join("precious.txt"), "mine").unwrap();
    let folder = scratch.path().to_str().unwrap();
    insta::assert_snapshot!(transcript(&["demo", "--quick", "-q", "-o", folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]` is a folder with `run` in it, and not a demo
    hint: name another folder with `-o`
    ");
    assert_eq!(std::fs::read(run_folder.join("precious.txt")).unwrap(), b"mine");
}
