//! What the engine relies on.

use crate::pool::Pool;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Once;

/// Tries every order of `scenario` in which at most `preemptions` times a thread stops that could have gone on. More
/// take longer, several times for each; nearly all races need one or two.
fn explore(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(scenario);
}

/// Memory of which loom checks every access.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: what the pool promises, and what loom checks here: no two threads access a cell at once.
unsafe impl Sync for Cells {}

impl Cells {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, i: usize, value: usize) {
        // SAFETY: loom fails the test where another access is not ordered with this one.
        self.0[i].with_mut(|cell| unsafe { *cell += value });
    }

    fn values(&self) -> Vec<usize> {
        // SAFETY: as in `add`.
        self.0.iter().map(|cell| cell.with(|cell| unsafe { *cell })).collect()
    }
}

/// Runs `count` parts `times` times: each adds to a cell of its own and to one of its thread.
fn run(pool: &Pool, count: usize, times: usize) {
    let (parts, threads) = (Cells::new(count), Cells::new(pool.threads()));
    for _ in 0..times {
        pool.run(count, &|thread, part| {
            parts.add(part, part + 1);
            threads.add(thread, 1);
        });
    }
    assert_eq!(parts.values(), (1..=count).map(|part| part * times).collect::<Vec<_>>());
    assert_eq!(threads.values().iter().sum::<usize>(), count * times);
}

#[test]
fn parts_run_once_and_are_seen() {
    explore(4, || run(&Pool::new(2), 2, 2));
}

#[test]
fn three_threads_share_parts() {
    explore(2, || run(&Pool::new(3), 3, 1));
}

#[test]
fn threads_take_what_others_leave() {
    explore(3, || run(&Pool::new(2), 3, 1));
}

#[test]
fn threads_without_a_part_stay_out() {
    explore(2, || {
        let pool = Pool::new(3);
        run(&pool, 2, 1);
        run(&pool, 1, 1);
    });
}

#[test]
fn a_pool_without_work_ends() {
    explore(4, || drop(Pool::new(3)));
}

#[test]
fn callers_take_turns() {
    explore(2, || {
        let pool = Arc::new(Pool::new(2));
        let other = Arc::clone(&pool);
        let caller = loom::thread::spawn(move || run(&other, 2, 1));
        run(&pool, 2, 1);
        caller.join().expect("no panic");
    });
}

/// What a part panics with.
struct Planted;

/// Keeps the panics that a test plants out of its output.
fn hide_planted() {
    static HIDDEN: Once = Once::new();
    HIDDEN.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let passed_on =
                panic.payload().downcast_ref::<&str>().is_some_and(|text| text.contains("of the pool panicked"));
            if !passed_on && !panic.payload().is::<Planted>() {
                report(panic);
            }
        }));
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    hide_planted();
    explore(4, || {
        let pool = Pool::new(2);
        let parts = Cells::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|_, part| {
                parts.add(part, 1);
                if part == 1 {
                    panic_any(Planted);
                }
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(parts.values(), [1, 1]);
        run(&pool, 2, 1);
    });
}
