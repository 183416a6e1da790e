//! Suites, tokenizers and sets that do not fit: which file, what was expected, what was found.

use std::path::Path;

use thalweg_eval::{
    Error, EvalContext, EvalTokenizer, PreparedSuite, ReportSuite, SelectionSuite, Subject, Suite, check_apart,
};

use crate::support::{Outside, checkpoint, fixture, read_json, tokenizer};

/// The error of a suite, with its hint on a separate line.
fn said(error: &Error) -> String {
    error.hint().map_or_else(|| error.to_string(), |hint| format!("{error}\n{hint}"))
}

fn suite_error(tasks: &str) -> String {
    said(&Outside::new().suite(tasks).unwrap_err())
}

#[test]
fn rows_in_the_place_of_a_suite_are_told_apart() {
    let outside = Outside::new();
    let open = |name: &str| Suite::open(&*outside.storage, Path::new(name)).unwrap_err();
    let files = [("rows.jsonl", "{\"text\": \"x\"}\n"), ("rows", " {\"text\": \"x\"}\n"), ("book.txt", "It was\n")];
    for (name, text) in files {
        outside.put(&format!("/{name}"), text.as_bytes());
        let said = said(&open(&format!("/{name}")));
        assert!(said.contains("is not a suite, which is a TOML file"), "{said}");
        assert!(said.contains(&format!("`file = \"{name}\"`")), "{said}");
    }
    let missing = open("/none.jsonl").to_string();
    assert!(missing.contains("none.jsonl") && !missing.contains("suite"), "{missing}");
}

const STORIES: &str = "[[task]]\nname = \"s\"\nkind = \"text\"\nfile = \"stories.jsonl.zst\"\n";

#[test]
fn unknown_keys_name_the_nearest() {
    insta::assert_snapshot!(suite_error(&format!("context_lenght = 64\n{STORIES}")), @"
    suite `/suite.toml`: the suite has no key `context_lenght`
    did you mean `context_length`?
    ");
    insta::assert_snapshot!(suite_error(&format!("context_length = 64\n{STORIES}limits = 3\n")), @"
    suite `/suite.toml`: task `s` has no key `limits`
    did you mean `limit`?
    ");
    insta::assert_snapshot!(suite_error(&format!("context_length = 64\n{STORIES}measures = [\"acc\"]\n")), @"
    suite `/suite.toml`: task `s` has no measure `acc`
    known are bits_per_byte, nats_per_token
    ");
    insta::assert_snapshot!(suite_error("context_length = 64\n[[task]]\nname = \"s\"\nkind = \"choices\"\nfile = \"x\"\n"), @"
    suite `/suite.toml`: task `s` has no kind `choices`
    did you mean `choice`?
    ");
    insta::assert_snapshot!(suite_error(&format!("context_length = 64\nrole = \"test\"\n{STORIES}")), @"
    suite `/suite.toml`: the suite has no role `test`
    known are selection, report
    ");
}

#[test]
fn values_that_do_not_make_sense_are_refused() {
    insta::assert_snapshot!(suite_error(STORIES), @"suite `/suite.toml`: the suite: there is no `context_length`");
    insta::assert_snapshot!(suite_error("context_length = 64\n"), @"suite `/suite.toml`: it has no `[[task]]`");
    insta::assert_snapshot!(suite_error(&format!("context_length = \"64\"\n{STORIES}")), @"suite `/suite.toml`: the suite: `context_length` must be a whole number above zero, string found");
    insta::assert_snapshot!(suite_error(&format!("context_length = 64\n{STORIES}stride = 65\n")), @"suite `/suite.toml`: task `s`: `stride` is 65, 1 to `context_length` (64) expected");
    insta::assert_snapshot!(suite_error(&format!("context_length = 64\n{STORIES}{STORIES}")), @"suite `/suite.toml`: two tasks are named `s`");
    insta::assert_snapshot!(suite_error(&format!("context_length = 64\n{STORIES}where = {{source = \"none\"}}\n")), @"
    task `s`: `/stories.jsonl.zst` has no rows that meet `where`
    remove a condition from the task's `where`, or set `file` to a file with other rows
    ");
    insta::assert_snapshot!(suite_error("context_length = 64\n[[task]]\nname = \"s\"\nkind = \"text\"\nfile = \"no.jsonl\"\n"), @"cannot open `/no.jsonl`: entity not found");
    insta::assert_snapshot!(suite_error("context_length = 64\n[[task]]\nname = \"s\"\nkind = \"pair\"\nfile = \"stories.jsonl.zst\"\n"), @"`/stories.jsonl.zst`, line 1: the row has no list `choices`");
    let outside = Outside::new();
    outside.put("/old.toml", b"kind = \"thalweg-suite\"\nversion = 2\n");
    let error = thalweg_eval::Suite::open(&*outside.storage, Path::new("/old.toml")).unwrap_err();
    insta::assert_snapshot!(said(&error), @r#"suite `/old.toml`: `kind = "thalweg-suite"` and `version = 1` expected, `thalweg-suite` and 2 found"#);
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused_before_anything_is_run() {
    let outside = Outside::new();
    let suite = outside.suite(&format!("context_length = 64\n{STORIES}")).unwrap();
    let mut config = read_json("stories260K/config.json");
    config["vocab_size"] = 500.into();
    let prepare = |config: &serde_json::Value, tokenizer: &EvalTokenizer| {
        said(&PreparedSuite::new(&suite, tokenizer, config, Path::new("ckpt")).unwrap_err())
    };
    let path = Path::new("tokenizer.json");
    let bytes = std::fs::read(fixture("stories260K/tokenizer.json")).unwrap();
    let plain = EvalTokenizer::from_json(&bytes, path).unwrap();
    insta::assert_snapshot!(prepare(&config, &plain), @"
    the tokenizer does not fit the model: `tokenizer.json` has token ids up to 511, but `ckpt` has a vocabulary of 500
    use the `tokenizer.json` that the model was trained with
    ");
    config["vocab_size"] = 512.into();
    config["max_position_embeddings"] = 32.into();
    insta::assert_snapshot!(prepare(&config, &plain), @r#"
    suite `suite` scores with a context of 64 tokens, but `ckpt` has 32 positions
    set `context_length = 32` or less in the suite, or `"auto"`
    "#);
    insta::assert_snapshot!(said(&EvalTokenizer::from_json(b"{}", path).unwrap_err()), @"tokenizer `tokenizer.json`: Model missing. at line 1 column 2");
    let suite = outside.suite(&format!("context_length = 64\nstart = \"<|begin|>\"\n{STORIES}")).unwrap();
    config["max_position_embeddings"] = 512.into();
    let error = PreparedSuite::new(&suite, &plain, &config, Path::new("ckpt")).unwrap_err();
    insta::assert_snapshot!(said(&error), @"tokenizer `tokenizer.json`: it has no token `<|begin|>`, with which the suite starts texts");
}

#[test]
fn a_text_starts_with_what_the_config_says_where_the_tokenizer_says_nothing() {
    let bytes = std::fs::read(fixture("stories260K/tokenizer.json")).unwrap();
    let mut document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    document["post_processor"] = serde_json::Value::Null;
    let bare = EvalTokenizer::from_json(document.to_string().as_bytes(), Path::new("t.json")).unwrap();
    let start = |tokenizer: &EvalTokenizer, config: serde_json::Value| {
        tokenizer
            .start_tokens(&thalweg_eval::suite::Start::Auto, &config, Path::new("ckpt"))
            .map_err(|error| said(&error))
    };
    assert_eq!(start(&tokenizer(), serde_json::json!({"bos_token_id": 7})), Ok(vec![1]));
    assert_eq!(start(&bare, serde_json::json!({"bos_token_id": 7, "eos_token_id": 2})), Ok(vec![7]));
    assert_eq!(start(&bare, serde_json::json!({"bos_token_id": null, "eos_token_id": [2, 3]})), Ok(vec![2]));
    insta::assert_snapshot!(start(&bare, serde_json::json!({})).unwrap_err(), @r#"
    `ckpt` does not say which token starts a text: no post-processor, `bos_token_id` or `eos_token_id`
    name it in the suite: `start = "<|endoftext|>"`
    "#);
}

#[test]
fn memory_is_stated_before_anything_is_loaded() {
    let outside = Outside::new();
    let prepared = outside.prepare(&format!("context_length = 64\n{STORIES}")).unwrap();
    let context = EvalContext { memory_bytes: 1_000_000, ..outside.context() };
    let config = read_json("stories260K/config.json");
    let error = Subject::load(Path::new("ckpt"), &config, &checkpoint(), &prepared, &context).unwrap_err();
    let Error::MemoryTooSmall { needed_bytes, limit_bytes: 1_000_000, .. } = error else { panic!("{error}") };
    // 260,032 parameters of 4 bytes are part of it.
    assert!((1_040_128..100_000_000).contains(&needed_bytes), "{needed_bytes}");
}

#[test]
fn one_set_cannot_choose_and_report() {
    let suite = |role: &str, condition: &str| {
        let text = format!("context_length = 64\nrole = \"{role}\"\n{STORIES}{condition}");
        Outside::new().suite(&text).unwrap()
    };
    let half = |wanted: &str| format!("where = {{source = \"tinystories\", id = \"tinystories/e/{wanted}\"}}\n");
    let selection = SelectionSuite::new(suite("selection", "")).unwrap();
    let report = ReportSuite::new(suite("report", "limit = 3\n")).unwrap();
    insta::assert_snapshot!(said(&check_apart(&selection, &report).unwrap_err()), @"
    `/stories.jsonl.zst` is in both suites: task `s` chooses by it and task `s` reports on it
    choose on a validation part and report on a test part (`where` can select them)
    ");
    let selection = SelectionSuite::new(suite("selection", &half("val/2654"))).unwrap();
    let report = ReportSuite::new(suite("report", &half("test/1096"))).unwrap();
    assert!(check_apart(&selection, &report).is_ok());
    insta::assert_snapshot!(said(&ReportSuite::new(suite("selection", "")).unwrap_err()), @r#"
    suite `suite` is for selection but is used for report
    name a suite with `role = "report"`, or change the role in this one
    "#);
}
