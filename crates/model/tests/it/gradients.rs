//! Gradients of whole models against central differences, in f64: every family, every switch, every term of the loss.

use thalweg_model::{Batch, BatchShape, LossOptions, Model, NO_TARGET, ParamRole, Purpose, Workspace};

use crate::support::{rough_model, tiny_configs, tokens_below};

const SHAPE: BatchShape = BatchShape { n_sequences: 2, sequence_length: 7 };

fn objective(
    model: &Model<f64>,
    batch: Batch<'_>,
    options: LossOptions,
    workspace: &mut Workspace<f64>,
    gradients: &mut [f64],
) -> f64 {
    gradients.fill(0.0);
    let loss = model.loss_and_gradients(batch, options, workspace, gradients);
    loss.nll_sum_nats / options.n_targets_total as f64 + loss.z_loss + loss.balance_loss
}

/// Central differences of the fourth order err by step^4 times a fifth derivative over 30, and by rounding of some
/// 1e-15 over the step: both stay below 1e-10 for derivatives up to 1e9, which RMSNorm of small embeddings needs.
#[test]
fn gradients_of_every_family_are_the_slopes_of_the_loss() {
    const STEP: f64 = 3e-5;
    for (name, config) in tiny_configs() {
        let mut model = rough_model(config);
        let tokens = tokens_below(19, SHAPE.n_tokens());
        let mut targets = tokens_below(17, SHAPE.n_tokens());
        targets[4] = NO_TARGET;
        let batch = Batch::new(model.config(), &tokens, &targets, SHAPE).unwrap();
        let mut workspace = Workspace::new(model.config(), SHAPE, Purpose::Train);
        let (mut gradients, mut unused) = (vec![0.0; model.params().len()], vec![0.0; model.params().len()]);
        let options = LossOptions { n_targets_total: 13, z_loss: Some(0.03), balance_loss: 0.1 };
        // The share of tokens that chose an expert jumps with the choice and has no slope; so must the choice be the
        // same on both sides.
        objective(&model, batch, options, &mut workspace, &mut gradients);
        let counts = workspace.expert_counts().to_vec();
        let specs = model.layout().specs().to_vec();
        for spec in specs {
            let n = spec.range.len();
            let (mut largest, mut n_moved) = (0.0_f64, 0);
            for i in [0, n / 3, n / 2, n - 1].map(|offset| spec.range.start + offset) {
                let center = model.params()[i];
                let mut at = |x: f64, model: &mut Model<f64>| {
                    model.params_mut()[i] = x;
                    let loss = objective(model, batch, options, &mut workspace, &mut unused);
                    assert_eq!(workspace.expert_counts(), counts, "{name}: {} moves a choice", spec.name);
                    loss
                };
                let mut around = |step: f64| at(center + step, &mut model) - at(center - step, &mut model);
                let slope = (8.0 * around(STEP) - around(2.0 * STEP)) / (12.0 * STEP);
                model.params_mut()[i] = center;
                largest = largest.max((gradients[i] - slope).abs());
                n_moved += usize::from(gradients[i].abs() > 1e-7);
            }
            assert!(largest < 2e-9, "{name}: gradients of {} differ by {largest:e}", spec.name);
            let is_moved = n_moved > 0 || gradients[spec.range.clone()].iter().any(|g| g.abs() > 1e-7);
            assert_eq!(is_moved, spec.role != ParamRole::BalanceBias, "{name}: {}", spec.name);
        }
    }
}

/// Sums of f64 in another grouping: 1e-13 is some hundred roundings of numbers up to 4.
#[test]
fn micro_batches_add_up_to_the_whole() {
    for (name, config) in tiny_configs() {
        let model = rough_model(config);
        let (tokens, targets) = (tokens_below(19, SHAPE.n_tokens()), tokens_below(17, SHAPE.n_tokens()));
        let mut workspace = Workspace::new(model.config(), SHAPE, Purpose::Train);
        let options = LossOptions { n_targets_total: SHAPE.n_tokens(), z_loss: Some(0.03), balance_loss: 0.0 };
        let mut whole = vec![0.0; model.params().len()];
        let batch = Batch::new(model.config(), &tokens, &targets, SHAPE).unwrap();
        let loss = model.loss_and_gradients(batch, options, &mut workspace, &mut whole);
        let (mut parts, mut nll_sum_nats) = (vec![0.0; model.params().len()], 0.0);
        let half = BatchShape { n_sequences: 1, ..SHAPE };
        for (tokens, targets) in tokens.chunks(half.n_tokens()).zip(targets.chunks(half.n_tokens())) {
            let batch = Batch::new(model.config(), tokens, targets, half).unwrap();
            nll_sum_nats += model.loss_and_gradients(batch, options, &mut workspace, &mut parts).nll_sum_nats;
        }
        assert!((nll_sum_nats - loss.nll_sum_nats).abs() < 1e-12, "{name}");
        for (a, b) in whole.iter().zip(&parts) {
            assert!((a - b).abs() < 1e-13, "{name}: {a} and {b}");
        }
    }
}
