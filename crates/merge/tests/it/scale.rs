//! Many sources and many tensors.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_merge::verify::{VerifyScope, verify_output};
use thalweg_storage::LocalStorage;

use crate::support::{Runner, Tensors, f32_bytes, f32_tensor, mean, output, plan, write_checkpoint};

#[test]
fn a_thousand_sources_merge_with_few_open_files() {
    const N_SOURCES: u16 = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..N_SOURCES).map(|i| folder.path().join(format!("step-{i}"))).collect();
    for (i, source) in (0..N_SOURCES).zip(&sources) {
        let tensor = |t: u16| (format!("t{t}"), f32_tensor(&[f32::from(i), f32::from(t), -f32::from(i)]));
        write_checkpoint(source, &(0..10).map(tensor).collect());
    }
    let runner = Runner::on(Arc::new(LocalStorage::with_max_open_files(64)));
    let found = runner.merge(&mean(&sources, &folder.path().join("out")));
    assert_eq!(found.len(), 10);
    for t in 0..10_u8 {
        // The mean of 0 to 999.
        assert_eq!(found[&format!("t{t}")].2, f32_bytes(&[499.5, f32::from(t), -499.5]));
    }
}

#[test]
fn tens_of_thousands_of_tensors_merge_and_verify() {
    const N_TENSORS: u32 = 30_000;
    let folder = tempfile::tempdir().unwrap();
    let sources = [1_u8, 2, 3].map(|i| {
        let path = folder.path().join(format!("c{i}"));
        let tensor = |t: u32| (format!("layers.{t}.w"), f32_tensor(&[f32::from(i), t as f32]));
        write_checkpoint(&path, &(0..N_TENSORS).map(tensor).collect());
        path
    });
    let out = folder.path().join("out");
    let found = Runner::default().merge(&plan(output(&sources, &[1, -1, 2], 2, &out)));
    // (1 - 2 + 6) / 2, and a value that all share.
    let tensor = |t: u32| (format!("layers.{t}.w"), f32_tensor(&[2.5, t as f32]));
    let expected: Tensors = (0..N_TENSORS).map(tensor).collect();
    assert!(found == expected);
    let verification = Runner::default().with_context(|run| verify_output(&out, VerifyScope::Output, run)).0.unwrap();
    assert!(verification.is_equal());
}
