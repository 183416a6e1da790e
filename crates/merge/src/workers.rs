//! Work that all threads share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use thalweg_tensor::kernel::FloatEnvironment;

use crate::context::RunContext;
use crate::error::Error;
use crate::unit::{Part, UnitList};

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

/// Threads that wait for the medium side by side: it brings what many wait for to safety at once.
const MAX_WAITING: usize = 32;

/// Does `act` for each item, many at a time unless one thread was asked for: they hardly compute. Returns in the order
/// of the items what came of each; `None` for those that were not begun because another one failed.
pub(crate) fn wait_together<T: Send, R: Send>(
    run: &RunContext<'_>,
    items: Vec<T>,
    act: &(dyn Fn(T) -> Result<R, Error> + Sync),
) -> Vec<Option<Result<R, Error>>> {
    let n_at_once = if run.limits.n_threads.get() == 1 { 1 } else { MAX_WAITING };
    side_by_side(n_at_once, items, act)
}

fn side_by_side<T: Send, R: Send>(
    n_at_once: usize,
    items: Vec<T>,
    act: &(dyn Fn(T) -> Result<R, Error> + Sync),
) -> Vec<Option<Result<R, Error>>> {
    let n_items = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let results: Mutex<Vec<Option<Result<R, Error>>>> = Mutex::new((0..n_items).map(|_| None).collect());
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, item)) = next else { return };
            let result = act(item);
            let has_failed = result.is_err();
            results.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(result);
            if has_failed {
                // The others take no further item.
                queue.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
            }
        }
    };
    let has_panicked = std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_items.min(n_at_once))
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        work();
        others.into_iter().any(|other| other.join().is_err())
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if has_panicked && let Some(lost) = results.iter_mut().find(|result| result.is_none()) {
        *lost = Some(Err(Error::WorkerDied));
    }
    results
}

/// What is done for a number, with what its thread keeps from one to the next.
type ActOnNumber<'a, S> = &'a (dyn Fn(usize, &mut S) -> Result<(), Error> + Sync);

/// Does `act` for each number below `n`, by all threads. The first error, or a stop that was asked for, ends the work.
///
/// # Errors
/// The first error of `act`; `Interrupted`.
pub(crate) fn for_each_number(run: &RunContext<'_>, n: usize, act: ActOnNumber<'_, Vec<u8>>) -> Result<(), Error> {
    for_each_number_ahead(run, n, &Vec::new, &|_| {}, act)
}

/// As [`for_each_number`]. Each thread keeps what `start` gives it, and calls `ahead` with the number that it will
/// probably do next, so that what it needs can be fetched meanwhile.
///
/// # Errors
/// The first error of `act`; `Interrupted`.
pub(crate) fn for_each_number_ahead<S>(
    run: &RunContext<'_>,
    n: usize,
    start: &(dyn Fn() -> S + Sync),
    ahead: &(dyn Fn(usize) + Sync),
    act: ActOnNumber<'_, S>,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    run_workers(run, &|| {
        let mut state = start();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                return;
            }
            let later = number + run.limits.n_threads.get();
            if later < n {
                ahead(later);
            }
            if let Err(error) = run.check_interrupt().and_then(|()| act(number, &mut state)) {
                // The others take no further number.
                next.store(n, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    })?;
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Number of a tensor and of its part, and what was found of the part.
pub(crate) type OfPart<T> = (usize, usize, T);

/// Finds something of every part of `units`, by all threads and in the default floating-point environment. Returns
/// what was found by tensor and part, whatever thread found it. Nothing is asked for ahead: the system reads ahead by
/// itself, in larger steps, where a file is read from its beginning to its end.
///
/// # Errors
/// The first error of `act`; `Interrupted`.
pub(crate) fn for_each_part<S, T: Send>(
    run: &RunContext<'_>,
    units: &UnitList,
    start: &(dyn Fn() -> S + Sync),
    act: &(dyn Fn(&Part, &mut S) -> Result<T, Error> + Sync),
) -> Result<Vec<OfPart<T>>, Error> {
    let found = Mutex::new(Vec::new());
    let start = || (FloatEnvironment::set_default(), start());
    for_each_number_ahead(run, units.len(), &start, &|_| {}, &|unit_idx, (_, state)| {
        for part in units.parts(unit_idx) {
            let of_part = (part.tensor_idx, part.part_idx, act(part, state)?);
            found.lock().unwrap_or_else(PoisonError::into_inner).push(of_part);
        }
        Ok(())
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable_by_key(|(tensor_idx, part_idx, _)| (*tensor_idx, *part_idx));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn what_waits_is_done_side_by_side_and_told_in_order() {
        // Each waits for the others.
        let all = Barrier::new(MAX_WAITING);
        let outcomes = side_by_side(MAX_WAITING, (0..MAX_WAITING).collect(), &|n| {
            all.wait();
            Ok(10 * n)
        });
        let found: Vec<usize> = outcomes.into_iter().map(|outcome| outcome.unwrap().unwrap()).collect();
        assert_eq!(found, (0..MAX_WAITING).map(|n| 10 * n).collect::<Vec<_>>());
        assert!(side_by_side(2, Vec::<usize>::new(), &|n| Ok(n)).is_empty());
    }

    #[test]
    fn after_a_failure_nothing_new_is_begun() {
        let n_items = 1000;
        let n_begun = AtomicUsize::new(0);
        let outcomes = side_by_side(4, (0..n_items).collect(), &|n| {
            n_begun.fetch_add(1, Ordering::Relaxed);
            if n == 3 { Err(Error::Interrupted) } else { Ok(n) }
        });
        assert!(matches!(outcomes[3], Some(Err(Error::Interrupted))));
        let n_done = outcomes.iter().filter(|outcome| outcome.is_some()).count();
        assert_eq!((n_done, outcomes.len()), (n_begun.into_inner(), n_items));
        assert!(outcomes[n_done..].iter().all(Option::is_none), "they are begun in order");
    }
}
