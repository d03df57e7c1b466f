//! Threads that share one task at a time: workers stay awake for a moment after a task, then sleep.
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
    pub(super) use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::thread::{Builder, JoinHandle};

    use core::hint::spin_loop;
    use std::thread::yield_now;
    use std::time::{Duration, Instant};

    /// Turns without a system call, 3 to 12 µs: most waits inside of a forward pass are shorter.
    const TURNS: u32 = 256;
    /// About what it costs to put a thread to sleep and wake it again.
    const LIMIT: Duration = Duration::from_micros(50);

    /// How long a thread waits awake.
    #[derive(Default)]
    pub(super) struct Patience {
        turns: u32,
        since: Option<Instant>,
    }

    impl Patience {
        /// Lets a moment pass; false when it is time to sleep. Where threads outnumber CPUs, another runs meanwhile and
        /// uses up the limit.
        pub(super) fn wait(&mut self) -> bool {
            if self.turns < TURNS {
                self.turns += 1;
                spin_loop();
                return true;
            }
            let since = *self.since.get_or_insert_with(Instant::now);
            yield_now();
            since.elapsed() < LIMIT
        }
    }

    /// Memory whose users keep out of each other's way; loom's checks that they do.
    pub(super) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

#[cfg(loom)]
use crate::sync;

#[cfg(feature = "std")]
mod threads {
    use super::sync::{
        Arc, AtomicBool, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, Patience, UnsafeCell,
    };
    use alloc::vec::Vec;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::PoisonError;

    /// What a thread does: its own number, and the number of the part.
    type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

    /// A fixed number of threads, the caller among them.
    ///
    /// Each thread has a range of the parts, the same for every task of as many, so that what it reads stays in its
    /// caches; one that is through with its own takes from the others'. A caller waits for the threads that have begun,
    /// never for one that the system has yet to wake or run.
    pub struct Pool {
        shared: Arc<Shared>,
        workers: Vec<JoinHandle<()>>,
        caller: Mutex<()>,
    }

    struct Shared {
        job: UnsafeCell<Option<Job<'static>>>,
        lanes: Vec<Lane>,
        panicked: AtomicBool,
    }

    // SAFETY: `job` is written by the caller whose turn it is while no lane is open or working, and read by threads
    // whose lane is working.
    unsafe impl Sync for Shared {}

    #[derive(Clone, Copy)]
    struct Job<'a> {
        task: Task<'a>,
        count: usize,
        /// Threads that may take part.
        threads: usize,
    }

    impl Job<'_> {
        /// The first part of the range of `thread`, which ends where the next one's begins.
        fn start(&self, thread: usize) -> usize {
            self.count / self.threads * thread + (self.count % self.threads).min(thread)
        }
    }

    /// What one thread and the caller share; on cache lines of its own.
    #[repr(align(128))]
    struct Lane {
        state: AtomicUsize,
        /// The first part of the thread's range that nobody has taken.
        next: AtomicUsize,
        sleeping: Mutex<()>,
        wake: Condvar,
    }

    /// The worker waits for a job.
    const IDLE: usize = 0;
    /// The worker may begin; the caller may shut it out again.
    const OPEN: usize = 2;
    /// The worker uses the job; the caller waits for it.
    const WORKING: usize = 4;
    /// The worker is to end.
    const STOP: usize = 6;
    /// Added to the state by the one side that waits, when it goes to sleep.
    const ASLEEP: usize = 1;

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Lane {
        fn new() -> Self {
            Self {
                state: AtomicUsize::new(IDLE),
                next: AtomicUsize::new(0),
                sleeping: Mutex::new(()),
                wake: Condvar::new(),
            }
        }

        /// Waits until the state is another than `state`, and returns that.
        fn wait_while(&self, state: usize) -> usize {
            let mut patience = Patience::default();
            loop {
                let now = self.state.load(Ordering::Acquire);
                if now != state {
                    return now;
                }
                if !patience.wait() {
                    break;
                }
            }
            let mut guard = lock(&self.sleeping);
            let asleep = state | ASLEEP;
            if let Err(now) = self.change(state, asleep) {
                return now;
            }
            loop {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                let now = self.state.load(Ordering::Acquire);
                if now != asleep {
                    return now;
                }
            }
        }

        fn set(&self, state: usize) {
            if self.state.swap(state, Ordering::AcqRel) & ASLEEP != 0 {
                // Taken and dropped, so that a thread that has said that it sleeps does before it is woken.
                drop(lock(&self.sleeping));
                self.wake.notify_one();
            }
        }

        /// Moves from `old` to `new`, or returns the state that is neither.
        fn change(&self, old: usize, new: usize) -> Result<usize, usize> {
            self.state.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
        }
    }

    impl Shared {
        /// Does parts until none is left, or one panics: those of its own range, then what others have left.
        fn work(&self, thread: usize, job: Job<'_>) -> std::thread::Result<()> {
            // A panic leaves nothing half-done behind that is used again: `run` passes it on.
            catch_unwind(AssertUnwindSafe(|| {
                for owner in (thread..job.threads).chain(0..thread) {
                    let (next, end) = (&self.lanes[owner].next, job.start(owner + 1));
                    // Read first: writing would take the cache line from its owner.
                    while next.load(Ordering::Relaxed) < end {
                        let part = next.fetch_add(1, Ordering::Relaxed);
                        if part >= end {
                            break;
                        }
                        (job.task)(thread, part);
                    }
                }
            }))
        }

        fn worker(&self, thread: usize) {
            let lane = &self.lanes[thread];
            loop {
                if lane.wait_while(IDLE) == STOP {
                    return;
                }
                if lane.change(OPEN, WORKING).is_err() {
                    continue;
                }
                // SAFETY: the lane is working, so the caller keeps the job as it is.
                let job = self.job.with(|job| unsafe { *job });
                if job.is_some_and(|job| self.work(thread, job).is_err()) {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                lane.set(IDLE);
            }
        }

        /// Shuts out the workers that have not begun, and waits for the others.
        fn finish(&self, threads: usize) {
            for lane in &self.lanes[1..threads] {
                if lane.change(OPEN, IDLE) == Err(WORKING) {
                    lane.wait_while(WORKING);
                }
            }
        }
    }

    impl Pool {
        /// A pool of `threads` threads (at least 1). Where the system refuses a thread, the pool has fewer.
        #[must_use]
        pub fn new(threads: usize) -> Self {
            let shared = Arc::new(Shared {
                job: UnsafeCell::new(None),
                lanes: (0..threads.max(1)).map(|_| Lane::new()).collect(),
                panicked: AtomicBool::new(false),
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
        /// When a part panicked; others may then not have run.
        pub fn run(&self, count: usize, task: Task<'_>) {
            let threads = self.threads().min(count);
            if threads < 2 {
                (0..count).for_each(|part| task(0, part));
                return;
            }
            let one_caller = lock(&self.caller);
            let shared = &*self.shared;
            let job = Job { task, count, threads };
            // SAFETY: only the lifetime changes; nothing returns or unwinds from here before `finish`, after which no
            // worker uses the job.
            let erased = unsafe { core::mem::transmute::<Job<'_>, Job<'static>>(job) };
            // SAFETY: it is this caller's turn, and the last one has left no lane open or working.
            shared.job.with_mut(|job| unsafe { *job = Some(erased) });
            shared.panicked.store(false, Ordering::Relaxed);
            for (thread, lane) in shared.lanes[..threads].iter().enumerate() {
                lane.next.store(job.start(thread), Ordering::Relaxed);
            }
            for lane in &shared.lanes[1..threads] {
                lane.set(OPEN);
            }
            let own = shared.work(0, job);
            shared.finish(threads);
            let panicked = shared.panicked.load(Ordering::Relaxed);
            drop(one_caller);
            own.unwrap_or_else(|panic| resume_unwind(panic));
            assert!(!panicked, "a thread of the pool panicked");
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            for lane in &self.shared.lanes[1..=self.workers.len()] {
                lane.set(STOP);
            }
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
