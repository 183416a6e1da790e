//! `thalweg sweep --suite` and `thalweg forecast`: scores, choices, refusals, another evaluator.

use std::path::Path;

use serde_json::Value;
use thalweg_testkit::copy_folder;

use crate::lab::{Lab, STAND_IN, STEPS};

fn value_of(row: &Value, suite: &str) -> f64 {
    let scores = row["scores"].as_array().unwrap();
    scores.iter().find(|score| score["suite"] == suite).unwrap()["value"].as_f64().unwrap()
}

#[test]
fn a_sweep_chooses_by_one_suite_reports_on_the_other_and_costs_nothing_again() {
    let lab = Lab::new();
    let (run_path, out) = (lab.path("run"), lab.path("sweep"));
    let (choose, report) = (lab.path("validation.toml"), lab.path("test.toml"));
    let command = [
        "sweep",
        &run_path,
        "--counts",
        "2,5,9",
        "--interval-steps",
        "4,8",
        "--schemes",
        "sma,wma",
        "--ends",
        "120,160",
        "--suite",
        &choose,
        "--report-suite",
        &report,
        "--raws",
        "window",
        "-o",
        &out,
    ];
    let (code, first) = lab.json(&command);
    let trials = first["trials"].as_array().unwrap();
    assert_eq!((code, trials.len(), first["suites"].as_array().unwrap().len()), (0, 24, 2));
    // 120 and 160 with up to eight intervals of 8 before each: 64 to 160 by 8 and 88 to 160 by 4.
    assert_eq!(first["raws"].as_array().unwrap().len(), 22);
    let best = trials.iter().min_by(|a, b| value_of(a, "validation").total_cmp(&value_of(b, "validation"))).unwrap();
    assert_eq!(first["choice"]["trial"], best["name"]);
    assert_eq!((&first["choice"]["suite"], &first["choice"]["n_candidates"]), (&"validation".into(), &24.into()));

    // Only the best is written, and it scores what it scored in memory.
    let kept: Vec<&Value> = trials.iter().filter(|trial| !trial["path"].is_null()).collect();
    assert_eq!(kept.len(), 1);
    let path = kept[0]["path"].as_str().unwrap();
    let (_, again) = lab.json(&["eval", path, "--suite", &report]);
    let written = again["scores"][0]["value"].as_f64().unwrap();
    assert!((written - value_of(best, "test")).abs() < 1e-12, "{written}");
    let (_, verified) = lab.json(&["verify", path, "--inputs"]);
    assert_eq!(verified["equal"], true);

    // Gains are over the raw checkpoint at the end of the window, positive where the loss is lower.
    let raw = first["raws"].as_array().unwrap().iter().find(|raw| raw["step"] == best["end_step"]).unwrap();
    let gain = best["scores"][0]["gain"]["value"].as_f64().unwrap();
    assert!((gain - (value_of(raw, "validation") - value_of(best, "validation"))).abs() < 1e-12);

    let (_, second) = lab.json(&command);
    assert_eq!((&second["cost"]["n_evaluations"], &second["cost"]["n_tokens"]), (&0.into(), &0.into()));
    assert_eq!((&second["trials"], &second["choice"]), (&first["trials"], &first["choice"]));
    assert_eq!(second["bytes_read"], 0);

    // A larger sweep scores only what is new.
    let more = command.map(|word| if word == "2,5,9" { "2,5,9,3" } else { word });
    let (_, third) = lab.json(&more);
    assert_eq!(third["cost"]["n_evaluations"], 8);
    for name in ["study.json", "study.csv", "report.html"] {
        assert!(Path::new(&out).join(name).exists(), "{name}");
    }
}

#[test]
fn sources_are_read_once_for_ten_merges_and_not_more() {
    let lab = Lab::new();
    let (run_path, suite) = (lab.path("run"), lab.path("validation.toml"));
    let (_, swept) = lab.json(&[
        "sweep",
        &run_path,
        "--counts",
        "2,3,4,5,6,7,8,9,10",
        "--interval-steps",
        "4",
        "--ends",
        "160",
        "--suite",
        &suite,
        "--keep",
        "none",
        "-o",
        &lab.path("sweep"),
    ]);
    // Nine windows and a raw checkpoint: together they read the ten checkpoints of the longest window once.
    let one = std::fs::metadata(Path::new(&run_path).join("step-160/model.safetensors")).unwrap().len();
    let bytes = swept["bytes_read"].as_u64().unwrap();
    assert!(bytes <= 10 * one && bytes > 9 * one, "{bytes} of {one} each");
    assert_eq!(swept["cost"]["n_evaluations"], 10);
}

#[test]
fn what_chose_may_not_report_and_budgets_hold() {
    let lab = Lab::new();
    let (run_path, choose, out) = (lab.path("run"), lab.path("validation.toml"), lab.path("sweep"));
    let sweep = ["sweep", &run_path, "--counts", "2,3", "--suite", &choose, "-o", &out];
    let with = |more: &[&str]| lab.transcript(&[&sweep[..], more].concat());
    insta::assert_snapshot!(with(&["--report-suite", &choose]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: suite `validation` is for selection but is used for report
    hint: name a suite with `role = "report"`, or change the role in this one
    "#);
    insta::assert_snapshot!(with(&["--budget-evaluations", "2"]), @"
    exit 2
    --- stdout
    --- stderr
    error: this sweep scores 3 models, more than the 2 of `--budget-evaluations`
    hint: choose fewer windows, ends or schemes
    ");
    insta::assert_snapshot!(with(&["--by", "tales"]), @"
    exit 2
    --- stdout
    --- stderr
    error: there is no score `tales`
    hint: there are stories/nats_per_token
    ");
    let unscored = ["sweep", &run_path, "--counts", "2", "--keep", "best", "-o", &out];
    insta::assert_snapshot!(lab.transcript(&unscored), @"
    exit 2
    --- stdout
    --- stderr
    error: `--keep best or none` needs scores
    hint: add `--suite FILE` or `--eval-command CMD`
    ");
    // The same rows under another name and role are found too.
    let text = std::fs::read_to_string(&choose)
        .unwrap()
        .replace("\"selection\"", "\"report\"")
        .replace("\"validation\"", "\"other\"");
    std::fs::write(lab.path("renamed.toml"), text).unwrap();
    insta::assert_snapshot!(with(&["--report-suite", &lab.path("renamed.toml")]), @"
    exit 2
    --- stdout
    --- stderr
    error: `[ROOT]/corpora/stories/validation.jsonl.zst` is in both suites: task `stories` chooses by it and task `stories` reports on it
    hint: choose on a validation part and report on a test part (`where` can select them)
    ");
    assert!(!Path::new(&out).exists());
}

#[test]
fn another_program_scores_merges_that_are_written_for_it_and_removed() {
    let lab = Lab::new();
    let (run_path, out) = (lab.path("run"), lab.path("sweep"));
    let command = ["sweep", &run_path, "--counts", "2,3", "--eval-command", STAND_IN, "--keep", "all", "-o", &out];
    let (code, swept) = lab.json(&command);
    assert_eq!((code, swept["trials"].as_array().unwrap().len()), (0, 2));
    for trial in swept["trials"].as_array().unwrap() {
        let file = Path::new(trial["path"].as_str().unwrap()).join("model.safetensors");
        let output = std::process::Command::new("cksum").arg(&file).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let sum: f64 = text.split(' ').next().unwrap().parse().unwrap();
        assert!((trial["scores"][0]["value"].as_f64().unwrap() - sum).abs() < 0.5);
    }
    assert!(!Path::new(&out).join("scores/merge-to-score").exists());
    let (_, again) = lab.json(&command);
    assert_eq!((&again["cost"]["n_evaluations"], &again["trials"]), (&0.into(), &swept["trials"]));
    let broken =
        ["sweep", &run_path, "--counts", "2", "--eval-command", "exit 3 {checkpoint} {out}", "-o", &lab.path("b")];
    let said = lab.transcript(&broken);
    insta::assert_snapshot!(said.lines().find(|line| line.starts_with("error:")).unwrap(), @"error: the command failed for `[OUT]/run/step-160`: exit status: 3");
}

#[test]
fn a_forecast_takes_four_scores_and_learns_from_saved_cases() {
    let lab = Lab::new();
    let (run_path, suite, cases) = (lab.path("run"), lab.path("test.toml"), lab.path("cases.jsonl"));
    let start = format!("[start]\nfrom = \"run/step-{}\"\nstate = \"full\"\n", STEPS - 48);
    lab.train("annealed", STEPS, 48, &start);
    let truth = lab.path(&format!("annealed/step-{STEPS}"));
    let ask = ["forecast", &run_path, "--suite", &suite, "--anneal-steps", "48"];
    let (code, plain) = lab.json(&ask);
    assert_eq!((code, &plain["n_evaluations"]), (0, &4.into()));
    let row = &plain["forecasts"][0];
    let number = |value: &Value| value.as_f64().unwrap();
    let (value, low, high) = (number(&row["value"]), number(&row["interval_95"][0]), number(&row["interval_95"][1]));
    assert!(low < number(&row["interval_80"][0]) && low < value && value < high && value < number(&row["raw"]));
    assert!(row["rests_on"].as_str().unwrap().contains("none of your own"));
    // The error of the mean's gain is that of the items, as `eval` has it, however few they are.
    let (raw, full) = (lab.path(&format!("run/step-{STEPS}")), lab.path("full"));
    let n = plain["cases"][0]["n_checkpoints"].to_string();
    lab.json(&["merge", &run_path, "--last", &n, "--dtype", "f32", "-o", &full]);
    let (_, compared) = lab.json(&["eval", &raw, &full, "--suite", &suite]);
    let errors = [&plain["cases"][0], &compared["comparisons"][0]].map(|one| number(&one["standard_error"]));
    assert!((errors[0] / errors[1] - 1.0).abs() < 1e-6, "{errors:?}");

    let (_, saved) =
        lab.json(&[&ask[..], &["--truth", &truth, "--save-cases", &cases, "-o", &lab.path("out")]].concat());
    let (_, scored) = lab.json(&["eval", &truth, "--suite", &suite]);
    assert_eq!(saved["forecasts"][0]["truth"], scored["scores"][0]["value"]);
    let lines = std::fs::read_to_string(&cases).unwrap();
    assert_eq!(lines.lines().count(), 1);
    // Nothing is added twice.
    lab.json(&[&ask[..], &["--truth", &truth, "--save-cases", &cases]].concat());
    assert_eq!(std::fs::read_to_string(&cases).unwrap(), lines);

    // A file that cannot be added to is refused before anything is scored.
    let spoilt = lab.path("spoilt.jsonl");
    std::fs::write(&spoilt, format!("{lines}{{}}\n")).unwrap();
    let ask_elsewhere = ["forecast", &run_path, "--eval-command", "exit 3 {checkpoint} {out}", "--truth", &truth];
    let said = lab.transcript(&[&ask_elsewhere[..], &["--save-cases", &spoilt]].concat());
    assert!(said.contains("spoilt.jsonl`, line 2: ") && !said.contains("exit status"), "{said}");

    let (_, learned) = lab.json(&[&ask[..], &["--calibrate", &cases]].concat());
    let row = &learned["forecasts"][0];
    assert!(row["rests_on"].as_str().unwrap().contains("of your own"));
    // Having seen this very anneal, it comes closer to it.
    let off = |row: &Value| (number(&row["value"]) - number(&saved["forecasts"][0]["truth"])).abs();
    assert!(off(row) <= off(&plain["forecasts"][0]), "{row}");
}

#[test]
fn a_run_that_supports_no_forecast_is_told_why() {
    let lab = Lab::new();
    let (run_path, suite) = (lab.path("run"), lab.path("test.toml"));
    let ask = |run: &str, more: &[&str]| lab.transcript(&[&["forecast", run, "--suite", &suite], more].concat());
    let two = lab.path("two");
    std::fs::create_dir(&two).unwrap();
    for step in [156, 160] {
        copy_folder(&Path::new(&run_path).join(format!("step-{step}")), &Path::new(&two).join(format!("step-{step}")));
    }
    insta::assert_snapshot!(ask(&two, &["--stable", "8..160", "--anneal-steps", "48"]), @"
    exit 1
    --- stdout
    no forecast: 2 checkpoints are in the last 48 steps to step 160, but a forecast needs 6
    choose a longer anneal, or save checkpoints more often
    --- stderr
    ");
    let short = ask(&run_path, &["--anneal-steps", "8"]);
    assert!(short.contains("but a forecast needs 6, which the last 21 steps have"), "{short}");
    insta::assert_snapshot!(ask(&two, &["--anneal-steps", "48"]), @"
    exit 1
    --- stdout
    no forecast: cannot tell where the learning rate is constant: the log has no learning rate
    state it with `--stable FROM..TO`, or give the log with `--log FILE`
    --- stderr
    ");
    let log = lab.path("no-rate.csv");
    let rows: String = (1..=STEPS).map(|step| format!("{step},{}\n", 6.0 - 0.01 * step as f64)).collect();
    std::fs::write(&log, format!("step,loss\n{rows}")).unwrap();
    // A run of the lab says in `thalweg.toml` where its stable phase is; other trainers' runs do not.
    std::fs::rename(Path::new(&run_path).join("thalweg.toml"), lab.path("aside.toml")).unwrap();
    insta::assert_snapshot!(ask(&run_path, &["--anneal-steps", "48", "--log", &log]), @"
    exit 1
    --- stdout
    no forecast: cannot tell where the learning rate is constant: the log has no learning rate
    state it with `--stable FROM..TO`, or give the log with `--log FILE`
    --- stderr
    ");
    std::fs::rename(lab.path("aside.toml"), Path::new(&run_path).join("thalweg.toml")).unwrap();
    let whole = lab.path("whole");
    lab.train("whole", STEPS, 40, "");
    insta::assert_snapshot!(ask(&whole, &["--anneal-steps", "48"]), @"
    exit 1
    --- stdout
    no forecast: step 160 is after the stable phase, which ends at step 120: the run is already annealed
    choose an earlier end with `--end-step`, or score the annealed checkpoint directly
    --- stderr
    ");
    insta::assert_snapshot!(ask(&run_path, &["--anneal-steps", "158"]), @"
    exit 1
    --- stdout
    no forecast: an anneal of 158 steps to step 160 would begin before the stable phase, which begins at step 8
    choose a shorter anneal or a later end
    --- stderr
    ");
    insta::assert_snapshot!(ask(&run_path, &["--anneal-steps", "48", "--anneal", "cosine"]), @"
    exit 1
    --- stdout
    no forecast: none of the anneals that the forecast learned from has the shape `cosine`
    give cases of your own anneals with `--calibrate FILE` (`--save-cases` writes them)
    --- stderr
    ");
    insta::assert_snapshot!(ask(&run_path, &["--end-step", "157"]), @"
    exit 2
    --- stdout
    --- stderr
    error: there is no finished checkpoint at step 157
    hint: the newest are at 132, 136, 140, 144, 148, 152, 156, 160
    ");
    insta::assert_snapshot!(ask(&run_path, &["--anneal-floor", "2"]), @"
    exit 2
    --- stdout
    --- stderr
    error: `--anneal-floor 2` is not between 0 and 1
    ");
}

#[test]
fn explain_writes_a_page_with_each_layer() {
    let lab = Lab::new();
    let out = lab.path("geometry");
    let (code, printed) = lab.json(&["explain", &lab.path("run"), "--count", "6", "--interval-steps", "8", "-o", &out]);
    assert_eq!(code, 0);
    let record: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("study.json")).unwrap()).unwrap();
    assert_eq!(record["geometry"]["steps"], serde_json::json!([120, 128, 136, 144, 152, 160]));
    assert_eq!(record["geometry"]["displacements"], printed["model"]["displacements"]);
    let page = std::fs::read_to_string(Path::new(&out).join("report.html")).unwrap();
    assert!(page.contains("layer 0") && page.contains("random walk"), "{page}");
}

#[test]
fn a_page_shows_what_to_resume_from_after_a_spike_that_lasts() {
    let lab = Lab::new();
    let write_log = |end: u64| {
        let lift = |step: u64| f64::from(u8::from((130..end).contains(&step)));
        let loss = |step: u64| 4.0 - 0.005 * step as f64 + 0.01 * (step * 7 % 5) as f64 + lift(step);
        let rows: String = (1..=STEPS).map(|step| format!("{step},{},0.02\n", loss(step))).collect();
        std::fs::write(lab.path("spiked.csv"), format!("step,loss,lr\n{rows}")).unwrap();
    };
    write_log(u64::MAX);
    let (run_path, suite, log, out) = (lab.path("run"), lab.path("test.toml"), lab.path("spiked.csv"), lab.path("out"));
    lab.json(&["forecast", &run_path, "--suite", &suite, "--anneal-steps", "48", "--log", &log, "-o", &out]);
    let record: Value = serde_json::from_slice(&std::fs::read(Path::new(&out).join("study.json")).unwrap()).unwrap();
    assert_eq!((&record["spikes"][0]["onset"], &record["spikes"][0]["end"]), (&130.into(), &Value::Null));
    assert_eq!(record["recovery"], serde_json::json!([120, 124, 128]));
    write_log(136);
    let healed = lab.path("healed");
    lab.json(&["forecast", &run_path, "--suite", &suite, "--anneal-steps", "48", "--log", &log, "-o", &healed]);
    let record: Value = serde_json::from_slice(&std::fs::read(Path::new(&healed).join("study.json")).unwrap()).unwrap();
    assert_eq!((&record["spikes"][0]["end"], &record["recovery"]), (&136.into(), &serde_json::json!([])));
}
