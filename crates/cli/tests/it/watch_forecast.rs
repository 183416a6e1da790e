//! Forecasts of a run that is watched: the numbers of `thalweg forecast`, on the page and in TensorBoard's file.

use std::path::Path;

use serde_json::Value;

use crate::lab::Lab;
use crate::serve::Serving;
use crate::support::run;

const LENGTH: [&str; 3] = ["--forecast", "--anneal-steps", "48"];

/// `watch --once` with more options: exit code, document, standard error.
fn watch(lab: &Lab, more: &[&str]) -> (i32, Value, String) {
    let (run_path, out, suite) = (lab.path("run"), lab.path("out"), lab.path("validation.toml"));
    let fixed = ["watch", &run_path, "-o", &out, "--once", "--json", "--windows", "sma:6", "--suite", &suite];
    let output = run(&[&fixed, more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), stderr)
}

fn forecasts(document: &Value) -> Vec<&Value> {
    let rows = document["scored"].as_array().unwrap();
    rows.iter().filter(|row| row["event"] == "forecast").collect()
}

fn page(lab: &Lab) -> String {
    let out = lab.path("out");
    assert!(run(&["report", &out, "-q"]).status.success());
    std::fs::read_to_string(Path::new(&out).join("report.html")).unwrap()
}

#[test]
fn each_end_has_the_forecast_of_thalweg_forecast_and_a_real_anneal_is_compared_with_it() {
    let lab = Lab::new();
    let (run_path, suite, out, told) =
        (lab.path("run"), lab.path("validation.toml"), lab.path("out"), lab.path("told"));
    let ends = ["--ends", "152,160"];
    let notify = format!("cat >> {told}");
    let target = ["--target", "1000", "--notify-command", &notify];
    let (code, document, stderr) = watch(&lab, &[ends.as_slice(), &LENGTH, &target].concat());
    assert_eq!(code, 0, "{stderr}");
    let rows = forecasts(&document);
    assert_eq!(rows.len(), 1, "the newest end: {document}");
    let ask = ["forecast", &run_path, "--suite", &suite, "--anneal-steps", "48"];
    let (_, alone) = lab.json(&ask);
    assert_eq!(rows[0]["forecasts"], alone["forecasts"]);
    assert_eq!(rows[0]["proposal"], alone["window"]);
    assert!(page(&lab).contains("if annealed now"));
    let messages: Vec<Value> =
        std::fs::read_to_string(&told).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let crossing = messages.iter().find(|one| one["event"] == "forecast-target").unwrap();
    assert_eq!(crossing["crossing"]["forecast"], alone["forecasts"][0]);

    // Nothing is forecast again; a real anneal that comes later is scored, and compared.
    let before = std::fs::read_to_string(Path::new(&out).join("watch.jsonl")).unwrap();
    watch(&lab, &[ends.as_slice(), &LENGTH, &target].concat());
    assert_eq!(std::fs::read_to_string(Path::new(&out).join("watch.jsonl")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(&told).unwrap().lines().count(), messages.len(), "told once");
    lab.train("annealed", 160, 48, "[start]\nfrom = \"run/step-112\"\nstate = \"full\"\n");
    let truth = format!("160:{}/step-160", lab.path("annealed"));
    let (code, document, stderr) = watch(&lab, &[ends.as_slice(), &LENGTH, &["--truth", &truth]].concat());
    assert_eq!((code, document["scored"][0]["scheme"].as_str()), (0, Some("annealed")), "{stderr}");
    let reached = document["scored"][0]["scores"][0]["value"].as_f64().unwrap();
    let [low, high] = [0, 1].map(|i| alone["forecasts"][0]["interval_80"][i].as_f64().unwrap());
    let n_within = usize::from((low..=high).contains(&reached));
    let text = page(&lab);
    assert!(text.contains(&format!("Calibration so far: {n_within} of 1 real anneal within the 80 % interval")));
    assert!(text.contains(&format!("{reached:.4}")));
    compare_two(&lab);
    // TensorBoard's file has the forecast and its intervals at the step.
    let events = std::fs::read(Path::new(&out).join("tensorboard/events.out.tfevents.0.thalweg")).unwrap();
    for (tag, value) in [("", &alone["forecasts"][0]["value"]), ("/high-95", &alone["forecasts"][0]["interval_95"][1])]
    {
        let columns = format!("loss=forecast/stories/nats_per_token{tag}").parse().unwrap();
        let log = thalweg_trajectory::parse_event_file(&events, &columns).unwrap();
        let curve: Vec<(u64, f64)> = log.losses().map(|(step, value)| (step.0, value)).collect();
        let value = value.as_f64().unwrap();
        assert!(curve.len() == 1 && curve[0].0 == 160 && (curve[0].1 - value).abs() < 1e-6, "{tag}: {curve:?} {value}");
    }
}

/// Does one request as a worker would, by the suite; whether there was one.
fn work(evals: &Path, suite: &str) -> bool {
    let folders = std::fs::read_dir(evals).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_open = |folder: &std::path::PathBuf| {
        folder.join("eval_request.json").exists() && !folder.join("eval_result.json").exists()
    };
    let Some(folder) = folders.filter(is_open).min() else { return false };
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let checkpoint = read("checkpoint_manifest.json")["checkpoint_dir"].as_str().unwrap().to_owned();
    let output = run(&["eval", &checkpoint, "--suite", suite, "--json", "-q"]);
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    let scores = scores["scores"].as_array().unwrap().iter();
    let rows: Vec<Value> = scores
        .map(|one| {
            let task = format!("{}/{}", one["task"].as_str().unwrap(), one["measure"].as_str().unwrap());
            serde_json::json!({"task": task, "value": one["value"], "higher_is_better": one["higher_is_better"]})
        })
        .collect();
    std::fs::write(folder.join("results.json"), serde_json::to_vec(&rows).unwrap()).unwrap();
    std::fs::write(folder.join("eval_result.tmp"), r#"{"return_code": 0, "started_at": 1, "finished_at": 2}"#).unwrap();
    std::fs::rename(folder.join("eval_result.tmp"), folder.join("eval_result.json")).unwrap();
    true
}

#[test]
fn a_worker_elsewhere_scores_what_is_behind_a_forecast() {
    let lab = Lab::new();
    let (run_path, out, evals, suite) =
        (lab.path("run"), lab.path("out"), lab.path("evals"), lab.path("validation.toml"));
    let fixed = ["watch", &run_path, "-o", &out, "--once", "--json", "--windows", "sma:6", "--ends", "160"];
    let scoring = ["--eval-command", "score {checkpoint} {out}", "--eval-requests", &evals, "--eval-timeout", "20ms"];
    let watch = || {
        let output = run(&[&fixed[..], &scoring, &LENGTH].concat());
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), document)
    };
    let mut n_requests = 0;
    let document = loop {
        let (code, document) = watch();
        if code == 0 {
            break document;
        }
        assert!(n_requests < 20, "{document}");
        while work(Path::new(&evals), &suite) {
            n_requests += 1;
        }
    };
    // The raw checkpoint, the merge, and three means behind the forecast.
    assert_eq!(n_requests, 5);
    let (_, alone) = lab.json(&["forecast", &run_path, "--suite", &suite, "--anneal-steps", "48"]);
    let found = &forecasts(&document)[0]["forecasts"][0];
    assert_eq!(found["value"], alone["forecasts"][0]["value"], "{document}");
    assert_eq!(watch().1["scored"].as_array().unwrap().len(), 0, "nothing is asked for again");
    let is_left = |entry: std::fs::DirEntry| entry.path().join("checkpoint").exists();
    assert!(!std::fs::read_dir(&evals).unwrap().any(|entry| is_left(entry.unwrap())), "the means are removed");
}

/// The same run twice: as if annealed, the two cannot be told apart.
fn compare_two(lab: &Lab) {
    let both = lab.path("both");
    for name in ["a", "b"] {
        let copy = Path::new(&both).join(name);
        std::fs::create_dir_all(&copy).unwrap();
        std::fs::create_dir(copy.join("forecast-items")).unwrap();
        for file in ["watch.jsonl", "watch-run.json", "forecast-items/step0000160.json"] {
            std::fs::copy(Path::new(&lab.path("out")).join(file), copy.join(file)).unwrap();
        }
    }
    let (code, document) = lab.json(&["report", &both]);
    let found = &document["comparisons"][0];
    assert_eq!((code, &document["kind"], &found["unit"]), (0, &"thalweg-comparison".into(), &"tokens".into()));
    let verdicts: Vec<&str> = [0, 1].iter().map(|i| found["runs"][i]["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["best", "cannot be told apart"], "{document}");
    assert_eq!(found["runs"][1]["gain_over_best"]["value"], 0.0);
    let n_items = found["runs"][1]["n_paired_items"].as_u64().unwrap();
    assert!(n_items > 1, "{document}");
    let page = Serving::start(Path::new(&both), &[]).get("/").body;
    assert!(page.contains(&format!("cannot be told apart ({n_items} items paired)")), "{page}");
    // What is no longer the values of this forecast is not paired.
    let items = Path::new(&both).join("a/forecast-items/step0000160.json");
    let text = std::fs::read_to_string(&items).unwrap();
    std::fs::write(&items, text.replace("\"end_step\":160", "\"end_step\":150")).unwrap();
    let (_, document) = lab.json(&["report", &both]);
    assert_eq!(document["comparisons"][0]["runs"][1]["n_paired_items"], Value::Null, "{document}");
    assert!(page.contains("If all were annealed at equal tokens") && page.contains("cannot be told apart"), "{page}");
    assert_eq!(run(&["report", &both, "-o", &lab.path("page.html")]).status.code(), Some(2));
}

#[test]
fn why_there_is_no_forecast_is_said_once_and_options_without_it_are_refused() {
    let lab = Lab::new();
    let (code, document, _) = watch(&lab, &["--ends", "160", "--forecast", "--anneal-steps", "12"]);
    let reasons = forecasts(&document)[0]["refused"].as_array().unwrap().clone();
    assert_eq!((code, reasons.len()), (0, 1), "{document}");
    assert!(reasons[0].as_str().unwrap().contains("a forecast needs 6"), "{reasons:?}");
    assert!(page(&lab).contains("a forecast needs 6"));
    let (_, document, _) = watch(&lab, &["--ends", "160", "--forecast", "--anneal-steps", "12"]);
    assert!(forecasts(&document).is_empty());
    for (more, said) in [
        (vec!["--anneal-steps", "48"], "nothing is forecast without `--forecast`"),
        (vec!["--forecast", "--truth", "160"], "write STEP:CKPT"),
        (vec!["--target", "2"], "--forecast"),
    ] {
        let (code, _, stderr) = watch(&lab, &more);
        assert!(code == 2 && stderr.contains(said), "{more:?}: {stderr}");
    }
}
