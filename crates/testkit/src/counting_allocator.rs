//! An allocator that counts, for tests of code that must not allocate. One test binary each: it counts for the process.
#![expect(unsafe_code, reason = "an allocator that counts and passes on cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// `gemm` aligns the space that it packs operands into to cache lines and keeps flags of what is packed in bytes;
/// nothing of ours is aligned so.
const PACKING_ALIGNMENT: usize = 64;
static N_PACKING: AtomicUsize = AtomicUsize::new(0);
static N_OTHER: AtomicUsize = AtomicUsize::new(0);
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Counts every allocation of the process and passes it on to the system.
///
/// Set it with `#[global_allocator]`.
#[derive(Debug, Clone, Copy)]
pub struct CountingAllocator;

/// Allocations since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationCounts {
    /// Packing space of matrix products.
    pub n_packing: usize,
    /// Everything else.
    pub n_other: usize,
}

impl CountingAllocator {
    /// Allocations that `act` makes, on all threads.
    pub fn count(act: impl FnOnce()) -> AllocationCounts {
        let before = Self::so_far();
        act();
        let after = Self::so_far();
        AllocationCounts { n_packing: after.n_packing - before.n_packing, n_other: after.n_other - before.n_other }
    }

    /// The result of `act`, and the most bytes that were allocated at once while it ran. Earlier allocations count too.
    pub fn peak_bytes<T>(act: impl FnOnce() -> T) -> (T, usize) {
        PEAK_BYTES.store(LIVE_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
        let result = act();
        (result, PEAK_BYTES.load(Ordering::Relaxed))
    }

    fn so_far() -> AllocationCounts {
        AllocationCounts { n_packing: N_PACKING.load(Ordering::Relaxed), n_other: N_OTHER.load(Ordering::Relaxed) }
    }
}

fn grow(n_bytes: usize) {
    let live = LIVE_BYTES.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
    PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let is_packing = layout.align() >= PACKING_ALIGNMENT || layout.align() == 1;
        let counter = if is_packing { &N_PACKING } else { &N_OTHER };
        counter.fetch_add(1, Ordering::Relaxed);
        grow(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let is_packing = layout.align() >= PACKING_ALIGNMENT || layout.align() == 1;
        let counter = if is_packing { &N_PACKING } else { &N_OTHER };
        counter.fetch_add(1, Ordering::Relaxed);
        // The system moves large blocks by remapping pages, so that the old and the new one never exist together.
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        grow(new_size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
