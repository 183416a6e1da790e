//! What goes into memory is what would have been published.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use thalweg_checkpoint::{Checkpoint, open_checkpoint};
use thalweg_merge::Coefficients;
use thalweg_merge::in_memory::{LiveSource, merge_into_sinks, merge_live};
use thalweg_merge::plan::MergePlan;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_tensor::{AccessError, TensorCatalog, TensorSink};

use crate::support::{Runner, fixture, output, plan, read_tensors};

/// Keeps the bytes of every tensor.
struct KeepSink {
    catalog: Arc<TensorCatalog>,
    tensors: Vec<Mutex<Vec<u8>>>,
}

impl KeepSink {
    fn like(source: &Path) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
        let catalog = Arc::clone(open_checkpoint(&storage, source).unwrap().catalog());
        let empty = |n_bytes: u64| Mutex::new(vec![0; usize::try_from(n_bytes).unwrap()]);
        let tensors = catalog.entries().iter().map(|entry| empty(entry.n_bytes())).collect();
        Self { catalog, tensors }
    }
}

impl TensorSink for KeepSink {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn write_elements(&self, tensor_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let element_bytes = self.catalog.entries()[tensor_idx].dtype.bytes().unwrap();
        let at = usize::try_from(first_element * element_bytes).unwrap();
        self.tensors[tensor_idx].lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

fn live(opened: &[Checkpoint]) -> Vec<LiveSource<'_>> {
    opened.iter().map(|tensors| LiveSource { name: "a step", tensors }).collect()
}

fn sources() -> Vec<PathBuf> {
    [20, 40, 60, 80].map(|step| fixture(&format!("hf-sharded/step-{step}"))).into()
}

#[test]
fn three_merges_in_memory_hold_the_bytes_of_three_that_are_published() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    let merges: [(&[usize], &[i64], i64); 3] =
        [(&[0, 1, 2, 3], &[1, 1, 1, 1], 4), (&[1, 2, 3], &[1, 2, 3], 6), (&[0, 3], &[-1, 3], 2)];
    let outputs = merges.iter().enumerate().map(|(k, (picked, numerators, divisor))| {
        let picked: Vec<PathBuf> = picked.iter().map(|&i| sources[i].clone()).collect();
        output(&picked, numerators, *divisor, &folder.path().join(format!("out{k}")))
    });
    let outputs: Vec<_> = outputs.collect();
    let sinks: Vec<KeepSink> = outputs.iter().map(|_| KeepSink::like(&sources[0])).collect();
    let refs: Vec<&dyn TensorSink> = sinks.iter().map(|sink| sink as &dyn TensorSink).collect();
    let together = MergePlan::new(outputs.clone()).unwrap();
    Runner::default().with_context(|run| merge_into_sinks(&together, &refs, run)).0.unwrap();
    for output in &outputs {
        assert!(!output.path.exists(), "nothing is published");
    }
    for (output, sink) in outputs.into_iter().zip(&sinks) {
        Runner::default().merge(&plan(output.clone()));
        let published = read_tensors(&output.path);
        assert_eq!(published.len(), sink.tensors.len());
        for (entry, bytes) in sink.catalog.entries().iter().zip(&sink.tensors) {
            assert!(published[&*entry.name].2 == *bytes.lock().unwrap(), "{}", entry.name);
        }
    }
}

#[test]
fn sinks_that_do_not_fit_are_refused_before_anything_is_read() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    let plan = plan(output(&sources, &[1, 1, 1, 1], 4, &folder.path().join("out")));
    let refuse = |sinks: &[&dyn TensorSink]| {
        Runner::default().with_context(|run| merge_into_sinks(&plan, sinks, run)).0.unwrap_err().to_string()
    };
    assert!(refuse(&[]).contains("1 outputs go into 0 sinks"), "{}", refuse(&[]));
    let mut other = KeepSink::like(&sources[0]);
    let mut entries = other.catalog.entries().to_vec();
    entries.pop();
    other.catalog = Arc::new(TensorCatalog::new(entries).unwrap());
    assert!(refuse(&[&other]).contains("the sources hold 21 tensors, a sink 20"), "{}", refuse(&[&other]));
}

#[test]
fn live_sources_give_the_bytes_of_a_merge_and_must_fit_together() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let opened: Vec<_> = sources.iter().map(|path| open_checkpoint(&storage, path).unwrap()).collect();
    let weighted = Coefficients::new([1, 2, 3, 4], 10).unwrap();
    let sink = KeepSink::like(&sources[0]);
    Runner::default().with_context(|run| merge_live(&live(&opened), &weighted, &sink, run)).0.unwrap();
    let out = folder.path().join("out");
    Runner::default().merge(&plan(output(&sources, &[1, 2, 3, 4], 10, &out)));
    let published = read_tensors(&out);
    for (entry, bytes) in sink.catalog.entries().iter().zip(&sink.tensors) {
        assert!(published[&*entry.name].2 == *bytes.lock().unwrap(), "{}", entry.name);
    }
    let refuse = |sources: &[LiveSource<'_>]| {
        let refused = Runner::default().with_context(|run| merge_live(sources, &weighted, &sink, run)).0;
        refused.unwrap_err().to_string()
    };
    assert!(refuse(&[]).contains("there is no source"), "{}", refuse(&[]));
    let three = live(&opened[..3]);
    assert!(refuse(&three).contains("3 sources have 4 coefficients"), "{}", refuse(&three));
    let moe = open_checkpoint(&storage, &fixture("hf-moe/step-20")).unwrap();
    let mut mixed = live(&opened);
    mixed[2] = LiveSource { name: "another model", tensors: &moe };
    assert!(refuse(&mixed).contains("of a step differs from that of another model"), "{}", refuse(&mixed));
}
