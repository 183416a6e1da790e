//! Work that all threads share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::context::RunContext;
use crate::error::Error;

/// Runs `work` on every thread of the limit, this one included.
pub(crate) fn run_workers(run: &RunContext<'_>, work: &(dyn Fn() + Sync)) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..run.limits.n_threads.get())
            // If the system refuses a thread, the others do its share.
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        work();
        others.into_iter().try_for_each(|other| other.join().map_err(|_| Error::WorkerDied))
    })
}

/// What is done for a number, with a buffer that it may use.
type ActOnNumber<'a> = &'a (dyn Fn(usize, &mut Vec<u8>) -> Result<(), Error> + Sync);

/// Does `act` for each number below `n`, by all threads. The first error, or a stop that was asked for, ends the work.
///
/// # Errors
/// The first error of `act`; `Interrupted`.
pub(crate) fn for_each_number(run: &RunContext<'_>, n: usize, act: ActOnNumber<'_>) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    run_workers(run, &|| {
        let mut buffer = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                return;
            }
            if let Err(error) = run.check_interrupt().and_then(|()| act(number, &mut buffer)) {
                // The others take no further number.
                next.store(n, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    })?;
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
