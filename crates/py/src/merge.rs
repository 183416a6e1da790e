//! A merge, as Python sees it: an iterator of tensors, a state dict, a filled model, or a written folder.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use thalweg_checkpoint::ReadOptions;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge};
use thalweg_merge::in_memory::OpenMerge;
use thalweg_merge::plan::MergePlan;
use thalweg_storage::ProcessHost;
use thalweg_storage::publish::Replace;
use thalweg_tensor::{TensorCatalog, counted, display_name};

use crate::arguments::kind_of;
use crate::checkpoint::{PyTensorInfo, find_tensor, names, tensor_info};
use crate::error::{Failure, Result};
use crate::memory::{MemoryCopy, MemorySink, MemoryTarget, copy_all, take_memory};
use crate::plan::PyPlan;
use crate::receipt::PyReceipt;
use crate::session::{Session, SizeArgument, Watch, run_watched};
use crate::tensor::PyTensor;
use crate::tensor_data::TensorData;

/// Tensors that are merged together hold so many bytes, or are one: enough that all threads have work.
const WINDOW_BYTES: u64 = 32 << 20;

/// What fills memory with merged tensors.
pub(crate) trait FillsMemory: Send + Sync + std::fmt::Debug {
    /// The merged tensors.
    fn catalog(&self) -> Result<&Arc<TensorCatalog>>;

    /// Merges every tensor that the sink has a place for.
    fn fill(&self, py: Python<'_>, sink: &MemorySink) -> Result<()>;
}

/// Merges some tensors into memory of ours.
pub(crate) fn make_tensors(maker: &dyn FillsMemory, py: Python<'_>, tensor_idxs: &[usize]) -> Result<Vec<PyTensor>> {
    let catalog = maker.catalog()?;
    let mut sink = MemorySink::new(catalog);
    let mut tensors = Vec::new();
    for &tensor_idx in tensor_idxs {
        let mut data = TensorData::new(&catalog.entries()[tensor_idx])?;
        sink.send(tensor_idx, data.bytes.target());
        tensors.push(data);
    }
    maker.fill(py, &sink)?;
    Ok(tensors.into_iter().map(PyTensor::new).collect())
}

/// Merges one tensor.
pub(crate) fn make_tensor(maker: &dyn FillsMemory, py: Python<'_>, name: &str) -> Result<PyTensor> {
    let tensor_idx = find_tensor(maker.catalog()?, name)?;
    let tensor = make_tensors(maker, py, &[tensor_idx])?.pop();
    tensor.ok_or_else(|| thalweg_merge::Error::Bug { what: "one tensor was asked for" }.into())
}

/// Merges tensors to the addresses that Python gave for them.
pub(crate) fn fill_targets(maker: &dyn FillsMemory, py: Python<'_>, targets: Vec<PyTarget>) -> Result<()> {
    let catalog = maker.catalog()?;
    let mut sink = MemorySink::new(catalog);
    send_to(&mut sink, catalog, targets)?;
    maker.fill(py, &sink)
}

/// What every view of a merge shares.
#[derive(Debug)]
struct MergeState {
    plan: MergePlan,
    session: Session,
    open: OpenMerge,
    notes: Vec<String>,
    progress: Option<Py<PyAny>>,
    options: ExecuteOptions,
}

impl MergeState {
    fn progress<'a, 'py>(&'a self, py: Python<'py>) -> Option<&'a Bound<'py, PyAny>> {
        self.progress.as_ref().map(|callback| callback.bind(py))
    }
}

impl FillsMemory for MergeState {
    fn catalog(&self) -> Result<&Arc<TensorCatalog>> {
        let [catalog] = self.open.catalogs() else {
            return Err(thalweg_merge::Error::Bug { what: "a merge in memory has one output" }.into());
        };
        Ok(catalog)
    }

    fn fill(&self, py: Python<'_>, sink: &MemorySink) -> Result<()> {
        let watch = Watch::default();
        run_watched(py, self.progress(py), &watch, || {
            self.open.merge_tensors(&|t| sink.wants(t), &[sink], &self.session.context(&watch))?;
            Ok(())
        })
    }
}

/// A merge that has not happened yet: iterate over it, load it into a model, or write it.
#[pyclass(frozen, module = "thalweg", name = "Merge")]
#[derive(Debug)]
pub(crate) struct PyMerge {
    state: Arc<MergeState>,
    receipt: Mutex<Option<PyReceipt>>,
}

#[pymethods]
impl PyMerge {
    /// The names of the merged tensors, sorted.
    fn keys(&self) -> Result<Vec<String>> {
        Ok(names(self.state.catalog()?))
    }

    /// Element type and shape of a merged tensor, without merging it.
    fn info(&self, name: &str) -> Result<PyTensorInfo> {
        tensor_info(self.state.catalog()?, name)
    }

    /// Merges one tensor.
    fn tensor(&self, py: Python<'_>, name: &str) -> Result<PyTensor> {
        make_tensor(&*self.state, py, name)
    }

    /// Merges the named tensors, or all, a window of memory at a time: an iterator of `(name, tensor)`.
    #[pyo3(signature = (names=None))]
    fn tensors(&self, names: Option<Vec<String>>) -> Result<PyTensorIterator> {
        PyTensorIterator::new(Arc::clone(&self.state) as Arc<dyn FillsMemory>, names)
    }

    /// All merged tensors as torch tensors by their names.
    fn state_dict<'py>(slf: &Bound<'py, Self>) -> Result<Bound<'py, PyAny>> {
        Ok(slf.py().import("thalweg._load")?.call_method1("state_dict", (slf,))?)
    }

    /// Fills a `torch.nn.Module`, or a state dict of torch tensors, in place.
    #[pyo3(signature = (module_or_state_dict, strict=true))]
    fn load_into<'py>(
        slf: &Bound<'py, Self>,
        module_or_state_dict: &Bound<'py, PyAny>,
        strict: bool,
    ) -> Result<Bound<'py, PyAny>> {
        let load = slf.py().import("thalweg._load")?.getattr("load_into")?;
        Ok(load.call1((slf, module_or_state_dict, strict))?)
    }

    /// Merges tensors to addresses: name, address, number of bytes. For `load_into`, which keeps the memory alive, has
    /// made sure that it may be written and that no two targets overlap.
    fn _fill(&self, py: Python<'_>, targets: Vec<PyTarget>) -> Result<()> {
        fill_targets(&*self.state, py, targets)
    }

    /// Writes the merge as a checkpoint, exactly as `thalweg merge` does, and returns its receipt.
    ///
    /// Without `out`, the folder that the plan names.
    #[pyo3(signature = (out=None))]
    fn write(&self, py: Python<'_>, out: Option<PathBuf>) -> Result<PyReceipt> {
        let state = &self.state;
        let watch = Watch::default();
        let receipt = run_watched(py, state.progress(py), &watch, || {
            let plan = plan_with_output(state, out, &watch)?;
            let outcome = execute_merge(&plan, state.options, &state.session.context(&watch))?.into_iter().next();
            PyReceipt::new(outcome.ok_or(thalweg_merge::Error::Bug { what: "a merge has an output" })?)
        })?;
        *self.receipt.lock().unwrap_or_else(PoisonError::into_inner) = Some(receipt.clone());
        Ok(receipt)
    }

    /// The receipt of the newest `write`; `None` before it.
    #[getter]
    fn receipt(&self) -> Option<PyReceipt> {
        self.receipt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes about the sources.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.state.notes.clone()
    }

    /// The plan.
    #[getter]
    fn plan(&self) -> PyPlan {
        PyPlan::new(self.state.plan.clone(), self.state.notes.clone())
    }

    fn __getitem__(&self, py: Python<'_>, name: &str) -> Result<PyTensor> {
        self.tensor(py, name)
    }

    fn __contains__(&self, name: &str) -> Result<bool> {
        Ok(self.state.catalog()?.find(name).is_some())
    }

    fn __len__(&self) -> Result<usize> {
        Ok(self.state.catalog()?.entries().len())
    }

    fn __iter__(&self) -> Result<PyTensorIterator> {
        self.tensors(None)
    }

    fn __repr__(&self) -> Result<String> {
        let catalog = self.state.catalog()?;
        let output = self.state.plan.outputs.first().map(|output| (&*output.scheme, output.sources.len()));
        let (scheme, n_sources) = output.unwrap_or_default();
        let (checkpoints, tensors) = (counted(n_sources, "checkpoint"), counted(catalog.entries().len(), "tensor"));
        Ok(format!("Merge({scheme} of {checkpoints}, {tensors}, {})", counted(catalog.n_params(), "parameter")))
    }
}

/// Name, address and number of bytes of memory that Python keeps for a tensor.
pub(crate) type PyTarget = (String, usize, usize);

/// Sends tensors to the addresses that Python gave for them; empty tensors need none.
pub(crate) fn send_to(sink: &mut MemorySink, catalog: &TensorCatalog, targets: Vec<PyTarget>) -> Result<()> {
    for (name, address, n_bytes) in targets {
        let tensor_idx = find_tensor(catalog, &name)?;
        if n_bytes == 0 && catalog.entries()[tensor_idx].n_bytes() == 0 {
            continue;
        }
        let target = MemoryTarget::at(address, n_bytes);
        if !target.is_some_and(|target| sink.send(tensor_idx, target)) {
            let name = display_name(&name);
            return Err(Failure::usage(format!("{n_bytes} bytes at {address:#x} cannot hold tensor `{name}`")));
        }
    }
    Ok(())
}

/// The plan with the output that was asked for, if one was.
fn plan_with_output(state: &MergeState, out: Option<PathBuf>, watch: &Watch) -> Result<MergePlan> {
    let mut plan = state.plan.clone();
    if let (Some(output), Some(out)) = (plan.outputs.first_mut(), out) {
        output.path = state.session.resolver(watch, ReadOptions::default()).output_folder(&out)?;
    }
    Ok(plan)
}

/// Merged tensors one after the other: `(name, tensor)`.
#[pyclass(module = "thalweg", name = "TensorIterator")]
#[derive(Debug)]
pub(crate) struct PyTensorIterator {
    maker: Arc<dyn FillsMemory>,
    left: VecDeque<usize>,
    ready: VecDeque<(String, PyTensor)>,
}

#[pymethods]
impl PyTensorIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __length_hint__(&self) -> usize {
        self.left.len() + self.ready.len()
    }

    fn __next__(&mut self, py: Python<'_>) -> Result<Option<(String, PyTensor)>> {
        if self.ready.is_empty() {
            let window = self.next_window()?;
            let tensors = make_tensors(&*self.maker, py, &window)?;
            let entries = self.maker.catalog()?.entries();
            let names = window.iter().map(|&tensor_idx| entries[tensor_idx].name.to_string());
            self.ready = names.zip(tensors).collect();
            self.left.drain(..window.len());
        }
        Ok(self.ready.pop_front())
    }
}

impl PyTensorIterator {
    /// Merges the named tensors, or all, in turn.
    pub(crate) fn new(maker: Arc<dyn FillsMemory>, names: Option<Vec<String>>) -> Result<Self> {
        let catalog = maker.catalog()?;
        let left: VecDeque<usize> = match names {
            Some(names) => names.iter().map(|name| find_tensor(catalog, name)).collect::<Result<_>>()?,
            None => (0..catalog.entries().len()).collect(),
        };
        Ok(Self { maker, left, ready: VecDeque::new() })
    }

    /// The tensors that are merged next; a name that was given twice begins another window.
    fn next_window(&self) -> Result<Vec<usize>> {
        let entries = self.maker.catalog()?.entries();
        let (mut window, mut n_bytes) = (Vec::new(), 0);
        for &tensor_idx in &self.left {
            n_bytes += entries[tensor_idx].n_bytes();
            if !window.is_empty() && (n_bytes > WINDOW_BYTES || window.contains(&tensor_idx)) {
                break;
            }
            window.push(tensor_idx);
        }
        Ok(window)
    }
}

/// The plan that `merge` takes.
pub(crate) struct PlanArgument(Py<PyPlan>);

impl FromPyObject<'_, '_> for PlanArgument {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(plan) = given.cast::<PyPlan>() {
            return Ok(Self(plan.to_owned().unbind()));
        }
        let kind = kind_of(given)?;
        let hint = match &*kind {
            "`Merge`" => "this is a merge already: call `write(OUT)`, `load_into(MODEL)` or `state_dict()`",
            "`list`" | "`tuple`" => "make one first: `thalweg.merge(thalweg.plan(sources=[...]))`",
            _ => "make one first: `thalweg.merge(thalweg.plan(RUN, last=10))`",
        };
        Err(Failure::usage_with_hint(format!("`merge` takes a plan, not {kind}"), hint).into())
    }
}

/// Opens a merge: the sources are opened and compared by their headers, nothing is merged yet.
///
/// With `out`, the merge is also written there at once, as by `write`.
#[pyfunction]
#[pyo3(signature = (
    plan, out=None, *, threads=None, memory=None, progress=None, force=false, discard_partial=false,
    allow_changed=false
))]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn merge(
    py: Python<'_>,
    plan: PlanArgument,
    out: Option<PathBuf>,
    threads: Option<usize>,
    memory: Option<SizeArgument>,
    progress: Option<Py<PyAny>>,
    force: bool,
    discard_partial: bool,
    allow_changed: bool,
) -> Result<PyMerge> {
    let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
    let session = Session::new(threads, memory.bytes("memory")?)?;
    let options = ExecuteOptions {
        replace: if force { Replace::Force } else { Replace::Never },
        partial: if discard_partial { PartialStage::Discard } else { PartialStage::Resume },
    };
    let mut plan = plan.0.get().plan.clone();
    if allow_changed {
        plan.seen_sources.clear();
    }
    let merge = open(py, plan, session, progress, options)?;
    if out.is_some() {
        merge.write(py, out)?;
    }
    Ok(merge)
}

/// A merge that `Merge.write` writes as any other.
pub(crate) fn open_in_memory(py: Python<'_>, plan: &PyPlan, session: Session) -> Result<PyMerge> {
    let options = ExecuteOptions::default();
    open(py, plan.plan.clone(), session, None, options)
}

fn open(
    py: Python<'_>,
    plan: MergePlan,
    session: Session,
    progress: Option<Py<PyAny>>,
    options: ExecuteOptions,
) -> Result<PyMerge> {
    let [output] = &*plan.outputs else {
        let n_outputs = plan.outputs.len();
        return Err(Failure::usage(format!("the plan has {n_outputs} outputs, and a merge in memory has one")));
    };
    let mut in_memory = MergePlan::new(vec![output.of_model_alone()])?;
    in_memory.seen_sources.clone_from(&plan.seen_sources);
    let watch = Watch::default();
    let open = run_watched(py, None, &watch, || Ok(OpenMerge::open(&in_memory, &session.context(&watch))?))?;
    let state = MergeState { plan, session, open, notes: watch.notes(), progress, options };
    Ok(PyMerge { state: Arc::new(state), receipt: Mutex::default() })
}

/// Copies bytes between addresses: from, to, number of bytes. For `_load.py` and `_capture.py`, which keep the memory
/// alive and have made sure that no two places overlap.
#[pyfunction]
#[pyo3(signature = (copies, threads=None))]
pub(crate) fn _copy(py: Python<'_>, copies: Vec<(usize, usize, usize)>, threads: Option<usize>) -> Result<()> {
    let all = copies.into_iter().filter(|(_, _, n_bytes)| *n_bytes > 0).map(|(from, to, n_bytes)| {
        let refuse = || Failure::usage(format!("{n_bytes} bytes cannot be copied from {from:#x} to {to:#x}"));
        MemoryCopy::between(from, to, n_bytes).ok_or_else(refuse)
    });
    let all = all.collect::<Result<Vec<_>>>()?;
    py.detach(|| copy_all(&all, threads.unwrap_or_else(available_threads)));
    Ok(())
}

/// Makes the system give memory at addresses now: address, number of bytes. For `_load.py`, whose memory it is. Returns
/// whether that was quick.
#[pyfunction]
pub(crate) fn _take(py: Python<'_>, places: Vec<(usize, usize)>) -> bool {
    let places: Vec<_> = places.into_iter().filter_map(|(start, n_bytes)| MemoryTarget::at(start, n_bytes)).collect();
    py.detach(|| take_memory(&places, available_threads(), &ProcessHost::start()))
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
