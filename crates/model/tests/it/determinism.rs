//! The same bits for any number of threads.

use thalweg_model::{Batch, BatchShape, LossOptions, Model, ModelConfig, Purpose, Workspace};

use crate::support::{tiny_configs, tokens_below};

fn check_threads(name: &str, config: &ModelConfig, shape: BatchShape) {
    let model = Model::<f32>::init(config.clone(), 11);
    let tokens = tokens_below(config.vocab_size, shape.n_tokens());
    let batch = Batch::new(config, &tokens, &tokens, shape).unwrap();
    let options = LossOptions { n_targets_total: shape.n_tokens(), z_loss: Some(1e-4), balance_loss: 0.01 };
    let run = |n_threads| {
        rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap().install(|| {
            let mut workspace = Workspace::new(config, shape, Purpose::Train);
            let mut gradients = vec![0.0; model.params().len()];
            let loss = model.loss_and_gradients(batch, options, &mut workspace, &mut gradients);
            let mut nlls = vec![0.0; shape.n_tokens()];
            model.score(batch, &mut workspace, &mut nlls, None);
            let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            (loss, bits(gradients), bits(nlls))
        })
    };
    let one = run(1);
    for n_threads in [2, 7] {
        let many = run(n_threads);
        assert_eq!(one.0, many.0, "{name}: loss with {n_threads} threads");
        assert!(one.1 == many.1, "{name}: gradients with {n_threads} threads");
        assert!(one.2 == many.2, "{name}: losses with {n_threads} threads");
    }
}

#[test]
fn one_two_and_seven_threads_give_the_same_bits_in_every_family() {
    for (name, config) in tiny_configs() {
        check_threads(name, &config, BatchShape { n_sequences: 3, sequence_length: 8 });
    }
}

/// Large enough that products are shared out among threads and rows fall into several blocks.
#[test]
fn one_two_and_seven_threads_give_the_same_bits_at_a_real_width() {
    let (_, tiny) = tiny_configs().into_iter().find(|(name, _)| *name == "thalweg_moe").unwrap();
    let mut config = ModelConfig {
        vocab_size: 1000,
        hidden: 160,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 32,
        max_positions: 128,
        ..tiny
    };
    config.mlp.inner = 200;
    check_threads("thalweg_moe", &config, BatchShape { n_sequences: 3, sequence_length: 128 });
}
