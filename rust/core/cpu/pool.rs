//! Threads that share one task at a time: workers spin for a moment after a task, then sleep.
//!
//! Which thread does which part decides nothing but speed: parts write to disjoint places.

use alloc::vec::Vec;

#[cfg(feature = "std")]
pub use threads::Pool;

#[cfg(not(feature = "std"))]
pub use single::Pool;

/// Pointer to a buffer of which threads write disjoint parts.
pub(crate) struct Disjoint<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: `part` hands out exclusive ranges; its contract keeps those of different threads apart.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    pub(crate) fn new(buffer: &mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len() }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// The buffer outlives the use, and no two live parts overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part outside of the buffer");
        // SAFETY: the range is inside the buffer (just checked), which lives and is not aliased (caller's promise).
        unsafe { core::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

impl Pool {
    /// Computes `task(i)` for every `i < count`, in order of `i`.
    pub fn map<T: Send + Default>(&self, count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let mut out: Vec<T> = (0..count).map(|_| T::default()).collect();
        let parts = Disjoint::new(&mut out);
        self.run(count, &|_, i| {
            // SAFETY: every index runs once, so the single-element parts are disjoint, and `out` outlives `run`.
            let slot = unsafe { parts.part(i, 1) };
            slot[0] = task(i);
        });
        out
    }
}

/// All that threads wait on and share. `tests/races` compiles this file with loom's in its place.
#[cfg(all(feature = "std", not(loom)))]
mod sync {
    pub(super) use alloc::sync::Arc;
    pub(super) use core::hint::spin_loop;
    pub(super) use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::thread::{Builder, JoinHandle, yield_now};

    /// Turns of a spin loop before a thread sleeps: 0.03 to 0.3 ms, as CPUs differ in how long they pause.
    pub(super) const SPINS: u32 = 5_000;
}

#[cfg(loom)]
use crate::sync;

#[cfg(feature = "std")]
mod threads {
    use super::sync::{
        Arc, AtomicBool, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, SPINS, spin_loop,
        yield_now,
    };
    use alloc::vec::Vec;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::PoisonError;

    /// What a thread does: its own number, and the number of the part.
    type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

    /// A fixed number of threads, the caller among them.
    pub struct Pool {
        shared: Arc<Shared>,
        workers: Vec<JoinHandle<()>>,
        caller: Mutex<()>,
    }

    struct Shared {
        /// Counts tasks; a worker that sees a new value takes part in the task.
        epoch: AtomicUsize,
        task: Mutex<Option<(Task<'static>, usize)>>,
        next: AtomicUsize,
        pending: AtomicUsize,
        panicked: AtomicBool,
        stop: AtomicBool,
        sleeping: Mutex<()>,
        wake: Condvar,
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Shared {
        /// Does parts until none is left, or one panics.
        fn work(&self, thread: usize, task: Task<'_>, count: usize) -> std::thread::Result<()> {
            // A panic leaves nothing half-done behind that is used again: `run` passes it on.
            catch_unwind(AssertUnwindSafe(|| {
                loop {
                    let part = self.next.fetch_add(1, Ordering::Relaxed);
                    if part >= count {
                        return;
                    }
                    task(thread, part);
                }
            }))
        }

        fn worker(&self, thread: usize) {
            let mut seen = 0;
            loop {
                let mut spins = 0;
                while self.epoch.load(Ordering::Acquire) == seen {
                    if spins < SPINS {
                        spins += 1;
                        spin_loop();
                        continue;
                    }
                    let guard = lock(&self.sleeping);
                    if self.epoch.load(Ordering::Acquire) == seen {
                        drop(self.wake.wait(guard));
                    }
                }
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                seen += 1;
                let task = *lock(&self.task);
                if task.is_some_and(|(task, count)| self.work(thread, task, count).is_err()) {
                    self.panicked.store(true, Ordering::Release);
                }
                self.pending.fetch_sub(1, Ordering::AcqRel);
            }
        }

        fn start(&self) {
            self.epoch.fetch_add(1, Ordering::AcqRel);
            // Taken and dropped, so that a worker between its check and its sleep is asleep before it is woken.
            drop(lock(&self.sleeping));
            self.wake.notify_all();
        }

        /// Waits until no worker holds the task.
        fn finish(&self) {
            let mut spins = 0;
            while self.pending.load(Ordering::Acquire) > 0 {
                if spins < SPINS {
                    spins += 1;
                    spin_loop();
                } else {
                    yield_now();
                }
            }
            *lock(&self.task) = None;
        }
    }

    impl Pool {
        /// A pool of `threads` threads (at least 1). Where the system refuses a thread, the pool has fewer.
        #[must_use]
        pub fn new(threads: usize) -> Self {
            let shared = Arc::new(Shared {
                epoch: AtomicUsize::new(0),
                task: Mutex::new(None),
                next: AtomicUsize::new(0),
                pending: AtomicUsize::new(0),
                panicked: AtomicBool::new(false),
                stop: AtomicBool::new(false),
                sleeping: Mutex::new(()),
                wake: Condvar::new(),
            });
            let spawn = |thread: usize| {
                let shared = Arc::clone(&shared);
                Builder::new().name("intact".into()).spawn(move || shared.worker(thread)).ok()
            };
            let workers = (1..threads).map_while(spawn).collect();
            Self { shared, workers, caller: Mutex::new(()) }
        }

        /// Threads, the caller included.
        #[must_use]
        pub fn threads(&self) -> usize {
            self.workers.len() + 1
        }

        /// Runs `task(thread, part)` once for every `part < count`; returns when all are done.
        ///
        /// # Panics
        /// When a part panicked.
        pub fn run(&self, count: usize, task: Task<'_>) {
            if self.workers.is_empty() || count < 2 {
                (0..count).for_each(|part| task(0, part));
                return;
            }
            let one_caller = lock(&self.caller);
            let shared = &*self.shared;
            // SAFETY: only the lifetime changes; nothing returns or unwinds from here before `finish`, after which no
            // worker holds the task.
            let erased = unsafe { core::mem::transmute::<Task<'_>, Task<'static>>(task) };
            *lock(&shared.task) = Some((erased, count));
            shared.panicked.store(false, Ordering::Relaxed);
            shared.next.store(0, Ordering::Relaxed);
            shared.pending.store(self.workers.len(), Ordering::Release);
            shared.start();
            let own = shared.work(0, task, count);
            shared.finish();
            let panicked = shared.panicked.load(Ordering::Acquire);
            drop(one_caller);
            own.unwrap_or_else(|panic| resume_unwind(panic));
            assert!(!panicked, "a thread of the pool panicked");
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            self.shared.stop.store(true, Ordering::Release);
            self.shared.start();
            for worker in self.workers.drain(..) {
                let _ = worker.join();
            }
        }
    }
}

#[cfg(not(feature = "std"))]
mod single {
    /// The one thread that there is without an operating system.
    pub struct Pool;

    impl Pool {
        /// A pool of one thread, whatever is asked for.
        #[must_use]
        pub fn new(_threads: usize) -> Self {
            Self
        }

        /// Threads, the caller included.
        #[must_use]
        pub fn threads(&self) -> usize {
            1
        }

        /// Runs `task(0, part)` for every `part < count`.
        pub fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
            (0..count).for_each(|part| task(0, part));
        }
    }
}
