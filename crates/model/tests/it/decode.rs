//! Greedy decoding with kept keys and values against passes over the whole sequence, for every family.

use thalweg_model::{BatchShape, Decoder, Float, Model, Purpose, Workspace};

use crate::support::{load, widened};

/// The most probable continuation, by running the whole sequence again for each token.
fn decode_without_cache<T: Float>(model: &Model<T>, prompts: &[u32], shape: BatchShape, n_new: usize) -> Vec<u32> {
    let vocab_size = model.config().vocab_size;
    let longest = BatchShape { n_sequences: 1, sequence_length: shape.sequence_length + n_new };
    let mut workspace = Workspace::new(model.config(), longest, Purpose::Score);
    let mut all = Vec::new();
    for prompt in prompts.chunks(shape.sequence_length) {
        let mut tokens = prompt.to_vec();
        for _ in 0..n_new {
            let now = BatchShape { n_sequences: 1, sequence_length: tokens.len() };
            let mut logits = vec![T::ZERO; tokens.len() * vocab_size];
            model.logits(&tokens, now, &mut workspace, &mut logits);
            let last = &logits[(tokens.len() - 1) * vocab_size..];
            let mut best = 0;
            (1..vocab_size).for_each(|i| best = if last[i] > last[best] { i } else { best });
            tokens.push(u32::try_from(best).unwrap());
        }
        all.extend_from_slice(&tokens[shape.sequence_length..]);
    }
    all
}

fn check<T: Float>(family: &str, model: &Model<T>) {
    let vocab_size = u32::try_from(model.config().vocab_size).unwrap();
    let mut decoder = Decoder::new(model.config(), BatchShape { n_sequences: 5, sequence_length: 9 }, 8).unwrap();
    // The same buffers serve smaller batches, in any order.
    for (n_sequences, sequence_length, n_new) in [(5, 9, 8), (3, 4, 8), (1, 1, 5), (5, 9, 1)] {
        let shape = BatchShape { n_sequences, sequence_length };
        let prompts: Vec<u32> = (0..).map(|i: u32| (i * 7 + i * i * 3) % vocab_size).take(shape.n_tokens()).collect();
        let got = decoder.decode(model, &prompts, shape, n_new).unwrap();
        assert_eq!(got, decode_without_cache(model, &prompts, shape, n_new), "{family}, {shape:?}");
    }
}

#[test]
fn every_family_decodes_the_same_tokens_as_without_a_cache() {
    let families = [
        "llama",
        "llama_scaled",
        "qwen2",
        "qwen3",
        "olmo2",
        "gpt_neox",
        "gpt_neox_serial",
        "gpt2",
        "mixtral",
        "qwen3_moe",
        "olmoe",
    ];
    for family in families {
        let model = load(&format!("architectures/{family}"));
        check(family, &model);
        check(family, &widened(&model));
    }
}

#[test]
fn a_continuation_beyond_learned_positions_is_refused() {
    let model = load("architectures/gpt2");
    let n = model.config().max_positions;
    let shape = BatchShape { n_sequences: 1, sequence_length: n - 2 };
    assert!(Decoder::<f32>::new(model.config(), shape, 2).is_ok());
    let error = Decoder::<f32>::new(model.config(), shape, 3).unwrap_err().to_string();
    assert!(error.contains("learned positions"), "{error}");
    assert!(Decoder::<f32>::bytes(model.config(), shape, 2) > 4 * n as u64);
}
