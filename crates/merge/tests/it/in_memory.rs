//! What goes into memory is what would have been published.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use thalweg_checkpoint::{Checkpoint, open_checkpoint};
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::open_sources;
use thalweg_merge::in_memory::{LiveMerge, LiveOptions, LiveSource, OpenMerge, merge_into_sinks, merge_live};
use thalweg_merge::plan::{MergePlan, OutputDtype};
use thalweg_merge::seen::see_sources;
use thalweg_merge::{Coefficients, Error};
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

/// A sink with the tensors of an output, in its element types.
fn empty_sink(catalog: &Arc<TensorCatalog>) -> KeepSink {
    let empty = |n_bytes: u64| Mutex::new(vec![0; usize::try_from(n_bytes).unwrap()]);
    let tensors = catalog.entries().iter().map(|entry| empty(entry.n_bytes())).collect();
    KeepSink { catalog: Arc::clone(catalog), tensors }
}

#[test]
fn tensors_merged_one_by_one_hold_the_bytes_of_the_whole_merge_and_read_only_their_share() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    for dtype in [OutputDtype::Same, OutputDtype::F32, OutputDtype::F16] {
        let mut single = output(&sources, &[1, 2, 3, 4], 10, &folder.path().join(format!("{dtype:?}")));
        single.dtype = dtype;
        let plan = plan(single);
        let open = Runner::default().with_context(|run| OpenMerge::open(&plan, run)).0.unwrap();
        let (piecewise, mut n_read) = (empty_sink(&open.catalogs()[0]), 0);
        for tensor_idx in 0..piecewise.tensors.len() {
            let alone = empty_sink(&open.catalogs()[0]);
            let one = |run: &RunContext<'_>| open.merge_tensors(&|t| t == tensor_idx, &[&alone], run);
            let n_bytes = Runner::default().with_context(one).0.unwrap();
            // Four bf16 sources.
            assert_eq!(n_bytes, 4 * 2 * alone.catalog.entries()[tensor_idx].n_elements());
            n_read += n_bytes;
            for (i, bytes) in alone.tensors.iter().enumerate().filter(|(i, _)| *i != tensor_idx) {
                assert!(bytes.lock().unwrap().iter().all(|byte| *byte == 0), "{i} was written for {tensor_idx}");
            }
            *piecewise.tensors[tensor_idx].lock().unwrap() = alone.tensors[tensor_idx].lock().unwrap().clone();
        }
        let whole = empty_sink(&open.catalogs()[0]);
        let n_whole = Runner::default().with_context(|run| open.merge_tensors(&|_| true, &[&whole], run)).0.unwrap();
        assert_eq!(n_whole, n_read);
        Runner::default().merge(&plan);
        let published = read_tensors(&plan.outputs[0].path);
        for ((entry, bytes), single) in whole.catalog.entries().iter().zip(&whole.tensors).zip(&piecewise.tensors) {
            assert_eq!(published[&*entry.name].0, entry.dtype.name());
            assert!(published[&*entry.name].2 == *bytes.lock().unwrap(), "{}", entry.name);
            assert!(*single.lock().unwrap() == *bytes.lock().unwrap(), "{}", entry.name);
        }
    }
}

#[test]
fn an_open_merge_refuses_sources_that_changed_since_the_plan_saw_them() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    let mut plan = plan(output(&sources, &[1, 1, 1, 1], 4, &folder.path().join("out")));
    let seen = |run: &RunContext<'_>| open_sources(&plan, run).map(|open| see_sources(&open, &*run.storage).unwrap());
    plan.seen_sources = Runner::default().with_context(seen).0.unwrap();
    Runner::default().with_context(|run| OpenMerge::open(&plan, run)).0.unwrap();
    plan.seen_sources[1].files[0].len_bytes += 1;
    let refused = Runner::default().with_context(|run| OpenMerge::open(&plan, run)).0.unwrap_err();
    assert!(matches!(refused, Error::SourcesChanged { .. }), "{refused}");
}

#[test]
fn sinks_that_do_not_fit_are_refused_before_anything_is_read() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    let plan = plan(output(&sources, &[1, 1, 1, 1], 4, &folder.path().join("out")));
    let refuse = |sinks: &[&dyn TensorSink]| {
        Runner::default().with_context(|run| merge_into_sinks(&plan, sinks, run)).0.unwrap_err().to_string()
    };
    assert!(refuse(&[]).contains("0 sinks for 1 output"), "{}", refuse(&[]));
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
    assert!(refuse(&three).contains("4 coefficients for 3 sources"), "{}", refuse(&three));
    let moe = open_checkpoint(&storage, &fixture("hf-moe/step-20")).unwrap();
    let mut mixed = live(&opened);
    mixed[2] = LiveSource { name: "another model", tensors: &moe };
    assert!(refuse(&mixed).contains("of a step differs from that of another model"), "{}", refuse(&mixed));
}

#[test]
fn live_sources_in_another_element_type_give_the_bytes_of_that_merge() {
    let (sources, folder) = (sources(), tempfile::tempdir().unwrap());
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let opened: Vec<_> = sources.iter().map(|path| open_checkpoint(&storage, path).unwrap()).collect();
    let weighted = Coefficients::new([1, 0, 2, 4], 7).unwrap();
    for dtype in [OutputDtype::F32, OutputDtype::F16, OutputDtype::Bf16] {
        let live = live(&opened);
        let merge = LiveMerge::new(&live, &weighted, LiveOptions { dtype, ..LiveOptions::default() }).unwrap();
        let empty = |n_bytes: u64| Mutex::new(vec![0; usize::try_from(n_bytes).unwrap()]);
        let tensors = merge.catalog().entries().iter().map(|entry| empty(entry.n_bytes())).collect();
        let sink = KeepSink { catalog: Arc::clone(merge.catalog()), tensors };
        Runner::default().with_context(|run| merge.merge_tensors(&|_| true, &sink, run)).0.unwrap();
        let out = folder.path().join(format!("{dtype:?}"));
        let mut planned = output(&sources, &[1, 0, 2, 4], 7, &out);
        planned.dtype = dtype;
        Runner::default().merge(&plan(planned));
        let published = read_tensors(&out);
        for (entry, bytes) in sink.catalog.entries().iter().zip(&sink.tensors) {
            assert!(published[&*entry.name].2 == *bytes.lock().unwrap(), "{dtype:?} {}", entry.name);
        }
    }
}
