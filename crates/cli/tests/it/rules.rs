//! `merge --rule`: what is written, what is refused, and what a recipe of mergekit becomes.

use std::fs;
use std::path::Path;

use crate::support::run;

const EXPERTS: &str = "fixtures/expert-rules";

fn thalweg(arguments: &[&str]) -> (i32, String, String) {
    let output = run(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// `merge --rule RULE --base BASE` of two experts into `out`, with more arguments.
fn merge(rule: &str, out: &Path, more: &[&str]) -> (i32, String, String) {
    let (base, a, b) = (format!("{EXPERTS}/base"), format!("{EXPERTS}/a:1"), format!("{EXPERTS}/b:0.5"));
    let fixed = ["merge", "--rule", rule, "--base", &base, "-m", &a, "-m", &b, "-o", out.to_str().unwrap()];
    thalweg(&[&fixed[..], more].concat())
}

fn model(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn a_merge_by_a_rule_carries_it_whole_and_verifies() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let (code, stdout, stderr) =
        merge("dare-ties", &out, &["--density", "0.25", "--seed", "5", "--lambda", "0.8", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let rule = &document["outputs"][0]["rule"];
    let expected = serde_json::json!({
        "kind": "dare-ties", "convention": "paper", "base": 0, "lambda": "0.8", "densities": [0.25, 0.25],
        "seed": 5, "divide": true, "rescale": "inverse",
    });
    assert_eq!(rule, &expected);
    let receipt: serde_json::Value = serde_json::from_slice(&fs::read(out.join("thalweg.json")).unwrap()).unwrap();
    assert_eq!(receipt["plan"]["rule"], expected);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("2 experts merged with their base by the rule `dare-ties:0.25`"), "{card}");
    assert_eq!(thalweg(&["verify", out.to_str().unwrap(), "--inputs"]).0, 0);
    let (_, again, _) = merge("dare-ties", &out, &["--density", "0.25", "--seed", "5e0", "--lambda", "0.8"]);
    assert!(again.contains("already holds the result of this plan"), "{again}");
    let (code, stdout, _) =
        merge("dare-ties", &scratch.path().join("other"), &["--density", "0.25", "--lambda", "0.8"]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("merged 2 experts and their base by dare-ties:0.25 into"), "{stdout}");
    assert!(stdout.contains("distance to the base: "), "{stdout}");
    assert_ne!(model(&out), model(&scratch.path().join("other")), "another seed draws another mask");
}

#[test]
fn a_plan_and_a_recipe_of_mergekit_give_the_bytes_of_the_command() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    assert_eq!(merge("ties", &at("direct"), &["--convention", "mergekit", "--density", "0.3,0.6"]).0, 0);
    let (base, a, b) = (format!("{EXPERTS}/base"), format!("{EXPERTS}/a:1"), format!("{EXPERTS}/b:0.5"));
    let (plan, out) = (at("plan.json"), at("planned"));
    let (plan, out) = (plan.to_str().unwrap(), out.to_str().unwrap());
    let options = ["--rule", "ties", "--convention", "mergekit", "--density", "0.3,0.6"];
    let models = ["--base", &base, "-m", &a, "-m", &b, "-o", plan];
    assert_eq!(thalweg(&[&["plan"], &options[..], &models[..]].concat()).0, 0);
    assert_eq!(thalweg(&["merge", "--plan", plan, "-o", out]).0, 0);
    assert_eq!(model(&at("direct")), model(&at("planned")));
    let recipe = format!(
        "merge_method: ties\nbase_model: {EXPERTS}/base\nmodels:\n  - model: {EXPERTS}/a\n    parameters: {{weight: 1, density: \
         0.3}}\n  - model: {EXPERTS}/b\n    parameters: {{weight: 0.5, density: 0.6}}\ndtype: float32\n"
    );
    fs::write(at("ties.yml"), recipe).unwrap();
    let (code, _, stderr) = thalweg(&["merge", at("ties.yml").to_str().unwrap(), at("recipe").to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("rule = \"ties\""), "{stderr}");
    assert_eq!(model(&at("direct")), model(&at("recipe")));
    // What the note shows is a recipe too.
    let native = stderr.split_once("kind = ").map(|(_, rest)| format!("kind = {rest}")).unwrap();
    let native: String = native.lines().take_while(|line| !line.starts_with("note")).collect::<Vec<_>>().join("\n");
    fs::write(at("native.toml"), native).unwrap();
    let (code, _, stderr) = thalweg(&["merge", at("native.toml").to_str().unwrap(), at("native").to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(model(&at("direct")), model(&at("native")));
}

#[test]
fn every_rule_runs_from_the_command_line() {
    let scratch = tempfile::tempdir().unwrap();
    let rules = [
        "task-arithmetic",
        "ties",
        "dare",
        "dare-ties",
        "della",
        "della-linear",
        "breadcrumbs",
        "breadcrumbs-ties",
        "multi-slerp",
        "karcher",
    ];
    for rule in rules {
        let (code, _, stderr) = merge(rule, &scratch.path().join(rule), &[]);
        assert_eq!(code, 0, "{rule}: {stderr}");
    }
    let (base, a, b) = (format!("{EXPERTS}/base"), format!("{EXPERTS}/a"), format!("{EXPERTS}/b"));
    for (rule, experts) in [("slerp", vec!["-m", &a]), ("model-stock", vec!["-m", &a, "-m", &b])] {
        let out = scratch.path().join(rule);
        let fixed = ["merge", "--rule", rule, "--base", &base, "-o", out.to_str().unwrap()];
        let (code, _, stderr) = thalweg(&[&fixed[..], &experts].concat());
        assert_eq!(code, 0, "{rule}: {stderr}");
    }
}

#[test]
fn each_parameter_reaches_the_plan() {
    let scratch = tempfile::tempdir().unwrap();
    let rule_of = |rule: &str, more: &[&str]| {
        let out = scratch.path().join(format!("{rule}{}", more.concat()));
        let (code, stdout, stderr) = merge(rule, &out, &[more, &["--json"]].concat());
        assert_eq!(code, 0, "{stderr}");
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        document["outputs"][0]["rule"].clone()
    };
    assert_eq!(rule_of("breadcrumbs", &["--gamma", "0.05"])["gamma"], 0.05);
    assert_eq!(rule_of("della", &["--epsilon", "1/5"])["epsilon"], 0.2);
    assert_eq!(rule_of("ties", &["--divide", "no"])["divide"], false);
    assert_eq!(rule_of("dare", &["--rescale", "none"])["rescale"], "none");
    assert_eq!(rule_of("dare", &["--convention", "mergekit"])["rescale"], "l1");
}

#[test]
fn requests_that_mean_nothing_are_refused_with_a_way_on() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let refused = |rule: &str, more: &[&str]| {
        let (code, _, stderr) = merge(rule, &out, more);
        assert_eq!(code, 2, "{stderr}");
        assert!(!out.exists());
        stderr
    };
    assert!(refused("tise", &[]).contains("did you mean `ties`?"));
    assert!(refused("ties", &["--density", "1.5"]).contains("the density of `ties` must be between 0 and 1"));
    assert!(refused("ties", &["--seed", "1"]).contains("`ties` has no seed"));
    assert!(refused("karcher", &["--density", "0.5"]).contains("`karcher` has no density"));
    assert!(refused("slerp", &[]).contains("`slerp` merges 1 expert with the base, not 2"));
    let tiny = format!("{EXPERTS}/a:1e-400");
    assert!(refused("ties", &["-m", &tiny]).contains("a coefficient of `ties` must be 0, or between 1e-100 and 1e100"));
    assert!(refused("model-stock", &[]).contains("weights all experts equally"));
    assert!(refused("ties", &["--scheme", "wma"]).contains("`-m CKPT:COEF`"));
    let base = format!("{EXPERTS}/base");
    let (a, b) = (format!("{EXPERTS}/a"), format!("{EXPERTS}/b"));
    let (code, _, stderr) = thalweg(&["merge", "--rule", "ties", &a, &b, "-o", out.to_str().unwrap()]);
    assert!(code == 2 && stderr.contains("`--base CKPT`"), "{stderr}");
    let (code, _, stderr) = thalweg(&["merge", "--base", &base, &a, &b, "-o", out.to_str().unwrap()]);
    assert!(code == 2 && stderr.contains("`--rule ties`"), "{stderr}");
}
