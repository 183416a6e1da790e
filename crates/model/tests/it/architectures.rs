//! Every family against transformers: logits, losses and gradients of tiny random models.
//!
//! What is expected was computed in f64 and rounded to f32 once, which moves a number by at most 2^-24 of itself. Our
//! f64 pass must agree to that and 1e-9, a thousand times what two orders of summation differ by in f64. Our f32 pass
//! gets three times the largest error of transformers' own f32 pass against the same f64 (`largest_float32_error` in
//! `expected.json`): the same roundings in another order.

use thalweg_model::{Batch, BatchShape, Float, LossOptions, Model, NO_TARGET, Purpose, Workspace};

use crate::support::{FileSource, fixture, load, read_json, widened};

const SHAPE: BatchShape = BatchShape { n_sequences: 2, sequence_length: 24 };

/// Half a unit of the last place of f32, relatively.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

#[derive(Clone, Copy)]
enum Precision {
    /// Rounded results of f64.
    F64,
    /// Results of f32, within this much.
    F32(f64),
}

fn check_close<T: Float>(what: &str, got: &[T], want: &[f32], precision: Precision) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, &want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (got.to_f64(), f64::from(want));
        let tolerance = match precision {
            Precision::F64 => want.abs() * ROUNDING + 1e-9,
            Precision::F32(tolerance) => tolerance,
        };
        assert!(
            (got - want).abs() <= tolerance,
            "{what} at {i}: {got} instead of {want}, differs by {:e}",
            (got - want).abs()
        );
    }
}

fn check_model<T: Float>(family: &str, model: &Model<T>, expected: &FileSource, precision: impl Fn(&str) -> Precision) {
    let tokens = expected.tokens("tokens");
    let vocab_size = model.config().vocab_size;
    let mut workspace = Workspace::new(model.config(), SHAPE, Purpose::Train);
    let mut logits = vec![T::ZERO; SHAPE.n_tokens() * vocab_size];
    model.logits(&tokens, SHAPE, &mut workspace, &mut logits);
    check_close(&format!("{family}: logits"), &logits, &expected.f32s("logits"), precision("logits"));

    let mut targets: Vec<u32> = tokens.iter().skip(1).copied().chain([NO_TARGET]).collect();
    targets[SHAPE.sequence_length - 1] = NO_TARGET;
    let batch = Batch::new(model.config(), &tokens, &targets, SHAPE).unwrap();
    let mut nlls = vec![T::ONE; SHAPE.n_tokens()];
    let mut greedy = vec![0; SHAPE.n_tokens()];
    model.score(batch, &mut workspace, &mut nlls, Some(&mut greedy));
    let scored: Vec<T> =
        nlls.chunks(SHAPE.sequence_length).flat_map(|row| &row[..SHAPE.sequence_length - 1]).copied().collect();
    check_close(&format!("{family}: losses"), &scored, &expected.f32s("nlls"), precision("nlls"));
    for (&token, row) in greedy.iter().zip(logits.chunks(vocab_size)) {
        assert!(row.iter().all(|x| *x <= row[token as usize]), "{family}: a larger logit than the greedy one");
    }

    let mut gradients = vec![T::ZERO; model.layout().n_params()];
    let options = LossOptions { n_targets_total: batch.n_targets(), z_loss: None, balance_loss: 0.0 };
    let loss = model.loss_and_gradients(batch, options, &mut workspace, &mut gradients);
    let sum: f64 = nlls.iter().map(|x| x.to_f64()).sum();
    assert!((loss.nll_sum_nats - sum).abs() < 1e-4 && loss.n_targets == 46, "{family}: {loss:?} against {sum}");
    for spec in model.layout().specs() {
        let want = expected.f32s(&format!("grad.{}", spec.name));
        check_close(
            &format!("{family}: gradients of {}", spec.name),
            &gradients[spec.range.clone()],
            &want,
            precision("gradients"),
        );
    }
}

/// The balance loss and the tokens of each expert, for mixtures.
fn check_balance(family: &str, model: &Model<f64>, tokens: &[u32], facts: &serde_json::Value) {
    let Some(want) = facts["balance_loss"].as_f64() else { return };
    let mut workspace = Workspace::new(model.config(), SHAPE, Purpose::Train);
    let mut gradients = vec![0.0; model.layout().n_params()];
    let batch = Batch::new(model.config(), tokens, tokens, SHAPE).unwrap();
    let options = LossOptions { n_targets_total: batch.n_targets(), z_loss: None, balance_loss: 1.0 };
    let loss = model.loss_and_gradients(batch, options, &mut workspace, &mut gradients);
    assert!((loss.balance_loss - want).abs() < 1e-9, "{family}: balance loss {} instead of {want}", loss.balance_loss);
    let layers = facts["expert_counts"].as_array().unwrap();
    let want: Vec<u64> =
        layers.iter().flat_map(|layer| layer.as_array().unwrap()).map(|n| n.as_u64().unwrap()).collect();
    let got: Vec<u64> = workspace.expert_counts().iter().map(|&n| u64::from(n)).collect();
    assert_eq!(got[got.len() - want.len()..], want, "{family}: tokens of each expert");
}

fn check_family(family: &str) {
    let folder = format!("architectures/{family}");
    let model = load(&folder);
    let expected = FileSource::open(fixture(&folder).join("expected.safetensors"));
    check_model(family, &widened(&model), &expected, |_| Precision::F64);
    let facts = read_json(&fixture(&folder).join("expected.json"));
    let error = |what: &str| facts["largest_float32_error"][what].as_f64().unwrap();
    check_model(family, &model, &expected, |what| Precision::F32(3.0 * error(what)));
    check_balance(family, &widened(&model), &expected.tokens("tokens"), &facts);
}

#[test]
fn llama() {
    check_family("llama");
}

#[test]
fn llama_with_scaled_rotary_positions_and_a_tied_head() {
    check_family("llama_scaled");
}

#[test]
fn qwen2() {
    check_family("qwen2");
}

#[test]
fn qwen3() {
    check_family("qwen3");
}

#[test]
fn olmo2() {
    check_family("olmo2");
}

#[test]
fn gpt_neox() {
    check_family("gpt_neox");
}

#[test]
fn gpt_neox_with_sequential_residuals() {
    check_family("gpt_neox_serial");
}

#[test]
fn gpt2_with_a_tied_head_and_the_exact_gelu() {
    check_family("gpt2");
}

#[test]
fn mixtral() {
    check_family("mixtral");
}

#[test]
fn qwen3_moe_with_a_dense_layer() {
    check_family("qwen3_moe");
}

#[test]
fn olmoe() {
    check_family("olmoe");
}
