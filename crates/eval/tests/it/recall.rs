//! Recall of entities: measures by hand, and prompts and continuations against passes over whole sequences.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thalweg_eval::recall::{
    PreparedProbes, ProbeOptions, RecallMeasure, RecallScore, RecallScores, SampleScore, read_probes, score_recall,
};
use thalweg_eval::{EvalContext, EvalTokenizer, Subject};
use thalweg_model::{BatchShape, Model, ModelConfig, Purpose, Workspace};
use thalweg_storage::{LocalStorage, MemoryStorage, ProcessHost, Storage, Unwatched};

const PROBES: &str = r#"{"id": "a", "text": "The river by Marlow is called Tessin and it is long and deep.", "entities": [{"type": "LOC", "text": "Tessin", "byte": [30, 36]}, {"type": "LOC", "text": "Marlow", "byte": [13, 19]}]}
{"id": "b", "text": "Odran sold lamps to all of the people in the town.", "entities": [{"type": "PER", "text": "Odran", "byte": [0, 5]}, {"byte": [45, 49]}]}
{"id": "c", "text": "One day a girl went out.", "entities": []}
"#;

fn tokenizer() -> EvalTokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tokenizers/bpe-512/tokenizer.json");
    EvalTokenizer::from_json(&std::fs::read(&path).unwrap(), &path).unwrap()
}

fn model(seed: u64) -> Model<f32> {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    });
    Model::init(ModelConfig::from_json(&config).unwrap(), seed)
}

fn prepare(text: &str, options: ProbeOptions) -> Result<PreparedProbes, thalweg_eval::Error> {
    let (storage, path) = (MemoryStorage::new(), Path::new("/probes.jsonl"));
    storage.create_file(path, text.len() as u64).unwrap().write_all_at(0, text.as_bytes()).unwrap();
    let file = read_probes(&storage, path)?;
    PreparedProbes::new(&file, &tokenizer(), model(0).config(), options, Path::new("model"))
}

fn score(prepared: &PreparedProbes, model: Model<f32>, memory_bytes: u64) -> Result<RecallScores, thalweg_eval::Error> {
    let (host, interrupt) = (ProcessHost::start(), AtomicBool::new(false));
    let context = EvalContext {
        storage: Arc::new(LocalStorage::new()),
        host: &host,
        progress: &Unwatched,
        interrupt: &interrupt,
        memory_bytes,
    };
    score_recall(prepared, &Subject::from_model(Path::new("model"), model).unwrap(), &context)
}

/// Logits after each token of a sequence.
fn logits(model: &Model<f32>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let shape = BatchShape { n_sequences: 1, sequence_length: tokens.len() };
    let mut workspace = Workspace::new(model.config(), shape, Purpose::Score);
    let mut out = vec![0.0; tokens.len() * 512];
    model.logits(tokens, shape, &mut workspace, &mut out);
    out.chunks(512).map(<[f32]>::to_vec).collect()
}

fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    (1..logits.len()).for_each(|i| best = if logits[i] > logits[best] { i } else { best });
    u32::try_from(best).unwrap()
}

fn continued(model: &Model<f32>, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        tokens.push(best(logits(model, &tokens).last().unwrap()));
    }
    tokens.split_off(prompt.len())
}

#[test]
fn scores_are_those_of_passes_over_whole_sequences() {
    let options = ProbeOptions { prompt_tokens: 6, decode_tokens: 5 };
    let (prepared, tokenizer) = (prepare(PROBES, options).unwrap(), tokenizer());
    let mut n_recalled = 0;
    for seed in 0..4 {
        let model = model(seed);
        let scores = score(&prepared, model.clone(), u64::MAX).unwrap();
        let texts = [
            "The river by Marlow is called Tessin and it is long and deep.",
            "Odran sold lamps to all of the people in the town.",
            "One day a girl went out.",
        ];
        for (text, got) in texts.iter().zip(&scores.samples) {
            let ids = tokenizer.encode(text).unwrap().ids;
            let rows = logits(&model, &ids);
            let pairs = || rows.iter().zip(&ids[1..]);
            let nats: f64 = pairs()
                .map(|(row, &id)| {
                    let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                    sum.ln() - f64::from(row[id as usize])
                })
                .sum();
            assert_eq!(
                (got.n_tokens, got.n_correct),
                (ids.len() - 1, pairs().filter(|(row, id)| best(row) == **id).count())
            );
            assert!((got.nats - nats).abs() < 1e-3, "{} instead of {nats}", got.nats);
        }
        // Where each entity is in the tokens is found again here, from the bytes.
        for (i, (sample, bytes, name)) in
            [(0, 30..36, "Tessin"), (0, 13..19, "Marlow"), (1, 0..5, "Odran"), (1, 45..49, "town")]
                .into_iter()
                .enumerate()
        {
            let tokens = tokenizer.encode(texts[sample]).unwrap();
            let first = tokens.bytes.iter().position(|token| token.end > bytes.start).unwrap();
            let end = 1 + tokens.bytes.iter().rposition(|token| token.start < bytes.end).unwrap();
            let prompt = |end: usize| &tokens.ids[end.saturating_sub(6)..end];
            let expected_in = (end + 5 <= tokens.ids.len()).then(|| {
                continued(&model, prompt(end), 5)
                    .iter()
                    .zip(&tokens.ids[end..])
                    .filter(|(got, want)| got == want)
                    .count()
            });
            let expected_ex =
                (first > 0).then(|| tokenizer.decode(&continued(&model, prompt(first), 5)).unwrap().contains(name));
            assert_eq!(
                scores.recalls[i],
                RecallScore { n_in: expected_in, is_recalled: expected_ex },
                "{name}, {seed}"
            );
            n_recalled += usize::from(expected_ex == Some(true));
        }
    }
    assert!(n_recalled < 16);
}

#[test]
fn measures_by_hand() {
    let prepared = prepare(PROBES, ProbeOptions { prompt_tokens: 6, decode_tokens: 5 }).unwrap();
    let sample = |n_tokens, nats, n_correct| SampleScore { n_tokens, nats, n_correct };
    let recall = |n_in, is_recalled| RecallScore { n_in, is_recalled };
    let scores = RecallScores {
        samples: vec![sample(10, 20.0, 4), sample(30, 40.0, 6), sample(8, 4.0, 6)],
        recalls: vec![
            recall(Some(5), Some(true)),
            recall(Some(2), Some(false)),
            recall(Some(1), None),
            recall(None, Some(true)),
        ],
    };
    let value =
        |measure: RecallMeasure, kept: [bool; 4]| measure.sums(&scores.items(measure, &prepared, &kept)).value();
    let all = [true; 4];
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
    // Two of three prompts are continued with the entity; the fourth has nothing before it.
    close(value(RecallMeasure::Ex, all), 2.0 / 3.0);
    // 5 + 2 + 1 of 3 times 5 tokens.
    close(value(RecallMeasure::In, all), 8.0 / 15.0);
    // Samples a and b have entities: 60 nats and 10 hits over 40 tokens. Sample c has none.
    close(value(RecallMeasure::PerplexityOfEntities, all), 1.5_f64.exp());
    close(value(RecallMeasure::GreedyOfEntities, all), 0.25);
    close(value(RecallMeasure::Perplexity, all), 0.5_f64.exp());
    close(value(RecallMeasure::Greedy, all), 0.75);
    // Only Tessin counts: its sample alone is one with an entity.
    let one = [true, false, false, false];
    close(value(RecallMeasure::Ex, one), 1.0);
    close(value(RecallMeasure::PerplexityOfEntities, one), 2.0_f64.exp());
    close(value(RecallMeasure::GreedyOfEntities, one), 0.4);
    // M(f) of the text as a whole does not depend on which entities count.
    close(value(RecallMeasure::Greedy, one), 0.75);
}

#[test]
fn broken_probes_are_named_by_line_and_memory_is_counted_first() {
    let options = ProbeOptions { prompt_tokens: 6, decode_tokens: 5 };
    let refused = |text: &str| prepare(text, options).unwrap_err().to_string();
    let twice = format!("{PROBES}{}", PROBES.lines().next().unwrap());
    assert!(refused(&twice).ends_with("line 4: there are two samples named `a`"), "{}", refused(&twice));
    assert!(
        refused("{\"id\": \"a\", \"text\": \"ab\", \"entities\": []}").ends_with("it has no sample with an entity")
    );
    assert!(refused("").ends_with("it has no sample with an entity"));
    let outside = "{\"id\": \"a\", \"text\": \"ab\", \"entities\": [{\"byte\": [0, 9]}]}";
    assert!(refused(outside).contains("line 1: `byte` [0, 9] is not a span of a text of 2 bytes"));
    let empty = "{\"id\": \"a\", \"text\": \"ab\", \"entities\": [{\"byte\": [1, 1]}]}";
    assert!(refused(empty).contains("is not a span"));
    let error = score(&prepare(PROBES, options).unwrap(), model(0), 1000).unwrap_err().to_string();
    assert!(error.contains("needs") && error.contains("is allowed"), "{error}");
}
