//! What Python hands to the libraries: storage, host, limits, progress, Ctrl-C.
//!
//! Work runs on a thread of ours without the GIL. The calling thread waits: it asks Python for signals and reports
//! progress, so that an exception in either stops the work at its next safe point.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use thalweg_checkpoint::{CheckpointPool, ReadOptions};
use thalweg_merge::context::{Limits, Progress, RunContext, Stage, TOOL, limit_threads};
use thalweg_storage::{CloudSettings, ProcessHost, RoutedStorage, Storage};
use thalweg_study::request::Resolver;
use thalweg_tensor::kernel::Simd;
use thalweg_tensor::parse_size;

use crate::error::{Failure, Result};

/// How often the waiting thread asks for signals and reports progress.
const WAIT: Duration = Duration::from_millis(50);

/// Memory for what reads only headers.
const HEADER_MEMORY_BYTES: u64 = 1 << 30;

/// Storage with its open checkpoints, and the limits of the work.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) pool: CheckpointPool,
    host: ProcessHost,
    limits: Limits,
    /// Set to end every wait for a store or a hub.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Session {
    pub(crate) fn new(threads: Option<usize>, memory_bytes: u64) -> Result<Self> {
        let settings = CloudSettings::from_variables(std::env::vars_os(), &std::env::temp_dir());
        let stop = Arc::clone(&settings.interrupt);
        let storage: Arc<dyn Storage> = Arc::new(RoutedStorage::new(settings));
        let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let asked = match threads {
            None => available,
            Some(n) => NonZeroUsize::new(n).ok_or_else(|| Failure::usage("`threads` must be at least 1"))?,
        };
        let n_threads = limit_threads(asked, available);
        let limits = Limits { n_threads, memory_bytes, simd: Simd::Auto };
        let host = ProcessHost::start();
        Ok(Self { pool: CheckpointPool::new(&storage), storage, host, limits, stop })
    }

    /// The context of work that `watch` watches.
    pub(crate) fn context<'a>(&'a self, watch: &'a Watch) -> RunContext<'a> {
        watch.stop_with(&self.stop);
        RunContext {
            storage: Arc::clone(&self.storage),
            pool: &self.pool,
            host: &self.host,
            progress: watch,
            interrupt: &watch.interrupt,
            limits: self.limits,
            tool: TOOL,
        }
    }

    /// What turns names into paths and requests into plans, for checkpoints that are read by `reading`.
    pub(crate) fn resolver<'a>(&'a self, watch: &'a Watch, reading: ReadOptions) -> Resolver<'a> {
        Resolver::new(self.context(watch), reading, hub_cache_root())
    }

    /// For what reads headers only: no limit is met.
    pub(crate) fn for_headers() -> Result<Self> {
        Self::new(None, HEADER_MEMORY_BYTES)
    }
}

/// The root of the local Hugging Face cache, where models are found by name.
pub(crate) fn hub_cache_root() -> Option<PathBuf> {
    thalweg_trajectory::hub_cache_root(&|name| std::env::var_os(name))
}

/// A size as Python gives it: a number of bytes, or text such as `"5GB"`.
#[derive(Debug, FromPyObject)]
pub(crate) enum SizeArgument {
    /// Bytes.
    Number(u64),
    /// With a unit.
    Text(String),
}

impl SizeArgument {
    /// The bytes.
    pub(crate) fn bytes(&self, keyword: &str) -> Result<u64> {
        let refuse = |shown: String| {
            let what = format!("`{keyword}={shown}` is not a size");
            Failure::usage_with_hint(what, "write `\"5GB\"`, `\"5GiB\"` or a number of bytes above zero")
        };
        match self {
            Self::Number(0) => Err(refuse("0".to_owned())),
            Self::Number(n_bytes) => Ok(*n_bytes),
            Self::Text(text) => match parse_size(text) {
                Ok(0) | Err(_) => Err(refuse(format!("{text:?}"))),
                Ok(n_bytes) => Ok(n_bytes),
            },
        }
    }
}

/// How far some work is, the notes that it left, and the wish to stop it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    interrupt: AtomicBool,
    done: AtomicU64,
    state: Mutex<WatchState>,
    finished: Mutex<bool>,
    on_finish: Condvar,
}

#[derive(Debug, Default)]
struct WatchState {
    stage: Option<Stage>,
    total: u64,
    notes: Vec<String>,
    /// Flags of the storages that the work uses.
    stops: Vec<Arc<AtomicBool>>,
}

impl Watch {
    fn state(&self) -> std::sync::MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.state().notes.clone()
    }

    /// A stage begins, of work that has no `RunContext`.
    pub(crate) fn start(&self, stage: Stage, total_bytes: u64) {
        Progress::begin(self, stage, total_bytes);
    }

    /// `Interrupted` once a stop was asked for.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        match self.interrupt.load(Ordering::Relaxed) {
            true => Err(thalweg_merge::Error::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Sets `stop` too when the work is to stop.
    fn stop_with(&self, stop: &Arc<AtomicBool>) {
        let mut state = self.state();
        if !state.stops.iter().any(|known| Arc::ptr_eq(known, stop)) {
            state.stops.push(Arc::clone(stop));
        }
        stop.store(self.interrupt.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Asks the work to stop, and the storages that it uses not to wait for stores.
    fn ask_to_stop(&self) {
        let state = self.state();
        self.interrupt.store(true, Ordering::Relaxed);
        state.stops.iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
    }

    /// Lets the storages be used again, once the work has stopped.
    fn release_storages(&self) {
        self.state().stops.iter().for_each(|stop| stop.store(false, Ordering::Relaxed));
    }

    fn finish(&self) {
        *self.finished.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.on_finish.notify_all();
    }

    /// Waits until the work has finished, a little while at most. Returns whether it has.
    fn wait(&self) -> bool {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.on_finish.wait_timeout_while(finished, WAIT, |finished| !*finished);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Progress for Watch {
    fn begin(&self, stage: Stage, total_bytes: u64) {
        let mut state = self.state();
        (state.stage, state.total) = (Some(stage), total_bytes);
        self.done.store(0, Ordering::Relaxed);
    }

    fn resume(&self, n_bytes: u64) {
        self.done.fetch_add(n_bytes, Ordering::Relaxed);
    }

    fn advance(&self, n_bytes: u64) {
        self.done.fetch_add(n_bytes, Ordering::Relaxed);
    }

    fn note(&self, text: &str) {
        self.state().notes.push(text.to_owned());
    }
}

/// What the user wants to be told: `callable(done, total, what)`, `True` for a bar of tqdm, or nothing.
pub(crate) fn progress_callback<'py>(
    py: Python<'py>,
    progress: Option<&Bound<'py, PyAny>>,
) -> Result<Option<Bound<'py, PyAny>>> {
    match progress {
        None => Ok(None),
        Some(flag) if flag.is_instance_of::<pyo3::types::PyBool>() => match flag.is_truthy()? {
            true => Ok(Some(py.import("thalweg._progress")?.call_method0("bar")?)),
            false => Ok(None),
        },
        Some(callable) => Ok(Some(callable.clone())),
    }
}

/// Reports what has changed since the last report.
struct Reporter<'py> {
    callback: Option<Bound<'py, PyAny>>,
    last: Option<(u64, u64, Stage)>,
}

impl Reporter<'_> {
    fn report(&mut self, watch: &Watch) -> PyResult<()> {
        let Some(callback) = &self.callback else { return Ok(()) };
        let state = watch.state();
        let Some(stage) = state.stage else { return Ok(()) };
        let now = (watch.done.load(Ordering::Relaxed), state.total, stage);
        drop(state);
        if self.last.replace(now) != Some(now) {
            callback.call1((now.0, now.1, word_of(stage)))?;
        }
        Ok(())
    }
}

fn word_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Resume => "resume",
        Stage::Copy => "copy",
        Stage::Merge => "merge",
        Stage::Sync => "sync",
        Stage::Upload => "upload",
        Stage::Verify => "verify",
        Stage::Fetch => "fetch",
        Stage::Geometry => "geometry",
        Stage::Rank => "rank",
    }
}

/// Does `act` on another thread, without the GIL. An exception in the callback or a signal stops it and is raised.
pub(crate) fn run_watched<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    watch: &Watch,
    act: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let mut reporter = Reporter { callback: progress_callback(py, progress)?, last: None };
    std::thread::scope(|scope| {
        let work = move || {
            // Also when `act` panics: the waiting thread must wake up.
            let _finish = FinishOnDrop(watch);
            act()
        };
        let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let worker = worker.map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        let mut stopped: Option<PyErr> = None;
        while !py.detach(|| watch.wait()) {
            if stopped.is_none() {
                stopped = py.check_signals().and_then(|()| reporter.report(watch)).err();
                if stopped.is_some() {
                    watch.ask_to_stop();
                }
            }
        }
        let outcome = py.detach(|| worker.join());
        watch.release_storages();
        let outcome = outcome.unwrap_or(Err(Failure::Merge(thalweg_merge::Error::WorkerDied)));
        match stopped {
            Some(error) => Err(error.into()),
            None => {
                let value = outcome?;
                reporter.report(watch)?;
                log_notes(py, &watch.notes())?;
                Ok(value)
            }
        }
    })
}

/// Notes go to the logger `thalweg`, where an application decides what becomes of them.
fn log_notes(py: Python<'_>, notes: &[String]) -> PyResult<()> {
    if notes.is_empty() {
        return Ok(());
    }
    let logger = py.import("logging")?.call_method1("getLogger", ("thalweg",))?;
    notes.iter().try_for_each(|note| logger.call_method1("info", ("%s", note)).map(|_| ()))
}

/// As much as the main thread has, for formats that are read by recursion.
const STACK_BYTES: usize = 8 << 20;

struct FinishOnDrop<'a>(&'a Watch);

impl Drop for FinishOnDrop<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}
