//! stories260K against `reference.json` (a float64 forward pass in numpy) and `scores.json` (transformers in float64).

use std::path::Path;
use std::sync::atomic::Ordering;

use serde_json::Value;
use thalweg_eval::compare::Scope;
use thalweg_eval::uncertainty::Bootstrap;
use thalweg_eval::{Measure, ScoreBuffers, Subject, TaskScores, compare_scores, score_suite, score_suite_with};
use thalweg_model::{Model, ModelConfig};

use crate::support::{Outside, read_json, tokenizer};

/// F32 keeps about seven digits of logits near 20 over some hundred tokens; the reference rounds to 1e-6.
const NATS_PER_TOKEN: f64 = 2e-5;

fn assert_near(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found} is not {expected} within {tolerance:e}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn token_ids_are_those_of_the_reference() {
    let reference = read_json("stories260K/reference.json");
    let prompt = reference["prompt"].as_str().unwrap();
    let ids = tokenizer().encode(prompt).unwrap().ids;
    let ids: Vec<u64> = std::iter::once(1).chain(ids).map(u64::from).collect();
    assert_eq!(serde_json::json!(ids), reference["ids"]);
}

#[test]
fn losses_of_documents_are_those_of_the_reference() {
    let reference = &read_json("stories260K/reference.json")["validation"];
    let scores = Outside::new().score(
        "context_length = 512\n[[task]]\nname = \"stories\"\nkind = \"text\"\nfile = \"stories.jsonl.zst\"\ncut_tokens = 512\n",
    );
    let scores = &scores.unwrap()[0];
    let per_token = scores.measure(Measure::NatsPerToken).unwrap();
    let documents = reference["documents"].as_array().unwrap();
    assert_eq!(scores.items.len(), documents.len());
    for (i, document) in documents.iter().enumerate() {
        assert_eq!(scores.items[i], document["id"].as_str().unwrap());
        let (nats, n_tokens) = (per_token.numerators[i], per_token.denominators[i]);
        // The reference counts the start token, which nothing predicts.
        assert_near(n_tokens, number(&document["tokens"]) - 1.0, 0.0, "tokens");
        assert_near(nats, number(&document["nll_nats"]), NATS_PER_TOKEN * n_tokens, &scores.items[i]);
    }
    assert_near(per_token.denominators.iter().sum(), number(&reference["tokens_scored"]), 0.0, "tokens in all");
    assert_near(per_token.sums().value(), number(&reference["nats_per_token"]), 2e-6, "nats per token");
}

/// Every row counts: a single answer that differed would change a share.
#[test]
fn answers_are_those_of_the_reference() {
    let reference = &read_json("stories260K/reference.json")["evals"];
    let task = |name: &str, kind: &str| {
        format!(
            "[[task]]\nname = \"{name}\"\nkind = \"{kind}\"\nfile = \"{name}.jsonl.zst\"\nmeasures = [{}]\n",
            if kind == "partial" { "\"acc\"" } else { "\"acc\", \"acc_norm\"" }
        )
    };
    let tasks = [
        ("blimp", "pair"),
        ("zorro", "pair"),
        ("arc_easy", "choice"),
        ("hellaswag", "choice"),
        ("winogrande", "partial"),
    ];
    let text: String = tasks.iter().map(|(name, kind)| task(name, kind)).collect();
    let scores = Outside::new().score(&format!("context_length = 512\n{text}")).unwrap();
    for scores in &scores {
        let expected = &reference[&scores.task];
        let n = number(&expected["rows"]);
        let pairs = [(Measure::Acc, "acc"), (Measure::AccNorm, "acc_per_byte")];
        for (measure, key) in pairs {
            let Some(values) = scores.measure(measure) else { continue };
            let n_right: f64 = values.numerators.iter().sum();
            assert_near(values.denominators.iter().sum(), n, 0.0, &scores.task);
            assert_near(n_right, (number(&expected[key]) * n).round(), 0.0, &format!("{} {key}", scores.task));
        }
    }
}

/// `scores.json` shares no code with the scorer but the tokenizer.
#[test]
fn windows_spans_words_and_targets_are_those_of_transformers() {
    let reference = read_json("evals/scores.json");
    let text = |length: usize, stride: usize| {
        format!(
            "context_length = {length}\n[[task]]\nname = \"text_{length}_{stride}\"\nkind = \"text\"\n\
             file = \"stories.jsonl.zst\"\nlimit = 16\nstride = {stride}\n"
        )
    };
    let row = |name: &str, kind: &str| {
        format!("context_length = 512\n[[task]]\nname = \"{name}\"\nkind = \"{kind}\"\nfile = \"{name}.jsonl.zst\"\n")
    };
    let suites = [
        ("text_512", text(512, 512)),
        ("text_64_64", text(64, 64)),
        ("text_64_16", text(64, 16)),
        ("entities", row("entities", "entity_spans")),
        ("lastword", row("lastword", "lastword")),
        ("gold", row("gold", "gold")),
    ];
    for (name, suite) in suites {
        let scores = Outside::new().score(&suite).unwrap();
        for score in scores[0].scores() {
            let expected = number(&reference[name][score.measure.name()]);
            assert_near(score.value, expected, 1e-5 * expected.max(1.0), &format!("{name} {}", score.measure.name()));
        }
    }
}

const TWO_TASKS: &str = "context_length = 128\n\
    [[task]]\nname = \"stories\"\nkind = \"text\"\nfile = \"stories.jsonl.zst\"\nlimit = 12\n\
    [[task]]\nname = \"gold\"\nkind = \"gold\"\nfile = \"gold.jsonl.zst\"\n";

fn values(scores: &[TaskScores]) -> Vec<&thalweg_eval::record::MeasureScores> {
    scores.iter().flat_map(|scores| &scores.measures).collect()
}

#[test]
fn a_rerun_costs_nothing_and_a_broken_cache_is_scored_again() {
    let outside = Outside::new();
    let prepared = outside.prepare(TWO_TASKS).unwrap();
    let subject = outside.subject(&prepared);
    let run = || score_suite(&prepared, &subject, Some(&outside.cache()), &outside.context()).unwrap();
    let first = run();
    let done = || outside.done_tokens.load(Ordering::Relaxed);
    assert_eq!((done(), outside.total_tokens.load(Ordering::Relaxed)), (prepared.n_tokens(), prepared.n_tokens()));
    assert!(first.iter().all(|scores| !scores.is_cached));
    let second = run();
    assert_eq!(done(), prepared.n_tokens());
    assert!(second.iter().all(|scores| scores.is_cached));
    // Exact: what is written reads back with the same bits.
    assert_eq!(values(&first), values(&second));
    let files = outside.storage.list_folder(Path::new("/cache")).unwrap();
    assert_eq!(files.len(), 2);
    outside.put(&format!("/cache/{}", files[0].name), b"{\"kind\": \"thalweg-task-scores\", \"ver");
    let third = run();
    assert_eq!(third.iter().filter(|scores| scores.is_cached).count(), 1);
    assert_eq!(values(&first), values(&third));
    assert!(run().iter().all(|scores| scores.is_cached));
}

#[test]
fn other_params_are_not_taken_from_the_cache_and_compare_worse() {
    let outside = Outside::new();
    let prepared = outside.prepare(TWO_TASKS).unwrap();
    let trained = outside.subject(&prepared);
    let mut model = trained.model().clone();
    for (i, param) in model.params_mut().iter_mut().enumerate() {
        *param += if i % 2 == 0 { 0.03 } else { -0.03 };
    }
    let disturbed = Subject::from_model(Path::new("disturbed"), model).unwrap();
    assert_ne!(trained.params_digest(), disturbed.params_digest());
    let cache = outside.cache();
    let a = score_suite(&prepared, &disturbed, Some(&cache), &outside.context()).unwrap();
    let b = score_suite(&prepared, &trained, Some(&cache), &outside.context()).unwrap();
    assert!(b.iter().all(|scores| !scores.is_cached));
    // Buffers that another model used leave nothing behind.
    let mut buffers = ScoreBuffers::default();
    for (subject, alone) in [(&disturbed, &a), (&trained, &b), (&disturbed, &a)] {
        let again = score_suite_with(&mut buffers, &prepared, subject, None, &outside.context()).unwrap();
        let values = |scores: &[TaskScores]| scores.iter().map(|one| one.measures.clone()).collect::<Vec<_>>();
        assert_eq!(values(&again), values(alone));
    }
    let comparisons = compare_scores(&a, &b, Bootstrap::default()).unwrap();
    let pooled: Vec<_> = comparisons.iter().filter(|comparison| comparison.scope == Scope::Pooled).collect();
    assert_eq!(pooled.len(), 1);
    for comparison in &comparisons {
        let [low, _] = comparison.interval_95.unwrap();
        assert!(low > 0.0 || comparison.scope == Scope::Pooled, "{comparison:?}");
    }
    // Against itself there is no gain and no spread.
    let same = compare_scores(&b, &b, Bootstrap::default()).unwrap();
    assert!(same.iter().all(|comparison| comparison.gain == 0.0 && comparison.interval_95 == Some([0.0, 0.0])));
}

#[test]
fn scores_are_the_same_bits_for_any_number_of_threads() {
    let score = |n_threads| {
        let pool = thalweg_pool(n_threads);
        pool.install(|| Outside::new().score(TWO_TASKS).unwrap())
    };
    assert_eq!(values(&score(1)), values(&score(3)));
}

fn thalweg_pool(n_threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap()
}

#[test]
fn equal_choices_tie_and_a_tie_is_wrong() {
    let outside = Outside::new();
    let rows = "{\"id\": \"a\", \"choices\": [\"The cat sat.\", \"The cat sat.\"], \"answer\": 0}\n";
    outside.put("/tie.jsonl", rows.as_bytes());
    let suite = "context_length = 64\n[[task]]\nname = \"tie\"\nkind = \"pair\"\nfile = \"tie.jsonl\"\nmeasures = [\"acc\", \"acc_norm\"]\n";
    let scores = outside.score(suite).unwrap();
    assert_eq!(scores[0].scores().iter().map(|score| score.value).collect::<Vec<_>>(), [0.0, 0.0]);
}

#[test]
fn params_that_are_not_finite_are_never_scored() {
    let outside = Outside::new();
    let prepared = outside.prepare(TWO_TASKS).unwrap();
    let subject = outside.subject(&prepared);
    let says = |i: usize, value: f32| {
        let mut model = subject.model().clone();
        model.params_mut()[i] = value;
        Subject::from_model(Path::new("broken"), model).unwrap_err().to_string()
    };
    // The embedding of a token that no text contains, and the very last parameter.
    let last = subject.model().params().len() - 1;
    let first =
        "`broken`: tensor `model.embed_tokens.weight` holds NaN at element 5, so its score would be meaningless";
    assert_eq!(says(5, f32::NAN), first);
    assert!(says(last, f32::NEG_INFINITY).contains("holds infinity at element"));
    assert!(says(last / 2, f32::INFINITY).contains("holds infinity at element"));
}

#[test]
fn a_stop_is_heeded_and_losses_that_are_no_numbers_are_named() {
    let outside = Outside::new();
    let prepared = outside.prepare(TWO_TASKS).unwrap();
    let subject = outside.subject(&prepared);
    let config = ModelConfig::from_json(&read_json("stories260K/config.json")).unwrap();
    // Finite parameters whose products overflow.
    let mut huge = Model::from_params(config, subject.model().params().to_vec()).unwrap();
    let last_norm = huge.layout().find("model.norm.weight").unwrap().range.clone();
    huge.params_mut()[last_norm].fill(f32::MAX);
    let huge = Subject::from_model(Path::new("huge"), huge).unwrap();
    let error = score_suite(&prepared, &huge, Some(&outside.cache()), &outside.context()).unwrap_err();
    let expected = "`huge`: the loss of item `tinystories/e/val/2654` of task `stories` is not finite";
    assert_eq!(error.to_string(), expected);
    outside.interrupt.store(true, Ordering::Relaxed);
    let error = score_suite(&prepared, &subject, None, &outside.context()).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}
