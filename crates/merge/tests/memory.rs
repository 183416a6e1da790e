//! `--memory` limits everything: catalogs, coefficients and configurations count too. A separate binary, because the
//! allocator counts for the whole process.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thalweg_checkpoint::CheckpointPool;
use thalweg_merge::context::{Limits, RunContext};
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge};
use thalweg_merge::plan::{MergePlan, OutputPlan, SourceRef};
use thalweg_merge::{Coefficients, Error};
use thalweg_storage::publish::Replace;
use thalweg_storage::{LocalStorage, Storage, Unwatched};
use thalweg_tensor::Dtype;
use thalweg_tensor::kernel::Simd;
use thalweg_testkit::{CountingAllocator, TinyCheckpoint};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Resident memory that is not allocated: the program's text and stacks.
const PROGRAM_BYTES: usize = 12 << 20;

fn output(sources: &[PathBuf], numerators: &[String], divisor: &str, path: PathBuf) -> OutputPlan {
    let source = |path: &PathBuf| SourceRef { path: path.clone(), step: None, tokens: None };
    let sources: Vec<SourceRef> = sources.iter().map(source).collect();
    let coefficients = Coefficients::from_decimal_strings(numerators, divisor).unwrap();
    OutputPlan::new(path, "custom", &sources, &coefficients)
}

/// Merges within `memory_bytes`. Returns the most bytes allocated at once, or the least limit that works as an error.
fn merge(plan: &MergePlan, memory_bytes: u64) -> Result<usize, u64> {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let (pool, interrupt) = (CheckpointPool::new(&storage), AtomicBool::new(false));
    let limits = Limits { n_threads: NonZeroUsize::new(2).unwrap(), memory_bytes, simd: Simd::Auto };
    let (host, progress, tool) = (&Unwatched, &Unwatched, "test");
    let run = RunContext { storage, pool: &pool, host, progress, interrupt: &interrupt, limits, tool };
    let options = ExecuteOptions { replace: Replace::Never, partial: PartialStage::Discard };
    let (outcome, peak_bytes) = CountingAllocator::peak_bytes(|| execute_merge(plan, options, &run).map(|_| ()));
    match outcome {
        Ok(()) => Ok(peak_bytes),
        Err(Error::MemoryTooSmall { least_bytes, .. }) => Err(least_bytes),
        Err(error) => panic!("{error}"),
    }
}

/// A limit that is too small is refused with the least one that works. That one holds, and is less than twice the peak.
#[track_caller]
fn check_limit(plan: &MergePlan) {
    let least_bytes = merge(plan, 1_000_000).unwrap_err();
    assert_eq!(merge(plan, least_bytes - 1), Err(least_bytes));
    let peak_bytes = merge(plan, least_bytes).unwrap() + PROGRAM_BYTES;
    let limit_bytes = usize::try_from(least_bytes).unwrap();
    assert!(peak_bytes <= limit_bytes, "{peak_bytes} bytes at a limit of {limit_bytes}");
    assert!(peak_bytes * 2 > limit_bytes, "{peak_bytes} bytes, and {limit_bytes} were asked for");
}

fn paths(folder: &Path, n: usize) -> Vec<PathBuf> {
    (0..n).map(|i| folder.join(format!("step-{i}"))).collect()
}

#[test]
fn the_limit_holds_for_many_tensors_long_coefficients_and_large_configurations() {
    // In sequence, because the allocator counts for all threads.
    many_tensors(30_000, 3, 1);
    many_tensors(20_000, 2, 4);
    long_coefficients(400, 19_990);
    large_configurations(200);
}

fn many_tensors(n_tensors: usize, n_sources: usize, n_outputs: usize) {
    let folder = tempfile::tempdir().unwrap();
    let sources = paths(folder.path(), n_sources);
    for (i, path) in (1_u8..).zip(&sources) {
        let add = |made: TinyCheckpoint, t| {
            made.tensor(&format!("model.layers.{t}.mlp.experts.w"), Dtype::F32, &[2], &[f64::from(i), 1.0])
        };
        (0..n_tensors).fold(TinyCheckpoint::new(), add).write_to_disk(path);
    }
    let numerators = vec!["1".to_owned(); n_sources];
    let out = |k| output(&sources, &numerators, &n_sources.to_string(), folder.path().join(format!("out-{k}")));
    check_limit(&MergePlan::new((0..n_outputs).map(out).collect()).unwrap());
}

fn long_coefficients(n_sources: usize, n_digits: usize) {
    let folder = tempfile::tempdir().unwrap();
    let sources = paths(folder.path(), n_sources);
    for path in &sources {
        TinyCheckpoint::new().tensor("w", Dtype::F32, &[4], &[1.0; 4]).write_to_disk(path);
    }
    // Numerators of about 10^19989 over n times as much; their last digits alternate.
    let numerator = |i: usize| format!("1{}{}", "0".repeat(n_digits - 2), i % 2);
    let numerators: Vec<String> = (0..n_sources).map(numerator).collect();
    let divisor = format!("{n_sources}{}", "0".repeat(n_digits - 1));
    check_limit(&MergePlan::new(vec![output(&sources, &numerators, &divisor, folder.path().join("out"))]).unwrap());
}

fn large_configurations(n_sources: usize) {
    let folder = tempfile::tempdir().unwrap();
    let sources = paths(folder.path(), n_sources);
    let labels: serde_json::Map<String, serde_json::Value> =
        (0..1000).map(|i| (i.to_string(), "a label".into())).collect();
    let config = serde_json::json!({"model_type": "llama", "id2label": labels});
    for path in &sources {
        TinyCheckpoint::new().tensor("w", Dtype::F32, &[4], &[1.0; 4]).config(&config).write_to_disk(path);
    }
    let numerators = vec!["1".to_owned(); n_sources];
    let divisor = n_sources.to_string();
    check_limit(&MergePlan::new(vec![output(&sources, &numerators, &divisor, folder.path().join("out"))]).unwrap());
}
