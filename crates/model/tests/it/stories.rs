//! A real model, `stories260K`, against an f64 pass of the same kind in NumPy (`reference.json`).

use thalweg_model::{Batch, BatchShape, Purpose, Workspace};

use crate::support::{fixture, load, read_json};

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn logits_after_the_prompt_are_those_of_the_reference() {
    let (model, reference) = (load("stories260K"), read_json(&fixture("stories260K/reference.json")));
    let tokens = ids(&reference["ids"]);
    let shape = BatchShape { n_sequences: 1, sequence_length: tokens.len() };
    let mut workspace = Workspace::new(model.config(), shape, Purpose::Score);
    let mut logits = vec![0.0; tokens.len() * 512];
    model.logits(&tokens, shape, &mut workspace, &mut logits);
    let last = &logits[logits.len() - 512..];
    for entry in reference["last_logits_top10"].as_array().unwrap() {
        let (id, want) = (usize::try_from(entry[0].as_u64().unwrap()).unwrap(), entry[2].as_f64().unwrap());
        // The reference keeps five decimals; 1e-4 is some fifty roundings of a number near 16 in f32.
        assert!((f64::from(last[id]) - want).abs() < 1e-4, "token {id}: {} instead of {want}", last[id]);
    }
    let sum: f64 = last.iter().copied().map(f64::from).sum();
    assert!((sum - reference["last_logits_sum"].as_f64().unwrap()).abs() < 512.0 * 1e-4, "sum {sum}");
}

#[test]
fn the_greedy_continuation_is_that_of_the_reference() {
    let (model, reference) = (load("stories260K"), read_json(&fixture("stories260K/reference.json")));
    let tokens = ids(&reference["greedy_60_from_bos"]["ids"]);
    let (context, next) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    let shape = BatchShape { n_sequences: 1, sequence_length: context.len() };
    let mut workspace = Workspace::new(model.config(), shape, Purpose::Score);
    let (mut nlls, mut greedy) = (vec![0.0; context.len()], vec![0; context.len()]);
    model.score(
        Batch::new(model.config(), context, next, shape).unwrap(),
        &mut workspace,
        &mut nlls,
        Some(&mut greedy),
    );
    assert_eq!(greedy, next);
    // The most probable of 512 tokens has at least a probability of 1/512.
    assert!(nlls.iter().all(|&nll| (0.0..=512.0_f32.ln()).contains(&nll)));
}
