//! `thalweg report` and `thalweg demo` as a person meets them. The demo itself is run by the tests of `study`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{run, transcript};

/// A record of a raw checkpoint, a merge and an annealed one, made up.
fn record() -> Value {
    let score = |suite: &str, value: f64, gain: Option<f64>| {
        json!({"suite": suite, "task": "text", "measure": "nats_per_token", "value": value, "standard_error": 0.01,
            "n": 20, "higher_is_better": false,
            "gain": gain.map(|gain| json!({"value": gain, "interval_95": [gain - 0.01, gain + 0.01]}))})
    };
    let scores = |value: f64, gain| json!([score("validation", value, gain), score("test", value, gain)]);
    let suite = |name: &str, role: &str| json!({"name": name, "role": role, "digest": name});
    let mut annealed = scores(2.3, Some(0.2));
    annealed[1]["gain_over_chosen"] = json!({"value": 0.1, "interval_95": [0.09, 0.11]});
    json!({
        "kind": "thalweg-study", "version": 2, "tool": "thalweg test", "command": "thalweg demo", "title": "Made up",
        "run_path": "run",
        "suites": [suite("validation", "selection"), suite("test", "report")],
        "raws": [{"step": 300, "path": "run/step-300", "params_digest": null, "scores": scores(2.5, None)}],
        "trials": [{
            "name": "step300-n2-sma", "plan_digest": "blake3:0", "end_step": 300, "n_checkpoints": 2,
            "interval_steps": 100, "interval_tokens": null, "scheme": "sma", "path": null, "params_digest": null,
            "sources": [{"step": 200, "coefficient": 0.5}, {"step": 300, "coefficient": 0.5}],
            "scores": scores(2.4, Some(0.1)),
        }],
        "annealed": [{"step": 300, "path": "anneal/step-300", "params_digest": null, "scores": annealed}],
        "anneal": {"fork_step": 200, "end_step": 300, "curve": "linear", "floor": 0.0, "training": []},
        "choice": {"trial": "step300-n2-sma", "suite": "validation", "task": "text", "measure": "nats_per_token",
            "n_candidates": 1},
        "cost": {"bytes_read": 0, "n_evaluations": 0, "n_tokens": 0, "seconds": 0.0},
    })
}

fn write_record(folder: &Path, record: &Value) {
    std::fs::write(folder.join("study.json"), serde_json::to_vec(record).unwrap()).unwrap();
}

#[test]
fn report_makes_the_page_again_from_the_record() {
    let scratch = tempfile::tempdir().unwrap();
    write_record(scratch.path(), &record());
    let folder = scratch.path().to_str().unwrap();
    insta::assert_snapshot!(transcript(&["report", folder], scratch.path()), @"
    exit 0
    --- stdout
    text, nats per token (suite test)
    model                               score         gain   95 % interval
    raw, step 300                      2.5000            -
    sma of 2, step 300 *               2.4000      +0.1000   +0.0900 to +0.1100  better
    annealed, step 300                 2.3000      +0.2000   +0.1900 to +0.2100  better

    Merging helps. Best of 1 by suite `validation`: sma of 2, every 100 steps, to step 300. On suite `test` it scores 2.4000 (nats per token on `text`, less is better), a gain of +0.100 over the newest raw checkpoint (95 % interval +0.090 to +0.110; n = 20). A real anneal (linear, 100 steps from step 200) gains +0.200 over the same checkpoint (95 % interval +0.190 to +0.210). It is ahead of the merge by +0.100 (95 % interval +0.090 to +0.110): the merge achieves 50 % of the anneal's gain, with no further training. The window was chosen on a different suite from the one reported here.

    The page is `[OUT]/report.html`, the table `[OUT]/study.csv`.
    --- stderr
    ");
    let page = std::fs::read(scratch.path().join("report.html")).unwrap();
    assert!(page.starts_with(b"<!DOCTYPE html>"));
    let other = scratch.path().join("other.html");
    assert!(run(&["report", folder, "-o", other.to_str().unwrap(), "-q"]).status.success());
    assert!(std::fs::read(other).unwrap() == page, "the same record gives the same page");
    let document: Value = serde_json::from_slice(&run(&["report", folder, "--json"]).stdout).unwrap();
    assert_eq!((&document["kind"], &document["n_trials"]), (&json!("thalweg-study-summary"), &json!(1)));
}

#[test]
fn report_says_what_is_wrong_with_a_folder_or_a_record() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_str().unwrap().to_owned();
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]` holds no `study.json` and no `watch.jsonl`
    hint: give the folder of a demo (`thalweg demo` makes one), of a study (`thalweg sweep --suite` makes one) or of a watcher (`thalweg watch` keeps one)
    ");
    let mut other = record();
    other["version"] = json!(1);
    write_record(scratch.path(), &other);
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/study.json` is `thalweg-study` version 1, but the record of a study is `thalweg-study` version 2
    hint: another version of thalweg wrote it: create it again, or use that version
    ");
    std::fs::write(scratch.path().join("study.json"), "{\"kind\": 3}").unwrap();
    insta::assert_snapshot!(transcript(&["report", &folder], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: cannot read `[OUT]/study.json`: invalid type: integer `3`, expected a string at line 1 column 10
    hint: rerun the command that made it: it resumes
    ");
    assert!(!scratch.path().join("report.html").exists());
}

#[test]
fn report_makes_page_and_table_of_a_recovery() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_str().unwrap();
    let study = json!({
        "kind": "thalweg-study", "version": 2, "tool": "thalweg test", "command": "thalweg recover run", "title": "Made up",
        "run_path": "run", "recovery": [100, 200],
        "cost": {"bytes_read": 0, "n_evaluations": 0, "n_tokens": 0, "seconds": 0.0},
    });
    write_record(scratch.path(), &study);
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
    error: `[OUT]` is a folder that holds `run`, not a demo
    hint: name another folder with `-o`
    ");
    assert_eq!(std::fs::read(run_folder.join("precious.txt")).unwrap(), b"mine");
}

/// What other commands print with `--json`, made up, by the names of files.
fn found_by_others() -> [(&'static str, Value); 4] {
    [
        (
            "mix.json",
            json!({"kind": "thalweg-mix-search", "version": 1, "n_trials": 56, "general": "web & <b>", "beta": 0.5,
            "predictor": [{"measure": "code/nats_per_token", "left_out_error": 0.02, "left_out_spearman": 0.97,
            "points": [[2.3, 2.31], [2.4, 2.38], [2.5, 2.52]]}], "region": [{"component": "web & <b>",
            "coefficient": 0.2, "data_share": 0.6, "data_share_quantiles": [0.5, 0.6, 0.7]}]}),
        ),
        (
            "validation.json",
            json!({"kind": "thalweg-mix-validation", "version": 1, "n_matched": 24, "rows": [
            {"measure": "code/nats_per_token", "n": 24, "spearman": 0.7, "spearman_interval_95": [0.45, 0.86],
            "n_top": 1, "top_quartile_spearman": null, "recovery": 1.03, "pairs": [[2.2, 2.3], [2.5, 2.6]]},
            {"measure": "mean", "n": 24, "spearman": 0.74, "top_quartile_spearman": null, "recovery": 1.03}]}),
        ),
        (
            "forget.json",
            json!({"kind": "thalweg-forget-curve", "version": 1, "rows": [
            {"step": 6, "window": null, "values": {"m_ex": 1.0, "ppl": 22.5}, "retention": 1.0},
            {"step": 12, "window": "sma:2", "values": {"m_ex": 0.54, "ppl": 20.7}, "retention": 0.5}]}),
        ),
        (
            "extrapolate.json",
            json!({"kind": "thalweg-extrapolation", "version": 1, "n_points": 6, "window": 8, "alpha": 0.5,
            "line": {"verdict": "no line", "component_shares": [0.67, 0.2], "random_walk_shares": [0.71, 0.15]},
            "decides": {"suite": "choose", "score": "text nats_per_token", "higher_is_better": false},
            "parabola": {"vertex": 0.6, "curvature": 0.002, "slope": -0.0024, "alpha": 0.6},
            "averages": [{"n_checkpoints": 8, "value": 1.7}, {"n_checkpoints": 16, "value": 1.6999}],
            "candidates": [{"alpha": 0.0, "value": 1.7, "gain": 0.0, "gain_standard_error": 0.0},
            {"alpha": 0.5, "value": 1.6993, "gain": 0.0007, "gain_standard_error": 0.0004},
            {"alpha": 1.0, "value": 1.6996, "gain": 0.0004, "gain_standard_error": 0.0004}]}),
        ),
    ]
}

/// Makes the page of a study in `folder` with a section for each other command.
pub(crate) fn report_with_sections(folder: &Path) {
    write_record(folder, &record());
    let curve = "k,1 loss,2.5\nk,2 loss,2.3\nk,4 loss,2.2\nk,8 loss,2.15\n";
    let curve = curve.replace("k,", "{\"k\": ").replace(" loss,", ", \"loss\": ").replace('\n', "}\n");
    std::fs::write(folder.join("curve.jsonl"), curve).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let law = run(&["law", "merge", &path("curve.jsonl"), "--predict", "16", "--json", "-q"]);
    std::fs::write(folder.join("law.json"), law.stdout).unwrap();
    let mut arguments = ["report", folder.to_str().unwrap(), "-q", "--with"].map(str::to_owned).to_vec();
    arguments.push(path("law.json"));
    for (name, document) in found_by_others() {
        std::fs::write(folder.join(name), document.to_string()).unwrap();
        arguments.extend(["--with".to_owned(), path(name)]);
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = run(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_report_has_a_section_for_what_each_other_command_found() {
    let scratch = tempfile::tempdir().unwrap();
    report_with_sections(scratch.path());
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let folder = scratch.path().to_str().unwrap();
    let page = std::fs::read_to_string(scratch.path().join("report.html")).unwrap();
    let facts = [
        "Law of merging",
        "L + A/(k + b)",
        "Mixture of training data",
        "web &amp; &lt;b&gt;",
        "0.5000 to 0.7000",
        "Merged mixtures against real runs",
        "0.7400",
        "What is forgotten",
        "sma:2",
        "0.5400",
        "Step along the line of merged checkpoints",
        "no line",
        "0.0007",
        // Pictures: the law with its forecast, the mixtures, recall by step, and components.
        "aria-label=\"Loss against the number of merged models\"",
        "k = 16\nforecast",
        "code, nats per token: rho 0.97",
        "code, nats per token: rho 0.70 (0.45 to 0.86)",
        "aria-label=\"Score against the length of the step\"",
        "minimum of the parabola: at 0.60 lags",
        "aria-label=\"The region of mixtures\"",
        "M_ex, more is better",
        "means of a random walk",
    ];
    facts.iter().for_each(|fact| assert!(page.contains(fact), "{fact}"));
    // A document of another version, or with an impossible number, changes nothing.
    let law = std::fs::read_to_string(scratch.path().join("law.json")).unwrap();
    std::fs::write(scratch.path().join("newer.json"), law.replacen("\"version\": 1", "\"version\": 2", 1)).unwrap();
    let mix = found_by_others()[0].1.to_string().replace("\"data_share\":0.6", "\"data_share\":1.6");
    std::fs::write(scratch.path().join("wrong.json"), mix).unwrap();
    for (name, facts) in [
        ("newer.json", ["is `thalweg-merge-law` version 2, but a law of merging is", "another version of thalweg"]),
        ("wrong.json", ["`region[0].data_share` is 1.6, not a share from 0 to 1", "--json"]),
    ] {
        let refused = run(&["report", folder, "--with", &path(name)]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{text}");
        facts.iter().for_each(|fact| assert!(text.contains(fact), "{fact}: {text}"));
    }
    assert_eq!(std::fs::read_to_string(scratch.path().join("report.html")).unwrap(), page);
    let refused = run(&["report", folder, "--with", &path("study.json")]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && text.contains("its kind is `thalweg-study`") && text.contains("--json"),
        "{text}"
    );
}
