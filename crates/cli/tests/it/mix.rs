//! `thalweg mix`: components from one base, their check, a search by merging, and its validation.

use serde_json::{Value, json};
use thalweg_testkit::Scratch;

use crate::support::{check, root, run_in};

/// A base, two components that the plan's configs train from it, and a suite.
fn lab() -> Scratch {
    let scratch = Scratch::new();
    let line = |text: String| format!("{}\n", json!({"text": text}));
    let code: String =
        (0..40).map(|i| line(format!("fn f{i}(x: u32) {{ return x + {i}; }} fn g{i}() {{ f{i}(1); }}"))).collect();
    std::fs::write(scratch.path().join("code.jsonl"), code).unwrap();
    let config = "kind = \"thalweg-train\"\nversion = 1\nseed = 3\nsteps = 8\nsequence_length = 32\nbatch_sequences = 2\n\
         tokenizer = \"bpe-512\"\n[model]\nhidden = 16\nlayers = 1\nheads = 2\nintermediate = 16\n\
         [[data]]\nfrom = \"stories\"\nlimit = 100\n[[data]]\nname = \"code\"\nfrom = \"code.jsonl\"\n\
         [optimizer]\nlearning_rate = 0.01\n[schedule]\nkind = \"constant\"\nwarmup_steps = 2\n[checkpoints]\nevery_steps = 8\n";
    std::fs::write(scratch.path().join("lab.toml"), config).unwrap();
    check(&scratch, "train lab.toml -o base -q", 0, &[]);
    let stories = root().join("corpora/stories/validation.jsonl.zst");
    let suite = format!(
        "kind = \"thalweg-suite\"\nversion = 1\nname = \"s\"\nrole = \"selection\"\ncontext_length = 32\n\
         start = \"<|endoftext|>\"\n[[task]]\nname = \"stories\"\nkind = \"text\"\nfile = {stories:?}\nlimit = 8\n\
         cut_tokens = 32\nmeasures = [\"nats_per_token\"]\n[[task]]\nname = \"code\"\nkind = \"text\"\nfile = \"code.jsonl\"\n\
         limit = 8\ncut_tokens = 32\nmeasures = [\"nats_per_token\"]\n"
    );
    std::fs::write(scratch.path().join("suite.toml"), suite).unwrap();
    scratch
}

fn json_of(scratch: &Scratch, line: &str, code: i32) -> Value {
    let output = run_in(scratch, &format!("{line} --json -q"));
    assert_eq!(output.status.code(), Some(code), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn from_a_plan_to_a_region_and_its_validation() {
    let scratch = lab();
    let plan = json_of(
        &scratch,
        "mix plan --config lab.toml --base base/step-8 --general stories --tokens 512 --proxies 24 --score-tokens 12 -o parts",
        0,
    );
    // Two components of 512 tokens, eight steps of 64 each, and 24 scores of 12.
    assert_eq!(
        (&plan["component_tokens_total"], &plan["merged_total"], &plan["trained_total"]),
        (&1024.into(), &1312.into(), &12288.into())
    );
    assert_eq!(
        (&plan["break_even_proxies"], &plan["components"][1]["data_shares"]),
        (&3.into(), &json!({"code": 0.5, "stories": 0.5}))
    );
    for name in ["stories", "code"] {
        check(&scratch, &format!("train parts/{name}.toml -o parts/{name} -q"), 0, &[]);
        assert!(scratch.path().join(format!("parts/{name}/step-16/model.safetensors")).exists());
    }
    check(
        &scratch,
        "mix plan --config lab.toml --base base/step-8 --tokens 512 -o parts",
        0,
        &["50 % code, 50 % stories", "thalweg train parts/code.toml -o parts/code"],
    );

    let parts = "--component stories=parts/stories/step-16 --component code=parts/code/step-16";
    let checked = json_of(&scratch, &format!("mix check --base base/step-8 {parts} --suite suite.toml"), 0);
    let components = checked["components"].as_array().unwrap();
    assert!(number(&components[0]["size"]) > 0.0 && number(&components[0]["size"]) < 0.5, "{checked}");
    assert_eq!(components[0]["cosines"]["code"], components[1]["cosines"]["stories"]);
    let midpoint = &checked["midpoints"][0];
    let worse = number(&midpoint["ends"][0]).max(number(&midpoint["ends"][1]));
    assert!((number(&midpoint["barrier"]) - (number(&midpoint["midpoint"]) - worse)).abs() < 1e-12);

    let search =
        format!("mix search {parts} --general stories --suite suite.toml --n 10 --rounds 2 --seed 1 -o trials.jsonl");
    let found = json_of(&scratch, &search, 0);
    let trials: Vec<Value> = std::fs::read_to_string(scratch.path().join("trials.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(found["n_trials"], trials.len());
    for trial in &trials {
        let (general, code) = (number(&trial["coefficients"]["stories"]), number(&trial["coefficients"]["code"]));
        assert!((general + code - 1.0).abs() < 1e-12);
        assert!((number(&trial["data_shares"]["stories"]) - (general + code / 2.0)).abs() < 1e-12);
    }
    let names: Vec<&str> =
        found["models"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["region", "uniform", "best single", "best sampled"]);
    let rows = found["region"].as_array().unwrap();
    let quantiles = |row: &Value| (0..3).map(|i| number(&row["coefficient_quantiles"][i])).collect::<Vec<_>>();
    assert!(rows.iter().all(|row| quantiles(row).is_sorted()));
    assert!((rows.iter().map(|row| number(&row["coefficient"])).sum::<f64>() - 1.0).abs() < 1e-6);
    let before = std::fs::read(scratch.path().join("trials.jsonl")).unwrap();
    json_of(&scratch, &search, 0);
    assert_eq!(std::fs::read(scratch.path().join("trials.jsonl")).unwrap(), before, "a seed decides everything");

    // A trial scores what the same merge on disk scores.
    let uniform = trials.iter().find(|trial| trial["coefficients"]["code"] == 0.5).unwrap();
    check(&scratch, "merge -m parts/stories/step-16 -m parts/code/step-16 -o half -q", 0, &[]);
    let scored = json_of(&scratch, "eval half --suite suite.toml", 0);
    let code = scored["scores"].as_array().unwrap().iter().find(|row| row["task"] == "code").unwrap();
    assert!((number(&code["value"]) - number(&uniform["measures"]["code/nats_per_token"])).abs() < 1e-6);

    // Trials validated by themselves agree; as references for `--mixtures` they are scored again.
    let agreed = json_of(&scratch, "mix validate --trials trials.jsonl --references trials.jsonl", 0);
    for row in agreed["rows"].as_array().unwrap() {
        assert!((number(&row["spearman"]) - 1.0).abs() < 1e-12 && (number(&row["recovery"]) - 1.0).abs() < 1e-12);
    }
    let again = json_of(
        &scratch,
        &format!("mix search {parts} --general stories --suite suite.toml --mixtures trials.jsonl -o again.jsonl"),
        0,
    );
    assert!(again["n_trials"].as_u64() >= Some(trials.len() as u64 - 1));
    check(
        &scratch,
        "mix validate --trials again.jsonl --references trials.jsonl",
        0,
        &["code/nats_per_token", "1.000", "mean"],
    );
    let by_mean = json_of(&scratch, &format!("{search} --objective mean"), 0);
    assert_eq!((&by_mean["objective"], &found["objective"]), (&"mean".into(), &"rank".into()));
    check(&scratch, &search, 0, &["the region's mean gains", "data share", "mix validate --trials trials.jsonl"]);
}

#[test]
fn mistakes_about_mixtures_are_named_with_what_to_do() {
    let scratch = lab();
    let plan = "mix plan --domains web,code --tokens 1M";
    check(&scratch, plan, 0, &["web", "cannot be predicted"]);
    check(&scratch, &format!("{plan} --beta 1"), 2, &["`--beta 1` is not a share", "0.5"]);
    check(&scratch, &format!("{plan} --general text"), 2, &["`text` is not one of the components", "`web`, `code`"]);
    check(&scratch, &format!("{plan} --score-tokens 1M"), 0, &["merging never pays"]);
    // Two components of 1M against 0.5M for each mixture: four cost the same, five cost more.
    check(&scratch, &format!("{plan} --proxy-tokens 500K"), 0, &["merging is cheaper for 5 mixtures or more", "56M"]);
    check(&scratch, "mix plan --tokens 1M", 2, &["there are no data sets", "--domains"]);
    check(
        &scratch,
        "mix plan --config lab.toml --domains stories,math --base base/step-8 --tokens 1K -o parts",
        2,
        &["no data set `math`", "`stories`, `code`"],
    );
    // The base serves as a component without training.
    check(&scratch, "mix check --base base/step-8 --component a=base/step-8", 1, &["refuse", "`a` is the base itself"]);
    check(
        &scratch,
        "mix check --base base/step-8 --component base/step-8",
        2,
        &["is not a name and a path", "--component web=CKPT"],
    );
    let search =
        "mix search --component a=base/step-8 --component b=base/step-8 --general a --suite suite.toml -o trials.jsonl";
    check(&scratch, &search.replace("--suite suite.toml ", ""), 2, &["--suite FILE"]);
    check(&scratch, &search.replace("b=base", "a=base"), 2, &["two components named `a`"]);
    check(&scratch, &format!("{search} --n 2"), 2, &["`--n` is at least 5"]);
    for size in ["--n 18446744073709551615", "--n 6000", "--rounds 18446744073709551615"] {
        check(&scratch, &format!("{search} {size}"), 2, &["is too large", "at most 10000 mixtures"]);
    }
    check(
        &scratch,
        &search.replace("-o trials.jsonl", "-o lab.toml"),
        2,
        &["exists and is not a file of scored mixtures"],
    );
    let write = |text: &str| std::fs::write(scratch.path().join("runs.jsonl"), text).unwrap();
    for (text, why) in [
        ("", "`runs.jsonl` has no mixtures"),
        ("{\"data_shares\": {\"a\": 0.5}}\n", "`runs.jsonl`, line 1: `data_shares` sum to 0.5"),
        ("\n{\"measures\": {}}\n", "line 2: it has neither"),
        ("{\"data_shares\": {\"a\": 1}, \"measures\": {\"x\": NaN}}\n", "line 1:"),
    ] {
        write(text);
        check(
            &scratch,
            "mix validate --trials runs.jsonl --references runs.jsonl",
            2,
            &[why, "each line is one mixture"],
        );
    }
    write("{\"data_shares\": {\"a\": 0.25, \"b\": 0.75}}\n");
    check(&scratch, &format!("{search} --mixtures runs.jsonl"), 2, &["is below `--beta 0.5`"]);
    write("{\"data_shares\": {\"a\": 0.25, \"c\": 0.75}}\n");
    check(&scratch, &format!("{search} --mixtures runs.jsonl"), 2, &["there is no component `c`"]);
    write("{\"data_shares\": {\"a\": 1}, \"measures\": {\"x/loss\": 1}}\n");
    check(
        &scratch,
        "mix validate --trials runs.jsonl --references runs.jsonl",
        2,
        &["1 of 1 references", "--mixtures"],
    );
}
