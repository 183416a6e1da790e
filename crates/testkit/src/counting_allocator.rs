//! An allocator that counts, for tests of code that must not allocate. One test binary each: it counts for the process.
#![expect(unsafe_code, reason = "an allocator that counts and passes on cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// `gemm` aligns the space that it packs operands into to cache lines and keeps flags of what is packed in bytes; nothing of ours is aligned so.
const PACKING_ALIGNMENT: usize = 64;
static N_PACKING: AtomicUsize = AtomicUsize::new(0);
static N_OTHER: AtomicUsize = AtomicUsize::new(0);

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

    fn so_far() -> AllocationCounts {
        AllocationCounts { n_packing: N_PACKING.load(Ordering::Relaxed), n_other: N_OTHER.load(Ordering::Relaxed) }
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let is_packing = layout.align() >= PACKING_ALIGNMENT || layout.align() == 1;
        let counter = if is_packing { &N_PACKING } else { &N_OTHER };
        counter.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
