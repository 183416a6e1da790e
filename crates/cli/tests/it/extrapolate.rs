//! `thalweg extrapolate`: steps along the line of merged checkpoints of a tiny trained run.

use std::path::Path;

use serde_json::Value;

use crate::lab::Lab;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn a_step_is_one_affine_merge_that_scores_what_was_said() {
    let lab = Lab::new();
    let (run_path, out) = (lab.path("run"), lab.path("out"));
    let (choose, report) = (lab.path("validation.toml"), lab.path("test.toml"));
    let ask = ["extrapolate", &run_path, "--last", "24", "--window", "4", "--suite", &choose];
    let more = ["--confirm", &report, "--alpha", "1", "--dtype", "f32", "-o", &out];
    let (code, found) = lab.json(&[&ask[..], &more].concat());
    assert_eq!(
        (code, &found["window"], &found["n_points"], &found["interval_steps"]),
        (0, &4.into(), &6.into(), &4.into())
    );
    assert!(found["method"].as_str().unwrap().contains("not public in code"));
    assert_eq!(found["point_steps"][5], serde_json::json!([148, 160]));
    let coefficients: Vec<f64> =
        found["coefficients"].as_array().unwrap().iter().map(|row| number(&row["coefficient"])).collect();
    assert!((coefficients.iter().sum::<f64>() - 1.0).abs() < 1e-12 && coefficients.iter().any(|c| *c < 0.0));
    assert_eq!(coefficients.len(), 24);
    // Four models: the mean of the window, the step, the means of half and of twice the window.
    assert_eq!(found["cost"]["n_evaluations"], 4);
    let one = std::fs::metadata(Path::new(&run_path).join("step-160/model.safetensors")).unwrap().len();
    let bytes = number(&found["cost"]["bytes_read"]);
    assert!(bytes <= 24.0 * one as f64 && bytes > 23.0 * one as f64, "{bytes} of {one} each");

    // The merge is what was scored: only the means of windows were rounded to F32 before.
    let step = &found["candidates"][1];
    assert_eq!(step["alpha"], 1.0);
    for suite in [&choose, &report] {
        let (_, scored) = lab.json(&["eval", &out, "--suite", suite]);
        let said = step["scores"].as_array().unwrap().iter();
        let said = said
            .map(|row| number(&row["value"]))
            .find(|said| (said - number(&scored["scores"][0]["value"])).abs() < 1e-5);
        assert!(said.is_some(), "{step} {scored}");
    }
    let (_, verified) = lab.json(&["verify", &out, "--inputs"]);
    assert_eq!(verified["equal"], true);
    // Its receipt has the coefficients, and they add up to 1 exactly.
    let receipt: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("thalweg.json")).unwrap()).unwrap();
    assert_eq!((&receipt["plan"]["sum"], &receipt["plan"]["scheme"]), (&"1".into(), &"extrapolation:pc1:1.000".into()));

    // The plain means are those of the run.
    for (n, row) in [2, 4, 8].iter().zip(found["averages"].as_array().unwrap()) {
        assert_eq!(row["n_checkpoints"], *n);
        let merged = lab.path(&format!("mean-{n}"));
        lab.json(&["merge", &run_path, "--last", &n.to_string(), "--dtype", "f32", "-o", &merged]);
        let (_, scored) = lab.json(&["eval", &merged, "--suite", &choose]);
        assert!((number(&row["scores"][0]["value"]) - number(&scored["scores"][0]["value"])).abs() < 1e-5, "{n}");
    }
}

#[test]
fn the_search_takes_six_scores_at_most_and_one_reading_and_answers_either_way() {
    let lab = Lab::new();
    let (run_path, choose, report) = (lab.path("run"), lab.path("validation.toml"), lab.path("test.toml"));
    for direction in ["pc1", "secant"] {
        let out = lab.path(&format!("out-{direction}"));
        let ask = ["extrapolate", &run_path, "--last", "36", "--suite", &choose, "--confirm", &report, "-o", &out];
        let (code, found) = lab.json(&[&ask[..], &["--direction", direction]].concat());
        assert_eq!((&found["direction"], &found["window"]), (&direction.into(), &6.into()));
        let n = found["cost"]["n_evaluations"].as_u64().unwrap();
        assert!((5..=6).contains(&n), "{n}");
        let one = std::fs::metadata(Path::new(&run_path).join("step-160/model.safetensors")).unwrap().len();
        assert!(number(&found["cost"]["bytes_read"]) <= 36.0 * one as f64);
        // The answer is yes with a merge, or no with a reason and without one.
        assert_eq!(code == 0, found["refusal"].is_null(), "{found}");
        assert_eq!(code == 0, Path::new(&out).exists());
        assert_eq!(found["output"].is_null(), code == 1);
        for row in found["gains"].as_array().unwrap() {
            assert!(row["over_best_average"]["value"].is_number() && row["over_newest_point"]["value"].is_number());
            if code == 0 {
                assert!(number(&row["over_best_average"]["value"]) > 0.0);
            }
        }
        // The best mean is the best of those that were scored.
        let averages = found["averages"].as_array().unwrap();
        let score = |row: &&Value| number(&row["scores"][0]["value"]);
        let best = averages.iter().min_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        assert_eq!(found["best_average"], best["n_checkpoints"]);
        assert!(["line", "no line"].contains(&found["line"]["verdict"].as_str().unwrap()));
    }
    // In words, with the plain mean to merge instead where the answer is no.
    let said = lab.transcript(&["extrapolate", &run_path, "--last", "36", "--suite", &choose, "-q"]);
    assert!(said.contains("over the best mean") && said.contains("Extra-Merge-like"), "{said}");
    if let Some(command) = said.lines().find(|line| line.starts_with("  thalweg merge ")) {
        let merged = lab.path("merged");
        let words: Vec<String> =
            command.split_whitespace().skip(1).map(|word| word.replace("[OUT]/run", &run_path)).collect();
        let words: Vec<&str> = words.iter().map(|word| if word == "merged" { merged.as_str() } else { word }).collect();
        assert_eq!(lab.json(&words).0, 0, "{command}");
    }
}

#[test]
fn explain_says_whether_the_means_lie_on_a_line() {
    let lab = Lab::new();
    let run_path = lab.path("run");
    let (_, found) = lab.json(&["explain", &run_path, "--last", "36"]);
    let points = &found["merged_points"];
    assert_eq!((&points["window"], &points["n_points"]), (&6.into(), &6.into()));
    // Means of six: (36 - 1) / (4 * 36 + 2).
    assert!((number(&points["random_walk_cosine"]) - 35.0 / 146.0).abs() < 1e-12);
    let said = lab.transcript(&["explain", &run_path, "--last", "36"]);
    let verdict = points["verdict"].as_str().unwrap();
    let lie = if verdict == "line" { "lie" } else { "do not lie" };
    assert!(said.contains(&format!("\nthe means {lie} on a line: for 6 means of 6 checkpoints each")), "{said}");
    let (_, few) = lab.json(&["explain", &run_path, "--last", "5"]);
    assert!(few["merged_points"].is_null());
}

#[test]
fn what_cannot_be_extrapolated_is_refused_before_anything_is_scored() {
    let lab = Lab::new();
    let (run_path, choose) = (lab.path("run"), lab.path("validation.toml"));
    let ask = |more: &[&str]| lab.transcript(&[&["extrapolate", &run_path], more].concat());
    insta::assert_snapshot!(ask(&["--last", "24"]), @"
    exit 2
    --- stdout
    --- stderr
    error: a suite is needed: every step is scored, even one given by `--alpha`
    hint: name a suite with `--suite FILE`
    ");
    insta::assert_snapshot!(ask(&["--last", "5", "--suite", &choose]), @"
    exit 2
    --- stdout
    --- stderr
    error: 3 points of 2 checkpoints need 6 checkpoints, but there are 5
    hint: a line needs three points: select more checkpoints, or shorten `--window`
    ");
    insta::assert_snapshot!(ask(&["--steps", "104,108,112,116,120,128", "--suite", &choose]), @"
    exit 2
    --- stdout
    --- stderr
    error: the checkpoints are not evenly spaced: 4 to 8 steps apart
    hint: choose evenly spaced ones: `--count 6 --interval-steps 8`
    ");
    insta::assert_snapshot!(ask(&["--last", "24", "--alpha", "2.5", "--suite", &choose]), @"
    exit 2
    --- stdout
    --- stderr
    error: `--alpha 2.5` is not between 0 and 2
    hint: 1 undoes the lag of averaging; beyond 2 the loss rises steeply
    ");
    // The hint works.
    let (code, _) = lab.json(&["extrapolate", &run_path, "--count", "6", "--interval-steps", "8", "--suite", &choose]);
    assert!(code == 0 || code == 1);
    let (code, found) = lab.json(&["extrapolate", &run_path, "--suite", &choose]);
    // Nothing selected: the newest of the stable phase, as far back as they are even.
    assert!((code == 0 || code == 1) && found["window"] == 6, "{found}");
}
