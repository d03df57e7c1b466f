//! Random schedules: whatever the company, options and interruptions, a request gets what it gets alone.
//!
//! Each seed makes one schedule on one model: run options, and a sequence of requests, steps, cancellations, calls for
//! logits and changes of engine. Every event is compared with that of the same request alone, computed without an
//! engine. 200 seeds by default, 5,000 with `INTACT_TEST_FULL=1`; a failure prints its schedule, and
//! `INTACT_SCHEDULE=SEED` (or `FIRST..LAST`) runs that one (or those) alone.
//!
//! Where the machine has GPU adapters, or software that stands for them, schedules that also move between the CPU and
//! each of them follow: 20 seeds, 1,000 with `INTACT_TEST_FULL=1`.

mod play;
#[path = "../mutations/random.rs"]
#[allow(dead_code, reason = "the mutations need kinds of chance that schedules do not")]
mod random;
mod requests;
mod schedule;
mod solo;
mod tally;

use intact::core::cpu::Pool;
use intact_gpu::{Adapter, Device};
use play::play;
use schedule::Schedule;
use solo::Solo;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tally::Tally;

/// A pool for each number of threads that a schedule may ask for.
struct Pools(Vec<Arc<Pool>>);

impl Pools {
    fn new() -> Self {
        Self((1..=schedule::MAX_THREADS).map(|threads| Arc::new(Pool::new(threads))).collect())
    }

    fn of(&self, threads: usize) -> Arc<Pool> {
        Arc::clone(&self.0[threads - 1])
    }
}

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let entries = std::fs::read_dir(root).expect("tests/vectors/models");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    models.retain(|path| path.is_dir());
    models.sort();
    assert!(models.len() > 10, "the oracle's models are missing");
    models
}

/// Schedules after which devices are opened anew: each shader of a software adapter takes tens of megabytes, which stay.
const KEPT: usize = 20;

/// Runs the schedules of `seeds`, all of one model, with moves to `adapters`; what went wrong with its seed.
fn run(
    path: &Path, seeds: impl Iterator<Item = u64>, adapters: &[Adapter], total: &Mutex<Tally>,
) -> Vec<(u64, String)> {
    let pools = Pools::new();
    let mut solo = Solo::open(path, &pools.of(1));
    let (mut faults, mut devices) = (Vec::new(), Vec::<Device>::new());
    for (number, seed) in seeds.enumerate() {
        if number % KEPT == 0 {
            devices = adapters.iter().map(|adapter| adapter.open().expect("opens")).collect();
        }
        let schedule = Schedule::new(seed, solo.context(), devices.len());
        let outcome = catch_unwind(AssertUnwindSafe(|| play(&schedule, &mut solo, &pools, &devices)));
        match outcome.unwrap_or_else(|panic| Err(format!("panic: {}", message(&*panic)))) {
            Ok(tally) => total.lock().expect("no panic").add(&tally),
            Err(fault) => {
                let name = path.file_name().unwrap_or_default().display();
                let cases = solo.describe(&schedule);
                faults.push((seed, format!("{fault}\non {name}, {schedule}{cases}")));
            }
        }
    }
    faults
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// The seeds to run, so many by default and in full, and whether somebody chose them.
fn seeds(few: u64, many: u64) -> (Range<u64>, bool) {
    const NAME: &str = "INTACT_SCHEDULE";
    let Ok(text) = std::env::var(NAME) else {
        let full = std::env::var_os("INTACT_TEST_FULL").is_some();
        return (0..if full { many } else { few }, false);
    };
    let (first, last) = text.split_once("..").unwrap_or((&text, ""));
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{NAME}={text}: not SEED or FIRST..LAST"));
    let first = number(first);
    (first..if last.is_empty() { first + 1 } else { number(last) }, true)
}

/// Plays every schedule of `seeds`, model by model on as many threads as the machine has, or on one.
fn play_all(test: &str, (seeds, chosen): (Range<u64>, bool), adapters: &[Adapter]) {
    let models = models();
    // A model's schedules run on one thread, which computes each of its requests alone once.
    let (total, faults, next) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let work = || {
            while let Some(path) = models.get(next.fetch_add(1, Relaxed)) {
                let mut mine = seeds.clone().filter(|seed| models[*seed as usize % models.len()] == *path).peekable();
                if mine.peek().is_some() {
                    faults.lock().expect("no panic").extend(run(path, mine, adapters, &total));
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });

    let mut faults = faults.into_inner().expect("no panic");
    faults.sort();
    if let Some((seed, fault)) = faults.first() {
        let seeds: Vec<u64> = faults.iter().map(|(seed, _)| *seed).collect();
        panic!(
            "{} schedules failed: {seeds:?}\nThe first:\nINTACT_SCHEDULE={seed} cargo test --test schedules {test}\n{fault}",
            faults.len()
        );
    }
    let total = total.into_inner().expect("no panic");
    println!("{total:?}");
    if !chosen {
        let missing = total.missing(!adapters.is_empty());
        assert_eq!(missing, [], "these never happened, so that the schedules show less than they should");
    }
}

#[test]
fn a_schedule_changes_no_token() {
    play_all("a_schedule", seeds(200, 5_000), &[]);
}

#[test]
fn a_move_between_devices_changes_no_token() {
    let adapters = Adapter::all();
    adapters.iter().for_each(|adapter| println!("{}", adapter.label()));
    if adapters.is_empty() {
        println!("no GPU adapter on this machine: nothing is tested");
        return;
    }
    play_all("a_move", seeds(20, 1_000), &adapters);
}
