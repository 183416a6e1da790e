//! The last saves of a run that is being trained, in memory, and the window over them: what `thalweg.Average` is built
//! on.
//!
//! Does not know where the bytes come from: `_average.py` copies them from a model.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_merge::context::DEFAULT_MEMORY;
use thalweg_merge::in_memory::LiveOptions;
use thalweg_merge::recent::{RecentSaves, coefficients_at_steps};
use thalweg_merge::scheme::Scheme;
use thalweg_storage::publish::stage_path;
use thalweg_study::request::{MergeRequest, OutputOptions};
use thalweg_tensor::kernel::NonFinitePolicy;
use thalweg_tensor::{Dtype, Piece, Shape, TensorCatalog, TensorEntry, display_name};

use crate::average_folder::{average_record, write_average};
use crate::checkpoint::{PyTensorInfo, names, tensor_info};
use crate::error::{Failure, Result};
use crate::merge::{FillsMemory, PyTarget, PyTensorIterator, fill_targets, make_tensor};
use crate::options::merge_request;
use crate::saves_window::{Save, SavesWindow};
use crate::session::{Session, SizeArgument, Watch, run_watched};
use crate::tensor::PyTensor;
use crate::tensor_data::TensorData;

/// The most saves of an average. Coefficients for billions of them would take forever.
const MAX_SAVES: usize = 1 << 16;

/// The options of a merge that an average has.
const OPTIONS: [&str; 9] =
    ["scheme", "alpha", "floor", "sigma_rel", "coefficients", "dtype", "non_float", "router", "allow_non_finite"];

/// Name, element type and dimensions of a tensor that Python will copy.
type PyEntry = (String, String, Vec<u64>);

/// A step with its tensors by name, sorted by name.
type PySave = (u64, Vec<(String, PyTensor)>);

/// The last saves of a run, and how they are averaged.
#[pyclass(frozen, module = "thalweg._thalweg", name = "_Saves")]
#[derive(Debug)]
pub(crate) struct PySaves {
    scheme: Scheme,
    options: LiveOptions,
    session: Arc<Session>,
    recent: Mutex<RecentSaves<Arc<Save>>>,
    /// Memory of a save that fell out.
    spare: Mutex<Option<Arc<Save>>>,
}

#[pymethods]
impl PySaves {
    #[new]
    #[pyo3(signature = (count, *, threads=None, memory=None, **options))]
    fn new(
        count: usize,
        threads: Option<usize>,
        memory: Option<SizeArgument>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> Result<Self> {
        let (scheme, options) = scheme_and_options(options)?;
        if count == 0 {
            return Err(Failure::usage_with_hint(
                "an average of 0 saves has no tensors",
                "write `count=6`, for example",
            ));
        }
        if count > MAX_SAVES {
            return Err(Failure::usage_with_hint(
                format!("an average of {count} saves holds as many copies of the model, and the limit is {MAX_SAVES}"),
                "write `count=6`, for example",
            ));
        }
        // A scheme that does not fit is found now rather than at the first save.
        coefficients_at_steps(&scheme, &(1..=count as u64).collect::<Vec<_>>())?;
        let memory = memory.unwrap_or_else(|| SizeArgument::Text(DEFAULT_MEMORY.to_owned()));
        let session = Arc::new(Session::new(threads, memory.bytes("memory")?)?);
        let recent = Mutex::new(RecentSaves::new(count));
        Ok(Self { scheme, options, session, recent, spare: Mutex::default() })
    }

    /// The scheme, with its parameter.
    #[getter]
    fn scheme(&self) -> String {
        self.scheme.to_string()
    }

    /// The steps of the saves that are there, oldest first.
    #[getter]
    fn steps(&self) -> Vec<u64> {
        self.recent().iter().map(|(step, _)| *step).collect()
    }

    /// Memory for the save of `step`, in the order of `entries`. If there are as many saves as are kept, the oldest
    /// gives its own.
    fn room(&self, step: u64, entries: Vec<PyEntry>) -> Result<Vec<PyTensor>> {
        let catalog = catalog_of(&entries)?;
        let mut recent = self.recent();
        // Before the oldest save is given up.
        check_follows(&recent, step, &catalog)?;
        let old = recent.make_room().or_else(|| self.spare.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(recent);
        let mut old = old.and_then(Arc::into_inner).filter(|old| old.catalog == catalog).map(|old| old.tensors);
        let tensor = |(name, _, _): &PyEntry| {
            let Some(tensor_idx) = catalog.find(name) else { return Err(Failure::usage("no such tensor")) };
            // What a user still has a view of stays as it is.
            let reused =
                old.as_mut().map(|old| Arc::clone(&old[tensor_idx])).filter(|data| Arc::strong_count(data) == 2);
            let data = match reused {
                Some(data) => data,
                None => Arc::new(TensorData::new(&catalog.entries()[tensor_idx])?),
            };
            Ok(PyTensor { data })
        };
        entries.iter().map(tensor).collect()
    }

    /// Adds a save, whose memory came from `room` and is filled.
    fn keep(&self, step: u64, tensors: Vec<(String, Py<PyTensor>)>) -> Result<()> {
        let mut recent = self.recent();
        let entry = |(name, tensor): &(String, Py<PyTensor>)| {
            let data = &tensor.get().data;
            (name.clone(), data.dtype.name().to_owned(), data.shape.0.to_vec())
        };
        let catalog = catalog_of(&tensors.iter().map(entry).collect::<Vec<_>>())?;
        check_follows(&recent, step, &catalog)?;
        let mut sorted: Vec<_> = tensors.iter().map(|(name, tensor)| (name, &tensor.get().data)).collect();
        sorted.sort_by_key(|(name, _)| *name);
        let tensors = sorted.into_iter().map(|(_, data)| Arc::clone(data)).collect();
        recent.push(step, Arc::new(Save { catalog, tensors }));
        Ok(())
    }

    /// Forgets all saves.
    fn clear(&self) {
        let mut recent = self.recent();
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) =
            recent.iter().next().map(|(_, save)| Arc::clone(save));
        recent.clear();
    }

    /// The saves, oldest first, sharing their memory.
    fn saves(&self) -> Vec<PySave> {
        let share = |(step, save): &(u64, Arc<Save>)| {
            let names = save.catalog.entries().iter().map(|entry| entry.name.to_string());
            let tensors = save.tensors.iter().map(|data| PyTensor { data: Arc::clone(data) });
            (*step, names.zip(tensors).collect())
        };
        self.recent().iter().map(share).collect()
    }

    /// The window over the saves as they are now.
    fn window(&self) -> Result<PyWindow> {
        let recent = self.recent();
        let (n_saves, count) = (recent.iter().count(), recent.n_kept());
        if !recent.has(count) {
            let what = format!("the average takes {count} saves, but only {n_saves} were made");
            let hint = format!("wait until `is_full` is true, or create the average with `count={}`", n_saves.max(1));
            return Err(Failure::Usage { what, hint: Some(hint) });
        }
        let (steps, saves): (Vec<u64>, Vec<_>) = recent.iter().map(|(step, save)| (*step, Arc::clone(save))).unzip();
        drop(recent);
        let coefficients = coefficients_at_steps(&self.scheme, &steps)?;
        let names = steps.iter().map(|step| format!("step {step}")).collect();
        let mut window = SavesWindow {
            scheme: self.scheme.to_string(),
            coefficients,
            options: self.options,
            steps,
            saves,
            names,
            catalog: Arc::default(),
            session: Arc::clone(&self.session),
        };
        window.catalog = window.with_merge(|merge| Ok(Arc::clone(merge.catalog())))?;
        Ok(PyWindow { window: Arc::new(window) })
    }
}

impl PySaves {
    fn recent(&self) -> MutexGuard<'_, RecentSaves<Arc<Save>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The window over some saves: what `load_into` takes, beside merges of checkpoints.
#[pyclass(frozen, module = "thalweg._thalweg", name = "_Window")]
#[derive(Debug)]
pub(crate) struct PyWindow {
    window: Arc<SavesWindow>,
}

#[pymethods]
impl PyWindow {
    /// The steps of its saves, oldest first.
    #[getter]
    fn steps(&self) -> Vec<u64> {
        self.window.steps.clone()
    }

    /// What the saves are multiplied by, exactly, as text.
    #[getter]
    fn coefficients(&self) -> Vec<String> {
        self.window.coefficients.ratios().map(|ratio| ratio.to_string()).collect()
    }

    /// The names of its tensors, sorted.
    fn keys(&self) -> Vec<String> {
        names(&self.window.catalog)
    }

    /// Element type and shape of an averaged tensor.
    fn info(&self, name: &str) -> Result<PyTensorInfo> {
        tensor_info(&self.window.catalog, name)
    }

    /// Averages one tensor.
    fn tensor(&self, py: Python<'_>, name: &str) -> Result<PyTensor> {
        make_tensor(&*self.window, py, name)
    }

    /// Averages the named tensors, or all, one after the other.
    #[pyo3(signature = (names=None))]
    fn tensors(&self, names: Option<Vec<String>>) -> Result<PyTensorIterator> {
        PyTensorIterator::new(Arc::clone(&self.window) as Arc<dyn FillsMemory>, names)
    }

    /// As `Merge._fill`.
    fn _fill(&self, py: Python<'_>, targets: Vec<PyTarget>) -> Result<()> {
        fill_targets(&*self.window, py, targets)
    }

    /// What was averaged, as JSON: the record beside an average that others write.
    fn record(&self) -> String {
        let watch = Watch::default();
        average_record(&self.window, &[], &self.window.session.context(&watch))
    }

    /// Where an output is written before it is whole.
    fn stage_path(&self, out: PathBuf) -> PathBuf {
        stage_path(&out)
    }

    /// Writes it as a folder of safetensors with a record beside them.
    #[pyo3(signature = (out, side_files_from))]
    fn write(&self, py: Python<'_>, out: PathBuf, side_files_from: Option<PathBuf>) -> Result<()> {
        let watch = Watch::default();
        run_watched(py, None, &watch, || {
            write_average(&self.window, &out, side_files_from.as_deref(), &self.window.session.context(&watch))
        })
    }
}

/// What the keywords of an average say.
fn scheme_and_options(options: Option<&Bound<'_, PyDict>>) -> Result<(Scheme, LiveOptions)> {
    for name in options.into_iter().flatten().map(|(name, _)| name.to_string()) {
        if !OPTIONS.contains(&name.as_str()) {
            let hint = format!("an average takes {}", OPTIONS.map(|name| format!("`{name}`")).join(", "));
            return Err(Failure::usage_with_hint(format!("there is no option `{name}` for averages"), hint));
        }
    }
    let MergeRequest { scheme, output, .. } = merge_request(None, None, options)?;
    let non_finite = if output.allow_non_finite { NonFinitePolicy::Propagate } else { NonFinitePolicy::Refuse };
    let OutputOptions { files, non_float, router, .. } = output;
    let options = LiveOptions { dtype: files.dtype, non_float, router, non_finite };
    Ok((scheme.window_scheme()?, options))
}

fn catalog_of(entries: &[PyEntry]) -> Result<Arc<TensorCatalog>> {
    let entry = |(name, dtype, shape): &PyEntry| {
        let dtype = Dtype::from_name(dtype)
            .ok_or_else(|| Failure::usage(format!("`{}` has an unknown element type", display_name(name))))?;
        let pieces = Box::new([Piece::whole(0, 0)]);
        Ok(TensorEntry { name: name.as_str().into(), dtype, shape: Shape::new(shape.clone()), pieces })
    };
    let entries = entries.iter().map(entry).collect::<Result<Vec<_>>>()?;
    let catalog = TensorCatalog::new(entries);
    let refuse = |name: Box<str>| Failure::usage(format!("two tensors are called `{}`", display_name(&name)));
    catalog.map(Arc::new).map_err(refuse)
}

/// A save comes after those that are there, and holds the same tensors.
fn check_follows(recent: &RecentSaves<Arc<Save>>, step: u64, catalog: &TensorCatalog) -> Result<()> {
    let Some((newest_step, newest)) = recent.iter().next_back() else { return Ok(()) };
    if *newest_step >= step {
        let what = format!("step {step} does not come after step {newest_step}, the last one saved");
        let hint =
            "after going back to an earlier step, call `load_state_dict` with the state of that step, or `clear`";
        return Err(Failure::usage_with_hint(what, hint));
    }
    check_like(catalog, &newest.catalog, *newest_step)
}

/// A model whose tensors changed between two saves cannot be averaged.
fn check_like(found: &TensorCatalog, wanted: &TensorCatalog, step: u64) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let shown = |catalog: &TensorCatalog, name: &str| {
        let entry = catalog.find(name).map(|tensor_idx| &catalog.entries()[tensor_idx]);
        entry.map_or_else(|| "missing".to_owned(), |entry| format!("{} {}", entry.dtype, entry.shape))
    };
    let all = wanted.entries().iter().chain(found.entries());
    let mut differing = all.filter(|entry| shown(found, &entry.name) != shown(wanted, &entry.name));
    let name = differing.next().map_or("", |entry| &*entry.name);
    let (before, now) = (shown(wanted, name), shown(found, name));
    let what = format!("tensor `{}` was {before} at step {step} but is {now} now", display_name(name));
    Err(Failure::usage_with_hint(what, "start a new window with `clear()`"))
}
