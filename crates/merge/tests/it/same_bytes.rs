//! Nothing but coefficients and inputs decides a byte of the output.

use thalweg_merge::plan::{DigestChoice, MergePlan};
use thalweg_merge::{Coefficients, Error};
use thalweg_tensor::kernel::Simd;

use crate::support::{
    Setting, Watch, execute, make_sources, merge, output_plan, plan, read_tensors, scheme_coefficients,
};

/// Odd, and more than one unit.
const N_ELEMENTS: u64 = 1_300_001;

#[test]
fn threads_memory_and_instruction_sets_change_no_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 5, N_ELEMENTS);
    let expected = merge(&plan(&sources, "wma", &scratch.path().join("expected")), Setting::default()).unwrap();
    let settings = [
        Setting { n_threads: 1, ..Setting::default() },
        Setting { n_threads: 7, ..Setting::default() },
        Setting { memory_bytes: 64_000_000, ..Setting::default() },
        Setting { memory_bytes: 26_000_000, n_threads: 1, ..Setting::default() },
        Setting { simd: Simd::Avx2, ..Setting::default() },
        Setting { simd: Simd::Portable, ..Setting::default() },
    ];
    for (i, setting) in settings.into_iter().enumerate() {
        let out = scratch.path().join(format!("out{i}"));
        assert_eq!(merge(&plan(&sources, "wma", &out), setting).unwrap(), expected, "{setting:?}");
    }
}

#[test]
fn shards_and_digests_change_no_tensor() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, 10_000);
    let expected = merge(&plan(&sources, "ema:0.2", &scratch.path().join("expected")), Setting::default()).unwrap();
    for (i, (bytes, digest)) in
        [(10, DigestChoice::Blake3), (20_000, DigestChoice::Xxh3), (u64::MAX, DigestChoice::None)]
            .into_iter()
            .enumerate()
    {
        let mut output =
            output_plan(&sources, &scheme_coefficients("ema:0.2", 3), &scratch.path().join(format!("out{i}")));
        (output.out_shard_bytes, output.digest) = (bytes, digest);
        assert_eq!(merge(&MergePlan::new(vec![output]).unwrap(), Setting::default()).unwrap(), expected);
    }
}

#[test]
fn the_order_of_sources_with_their_coefficients_changes_no_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let mut sources = make_sources(scratch.path(), 3, 70_000);
    let coefficients = Coefficients::new([3, -1, 5], 7).unwrap();
    let a = output_plan(&sources, &coefficients, &scratch.path().join("a"));
    sources.rotate_left(1);
    let b = output_plan(&sources, &Coefficients::new([-1, 5, 3], 7).unwrap(), &scratch.path().join("b"));
    let merged = |output| merge(&MergePlan::new(vec![output]).unwrap(), Setting::default()).unwrap();
    assert_eq!(merged(a), merged(b));
}

#[test]
fn many_outputs_of_one_reading_equal_separate_merges() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 6, 700_000);
    let schemes = [("sma", 6), ("wma", 6), ("ema:0.2", 6), ("decay:1-sqrt", 6), ("decay:cosine", 6), ("sma", 4)];
    let outputs = schemes.iter().enumerate().map(|(i, &(scheme, n))| {
        output_plan(&sources[..n], &scheme_coefficients(scheme, n), &scratch.path().join(format!("sweep{i}")))
    });
    let together = MergePlan::new(outputs.collect()).unwrap();
    let watch = Watch::default();
    execute(&together, Setting::default(), &watch).unwrap();
    let source_bytes: u64 = 6 * 2 * (700_000 + 7);
    assert_eq!(watch.merged_bytes.into_inner(), source_bytes, "each source byte is read once");
    for (i, (scheme, n)) in schemes.into_iter().enumerate() {
        let alone = merge(&plan(&sources[..n], scheme, &scratch.path().join(format!("alone{i}"))), Setting::default());
        assert_eq!(read_tensors(&together.outputs[i].path), alone.unwrap(), "{scheme} over {n}");
    }
}

#[test]
fn a_memory_limit_that_is_too_small_says_the_least() {
    let scratch = tempfile::tempdir().unwrap();
    let sources = make_sources(scratch.path(), 3, 1000);
    let at = |memory_bytes, out: &str| {
        let plan = plan(&sources, "sma", &scratch.path().join(out));
        merge(&plan, Setting { memory_bytes, ..Setting::default() })
    };
    let Err(Error::MemoryTooSmall { least_bytes, .. }) = at(1_000_000, "a") else { panic!("1 MB is too small") };
    assert!(at(least_bytes - 1, "b").is_err());
    assert!(at(least_bytes, "c").is_ok());
}
