//! What an evaluation is given from outside: storage, clock, progress, interruption, a limit of memory.
//!
//! Nothing in this crate asks the system for any of these. Threads are those of rayon's current pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_storage::{Host, Storage, Unwatched};

use crate::Error;

/// Where progress goes.
pub trait Progress: Sync {
    /// Scoring of one checkpoint begins: the number of tokens that will be run.
    fn begin(&self, total_tokens: u64);
    /// So many more are done.
    fn advance(&self, n_tokens: u64);
}

impl Progress for Unwatched {
    fn begin(&self, _total_tokens: u64) {}

    fn advance(&self, _n_tokens: u64) {}
}

/// Everything from outside.
pub struct EvalContext<'a> {
    /// Where suites, data and cached scores are.
    pub storage: Arc<dyn Storage>,
    /// Clock and counters.
    pub host: &'a dyn Host,
    /// Progress.
    pub progress: &'a dyn Progress,
    /// Set from outside to stop between two batches.
    pub interrupt: &'a AtomicBool,
    /// Upper limit of parameters and workspace together; `u64::MAX` for none.
    pub memory_bytes: u64,
}

impl fmt::Debug for EvalContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalContext").field("memory_bytes", &self.memory_bytes).finish_non_exhaustive()
    }
}

impl EvalContext<'_> {
    /// # Errors
    /// `Interrupted` once a stop was asked for.
    pub fn check_interrupt(&self) -> Result<(), Error> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
