//! Loom's threads, locks, atomics and cells, by the names that the pool uses.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(crate) use loom::thread::{Builder, JoinHandle};

/// One turn shows all that more turns would.
#[derive(Default)]
pub(crate) struct Patience {
    waited: bool,
}

impl Patience {
    pub(crate) fn wait(&mut self) -> bool {
        loom::thread::yield_now();
        !std::mem::replace(&mut self.waited, true)
    }
}
