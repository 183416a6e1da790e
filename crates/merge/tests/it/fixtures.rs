//! Merges of checkpoints that other libraries wrote, against results computed in rational arithmetic.

use crate::support::{Setting, fixtures, merge, plan, read_tensors};

fn check_fixture(name: &str) {
    let folder = fixtures().join(name);
    let sources: Vec<_> = [20, 40, 60, 80].iter().map(|step| folder.join(format!("step-{step}"))).collect();
    for (scheme, file) in [("sma", "sma"), ("wma", "wma"), ("ema:0.2", "ema")] {
        let scratch = tempfile::tempdir().unwrap();
        let merged = merge(&plan(&sources, scheme, &scratch.path().join("out")), Setting::default()).unwrap();
        let expected = read_tensors(&folder.join("expected").join(format!("{file}.safetensors")));
        assert_eq!(merged, expected, "{name} {scheme}");
    }
}

#[test]
fn sharded_dense_checkpoints_merge_to_the_expected_bits() {
    check_fixture("hf-sharded");
}

#[test]
fn moe_checkpoints_merge_to_the_expected_bits() {
    check_fixture("hf-moe");
}

#[test]
fn config_and_tokenizer_travel_byte_for_byte() {
    let folder = fixtures().join("hf-sharded");
    let sources: Vec<_> = [20, 80].iter().map(|step| folder.join(format!("step-{step}"))).collect();
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    merge(&plan(&sources, "sma", &out), Setting::default()).unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(sources[1].join(name)).unwrap(), "{name}");
    }
}
