//! What a merge is given from outside: storage, limits, clock, progress, interruption.
//!
//! Nothing in this crate asks the system for any of these.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_checkpoint::CheckpointPool;
use thalweg_storage::{Host, Storage, Unwatched, UploadWatcher};
use thalweg_tensor::kernel::Simd;

use crate::Error;

/// Name and version, as receipts have it, whichever face is used.
pub const TOOL: &str = concat!("thalweg ", env!("CARGO_PKG_VERSION"));
/// The limit of resident memory where none is asked for.
pub const DEFAULT_MEMORY: &str = "256MB";

/// More threads than this for each core are not faster, and at some number the system refuses them.
const THREADS_PER_CORE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
/// The limit is never lower, so that tests of many threads also run on machines with few cores.
const LEAST_LIMIT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(127);

/// The number of threads that are used where `asked` are asked for, on a machine with `available` cores.
pub fn limit_threads(asked: NonZeroUsize, available: NonZeroUsize) -> NonZeroUsize {
    asked.min(available.saturating_mul(THREADS_PER_CORE).max(LEAST_LIMIT))
}

/// What a long act is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Fetching files from a hub.
    Fetch,
    /// Checking what an interrupted run left behind.
    Resume,
    /// Copying what is not merged.
    Copy,
    /// Reading, averaging, writing.
    Merge,
    /// Waiting for the medium.
    Sync,
    /// Sending the output to an object store.
    Upload,
    /// Reading back and comparing digests.
    Verify,
    /// Inner products.
    Geometry,
    /// Thresholds and norms of deltas.
    Rank,
}

/// Where progress goes. Called from many threads.
pub trait Progress: Sync {
    /// A stage begins that will move `total_bytes` bytes.
    fn begin(&self, stage: Stage, total_bytes: u64);
    /// An earlier run did `n_bytes` of the stage: they count towards the total, not towards this run's speed.
    fn resume(&self, n_bytes: u64);
    /// So many bytes more are done.
    fn advance(&self, n_bytes: u64);
    /// A note for the user.
    fn note(&self, text: &str);
}

impl Progress for Unwatched {
    fn begin(&self, _stage: Stage, _total_bytes: u64) {}

    fn resume(&self, _n_bytes: u64) {}

    fn advance(&self, _n_bytes: u64) {}

    fn note(&self, _text: &str) {}
}

/// Threads, memory and instruction set.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Worker threads.
    pub n_threads: NonZeroUsize,
    /// Upper limit of resident memory.
    pub memory_bytes: u64,
    /// Instruction set of the kernels; results do not depend on it.
    pub simd: Simd,
}

/// Everything from outside.
#[derive(Clone)]
pub struct RunContext<'a> {
    /// Where sources are and outputs go.
    pub storage: Arc<dyn Storage>,
    /// Checkpoints of that storage that are already open.
    pub pool: &'a CheckpointPool,
    /// Clock and counters.
    pub host: &'a dyn Host,
    /// Progress.
    pub progress: &'a dyn Progress,
    /// Set from outside to stop at the next safe point.
    pub interrupt: &'a AtomicBool,
    /// Threads and memory.
    pub limits: Limits,
    /// Name and version of the program, for receipts.
    pub tool: &'a str,
}

impl fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext").field("limits", &self.limits).field("tool", &self.tool).finish_non_exhaustive()
    }
}

impl UploadWatcher for RunContext<'_> {
    fn begin_upload(&self, total_bytes: u64, bytes_sent: u64) {
        self.progress.begin(Stage::Upload, total_bytes);
        self.progress.resume(bytes_sent);
    }

    fn advance_upload(&self, n_bytes: u64) {
        self.progress.advance(n_bytes);
    }
}

impl RunContext<'_> {
    /// # Errors
    /// `Interrupted` once a stop was asked for.
    pub fn check_interrupt(&self) -> Result<(), Error> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
