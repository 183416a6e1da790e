//! What an evaluation is given from outside: storage, clock, progress, interruption, a limit of memory.
//!
//! Nothing in this crate asks the system for any of these. Threads are those of rayon's current pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_storage::Storage;

use crate::Error;

/// The time, handed in.
pub trait Clock: Sync {
    /// Seconds since some fixed moment; never goes back.
    fn elapsed_seconds(&self) -> f64;
}

/// Where progress goes.
pub trait Progress: Sync {
    /// Scoring of one checkpoint begins: so many tokens will be run.
    fn begin(&self, total_tokens: u64);
    /// So many more are done.
    fn advance(&self, n_tokens: u64);
}

/// Everything from outside.
pub struct EvalContext<'a> {
    /// Where suites, data and cached scores are.
    pub storage: Arc<dyn Storage>,
    /// The clock.
    pub clock: &'a dyn Clock,
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
