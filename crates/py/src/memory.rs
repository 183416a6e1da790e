//! Memory that merged bytes are written to: aligned memory of ours, and memory that Python objects own.
//!
//! Knows neither Python nor DLPack. The only place that writes through pointers.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use thalweg_storage::Host;
use thalweg_tensor::{AccessError, TensorCatalog, TensorSink, display_name, to_index};

/// JAX views memory that is aligned so, and copies any other without a word.
const ALIGNMENT: usize = 64;

/// Bytes at an address that is a multiple of 64, zero at first.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    allocated: NonNull<u8>,
    layout: Layout,
    /// Within what was allocated.
    start: NonNull<u8>,
    n_bytes: usize,
}

// SAFETY: it owns its memory alone, as a `Vec<u8>` does.
unsafe impl Send for AlignedBytes {}
// SAFETY: a shared reference only reads. Who writes through `start()` answers for that, see `MemoryTarget`.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// Memory for `n_bytes` bytes; `None` if there is not that much.
    pub(crate) fn new(n_bytes: usize) -> Option<Self> {
        // An allocator that is asked for zeros at a large alignment writes them. At a small one it takes fresh pages,
        // which are zero and need not be touched before a merge does.
        let layout = Layout::from_size_align(n_bytes.checked_add(ALIGNMENT)?, 1).ok()?;
        // SAFETY: the size of the layout is not zero.
        let allocated = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skipped = allocated.as_ptr().align_offset(ALIGNMENT);
        // SAFETY: less than `ALIGNMENT` bytes are skipped, and so many more than `n_bytes` were allocated.
        let start = unsafe { allocated.add(skipped) };
        Some(Self { allocated, layout, start, n_bytes })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is valid for `n_bytes` initialised bytes as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.n_bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.n_bytes) }
    }

    /// Where a merge may write these bytes.
    pub(crate) fn target(&mut self) -> MemoryTarget {
        MemoryTarget { start: self.start, n_bytes: self.n_bytes }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout, and freed only here.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) }
    }
}

/// Memory that holds one tensor and stays where it is while a merge writes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryTarget {
    start: NonNull<u8>,
    n_bytes: usize,
}

// SAFETY: it is an address. Bytes are written only by `MemorySink`, each by one thread.
unsafe impl Send for MemoryTarget {}
// SAFETY: as above.
unsafe impl Sync for MemoryTarget {}

impl MemoryTarget {
    /// Memory at `address`, which the caller vouches for: `n_bytes` bytes that may be written, that no other thread
    /// uses, and that outlive every merge into them. `None` for the address zero, which empty tensors have.
    pub(crate) fn at(address: usize, n_bytes: usize) -> Option<Self> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(address)).map(|start| Self { start, n_bytes })
    }
}

/// A sink that writes tensors to memory; tensors without a target are not taken.
#[derive(Debug)]
pub(crate) struct MemorySink {
    catalog: Arc<TensorCatalog>,
    targets: Vec<Option<MemoryTarget>>,
}

impl MemorySink {
    /// A sink for tensors of `catalog` that has no target yet.
    pub(crate) fn new(catalog: &Arc<TensorCatalog>) -> Self {
        Self { catalog: Arc::clone(catalog), targets: vec![None; catalog.entries().len()] }
    }

    /// Sends tensor number `tensor_idx` to `target`. Returns false if its bytes are not as many as the target's.
    pub(crate) fn send(&mut self, tensor_idx: usize, target: MemoryTarget) -> bool {
        let wanted = self.catalog.entries().get(tensor_idx).map(|entry| to_index(entry.n_bytes()));
        let fits = wanted == Some(target.n_bytes);
        if fits {
            self.targets[tensor_idx] = Some(target);
        }
        fits
    }

    pub(crate) fn wants(&self, tensor_idx: usize) -> bool {
        self.targets.get(tensor_idx).is_some_and(Option::is_some)
    }
}

impl TensorSink for MemorySink {
    fn catalog(&self) -> &TensorCatalog {
        &self.catalog
    }

    fn write_elements(&self, tensor_idx: usize, first_element: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let entry = self.catalog.entries().get(tensor_idx);
        let target = self.targets.get(tensor_idx).copied().flatten();
        let place = entry.zip(target).and_then(|(entry, target)| {
            let start = to_index(entry.dtype.bytes_of(first_element)?);
            (start.checked_add(bytes.len())? <= target.n_bytes).then_some((target, start))
        });
        let Some((target, start)) = place else {
            let name = entry.map(|entry| display_name(&entry.name)).unwrap_or_default();
            let message = format!("there is no memory for tensor `{name}` from element {first_element} on");
            return Err(AccessError { path: "memory".to_owned(), message, source: None });
        };
        // SAFETY: the range was just checked to be within the target, which is valid for writes (`AlignedBytes`, or
        // what the caller of `MemoryTarget::at` vouched for). A merge hands each element to a sink once, so no two
        // threads write one byte. `bytes` is the worker's own buffer and cannot overlap the target.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.start.as_ptr().add(start), bytes.len()) }
        Ok(())
    }
}

/// A copy from one place to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryCopy {
    from: MemoryTarget,
    to: MemoryTarget,
}

/// Bytes that a thread copies before it asks for more.
const COPY_BYTES: usize = 4 << 20;

impl MemoryCopy {
    /// A copy of `n_bytes` bytes between addresses that the caller vouches for, as for [`MemoryTarget::at`]; the two
    /// do not overlap. `None` for the address zero.
    pub(crate) fn between(from: usize, to: usize, n_bytes: usize) -> Option<Self> {
        Some(Self { from: MemoryTarget::at(from, n_bytes)?, to: MemoryTarget::at(to, n_bytes)? })
    }

    fn copy(self, at: usize) {
        let n_bytes = self.to.n_bytes.saturating_sub(at).min(COPY_BYTES);
        // SAFETY: both ranges begin at `at` and end within the memory that the caller of `between` vouched for. Each
        // piece is copied by one thread.
        unsafe {
            std::ptr::copy_nonoverlapping(self.from.start.as_ptr().add(at), self.to.start.as_ptr().add(at), n_bytes);
        }
    }
}

/// Makes copies on `n_threads` threads, none of which waits for another: on a busy machine, waiting for all of them
/// after every tensor takes far longer than the copies.
pub(crate) fn copy_all(copies: &[MemoryCopy], n_threads: usize) {
    let pieces: Vec<(MemoryCopy, usize)> =
        copies.iter().flat_map(|copy| (0..copy.to.n_bytes).step_by(COPY_BYTES).map(|at| (*copy, at))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((copy, at)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            copy.copy(*at);
        }
    };
    in_threads(n_threads.min(pieces.len()), &work);
}

/// Does `work` on some threads at once, this one included.
fn in_threads(n_threads: usize, work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            // If the system refuses a thread, the others do its share.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// Memory below this size is not worth a call.
const LEAST_TAKEN_BYTES: usize = 256 << 10;
/// Memory that a thread asks the system for at once.
const TAKEN_BYTES: usize = 16 << 20;
/// A system with large pages at hand gives memory several times as fast as this; one that has to make room for them is
/// slower than with small pages.
const LEAST_BYTES_PER_SECOND: f64 = 6e9;
/// What a call may take beside: another program had the processor for a moment.
const SLACK_SECONDS: f64 = 1e-3;

/// Makes the system give the memory of some places now, in large pages, on `n_threads` threads: small ones, given while
/// a merge writes to them, cost more than the merge. Changes no byte. Returns whether that was quick; once it is not,
/// the rest is left to small pages.
pub(crate) fn take_memory(places: &[MemoryTarget], n_threads: usize, host: &dyn Host) -> bool {
    let large = places.iter().filter(|place| place.n_bytes >= LEAST_TAKEN_BYTES);
    let ranges: Vec<(usize, usize)> = large
        .map(|place| (place.start.addr().get(), place.start.addr().get() + place.n_bytes))
        .map(|(start, end)| (start.next_multiple_of(system::PAGE_BYTES), end / system::PAGE_BYTES * system::PAGE_BYTES))
        .filter(|(start, end)| start < end)
        .collect();
    // Of all first: a large page may span neighbours.
    let are_known = ranges.iter().all(|&(start, end)| system::prefer_large_pages(start, end));
    let pieces = ranges
        .iter()
        .flat_map(|&(start, end)| (start..end).step_by(TAKEN_BYTES).map(move |at| (at, end.min(at + TAKEN_BYTES))));
    let pieces: Vec<(usize, usize)> = pieces.collect();
    let (next, is_quick) = (AtomicUsize::new(0), AtomicBool::new(are_known && !pieces.is_empty()));
    in_threads(n_threads.min(pieces.len()), &|| {
        while let Some(&(start, end)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = host.elapsed_seconds();
            let is_taken = is_quick.load(Ordering::Relaxed) && system::take_pages(start, end);
            let most_seconds = SLACK_SECONDS + (end - start) as f64 / LEAST_BYTES_PER_SECOND;
            if !is_taken || host.elapsed_seconds() - began > most_seconds {
                is_quick.store(false, Ordering::Relaxed);
                return;
            }
        }
    });
    let is_quick = is_quick.into_inner();
    if !is_quick {
        ranges.iter().for_each(|&(start, end)| system::prefer_small_pages(start, end));
    }
    is_quick
}

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::{c_int, c_void};

    const HUGE_PAGES: c_int = 14;
    const NO_HUGE_PAGES: c_int = 15;
    const POPULATE_WRITE: c_int = 23;
    /// The largest size of small pages among Linux's architectures.
    pub(super) const PAGE_BYTES: usize = 64 << 10;

    unsafe extern "C" {
        fn madvise(start: *mut c_void, n_bytes: usize, advice: c_int) -> c_int;
    }

    /// Whether the system took an advice about the whole pages between two addresses.
    fn advise(start: usize, end: usize, advice: c_int) -> bool {
        // SAFETY: none of the advices here changes what is in memory or unmaps it, whatever the range. A system that
        // does not know one returns an error, and then pages come when they are written.
        unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), end - start, advice) == 0 }
    }

    pub(super) fn prefer_large_pages(start: usize, end: usize) -> bool {
        advise(start, end, HUGE_PAGES)
    }

    pub(super) fn prefer_small_pages(start: usize, end: usize) {
        advise(start, end, NO_HUGE_PAGES);
    }

    pub(super) fn take_pages(start: usize, end: usize) -> bool {
        advise(start, end, POPULATE_WRITE)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) const PAGE_BYTES: usize = 64 << 10;

    pub(super) fn prefer_large_pages(_start: usize, _end: usize) -> bool {
        false
    }

    pub(super) fn prefer_small_pages(_start: usize, _end: usize) {}

    pub(super) fn take_pages(_start: usize, _end: usize) -> bool {
        false
    }
}
