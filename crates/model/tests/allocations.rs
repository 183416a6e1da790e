//! A training step allocates nothing after the first: a binary of its own, because it counts through the global allocator.
#![expect(unsafe_code, reason = "an allocator that counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use thalweg_model::{Batch, BatchShape, LossOptions, Model, ModelConfig, Purpose, Workspace};

struct Counting;

/// `gemm` aligns the space that it packs operands into to cache lines and keeps flags of what is packed in bytes; nothing of ours is aligned so.
const PACKING_ALIGNMENT: usize = 64;
static N_PACKING: AtomicUsize = AtomicUsize::new(0);
static N_OTHER: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() >= PACKING_ALIGNMENT || layout.align() == 1 {
            N_PACKING.fetch_add(1, Ordering::Relaxed);
        } else {
            N_OTHER.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count_of_a_step(
    config: &serde_json::Value,
    n_threads: usize,
) -> Result<[usize; 2], Box<dyn std::error::Error + Send + Sync>> {
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
        let before = [&N_PACKING, &N_OTHER].map(|n| n.load(Ordering::Relaxed));
        step();
        Ok([N_PACKING.load(Ordering::Relaxed) - before[0], N_OTHER.load(Ordering::Relaxed) - before[1]])
    })
}

/// Ours are none on one thread. `gemm` takes and returns packing space in each product, which the system's allocator serves from its free lists;
/// on two threads rayon's queue of tasks from outside takes a block now and then (for every 31 tasks). Neither can be had otherwise from outside.
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
        let [n_packing, n_other] = count_of_a_step(&config, 1).unwrap();
        assert_eq!(n_other, 0, "{name} on one thread");
        let [n_packing_2, n_other_2] = count_of_a_step(&config, 2).unwrap();
        println!("{name}: {n_packing} packing buffers; on two threads {n_packing_2} and {n_other_2} others");
        assert!(n_other_2 <= 8, "{name} on two threads: {n_other_2}");
    }
}
