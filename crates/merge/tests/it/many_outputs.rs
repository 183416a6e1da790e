//! Many merges in one reading are the same as each on its own.

use std::path::PathBuf;
use std::sync::Arc;

use thalweg_merge::plan::MergePlan;
use thalweg_storage::LocalStorage;

use crate::support::{
    PLAIN, Runner, Tensor, assert_same_tensors, data_start, fixture, noise_tensor, output, plan, read_tensors, shards,
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
    // Compared with the others and looked at for the notes of all outputs: not once for each of them.
    let tokenizer = sources[0].join("tokenizer.json");
    if let Ok(bytes) = std::fs::read(&tokenizer) {
        let found = tap.bytes_read(&tokenizer, 0);
        assert!(found <= 2 * bytes.len() as u64, "{found} of {} bytes", bytes.len());
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

fn f32_tensor(n_elements: u64, value: impl Fn(u64) -> f32) -> Tensor {
    let bytes = (0..n_elements).flat_map(|e| value(e).to_le_bytes()).collect();
    ("F32".to_owned(), vec![n_elements], bytes)
}

/// A number of about the size of a weight.
fn weight(seed: u64, element: u64) -> f32 {
    let bits = (element * 31 + seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    #[expect(clippy::cast_precision_loss, reason = "24 bits")]
    let uniform = bits as f32 / (1 << 24) as f32;
    (uniform - 0.5) * 0.04
}

/// Plain and rising means of six at each of seven ends of a run of twelve, newest first, and one that is by itself.
fn windows(sources: &[PathBuf], folder: &std::path::Path) -> Vec<thalweg_merge::plan::OutputPlan> {
    let mut outputs = Vec::new();
    for end in (6..=sources.len()).rev() {
        let window = &sources[end - 6..end];
        outputs.push(output(window, &[1; 6], 6, &folder.join(format!("sma-{end}"))));
        outputs.push(output(window, &[1, 2, 3, 4, 5, 6], 21, &folder.join(format!("wma-{end}"))));
    }
    outputs.push(output(&sources[..3], &[64, 16, 45], 125, &folder.join("ema")));
    outputs
}

#[test]
fn windows_along_a_run_equal_merges_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..12).map(|i| folder.path().join(format!("c{i}"))).collect();
    for (i, source) in (0..).zip(&sources) {
        // The second tensor holds any bits: its sums are seldom exact. The third has -0 in it.
        let walk = |t: u64| f32_tensor(200_000, |e| weight(t, e) + 1e-3 * weight(i * 7 + t, e));
        let zeros = f32_tensor(300, |e| if (e + i) % 3 == 0 { -0.0 } else { 0.0 });
        let tensors = [("a", walk(1)), ("b", noise_tensor(i, 5_000)), ("c", zeros), ("d", walk(2))];
        write_checkpoint(source, &tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into());
    }
    let alone: Vec<_> = windows(&sources, &folder.path().join("alone"));
    let expected: Vec<_> = alone.into_iter().map(|one| Runner::default().merge(&plan(one))).collect();
    for n_threads in [1, 3] {
        let outputs = windows(&sources, &folder.path().join(format!("together{n_threads}")));
        let plan = MergePlan::new(outputs).unwrap();
        Runner { n_threads, ..Runner::default() }.execute(&plan, PLAIN).unwrap();
        for (output, expected) in plan.outputs.iter().zip(&expected) {
            assert_same_tensors(&read_tensors(&output.path), expected, &output.path.display().to_string());
        }
    }
}
