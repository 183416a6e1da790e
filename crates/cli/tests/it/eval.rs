//! `thalweg eval`: scores, gains, mistakes, another evaluator.

use std::path::Path;

use serde_json::Value;

use crate::support::{program, root, run, transcript};

const MODEL: &str = "fixtures/stories260K";
const SUITE: &str = "examples/suites/quick.toml";

/// A copy of the fixture model whose parameters are F32 bytes changed by `change`.
fn copy_of_model(folder: &Path, change: impl Fn(usize, f32) -> f32) -> String {
    std::fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(root().join(MODEL).join(name), folder.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(root().join(MODEL).join("model.safetensors")).unwrap();
    let header_bytes = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    for (i, param) in bytes[8 + header_bytes..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *param = change(i, f32::from_le_bytes(*param)).to_le_bytes();
    }
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn disturbed(folder: &Path) -> String {
    copy_of_model(folder, |i, param| param * if i % 2 == 0 { 1.04 } else { 0.96 })
}

#[test]
fn eval_shows_scores_and_gains_and_a_rerun_comes_from_the_cache() {
    let scratch = tempfile::tempdir().unwrap();
    let worse = disturbed(&scratch.path().join("worse"));
    let cache = scratch.path().join("cache");
    let command = ["eval", &worse, MODEL, "--suite", SUITE, "--cache", cache.to_str().unwrap(), "-q"];
    let first = transcript(&command, scratch.path());
    insta::assert_snapshot!(first, @"
    exit 0
    --- stdout
    suite `quick`, context of 512 tokens

    [OUT]/worse
      task                 measure              value  std. err.   items
      stories              bits_per_byte       0.8647     0.0495      16
      stories              nats_per_token      1.2442     0.0589      16
      next-sentence        bits_per_byte       0.8130     0.0697      24
      last-word            acc                 0.2083     0.0847      24
      last-word            perplexity         67.5178    52.1713      24
      zorro                acc                 0.5417     0.0457     120

    fixtures/stories260K
      task                 measure              value  std. err.   items
      stories              bits_per_byte       0.8482     0.0505      16
      stories              nats_per_token      1.2204     0.0608      16
      next-sentence        bits_per_byte       0.7909     0.0664      24
      last-word            acc                 0.2083     0.0847      24
      last-word            perplexity         68.5593    51.8540      24
      zorro                acc                 0.5250     0.0458     120

    gain of fixtures/stories260K
    over [OUT]/worse (positive is better)
      task                 measure               gain  95 % interval          p (Holm)
      stories              bits_per_byte      +0.0166  [+0.0104, +0.0228]      < 0.001
      stories              nats_per_token     +0.0239  [+0.0149, +0.0328]      < 0.001
      next-sentence        bits_per_byte      +0.0221  [+0.0094, +0.0348]        0.006
      last-word            acc                +0.0000  [+0.0000, +0.0000]        1.000
      last-word            perplexity         -1.0415  [-10.9297, +8.8468]       1.000
      zorro                acc                -0.0167  [-0.0497, +0.0163]        0.958
      mean of 2 tasks      bits_per_byte      +0.0193  [+0.0124, +0.0263]            -
      mean of 2 tasks      acc                -0.0083  [-0.0248, +0.0082]            -
    --- stderr
    ");
    let again = transcript(&command, scratch.path());
    assert_eq!(again.replace(" (4 of 4 tasks from the cache)", ""), first);
    assert_eq!(again.matches("(4 of 4 tasks from the cache)").count(), 2);
}

#[test]
fn eval_as_json_has_the_keys_of_the_contract() {
    let scratch = tempfile::tempdir().unwrap();
    let worse = disturbed(&scratch.path().join("worse"));
    let output = run(&["eval", MODEL, &worse, "--baseline", &worse, "--suite", SUITE, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), document["kind"].as_str()), (Some(0), Some("thalweg-eval")));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    insta::assert_snapshot!(keys(&document), @"kind version suite scores comparisons");
    insta::assert_snapshot!(keys(&document["scores"][0]), @"checkpoint task measure value standard_error n higher_is_better seconds tokens_per_second cached params_digest tokenizer_digest");
    insta::assert_snapshot!(keys(&document["comparisons"][0]), @"a b task measure gain standard_error interval_95 bootstrap_95 n p_value p_holm");
    let first = &document["comparisons"][0];
    assert_eq!((first["a"].as_str(), first["b"].as_str()), (Some(&*worse), Some(MODEL)));
    let [low, gain, high] =
        [&first["interval_95"][0], &first["gain"], &first["interval_95"][1]].map(|x| x.as_f64().unwrap());
    assert!(0.0 < low && low < gain && gain < high, "{low} {gain} {high}");
    // transformers in float64 gives 0.848171.
    let value = document["scores"].as_array().unwrap().iter().find(|score| score["checkpoint"] == MODEL).unwrap();
    assert!((value["value"].as_f64().unwrap() - 0.848_171_3).abs() < 1e-5);
}

#[test]
fn eval_says_what_does_not_fit() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let head = "kind = \"thalweg-suite\"\nversion = 1\ncontext_length = 64\n[[task]]\nname = \"t\"\nkind = \"text\"\n";
    let say = |suite: &str, rows: &str, checkpoint: &str| {
        std::fs::write(path("suite.toml"), format!("{head}{suite}")).unwrap();
        std::fs::write(path("rows.jsonl"), rows).unwrap();
        transcript(&["eval", checkpoint, "--suite", &path("suite.toml")], scratch.path())
    };
    let rows = "{\"id\": \"a\", \"text\": \"One day a cat met a dog.\"}\n";
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\nlimits = 3\n", rows, MODEL), @"
    exit 2
    --- stdout
    --- stderr
    error: suite `[OUT]/suite.toml`: task `t` has no key `limits`
    hint: did you mean `limit`?
    ");
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", &format!("{rows}{{\"id\": \"b\", \"text\": \n"), MODEL), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/rows.jsonl`, line 2: broken JSON at column 20: EOF while parsing a value
    ");
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", "", MODEL), @"
    exit 2
    --- stdout
    --- stderr
    error: task `t`: `[OUT]/rows.jsonl` has no rows
    hint: set the task's `file` to a file that has rows
    ");
    let bare = disturbed(&scratch.path().join("bare"));
    std::fs::remove_file(scratch.path().join("bare/tokenizer.json")).unwrap();
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", rows, &bare), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/bare` has no `tokenizer.json`
    hint: copy it beside the checkpoint, or name one with `--tokenizer FILE`
    ");
    let broken = copy_of_model(&scratch.path().join("broken"), |i, param| if i == 9000 { f32::NAN } else { param });
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", rows, &broken), @"
    exit 2
    --- stdout
    --- stderr
    error: `[OUT]/broken`: tensor `model.embed_tokens.weight` holds NaN at element 9000, so its score would be meaningless
    hint: leave this checkpoint out; the run diverged, or the file is damaged
    ");
    let config = std::fs::read_to_string(scratch.path().join("broken/config.json")).unwrap();
    let smaller = config.replace("\"vocab_size\": 512", "\"vocab_size\": 500");
    std::fs::write(scratch.path().join("broken/config.json"), smaller).unwrap();
    insta::assert_snapshot!(say("file = \"rows.jsonl\"\n", rows, &broken), @"
    exit 2
    --- stdout
    --- stderr
    error: the tokenizer does not fit the model: `[OUT]/broken/tokenizer.json` has token ids up to 511, but `[OUT]/broken` has a vocabulary of 500
    hint: use the `tokenizer.json` that the model was trained with
    ");
}

#[test]
fn another_evaluator_is_run_and_its_results_are_compared() {
    let scratch = tempfile::tempdir().unwrap();
    let (a, b) = (disturbed(&scratch.path().join("a")), disturbed(&scratch.path().join("it's b")));
    let script = "n=$(echo {checkpoint} | wc -c); mkdir -p {out}/model; echo \"{\\\"results\\\": {\\\"piqa\\\": \
        {\\\"acc,none\\\": 0.$n, \\\"acc_stderr,none\\\": 0.01}}, \\\"n-samples\\\": {\\\"piqa\\\": {\\\"effective\\\": 100}}}\" \
        > {out}/model/results_1.json";
    let output = run(&["eval", &a, &b, "--eval-command", script, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &document["comparisons"][0];
    assert_eq!(
        (first["task"].as_str(), first["n"].as_u64(), &first["paired"]),
        (Some("piqa/acc"), Some(100), &Value::Bool(false))
    );
    assert_eq!(document["scores"].as_array().unwrap().len(), 2);
    insta::assert_snapshot!(transcript(&["eval", &a, "--eval-command", "false {checkpoint} {out}"], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: the command failed for `[OUT]/a`: exit status: 1
    hint: what it printed is above; run it on this checkpoint by hand, with paths for `{checkpoint}` and `{out}`
    ");
    insta::assert_snapshot!(transcript(&["eval", &a, "--eval-command", "score {checkpoint}"], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: the command has no `{out}`
    hint: for example `--eval-command 'score.py {checkpoint} {out}'`
    ");
}

/// A command for `--eval-command` that writes the same results for every checkpoint.
fn results_command(folder: &Path, results: &str) -> String {
    let file = folder.join("written-before.json");
    std::fs::write(&file, results).unwrap();
    format!("mkdir -p {{out}}/model__x && cp '{}' {{out}}/model__x/results_1.json; : {{checkpoint}}", file.display())
}

#[test]
fn a_value_that_is_not_a_number_leaves_the_others_usable() {
    let scratch = tempfile::tempdir().unwrap();
    let (a, b) = (disturbed(&scratch.path().join("a")), disturbed(&scratch.path().join("b")));
    let results = r#"{"results": {"piqa": {"acc,none": 0.5, "acc_stderr,none": NaN},
        "mc2": {"acc,none": NaN, "acc_stderr,none": NaN}, "wiki": {"word_perplexity,none": Infinity}}}"#;
    let command = results_command(scratch.path(), results);
    insta::assert_snapshot!(transcript(&["eval", &a, &b, "--eval-command", &command], scratch.path()), @"
    exit 0
    --- stdout
    [OUT]/a
      task                                  value  std. err.   items
      piqa/acc                             0.5000          -       -
    [OUT]/b
      task                                  value  std. err.   items
      piqa/acc                             0.5000          -       -

    gain of [OUT]/b
    over [OUT]/a (positive is better)
      task                                   gain  95 % interval        detectable      items  verdict
      piqa/acc                            +0.0000  -                             - not paired  -
    --- stderr
    note: `[OUT]/a`: `mc2/acc` is left out: its value is NaN, not a number
    note: `[OUT]/a`: `wiki/word_perplexity` is left out: its value is Infinity, not a number
    note: `[OUT]/b`: `mc2/acc` is left out: its value is NaN, not a number
    note: `[OUT]/b`: `wiki/word_perplexity` is left out: its value is Infinity, not a number
    ");
    let output = run(&["eval", &a, "--eval-command", &command, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["scores"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&document["refused"][0]["task"], &document["scores"][0]["standard_error"]),
        (&"mc2/acc".into(), &Value::Null)
    );
    // If no score is left, the error has every reason.
    let command = results_command(scratch.path(), r#"{"results": {"mc2": {"acc,none": NaN}}}"#);
    let output = run(&["eval", &a, "--eval-command", &command]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("it has no usable score; `mc2/acc`: its value is NaN, not a number"), "{said}");
}

/// The folder that a note reports as kept.
fn kept_folder(output: &std::process::Output) -> std::path::PathBuf {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line =
        said.lines().find(|line| line.contains("the command's output is kept in")).unwrap_or_else(|| panic!("{said}"));
    line.split('`').nth(1).unwrap().into()
}

#[test]
fn what_another_program_wrote_is_kept_where_anything_fails() {
    let scratch = tempfile::tempdir().unwrap();
    let (a, b) = (disturbed(&scratch.path().join("a")), disturbed(&scratch.path().join("b")));
    let good = "printf '[{\"task\": \"t\", \"value\": 1, \"higher_is_better\": true}]' > {out}/results.json";
    // The first checkpoint may be scored for hours before the second one fails.
    let command =
        format!("mkdir {{out}} && echo log > {{out}}/run.log && case {{checkpoint}} in */b) exit 3;; esac; {good}");
    let output = run(&["eval", &a, &b, "--eval-command", &command]);
    let kept = kept_folder(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(kept.join("out-1/results.json").is_file() && kept.join("out-2/run.log").is_file());
    std::fs::remove_dir_all(kept).unwrap();
    // Results that cannot be parsed, and missing results.
    for script in ["echo '{' > {out}/results.json", "echo text > {out}/results.txt"] {
        let output = run(&["eval", &a, "--eval-command", &format!("mkdir {{out}} && {script}; : {{checkpoint}}")]);
        let kept = kept_folder(&output);
        assert_eq!(std::fs::read_dir(kept.join("out-1")).unwrap().count(), 1);
        std::fs::remove_dir_all(kept).unwrap();
    }
    // Results that were used are not kept.
    let command = format!("mkdir {{out}} && {good}; : {{checkpoint}}");
    let tmp = scratch.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let output = program().args(["eval", &a, "--eval-command", &command]).env("TMPDIR", &tmp).output().unwrap();
    assert_eq!((output.status.code(), std::fs::read_dir(&tmp).unwrap().count()), (Some(0), 0));
}

#[test]
fn a_checkpoint_of_nans_is_not_given_to_another_program() {
    let scratch = tempfile::tempdir().unwrap();
    let sound = disturbed(&scratch.path().join("sound"));
    let ran = scratch.path().join("ran");
    let command = format!("echo {{checkpoint}} >> '{}'; : {{out}}", ran.display());
    for (name, value) in [("nan", f32::NAN), ("inf", f32::INFINITY), ("-inf", f32::NEG_INFINITY)] {
        let broken = copy_of_model(&scratch.path().join(name), |i, param| if i == 9000 { value } else { param });
        let output = run(&["eval", &sound, &broken, "--eval-command", &command]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains("so its score would be meaningless") && said.contains(&broken), "{said}");
    }
    assert!(!ran.exists());
}

#[test]
fn the_start_token_is_put_where_the_rule_says() {
    let scratch = tempfile::tempdir().unwrap();
    let copy = disturbed(&scratch.path().join("copy"));
    let score = |checkpoint: &str, more: &[&str]| -> Value {
        let output = run(&[&["eval", checkpoint, "--suite", SUITE, "--json"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let values = |document: &Value, task: &str| -> Vec<f64> {
        let rows = document["scores"].as_array().unwrap().iter().filter(|row| row["task"] == task);
        rows.map(|row| row["value"].as_f64().unwrap()).collect()
    };
    let plain = score(&copy, &[]);
    let [always, auto, never] = ["always", "auto", "never"].map(|rule| score(&copy, &["--start-token", rule]));
    // The rule is part of the digest, except `always`, which is what older versions did.
    assert_eq!(plain["suite"]["digest"], always["suite"]["digest"]);
    assert_ne!(always["suite"]["digest"], auto["suite"]["digest"]);
    assert_ne!(never["suite"]["digest"], auto["suite"]["digest"]);
    // This tokenizer's post-processor adds the token, so `auto` puts it before every text.
    assert_eq!(
        (values(&plain, "last-word"), values(&plain, "stories")),
        (values(&auto, "last-word"), values(&auto, "stories"))
    );
    // Without it a continuation scores differently; a document keeps it, because its first token must follow something.
    assert_ne!(values(&never, "next-sentence"), values(&always, "next-sentence"));
    assert_eq!(values(&never, "stories"), values(&always, "stories"));
    // `tokenizer_config.json` overrides the post-processor.
    let config = scratch.path().join("copy/tokenizer_config.json");
    std::fs::write(&config, "{\"add_bos_token\": false}").unwrap();
    assert_eq!(values(&score(&copy, &["--start-token", "auto"]), "next-sentence"), values(&never, "next-sentence"));
    std::fs::write(&config, "{\"add_bos_token\": true, \"bos_token\": {\"content\": \"<s>\"}}").unwrap();
    assert_eq!(values(&score(&copy, &["--start-token", "auto"]), "next-sentence"), values(&always, "next-sentence"));
}

#[test]
fn the_baseline_may_be_the_last_one_and_hints_work_when_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let worse = disturbed(&scratch.path().join("worse"));
    let output = run(&["eval", MODEL, &worse, "--baseline", "last", "--suite", SUITE, "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &document["comparisons"][0];
    assert_eq!((first["a"].as_str(), first["b"].as_str()), (Some(&*worse), Some(MODEL)));
    // The error about a checkpoint without a tokenizer proposes `--tokenizer FILE`.
    std::fs::remove_file(scratch.path().join("worse/tokenizer.json")).unwrap();
    let refused = run(&["eval", &worse, "--suite", SUITE]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("name one with `--tokenizer FILE`"));
    let tokenizer = root().join(MODEL).join("tokenizer.json");
    let followed = run(&["eval", &worse, "--suite", SUITE, "--tokenizer", tokenizer.to_str().unwrap()]);
    assert_eq!(followed.status.code(), Some(0), "{}", String::from_utf8_lossy(&followed.stderr));
    // A command without placeholders, and the example in the hint, which gets as far as running the command.
    let refused = run(&["eval", MODEL, "--eval-command", "score.py"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`--eval-command 'score.py {checkpoint} {out}'`"));
    let followed = run(&["eval", MODEL, "--eval-command", "score.py {checkpoint} {out}"]);
    assert!(String::from_utf8_lossy(&followed.stderr).contains("the command failed"));
    // More threads than any machine has.
    let many = run(&["eval", MODEL, "--suite", SUITE, "-j", "1000000000"]);
    assert_eq!(many.status.code(), Some(0), "{}", String::from_utf8_lossy(&many.stderr));
}
