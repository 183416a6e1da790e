//! Threads, memory, shards, instruction set, digests and the order of sources change no byte of a tensor.

use std::path::PathBuf;

use thalweg_merge::Error;
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputPlan};
use thalweg_tensor::kernel::Simd;

use crate::support::{PLAIN, Runner, Tensors, assert_same_tensors, fixture, output, plan};

const NUMERATORS: [i64; 4] = [64, 16, 20, 25];

fn sources() -> [PathBuf; 4] {
    [20, 40, 60, 80].map(|step| fixture(&format!("hf-sharded/step-{step}")))
}

fn merge_with(runner: &Runner, change: impl FnOnce(&mut OutputPlan)) -> Tensors {
    let scratch = tempfile::tempdir().unwrap();
    let mut output = output(&sources(), &NUMERATORS, 125, &scratch.path().join("out"));
    change(&mut output);
    runner.merge(&plan(output))
}

#[test]
fn any_number_of_threads_and_any_memory_give_the_same_bytes() {
    let expected = merge_with(&Runner::default(), |_| ());
    for n_threads in [1, 2, 7] {
        for memory_bytes in [64_000_000, 256_000_000] {
            let runner = Runner { n_threads, memory_bytes, ..Runner::default() };
            assert_same_tensors(&merge_with(&runner, |_| ()), &expected, &format!("{n_threads}, {memory_bytes}"));
        }
    }
}

#[test]
fn any_shard_size_gives_the_same_tensors() {
    let expected = merge_with(&Runner::default(), |_| ());
    for shard_bytes in [5_000, 14_000, 5_000_000_000] {
        let found = merge_with(&Runner::default(), |output| output.out_shard_bytes = shard_bytes);
        assert_same_tensors(&found, &expected, &format!("{shard_bytes}"));
    }
}

#[test]
fn any_order_of_sources_gives_the_same_bytes() {
    let expected = merge_with(&Runner::default(), |_| ());
    for order in [[3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let found = merge_with(&Runner::default(), |output| {
            let old = output.sources.clone();
            output.sources = order.iter().map(|&i: &usize| old[i].clone()).collect();
            let newest = order.iter().position(|&i| i == 3).unwrap();
            (output.policy.newest, output.policy.side_files_from) = (newest, newest);
        });
        assert_same_tensors(&found, &expected, &format!("{order:?}"));
    }
}

#[test]
fn any_instruction_set_gives_the_same_bytes() {
    let expected = merge_with(&Runner::default(), |_| ());
    for simd in [Simd::Portable, Simd::Avx2, Simd::Avx512] {
        let runner = Runner { simd, ..Runner::default() };
        assert_same_tensors(&merge_with(&runner, |_| ()), &expected, &format!("{simd:?}"));
    }
}

#[test]
fn any_digest_gives_the_same_bytes() {
    let expected = merge_with(&Runner::default(), |_| ());
    for digest in [DigestChoice::Blake3, DigestChoice::Xxh3, DigestChoice::None] {
        let found = merge_with(&Runner::default(), |output| output.digest = digest);
        assert_same_tensors(&found, &expected, &format!("{digest:?}"));
    }
}

#[test]
fn a_memory_limit_that_is_too_small_says_the_least() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |memory_bytes, out: &str| {
        let plan = plan(output(&sources(), &NUMERATORS, 125, &scratch.path().join(out)));
        Runner { memory_bytes, ..Runner::default() }.execute(&plan, PLAIN)
    };
    let Err(Error::MemoryTooSmall { least_bytes, .. }) = at(1_000_000, "a") else { panic!("1 MB is too small") };
    assert!(at(least_bytes - 1, "b").is_err());
    assert!(at(least_bytes, "c").is_ok());
}

#[test]
fn a_plan_that_was_written_and_read_keeps_its_digest() {
    let scratch = tempfile::tempdir().unwrap();
    // Doubles whose shortest decimal form a reader that is not exact takes for their neighbour.
    for coefficient in [9.900_000_200_376_421e25, 5e-324, 0.1, 1.0 / 3.0, 2.0 / 997.0] {
        let mut output = output(&sources(), &NUMERATORS, 125, scratch.path());
        output.sources[0].coefficient = coefficient;
        let written = plan(output);
        // `from_json` would refuse a decimal that is not the coefficient.
        let read: MergePlan = serde_json::from_str(&written.to_json().unwrap()).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.outputs[0].digest().unwrap(), written.outputs[0].digest().unwrap());
    }
}
