//! A training step allocates nothing after the first: a separate binary, because it counts through the global
//! allocator.

use thalweg_model::{Batch, BatchShape, LossOptions, Model, ModelConfig, Purpose, Workspace};
use thalweg_testkit::CountingAllocator;
use thalweg_testkit::counting_allocator::AllocationCounts;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn count_of_a_step(
    config: &serde_json::Value,
    n_threads: usize,
) -> Result<AllocationCounts, Box<dyn std::error::Error + Send + Sync>> {
    let config = ModelConfig::from_json(config)?;
    let shape = BatchShape { n_sequences: 2, sequence_length: 64 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build()?;
    pool.install(|| {
        let model = Model::<f32>::init(config.clone(), 1);
        let mut workspace = Workspace::new(&config, shape, Purpose::Train);
        let tokens: Vec<u32> = (0..128).map(|i| i * 37 % 61).collect();
        let batch = Batch::new(&config, &tokens, &tokens, shape)?;
        let options = LossOptions { n_targets_total: 128, z_loss: Some(1e-4), balance_loss: 0.01 };
        let (mut gradients, mut nlls) = (vec![0.0; model.params().len()], vec![0.0; 128]);
        let mut step = || {
            model.loss_and_gradients(batch, options, &mut workspace, &mut gradients);
            model.score(batch, &mut workspace, &mut nlls, None);
        };
        step();
        step();
        Ok(CountingAllocator::count(step))
    })
}

/// Ours are none on one thread. `gemm` takes and returns packing space in each product, which the system's allocator
/// serves from its free lists; on two threads rayon's queue of tasks from outside takes a block now and then (for every
/// 31 tasks). Neither can be had otherwise from outside.
#[test]
fn a_step_allocates_nothing_after_the_first() {
    let llama = serde_json::json!({
        "model_type": "llama", "vocab_size": 61, "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    });
    let moe = serde_json::json!({
        "model_type": "thalweg_moe", "vocab_size": 61, "hidden_size": 96, "moe_intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 32, "balance_bias": true, "norm_topk_prob": true,
    });
    for config in [llama, moe] {
        let name = config["model_type"].as_str().unwrap();
        let AllocationCounts { n_packing, n_other } = count_of_a_step(&config, 1).unwrap();
        assert_eq!(n_other, 0, "{name} on one thread");
        let on_two = count_of_a_step(&config, 2).unwrap();
        println!("{name}: {n_packing} packing buffers on one thread; on two {on_two:?}");
        assert!(on_two.n_other <= 8, "{name} on two threads: {on_two:?}");
    }
}
