//! Many merges in one reading are the same as each on its own.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_merge::plan::MergePlan;
use thalweg_storage::LocalStorage;

use crate::support::{
    PLAIN, Runner, assert_same_tensors, data_start, fixture, noise_tensor, output, plan, read_tensors, shards,
    write_checkpoint,
};
use thalweg_testkit::Tap;

/// Eight merges over windows of four sources.
const MERGES: [(&[usize], &[i64], i64); 8] = [
    (&[0, 1, 2, 3], &[1, 1, 1, 1], 4),
    (&[0, 1, 2, 3], &[1, 2, 3, 4], 10),
    (&[0, 1, 2, 3], &[64, 16, 20, 25], 125),
    (&[2, 3], &[1, 1], 2),
    (&[1, 2, 3], &[1, 1, 1], 3),
    (&[0, 3], &[-1, 3], 2),
    (&[3], &[1], 1),
    (&[0, 2], &[1, 6], 7),
];

fn check_eight(sources: &[PathBuf]) {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| {
        MERGES
            .iter()
            .enumerate()
            .map(|(k, (picked, numerators, divisor))| {
                let picked: Vec<PathBuf> = picked.iter().map(|&i| sources[i].clone()).collect();
                output(&picked, numerators, *divisor, &folder.path().join(format!("{name}{k}")))
            })
            .collect::<Vec<_>>()
    };
    let tap = Tap::new(Arc::new(LocalStorage::new()));
    let together = MergePlan::new(of("together")).unwrap();
    let outcomes = Runner::on(tap.storage()).execute(&together, PLAIN).unwrap();
    assert_eq!(outcomes.len(), MERGES.len());
    for source in sources {
        for shard in shards(source) {
            let bytes = std::fs::read(&shard).unwrap();
            let data_bytes = (bytes.len() - data_start(&bytes)) as u64;
            let found = tap.bytes_read(&shard, data_start(&bytes) as u64);
            assert_eq!(found, data_bytes, "{}", shard.display());
        }
    }
    for (alone, shared) in of("alone").into_iter().zip(&together.outputs) {
        let expected = Runner::default().merge(&plan(alone));
        assert_same_tensors(&read_tensors(&shared.path), &expected, &shared.path.display().to_string());
    }
}

#[test]
fn eight_merges_of_a_real_run_in_one_reading_equal_eight_merges() {
    check_eight(&[20, 40, 60, 80].map(|step| fixture(&format!("hf-sharded/step-{step}"))));
}

#[test]
fn eight_merges_of_large_tensors_read_each_byte_once() {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..4).map(|i| folder.path().join(format!("c{i}"))).collect();
    for (i, source) in (1..).zip(&sources) {
        let tensor = |t: u64| (format!("t{t}"), noise_tensor(i * 10 + t, 600_000));
        write_checkpoint(source, &(0..2).map(tensor).collect());
    }
    check_eight(&sources);
}
