//! An allocator that counts, so that a mutant which makes the loader reserve too much is found.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The mutant at work, for messages from where nothing can be returned.
pub(crate) static CURRENT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Far above what any mutant may take and below what would hurt the machine: a request beyond it is refused.
const CEILING: usize = 1 << 30;

struct Gauge;

impl Gauge {
    /// Counts `size` more bytes; `false`, and not counted, beyond the ceiling.
    fn take(size: usize) -> bool {
        let held = HELD.fetch_add(size, Relaxed).wrapping_add(size);
        if size > CEILING || held > CEILING {
            HELD.fetch_sub(size, Relaxed);
            // A caller that cannot do without aborts now. Nothing here allocates.
            let _ = writeln!(std::io::stderr(), "mutant {}: {size} bytes asked for", CURRENT.load(Relaxed));
            return false;
        }
        PEAK.fetch_max(held, Relaxed);
        true
    }
}

// SAFETY: every call is the system allocator's own, or a refusal; the gauge neither allocates nor panics.
unsafe impl GlobalAlloc for Gauge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Self::take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static GAUGE: Gauge = Gauge;

/// The result of `work`, and the most bytes that the process held meanwhile beyond what it held before.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}
