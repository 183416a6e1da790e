//! `thalweg law`: laws of published and planted losses, forecasts, refusals.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{run, transcript};

/// Macro cross-entropy of 16 domains, LLaMA 3B, by the number of merged experts (Wang et al. 2025, arXiv 2509.24244).
const SIXTEEN_DOMAINS: [(u32, f64); 8] =
    [(2, 0.7774), (4, 0.7331), (6, 0.7051), (8, 0.6874), (10, 0.6685), (12, 0.6603), (14, 0.6509), (16, 0.6437)];

fn write_curve(folder: &Path, losses: &[(u32, f64)]) -> PathBuf {
    let lines: String = losses.iter().map(|(k, loss)| format!("{{\"k\": {k}, \"loss\": {loss}}}\n")).collect();
    let path = folder.join("curve.jsonl");
    std::fs::write(&path, lines).unwrap();
    path
}

fn json(arguments: &[&str]) -> (i32, Value) {
    let output = run(&[arguments, &["--json", "-q"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text);
    let value = value.unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), value)
}

#[test]
fn the_published_curve_is_fitted_and_forecast_from_three_points() {
    let scratch = tempfile::tempdir().unwrap();
    let curve = write_curve(scratch.path(), &SIXTEEN_DOMAINS);
    let curve = curve.to_str().unwrap();
    let (code, law) = json(&["law", "merge", curve, "--predict", "16,24", "--resamples", "50"]);
    let number = |value: &Value| value.as_f64().unwrap();
    assert_eq!((code, &law["kind"]), (0, &"thalweg-merge-law".into()));
    assert!((number(&law["l_inf"]) - 0.575).abs() < 1e-3 && (number(&law["b"]) - 5.2).abs() < 0.1);
    assert!((number(&law["r2"]) - 0.9993).abs() < 5e-5 && (number(&law["a"]) - 1.46).abs() < 0.02);
    for key in ["l_inf_interval_95", "a_interval_95", "b_interval_95"] {
        assert!(number(&law[key][0]) < number(&law[key][1]), "{key}");
    }
    let forms: Vec<&str> = law["forms"].as_array().unwrap().iter().map(|row| row["form"].as_str().unwrap()).collect();
    assert_eq!(forms, ["reciprocal", "inverse", "power", "exponential"]);
    assert_eq!(law["three_point"]["k"], serde_json::json!([2, 4, 8]));
    let predictions = law["three_point"]["predictions"].as_array().unwrap();
    let sixteen = predictions.iter().find(|row| row["k"] == 16).unwrap();
    assert!((number(&sixteen["loss"]) - 0.650).abs() < 5e-4 && (number(&sixteen["measured"]) - 0.6437).abs() < 1e-12);
    assert_eq!((&law["predictions"][0]["k"], &law["predictions"][0]["measured"]), (&16.into(), &0.6437.into()));
    assert!(law["predictions"][1]["loss"].is_number());
}

#[test]
fn a_law_is_told_with_its_rivals_and_what_follows_from_it() {
    let scratch = tempfile::tempdir().unwrap();
    let losses: Vec<(u32, f64)> = (1..=8).map(|k| (k, 2.0 + 0.4 / (f64::from(k) + 0.5))).collect();
    let curve = write_curve(scratch.path(), &losses);
    let curve = curve.to_str().unwrap();
    let ask = ["law", "merge", curve, "--pool", "8", "--predict", "20", "--target", "2.05", "--least-gain", "0.01"];
    insta::assert_snapshot!(transcript(&[&ask[..], &["--resamples", "0"]].concat(), scratch.path()));
}

#[test]
fn losses_without_a_law_exit_with_1_and_are_not_extrapolated() {
    let scratch = tempfile::tempdir().unwrap();
    let line: Vec<(u32, f64)> = (1..=6).map(|k| (k, 3.0 - 0.1 * f64::from(k))).collect();
    let curve = write_curve(scratch.path(), &line);
    let (code, law) = json(&["law", "merge", curve.to_str().unwrap(), "--predict", "2,50", "--resamples", "0"]);
    assert_eq!(code, 1);
    assert!(law["refusal"].as_str().unwrap().contains("end of its range, 30"));
    assert!(law["predictions"][0]["loss"].is_number() && law["predictions"][1]["loss"].is_null());
    assert!(law["three_point"]["law"].is_null() && law["three_point"]["reason"].is_string());
}

#[test]
fn checkpoints_of_one_run_have_a_best_number_and_sizes_a_law_each() {
    let scratch = tempfile::tempdir().unwrap();
    let drift: Vec<(u32, f64)> =
        [1, 2, 3, 4, 6, 8, 12, 16].map(|k| (k, 2.0 + 0.3 / f64::from(k) + 0.003 * (f64::from(k) - 1.0))).to_vec();
    let curve = write_curve(scratch.path(), &drift);
    let (code, law) = json(&["law", "merge", curve.to_str().unwrap(), "--checkpoints", "--resamples", "0"]);
    assert_eq!((code, &law["form"]), (0, &"drift".into()));
    assert!((law["optimum"].as_f64().unwrap() - 10.0).abs() < 1e-3);

    let mut lines = String::new();
    for n in [0.5_f64, 3.0, 7.0] {
        for k in 1..=6 {
            let loss = 0.2 + 0.2 * n.powf(-0.4) + 0.08 * n.powf(-0.14) / (f64::from(k) + 0.4);
            lines.push_str(&format!("{{\"n_experts\": {k}, \"size\": \"{n}B\", \"ce\": {loss}}}\n"));
        }
    }
    std::fs::write(&curve, lines).unwrap();
    let ask = ["law", "merge", curve.to_str().unwrap(), "--size", "3", "--resamples", "0"];
    let (_, law) = json(&ask);
    assert_eq!((&law["n_billions"], law["sizes"].as_array().unwrap().len()), (&3.0.into(), 3));
    assert!((law["joint"]["beta"].as_f64().unwrap() - 0.4).abs() < 1e-3);
}

#[test]
fn mistakes_are_named_with_a_way_on() {
    let scratch = tempfile::tempdir().unwrap();
    let curve = write_curve(scratch.path(), &[(4, 2.0), (4, 2.1)]);
    let path = curve.to_str().unwrap();
    let ask = |more: &[&str]| transcript(&[&["law", "merge", path], more].concat(), scratch.path());
    insta::assert_snapshot!(ask(&[]), @"
    exit 2
    --- stdout
    --- stderr
    error: all losses are of k = 4, and a law needs 3 different k
    hint: score merges of more numbers of models, such as k = 1, 2, 4; `thalweg law curve` makes them
    ");
    std::fs::write(&curve, "{\"k\": 1, \"loss\": 2}\n{\"k\": 2, \"loss\": NaN}\n").unwrap();
    insta::assert_snapshot!(ask(&[]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: line 2 of the curve: `loss` is `NaN`, not a finite number
    hint: each line is one loss, such as {"k": 4, "loss": 2.31}, with `subset`, `domain`, `seed` and `n` as needed
    "#);
    write_curve(scratch.path(), &[(1, 3.0), (2, 2.5), (3, 2.4)]);
    insta::assert_snapshot!(ask(&["--points", "1,2,4"]), @"
    exit 2
    --- stdout
    --- stderr
    error: `--points 1,2,4` are not three measured k in ascending order
    hint: the curve has k = 1, 2, 3
    ");
    insta::assert_snapshot!(ask(&["--points", "1,2"]), @"
    exit 2
    --- stdout
    --- stderr
    error: `--points` are three numbers of models, and 2 are given
    hint: write them as `--points 1,2,4`
    ");
    insta::assert_snapshot!(ask(&["--checkpoints", "--target", "2"]), @"
    exit 2
    --- stdout
    --- stderr
    error: checkpoints of one run have a best number, not a floor to approach
    hint: leave out `--target`, `--within` and `--least-gain`; `optimum` is the best number
    ");
}
