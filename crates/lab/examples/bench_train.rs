//! Tokens a second of whole training steps: forward, backward, clipping, optimizer.
//!
//!     cargo run --release -p thalweg-lab --example bench_train [-- THREADS STEPS]
//!
//! Two models: a GPT-2 of 5.3M parameters (4 layers, width 256, context 256, batch 16, vocabulary 4,096) and the Llama
//! of 0.9M parameters of `examples/train/stories-1m.toml`. Medians, in milliseconds.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small counts")]

use std::time::Instant;

use serde_json::json;
use thalweg_lab::config::{OptimizerKind, OptimizerSection};
use thalweg_lab::optimizer::{Arenas, GlobalNorm, Optimizer, StepScale, clip_scale, rules_of};
use thalweg_model::{Batch, BatchShape, LossOptions, Model, ModelConfig, Purpose, Workspace};

const N_WARM_UP: usize = 2;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let n_threads = numbers.first().copied().unwrap_or(2);
    let n_steps = numbers.get(1).copied().unwrap_or(8);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build()?;
    let gpt = json!({
        "model_type": "gpt2", "vocab_size": 4096, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 256,
        "activation_function": "gelu", "tie_word_embeddings": false,
    });
    let llama = json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": false,
    });
    for (name, config) in [("gpt 5.3M", &gpt), ("llama 0.9M", &llama)] {
        let config = ModelConfig::from_json(config)?;
        for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
            pool.install(|| bench(name, &config, kind, n_steps))?;
        }
    }
    Ok(())
}

fn bench(
    name: &str,
    config: &ModelConfig,
    kind: OptimizerKind,
    n_steps: usize,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let shape = BatchShape { n_sequences: 16, sequence_length: 256 };
    let n = shape.n_tokens();
    let mut model = Model::<f32>::init(config.clone(), 1);
    let n_params = model.params().len();
    let mut workspace = Workspace::new(config, shape, Purpose::Train);
    let section = OptimizerSection {
        kind,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        momentum: 0.95,
        clip_norm: 1.0,
    };
    let mut optimizer = Optimizer::new(&section, rules_of(model.layout(), kind));
    let arena = || vec![0.0_f32; n_params];
    let (mut gradients, mut first_moments, mut second_moments) = (arena(), arena(), arena());
    let vocab_size = config.vocab_size as u32;
    let mut norm = GlobalNorm::for_len(n_params);
    let (mut passes, mut updates) = (Vec::new(), Vec::new());
    for step in 1..=N_WARM_UP + n_steps {
        let tokens: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) / 7 % vocab_size).collect();
        let targets: Vec<u32> = tokens.iter().map(|token| (token + step as u32) % vocab_size).collect();
        let began = Instant::now();
        gradients.fill(0.0);
        let options = LossOptions { n_targets_total: n, z_loss: None, balance_loss: 0.0 };
        model.loss_and_gradients(
            Batch::new(config, &tokens, &targets, shape)?,
            options,
            &mut workspace,
            &mut gradients,
        );
        let passed = Instant::now();
        let gradient_scale = clip_scale(norm.of(&gradients), section.clip_norm);
        let arenas = Arenas {
            params: model.params_mut(),
            gradients: &gradients,
            first_moments: &mut first_moments,
            second_moments: &mut second_moments,
        };
        optimizer.step(arenas, StepScale { learning_rate: 1e-3, gradient_scale, n_updates: step as u64 });
        if step > N_WARM_UP {
            passes.push((passed - began).as_secs_f64());
            updates.push(passed.elapsed().as_secs_f64());
        }
    }
    let (pass, update) = (median(passes), median(updates));
    println!(
        "{name}, {n_params} params, {kind:?}, {} threads: passes {:.1} ms, clip and optimizer {:.2} ms, {:.0} tokens/s",
        rayon::current_num_threads(),
        pass * 1e3,
        update * 1e3,
        n as f64 / (pass + update)
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
