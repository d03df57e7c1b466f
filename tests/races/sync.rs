//! Loom's threads, locks and atomics, by the names that the pool uses.

pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(crate) use loom::thread::{Builder, JoinHandle, yield_now};

/// One turn shows all that more turns would.
pub(crate) const SPINS: u32 = 1;
