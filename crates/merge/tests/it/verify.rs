//! A receipt holds its output to its word.

use thalweg_merge::verify::{VerifyScope, verify_output};

use crate::support::{Setting, Watch, make_sources, merge, plan, with_context};

#[test]
fn one_flipped_bit_is_found_by_the_tensors_name() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, 600_000);
    let out = scratch.path().join("out");
    merge(&plan(&sources, "sma", &out), Setting::default()).unwrap();
    let check =
        |scope| with_context(Setting::default(), &Watch::default(), |run| verify_output(&out, scope, run).unwrap());
    assert!(check(VerifyScope::OutputAndInputs).is_equal());
    let shard = out.join("model.safetensors");
    let whole = std::fs::read(&shard).unwrap();
    let mut damaged = whole.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    std::fs::write(&shard, &damaged).unwrap();
    let found = check(VerifyScope::Output);
    let faults: Vec<&str> =
        found.tensors.iter().filter(|verdict| verdict.fault.is_some()).map(|verdict| verdict.name.as_str()).collect();
    assert_eq!(faults, ["model.large.weight"]);
    std::fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    assert!(!check(VerifyScope::Output).is_equal());
    std::fs::write(&shard, &whole).unwrap();
    assert!(check(VerifyScope::Output).is_equal());
}

#[test]
fn a_source_with_other_bytes_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 2, 1000);
    let out = scratch.path().join("out");
    merge(&plan(&sources, "sma", &out), Setting::default()).unwrap();
    let file = sources[0].join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let found = with_context(Setting::default(), &Watch::default(), |run| {
        verify_output(&out, VerifyScope::OutputAndInputs, run).unwrap()
    });
    assert!(found.sources[0].fault.is_some() && found.sources[1].fault.is_none(), "{found:?}");
}
