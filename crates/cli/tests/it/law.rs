//! `thalweg law`: laws of published and planted losses, forecasts, refusals.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::Lab;
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
    error: all losses are for k = 4, but a law needs 3 different k
    hint: score merges of other numbers of models too, such as k = 1, 2, 4; `thalweg law curve` makes them
    ");
    std::fs::write(&curve, "{\"k\": 1, \"loss\": 2}\n{\"k\": 2, \"loss\": NaN}\n").unwrap();
    insta::assert_snapshot!(ask(&[]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/curve.jsonl`, line 2: `loss` is `NaN`, not a finite number
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
    error: `--points` takes three numbers of models, but 2 are given
    hint: write them as `--points 1,2,4`
    ");
    insta::assert_snapshot!(ask(&["--checkpoints", "--target", "2"]), @"
    exit 2
    --- stdout
    --- stderr
    error: for checkpoints of one run there is a best number, not a floor to approach
    hint: leave out `--target`, `--within` and `--least-gain`; `optimum` is the best number
    ");
}

/// The loss of a record of a curve.
fn loss_of(curve: &Value, subset: &[usize]) -> f64 {
    let records = curve["records"].as_array().unwrap();
    let found =
        records.iter().find(|record| record["subset"] == serde_json::json!(subset) && record["k"] == subset.len());
    found.unwrap()["loss"].as_f64().unwrap()
}

#[test]
fn all_subsets_are_scored_as_their_merges_and_each_model_is_read_once() {
    let lab = Lab::new();
    let (suite, curve) = (lab.path("validation.toml"), lab.path("curve.jsonl"));
    let models = [40, 80, 120, 160].map(|step| lab.path(&format!("run/step-{step}")));
    let base = lab.path("run/step-20");
    let named: Vec<&str> = models.iter().flat_map(|model| ["-m", model.as_str()]).collect();
    let ask = [&["law", "curve"], &named[..], &["--base", &base, "--suite", &suite, "-o", &curve]].concat();
    let (code, made) = lab.json(&ask);
    assert_eq!((code, &made["n_merges"], made["records"].as_array().unwrap().len()), (0, &16.into(), 16));
    let one = std::fs::metadata(lab.path("run/step-40/model.safetensors")).unwrap().len();
    let bytes = made["cost"]["bytes_read"].as_u64().unwrap();
    assert!(bytes <= 5 * one && bytes > 4 * one, "{bytes} of {one} each");
    assert!(made["overhead"].as_f64().unwrap() >= 0.0);
    // Single models and merges score what they score on disk.
    let merged = lab.path("merged");
    lab.json(&["merge", &models[0], &models[2], &models[3], "--dtype", "f32", "-o", &merged]);
    for (path, subset) in [(&models[1], &[1][..]), (&merged, &[0, 2, 3])] {
        let (_, scored) = lab.json(&["eval", path, "--suite", &suite]);
        let expected = scored["scores"][0]["value"].as_f64().unwrap();
        assert!((loss_of(&made, subset) - expected).abs() < 1e-12, "{subset:?}");
    }
    let (_, law) = lab.json(&["law", "merge", &curve, "--resamples", "20"]);
    assert_eq!((&law["points"][1]["k"], &law["points"][1]["n_merges"]), (&2.into(), &6.into()));
    // The file is replaced by a new curve, and by nothing else.
    let fewer = [&ask[..], &["--k", "1,2", "--subsets", "2"]].concat();
    assert_eq!(lab.json(&fewer).1["n_merges"], 5);
    let other = lab.path("notes.jsonl");
    std::fs::write(&other, "mine").unwrap();
    let onto = ask.iter().map(|word| if *word == curve { other.as_str() } else { word }).collect::<Vec<_>>();
    assert!(lab.transcript(&onto).starts_with("exit 2"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
}

#[test]
fn windows_of_a_run_make_a_curve_of_checkpoints() {
    let lab = Lab::new();
    let (run_path, suite, curve) = (lab.path("run"), lab.path("validation.toml"), lab.path("windows.jsonl"));
    let ask = ["law", "curve", &run_path, "--newest", "1,2,4,8", "--suite", &suite, "-o", &curve];
    let (code, made) = lab.json(&ask);
    let counts: Vec<u64> = made["records"].as_array().unwrap().iter().map(|row| row["k"].as_u64().unwrap()).collect();
    assert_eq!((code, counts), (0, vec![1, 2, 4, 8]));
    // The newest alone is the newest checkpoint.
    let (_, scored) = lab.json(&["eval", &lab.path("run/step-160"), "--suite", &suite]);
    assert!((loss_of(&made, &[7]) - scored["scores"][0]["value"].as_f64().unwrap()).abs() < 1e-12);
    let (_, law) = lab.json(&["law", "merge", &curve, "--checkpoints", "--resamples", "0"]);
    assert_eq!((&law["form"], law["points"].as_array().unwrap().len()), (&"drift".into(), 4));
}

#[test]
fn a_curve_that_cannot_be_made_is_refused_before_anything_is_scored() {
    let lab = Lab::new();
    let (run_path, suite, curve) = (lab.path("run"), lab.path("validation.toml"), lab.path("curve.jsonl"));
    let (a, b) = (lab.path("run/step-40"), lab.path("run/step-80"));
    let ask = |more: &[&str]| lab.transcript(&[&["law", "curve", "-o", &curve, "--suite", &suite], more].concat());
    insta::assert_snapshot!(ask(&["-m", &a, "-m", &b, "-m", &a]).lines().skip(3).filter(|line| !line.starts_with("note")).collect::<Vec<_>>().join("\n"), @"
    error: `[OUT]/run/step-40` is given more than once
    hint: name each model once
    ");
    insta::assert_snapshot!(ask(&["-m", &a]), @"
    exit 2
    --- stdout
    --- stderr
    error: a curve needs at least two models
    hint: name each one with `-m CKPT`, or a run with `--newest 1,2,4,8`
    ");
    insta::assert_snapshot!(ask(&["-m", &a, "-m", &b, "--k", "3"]), @"
    exit 2
    --- stdout
    --- stderr
    error: `--k 3` is not possible with 2 experts
    hint: k is between 1 and 2; `--base` scores the base, which is k = 0
    ");
    insta::assert_snapshot!(ask(&[&run_path]), @"
    exit 2
    --- stdout
    --- stderr
    error: the windows of a run need numbers of checkpoints
    hint: add `--newest 1,2,4,8`, or name experts with `-m CKPT` instead of `[OUT]/run`
    ");
    let weighed = format!("{a}:0.5");
    insta::assert_snapshot!(ask(&["-m", &weighed, "-m", &format!("{b}:0.5")]), @"
    exit 2
    --- stdout
    --- stderr
    error: the models are merged by their plain mean, but some have coefficients
    hint: name each as `-m CKPT`, without a colon and a number
    ");
    assert!(!Path::new(&curve).exists());
}
