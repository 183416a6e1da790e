//! What merging and scoring are given from outside, for programs that need nothing special: one value to make, instead
//! of the parts that contexts borrow.
//!
//! It has no clock and shows no progress. A program that has them sets them in the contexts, as
//! `RunContext { host: &clock, ..around.run() }`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thalweg_checkpoint::CheckpointPool;
use thalweg_eval::EvalContext;
use thalweg_merge::context::{Limits, RunContext, TOOL};
use thalweg_storage::{Storage, Unwatched};

/// Owns what contexts borrow.
#[derive(Debug)]
pub struct Surroundings {
    storage: Arc<dyn Storage>,
    pool: CheckpointPool,
    interrupt: AtomicBool,
    limits: Limits,
}

impl Surroundings {
    /// Surroundings in which nothing was opened yet.
    pub fn new(storage: Arc<dyn Storage>, limits: Limits) -> Self {
        Self { pool: CheckpointPool::new(&storage), storage, interrupt: AtomicBool::new(false), limits }
    }

    /// For merges.
    pub fn run(&self) -> RunContext<'_> {
        RunContext {
            storage: Arc::clone(&self.storage),
            pool: &self.pool,
            host: &Unwatched,
            progress: &Unwatched,
            interrupt: &self.interrupt,
            limits: self.limits,
            tool: TOOL,
        }
    }

    /// For evaluations, whose models may take any amount of memory.
    pub fn eval(&self) -> EvalContext<'_> {
        EvalContext {
            storage: Arc::clone(&self.storage),
            host: &Unwatched,
            progress: &Unwatched,
            interrupt: &self.interrupt,
            memory_bytes: u64::MAX,
        }
    }
}
