//! Merges of real checkpoints against results that NumPy computed from the same rule.

use std::fs;

use crate::support::{Runner, assert_same_tensors, decode_safetensors, fixture, output, plan};

#[track_caller]
fn check_expected(set: &str, scheme: &str, numerators: &[i64], divisor: i64) {
    let scratch = tempfile::tempdir().unwrap();
    let sources = [20, 40, 60, 80].map(|step| fixture(&format!("{set}/step-{step}")));
    let found = Runner::default().merge(&plan(output(&sources, numerators, divisor, &scratch.path().join("out"))));
    let expected = decode_safetensors(&fs::read(fixture(&format!("{set}/expected/{scheme}.safetensors"))).unwrap());
    assert!(!expected.is_empty());
    assert_same_tensors(&found, &expected, &format!("{set} {scheme}"));
}

#[test]
fn mean_of_a_sharded_run_equals_the_expected_bytes() {
    check_expected("hf-sharded", "sma", &[1, 1, 1, 1], 4);
}

#[test]
fn linear_mean_of_a_sharded_run_equals_the_expected_bytes() {
    check_expected("hf-sharded", "wma", &[1, 2, 3, 4], 10);
}

#[test]
fn exponential_mean_of_a_sharded_run_equals_the_expected_bytes() {
    check_expected("hf-sharded", "ema", &[64, 16, 20, 25], 125);
}

#[test]
fn mean_of_a_mixture_of_experts_equals_the_expected_bytes() {
    check_expected("hf-moe", "sma", &[1, 1, 1, 1], 4);
}

#[test]
fn linear_mean_of_a_mixture_of_experts_equals_the_expected_bytes() {
    check_expected("hf-moe", "wma", &[1, 2, 3, 4], 10);
}

#[test]
fn exponential_mean_of_a_mixture_of_experts_equals_the_expected_bytes() {
    check_expected("hf-moe", "ema", &[64, 16, 20, 25], 125);
}

#[test]
fn config_and_tokenizer_travel_byte_for_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = [20, 80].map(|step| fixture(&format!("hf-sharded/step-{step}")));
    let out = scratch.path().join("out");
    Runner::default().merge(&plan(output(&sources, &[1, 1], 2, &out)));
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(sources[1].join(name)).unwrap(), "{name}");
    }
}
