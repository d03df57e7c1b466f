//! The engine's thread pool under loom, which runs a test once for every order in which its threads can meet and for
//! every value that a weakly ordered load may see.
//!
//! Loom sees a race where two accesses to one of its cells are not ordered, a lost wake-up as a deadlock, and a thread
//! that spins for ever as too many branches.

extern crate alloc;

#[allow(dead_code, reason = "the executor's parts of the file")]
#[path = "../../rust/core/cpu/pool.rs"]
mod pool;
mod sync;
#[cfg(test)]
mod tests;
