//! Hostile files: seeded mutants of every format that is read go through import, conversion, certification and a run.
//!
//! No mutant may panic, abort, take memory out of proportion to its size, or take long; whatever is accepted computes
//! the same on every kernel set. 2,400 mutants by default, 24,000 with `INTACT_TEST_FULL=1`; a failure names its seed,
//! and `INTACT_MUTATION_SEED=SEED` (or `FIRST..LAST`) runs that mutant (or those) alone.

mod blind;
mod checkpoint;
mod drive;
mod gguf;
#[path = "../import_support/mod.rs"]
mod import_support;
mod json;
mod memory;
mod model;
mod program;
mod random;
mod receipt;
mod safetensors;

use drive::{CHECKPOINT_FAMILIES, MODEL_FAMILIES, Met};
use random::Random;
use receipt::RECEIPT_FAMILIES;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Files that were spoilt, and how.
pub(crate) struct Mutant {
    /// What the files were.
    base: String,
    /// The changes, in order.
    what: Vec<String>,
    /// Names and contents.
    files: Vec<(String, Vec<u8>)>,
    open: Open,
}

/// What is opened, and as what.
pub(crate) enum Open {
    /// A path in the mutant's directory, as a checkpoint.
    Checkpoint(String),
    /// The mutant's directory, as a model.
    Model,
    /// The one file in the mutant's directory, as a receipt.
    Receipt,
}

type Maker = fn(&[model::Base], &mut Random) -> Mutant;

/// Each kind of mutants, with its share of them.
const KINDS: [(&str, usize, Maker); 10] = [
    ("gguf structure", 3, |_, random| gguf::structure(random)),
    ("gguf bytes", 2, |_, random| gguf::bytes(random)),
    ("hf structure", 3, |_, random| checkpoint::structure(random)),
    ("hf bytes", 3, |_, random| checkpoint::bytes(random)),
    ("program", 4, model::program),
    ("manifest", 3, model::manifest),
    ("planes", 4, model::planes),
    ("model bytes", 3, model::bytes),
    ("receipt structure", 3, receipt::structure),
    ("receipt bytes", 1, receipt::bytes),
];

/// Memory that a mutant may take beyond twice its files.
const ROOM: usize = 64 << 20;
/// Time that a mutant may take; a busy machine gets a few tries.
const TIME: Duration = Duration::from_secs(2);
const TRIES: usize = 3;
/// Time after which a mutant counts as endless.
const ENDLESS: Duration = Duration::from_secs(60);

#[test]
fn no_mutant_does_harm() {
    let bases = model::bases();
    assert!(bases.len() > 10, "the oracle's models are missing");
    let (seeds, chosen) = seeds();
    let memory_disk = Path::new("/dev/shm");
    let parent = if memory_disk.is_dir() { memory_disk.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(parent).expect("a directory for the mutants");
    let begin = Instant::now();
    let (mut table, mut faults) = (Table::default(), Vec::new());
    watch();
    std::panic::set_hook(Box::new(|panic| *PANIC.lock().unwrap() = panic.to_string()));
    for seed in seeds.clone() {
        memory::CURRENT.store(seed, Relaxed);
        let mut random = Random::new(seed);
        let (kind, maker) = kind(&mut random);
        let made = catch_unwind(AssertUnwindSafe(|| maker(&bases, &mut random)));
        let Ok(mutant) = made else {
            faults.push(format!("INTACT_MUTATION_SEED={seed}: {kind}: the mutation itself: {}", PANIC.lock().unwrap()));
            continue;
        };
        match survive(&mutant, directory.path(), random.word()) {
            Ok(met) => {
                if chosen {
                    println!("{seed}: {kind} of {}: {:?}: {met:?}", mutant.base, mutant.what);
                }
                table.add(kind, met);
            }
            Err(fault) => {
                let what = format!("{kind} of {}: {:?}", mutant.base, mutant.what);
                faults.push(format!("INTACT_MUTATION_SEED={seed}: {what}\n    {fault}"));
            }
        }
    }
    memory::CURRENT.store(u64::MAX, Relaxed);
    drop(std::panic::take_hook());
    println!("{table}seeds {seeds:?} in {:.1} s", begin.elapsed().as_secs_f64());
    assert!(faults.is_empty(), "{} mutants did harm:\n{}", faults.len(), faults[..faults.len().min(20)].join("\n"));
    if !chosen {
        table.check();
    }
}

/// The seeds to run, and whether somebody chose them.
fn seeds() -> (Range<u64>, bool) {
    const NAME: &str = "INTACT_MUTATION_SEED";
    let Ok(text) = std::env::var(NAME) else {
        let full = std::env::var_os("INTACT_TEST_FULL").is_some();
        return (0..if full { 24_000 } else { 2_400 }, false);
    };
    let (first, last) = text.split_once("..").unwrap_or((&text, ""));
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{NAME}={text}: not SEED or FIRST..LAST"));
    let first = number(first);
    (first..if last.is_empty() { first + 1 } else { number(last) }, true)
}

fn kind(random: &mut Random) -> (&'static str, Maker) {
    let mut turn = random.below(KINDS.iter().map(|(_, share, _)| share).sum());
    for (name, share, maker) in KINDS {
        if turn < share {
            return (name, maker);
        }
        turn -= share;
    }
    unreachable!("the turn is below the sum of the shares")
}

static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs a mutant; the error is the harm that it did.
fn survive(mutant: &Mutant, root: &Path, seed: u64) -> Result<Met, String> {
    let directory = root.join("mutant");
    std::fs::create_dir(&directory).map_err(|error| error.to_string())?;
    let mut size = 0;
    for (name, bytes) in &mutant.files {
        std::fs::write(directory.join(name), bytes).map_err(|error| error.to_string())?;
        size += bytes.len();
    }
    let mut quickest = Duration::MAX;
    let mut result = Ok(Met::new());
    for _ in 0..TRIES {
        let begin = Instant::now();
        let (outcome, peak) = memory::peak_of(|| {
            catch_unwind(AssertUnwindSafe(|| {
                let mut random = Random::new(seed);
                match &mutant.open {
                    Open::Checkpoint(path) => drive::checkpoint(&directory.join(path), root, &mut random),
                    Open::Model => drive::model(&directory, root, &mut random),
                    Open::Receipt => receipt::drive(&directory, &mut random),
                }
            }))
        });
        quickest = quickest.min(begin.elapsed());
        result = match outcome {
            Err(_) => Err(PANIC.lock().unwrap().clone()),
            Ok(_) if peak > 2 * size + ROOM => Err(format!("{peak} bytes held for {size} bytes of files")),
            Ok(met) => Ok(met),
        };
        if quickest < TIME || result.is_err() {
            break;
        }
    }
    if result.is_ok() && quickest >= TIME {
        result = Err(format!("{:.1} s", quickest.as_secs_f64()));
    }
    std::fs::remove_dir_all(&directory).map_err(|error| error.to_string())?;
    result
}

/// Ends the process, with the seed, when a mutant does not end.
fn watch() {
    std::thread::spawn(|| {
        let (mut last, mut since) = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = memory::CURRENT.load(Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if now != u64::MAX && since.elapsed() > ENDLESS {
                eprintln!("INTACT_MUTATION_SEED={now}: no end after {ENDLESS:?}");
                std::process::abort();
            }
        }
    });
}

/// How often mutants of each kind met what; one mutant can meet several things.
#[derive(Default)]
struct Table(BTreeMap<&'static str, BTreeMap<&'static str, usize>>);

impl Table {
    fn add(&mut self, kind: &'static str, met: Met) {
        for outcome in met {
            *self.0.entry(outcome).or_default().entry(kind).or_default() += 1;
        }
    }

    /// Mutations must reach every family of refusals, and some must be accepted, or they test little.
    fn check(&self) {
        let met: BTreeSet<_> = self.0.keys().copied().collect();
        let families: BTreeSet<_> =
            CHECKPOINT_FAMILIES.into_iter().chain(MODEL_FAMILIES).chain(RECEIPT_FAMILIES).collect();
        let missing: Vec<_> = families.difference(&met).collect();
        assert!(missing.is_empty(), "no mutant met {missing:?}");
        for (kind, ..) in KINDS {
            assert!(self.0[drive::RAN].contains_key(kind), "no mutant of kind {kind} was accepted");
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{:20}", "")?;
        KINDS.iter().try_for_each(|(kind, ..)| write!(f, "{kind:>18}"))?;
        writeln!(f)?;
        for (outcome, counts) in &self.0 {
            write!(f, "{outcome:20}")?;
            KINDS.iter().try_for_each(|(kind, ..)| write!(f, "{:>18}", counts.get(kind).copied().unwrap_or(0)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
