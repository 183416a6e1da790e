//! What the program hands to the libraries: storage, clock, limits, Ctrl-C. How progress is shown is in `progress`.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use thalweg_checkpoint::{CheckpointPool, ReadOptions};
use thalweg_eval::EvalContext;
use thalweg_merge::context::{Limits, RunContext, TOOL, limit_threads};
use thalweg_storage::{Host, ProcessHost, Storage, Unwatched};
use thalweg_study::request::Resolver;
use thalweg_tensor::kernel::Simd;

use crate::args::GlobalArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::messages::Messages;
use crate::progress::CliProgress;
use crate::run::hub_cache_root;
use crate::store::open_storage;

/// Memory for what reads only headers: no limit is met.
const HEADER_MEMORY_BYTES: u64 = 1 << 30;
/// Memory for merges of a command without `--memory`. They are summed in pieces, so they need far less.
pub(crate) const SUMMING_MEMORY_BYTES: u64 = 1 << 30;

/// Everything outside of the program.
pub(crate) struct World<'a> {
    pub(crate) storage: Arc<dyn Storage>,
    /// Checkpoints that are already open.
    pub(crate) pool: CheckpointPool,
    /// How checkpoints are read.
    pub(crate) reading: ReadOptions,
    /// What the user is told.
    pub(crate) messages: &'a Messages,
    host: ProcessHost,
    progress: CliProgress<'a>,
    interrupt: Arc<AtomicBool>,
    n_threads: NonZeroUsize,
    simd: Simd,
}

impl<'a> World<'a> {
    pub(crate) fn new(global: &GlobalArgs, reading: ReadOptions, messages: &'a Messages) -> Result<Self, Error> {
        let interrupt = Arc::new(AtomicBool::new(false));
        // The second signal ends the program at once: a stage survives that too. Actions run in the order of their
        // registration, and the one that stops comes first: with another order, a signal that arrives between two
        // registrations would be handled and do nothing.
        let is_repeated = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt))
                .and_then(|_| signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&is_repeated)))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&is_repeated)))
                .map_err(Error::Signal)?;
        }
        let host = ProcessHost::start();
        // The end of a terminal is an interruption too: a command that scores is in a group for itself, and would be
        // left to run. The shell and the system may both tell of it, so a second time does not end the program at once.
        // What `nohup` started survives. Where the system does not say what did, the signal does what it always does.
        if host.ignores_hangup() == Some(false) {
            signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&interrupt)).map_err(Error::Signal)?;
        }
        // Else a limit of file sizes (`ulimit -f`) would end the program without a word; now the write fails.
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).map_err(Error::Signal)?;
        let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let asked = global.threads.and_then(NonZeroUsize::new).unwrap_or(available);
        let n_threads = limit_threads(asked, available);
        if asked > n_threads {
            messages.note(format!("`--threads {asked}` is limited to {n_threads}: more threads would not be faster"));
        }
        let storage = open_storage(&interrupt, messages.notes());
        Ok(Self {
            pool: CheckpointPool::new(&storage),
            storage,
            reading,
            messages,
            host,
            progress: CliProgress::new(messages),
            interrupt,
            n_threads,
            simd: global.simd.unwrap_or(Simd::Auto),
        })
    }

    /// Prints what a command found, as a document or as text.
    pub(crate) fn answer(&self, document: &Value, text: &str) -> Outcome {
        self.messages.json(document);
        self.messages.text(text);
        Outcome::Done
    }

    /// Says what the user may want to know beside the answer.
    pub(crate) fn note(&self, text: impl Display) {
        self.messages.note(text);
    }

    /// The context of a run that may use `memory_bytes` of resident memory.
    pub(crate) fn context(&self, memory_bytes: u64) -> RunContext<'_> {
        RunContext {
            storage: Arc::clone(&self.storage),
            pool: &self.pool,
            host: &self.host,
            progress: &self.progress,
            interrupt: &self.interrupt,
            limits: Limits { n_threads: self.n_threads, memory_bytes, simd: self.simd },
            tool: TOOL,
        }
    }

    /// The same without bars, for what counts its own work.
    pub(crate) fn quiet_context(&self, memory_bytes: u64) -> RunContext<'_> {
        RunContext { progress: &Unwatched, ..self.context(memory_bytes) }
    }

    /// The same for an evaluation.
    pub(crate) fn quiet_eval_context(&self) -> EvalContext<'_> {
        EvalContext { progress: &Unwatched, ..self.eval_context() }
    }

    /// The context of an evaluation.
    pub(crate) fn eval_context(&self) -> EvalContext<'_> {
        EvalContext {
            storage: Arc::clone(&self.storage),
            host: &self.host,
            progress: &self.progress,
            interrupt: &self.interrupt,
            memory_bytes: self.host.physical_memory_bytes().unwrap_or(u64::MAX),
        }
    }

    /// Waits, in short pieces: a stop that is asked for ends it.
    pub(crate) fn sleep(&self, seconds: f64) {
        const PIECE: Duration = Duration::from_millis(50);
        let until = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1e9));
        while !self.interrupt.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PIECE));
        }
    }

    /// The flag that is set once a stop is asked for.
    #[cfg(feature = "cloud")]
    pub(crate) fn interrupt(&self) -> &Arc<AtomicBool> {
        &self.interrupt
    }

    /// Whether a stop was asked for.
    pub(crate) fn is_stopping(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// Seconds since 1970-01-01 UTC.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.host.unix_seconds()
    }

    /// Waits until a stop is asked for.
    pub(crate) fn wait_for_stop(&self) {
        while !self.interrupt.load(Ordering::Relaxed) {
            self.sleep(3600.0);
        }
    }

    /// Runs `act` with as many threads as the user wants.
    pub(crate) fn in_pool<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.n_threads.get()).build();
        Ok(pool.map_err(thalweg_study::Error::Threads)?.install(act))
    }

    /// What requests are resolved with.
    pub(crate) fn resolver(&self) -> Resolver<'_> {
        Resolver::new(self.context(HEADER_MEMORY_BYTES), self.reading.clone(), hub_cache_root())
    }

    /// The path of the checkpoint that the user names.
    pub(crate) fn find_checkpoint(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(self.resolver().find_checkpoint(path)?)
    }

    /// As [`find_checkpoint`](Self::find_checkpoint), but absolute and without links, as paths are in plans.
    pub(crate) fn resolve_checkpoint(&self, path: &Path) -> Result<PathBuf, Error> {
        Ok(self.resolver().resolve_checkpoint(path)?)
    }

    pub(crate) fn n_threads(&self) -> usize {
        self.n_threads.get()
    }
}

/// The command as it was typed, for the record.
pub(crate) fn command_line() -> String {
    let word = |word: std::ffi::OsString| thalweg_tensor::shell_word(&word.to_string_lossy());
    let words: Vec<String> = std::env::args_os().skip(1).map(word).collect();
    format!("thalweg {}", words.join(" "))
}
