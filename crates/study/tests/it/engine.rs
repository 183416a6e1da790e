//! The evaluator with thalweg's own engine: what it reads, and what it refuses.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use thalweg_eval::Suite;
use thalweg_lab::corpus::built_in_tokenizer;
use thalweg_merge::Coefficients;
use thalweg_merge::context::Limits;
use thalweg_merge::plan::{DigestChoice, OutputPlan, SourceRef};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_study::engine_evaluator::EngineEvaluator;
use thalweg_study::evaluator::Evaluator;
use thalweg_study::surroundings::Surroundings;
use thalweg_tensor::Dtype;
use thalweg_tensor::kernel::Simd;
use thalweg_testkit::{Sharding, Tap, TinyCheckpoint};

const N_SOURCES: u16 = 10;
/// One for each tensor.
const N_SHARDS: usize = 11;

/// A Llama of one layer for the built-in tokenizer, with all parameters equal to `value`.
fn write_source(folder: &Path, value: f64) {
    let tensors: [(&str, &[u64]); N_SHARDS] = [
        ("model.embed_tokens.weight", &[512, 2]),
        ("model.layers.0.self_attn.q_proj.weight", &[2, 2]),
        ("model.layers.0.self_attn.k_proj.weight", &[2, 2]),
        ("model.layers.0.self_attn.v_proj.weight", &[2, 2]),
        ("model.layers.0.self_attn.o_proj.weight", &[2, 2]),
        ("model.layers.0.mlp.gate_proj.weight", &[1, 2]),
        ("model.layers.0.mlp.up_proj.weight", &[1, 2]),
        ("model.layers.0.mlp.down_proj.weight", &[2, 1]),
        ("model.layers.0.input_layernorm.weight", &[2]),
        ("model.layers.0.post_attention_layernorm.weight", &[2]),
        ("model.norm.weight", &[2]),
    ];
    let config = json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1,
        "num_attention_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": true,
    });
    let checkpoint = tensors.iter().fold(TinyCheckpoint::new(), |made, (name, shape)| {
        let n = usize::try_from(shape.iter().product::<u64>()).unwrap();
        made.tensor(name, Dtype::F32, shape, &vec![value; n])
    });
    checkpoint.config(&config).sharding(Sharding::Shards(N_SHARDS)).write_to_disk(folder);
}

/// The mean of sources `first..=last`.
fn window(folder: &Path, first: u16, last: u16) -> OutputPlan {
    let source = |i: u16| SourceRef { path: folder.join(format!("step-{i}")), step: Some(u64::from(i)), tokens: None };
    let sources: Vec<SourceRef> = (first..=last).map(source).collect();
    let n = sources.len();
    let coefficients = Coefficients::new(vec![1; n], i64::try_from(n).unwrap()).unwrap();
    let out = folder.join(format!("out-{first}-{last}"));
    OutputPlan { digest: DigestChoice::None, ..OutputPlan::new(out, "sma", &sources, &coefficients) }
}

/// Calls `act` with an evaluator on `storage`. The sources `step-0..` and the suite are in `folder`.
fn with_evaluator<T>(storage: &Arc<dyn Storage>, folder: &Path, act: impl FnOnce(&mut EngineEvaluator<'_>) -> T) -> T {
    let tokenizer: PathBuf = folder.join("tokenizer.json");
    std::fs::write(&tokenizer, built_in_tokenizer("bpe-512").unwrap()).unwrap();
    std::fs::write(folder.join("notes.txt"), "One day a cat met a dog.").unwrap();
    let suite = "kind = \"thalweg-suite\"\nversion = 1\ncontext_length = 32\nstart = \"<|endoftext|>\"\n\
        [[task]]\nname = \"notes\"\nkind = \"text\"\nfile = \"notes.txt\"\n";
    std::fs::write(folder.join("suite.toml"), suite).unwrap();
    let suite = Suite::open(&**storage, &folder.join("suite.toml")).unwrap();
    let limits = Limits { n_threads: NonZeroUsize::MIN, memory_bytes: 1 << 30, simd: Simd::Auto };
    let around = Surroundings::new(Arc::clone(storage), limits);
    let (like, cache, run) = (folder.join("step-0"), folder.join("scores"), around.run());
    act(&mut EngineEvaluator::new(&[suite], &like, Some(&tokenizer), Some(cache), around.eval(), &run).unwrap())
}

#[test]
fn forty_windows_over_ten_sources_open_each_header_once() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..N_SOURCES {
        write_source(&folder.path().join(format!("step-{i}")), f64::from(i) / 64.0);
    }
    let pairs = (0..N_SOURCES).flat_map(|last| (0..last).map(move |first| (first, last)));
    let windows: Vec<OutputPlan> = pairs.take(40).map(|(first, last)| window(folder.path(), first, last)).collect();
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    with_evaluator(&tap.storage(), folder.path(), |evaluator| {
        // Two readings of the sources, then everything from the cache.
        for windows in [&windows[..20], &windows[20..], &windows[..]] {
            assert_eq!(evaluator.score_merges(windows, &mut |_, _| {}).unwrap().len(), windows.len());
        }
    });
    let reads = tap.header_reads();
    assert_eq!(reads.len(), usize::from(N_SOURCES) * N_SHARDS);
    assert!(reads.values().all(|&n| n == 1), "{reads:?}");
}

#[test]
fn a_source_that_changes_between_two_readings_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..2 {
        write_source(&folder.path().join(format!("step-{i}")), f64::from(i) / 64.0);
    }
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let (before, after) = with_evaluator(&storage, folder.path(), |evaluator| {
        let mut score = || evaluator.score_merges(&[window(folder.path(), 0, 1)], &mut |_, _| {}).unwrap();
        let before = score();
        std::fs::remove_dir_all(folder.path().join("step-1")).unwrap();
        write_source(&folder.path().join("step-1"), 3.0);
        (before, score())
    });
    assert_ne!(before[0].params_digest, after[0].params_digest);
}

#[test]
fn a_window_with_params_that_are_not_finite_is_never_scored() {
    let folder = tempfile::tempdir().unwrap();
    write_source(&folder.path().join("step-0"), 0.5);
    write_source(&folder.path().join("step-1"), f64::NAN);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    with_evaluator(&storage, folder.path(), |evaluator| {
        let said = |evaluator: &mut EngineEvaluator<'_>, plan| {
            evaluator.score_merges(&[plan], &mut |_, _| {}).unwrap_err().to_string()
        };
        assert!(said(evaluator, window(folder.path(), 0, 1)).contains("not finite"));
        // Merged by IEEE rules on request, but not scored.
        let mut plan = window(folder.path(), 0, 1);
        plan.policy.allow_non_finite = true;
        let expected = "tensor `model.embed_tokens.weight` holds NaN at element 0, so its score would be meaningless";
        assert!(said(evaluator, plan).contains(expected));
        let raw = evaluator.score_checkpoint(&folder.path().join("step-1")).unwrap_err().to_string();
        assert!(raw.contains(expected), "{raw}");
    });
}
