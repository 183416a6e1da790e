//! Tokens per second of forward, forward and backward, dense and with experts, for the GPT of PyTorch's `train_step.py`
//! in BENCHMARKS.md.
//!
//! `cargo run --release -p thalweg-model --example bench_step [THREADS [STEPS]]`
#![expect(clippy::print_stdout, reason = "a benchmark speaks")]

use std::time::Instant;

use serde_json::json;
use thalweg_model::{Batch, BatchShape, LossOptions, Model, ModelConfig, Purpose, Workspace};

const SHAPE: BatchShape = BatchShape { n_sequences: 16, sequence_length: 256 };
const VOCAB_SIZE: usize = 4096;

fn median_rate(n_steps: usize, mut step: impl FnMut()) -> f64 {
    for _ in 0..2 {
        step();
    }
    let mut seconds: Vec<f64> = (0..n_steps)
        .map(|_| {
            let start = Instant::now();
            step();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    f64::from(u32::try_from(SHAPE.n_tokens()).unwrap_or(u32::MAX)) / seconds[n_steps / 2]
}

fn bench(name: &str, config: &serde_json::Value, n_steps: usize) -> Result<f64, thalweg_model::Error> {
    let config = ModelConfig::from_json(config)?;
    let model = Model::<f32>::init(config.clone(), 1);
    let mut workspace = Workspace::new(&config, SHAPE, Purpose::Train);
    let vocab_size = u32::try_from(VOCAB_SIZE).unwrap_or(u32::MAX);
    let tokens: Vec<u32> =
        (0_u32..).map(|i| i.wrapping_mul(2_654_435_761) >> 7).map(|x| x % vocab_size).take(SHAPE.n_tokens()).collect();
    let batch = Batch::new(&config, &tokens, &tokens, SHAPE)?;
    let options = LossOptions { n_targets_total: SHAPE.n_tokens(), z_loss: None, balance_loss: 0.01 };
    let (mut nlls, mut gradients) = (vec![0.0; SHAPE.n_tokens()], vec![0.0; model.params().len()]);
    let forward = median_rate(n_steps, || model.score(batch, &mut workspace, &mut nlls, None));
    let step = median_rate(n_steps, || {
        gradients.fill(0.0);
        model.loss_and_gradients(batch, options, &mut workspace, &mut gradients);
    });
    let n_params = model.params().len();
    println!("{name}: {n_params} parameters, forward {forward:.0} tokens/s, forward and backward {step:.0} tokens/s");
    Ok(step)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().map_or(Ok(2), |text| text.parse())?;
    let n_steps = args.next().map_or(Ok(11), |text| text.parse())?;
    let gpt = json!({
        "model_type": "gpt2", "vocab_size": VOCAB_SIZE, "n_positions": 256, "n_embd": 256, "n_layer": 4, "n_head": 4,
        "activation_function": "gelu", "tie_word_embeddings": false,
    });
    let llama = json!({
        "model_type": "llama", "vocab_size": VOCAB_SIZE, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 256,
    });
    let moe = json!({
        "model_type": "mixtral", "vocab_size": VOCAB_SIZE, "hidden_size": 256, "intermediate_size": 352, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 256, "num_local_experts": 8, "num_experts_per_tok": 2,
    });
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build()?.install(|| {
        bench("GPT", &gpt, n_steps)?;
        let dense = bench("dense", &llama, n_steps)?;
        let sparse = bench("8 experts, 2 active, of half the size", &moe, n_steps)?;
        println!("experts against dense: {:.2}", sparse / dense);
        Ok::<(), thalweg_model::Error>(())
    })?;
    Ok(())
}
