//! The fastest that bytes come from memory: the roof of everything that reads each weight once.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(10);
const PERIODS: usize = 25;
/// Words between two looks at the clock: 1 MiB.
const CHUNK: usize = 1 << 17;

/// Bytes per second of the best of several periods; every thread reads its own part of `words` again and again.
pub(crate) fn bandwidth(words: &[u64], threads: usize) -> u64 {
    let parts = words.chunks(words.len().div_ceil(threads).max(1));
    let start = Barrier::new(parts.len());
    let each: Vec<_> = thread::scope(|scope| {
        let readers: Vec<_> = parts.map(|part| scope.spawn(|| read_again_and_again(part, &start))).collect();
        readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
    });
    let rate = |period: usize| {
        let bytes: u128 = each.iter().map(|periods| periods[period].0).sum();
        let longest = each.iter().map(|periods| periods[period].1.as_nanos()).max().unwrap_or(0).max(1);
        u64::try_from(bytes * 1_000_000_000 / longest).unwrap_or(u64::MAX)
    };
    (0..PERIODS).map(rate).max().unwrap_or(0)
}

/// What one thread reads in each period, in bytes, and how long it takes. All threads start a period together.
fn read_again_and_again(words: &[u64], start: &Barrier) -> [(u128, Duration); PERIODS] {
    let mut chunks = words.chunks(CHUNK).cycle();
    [(); PERIODS].map(|()| {
        start.wait();
        let begin = Instant::now();
        let mut bytes = 0;
        loop {
            let chunk = chunks.next().unwrap_or(words);
            black_box(sum(black_box(chunk)));
            bytes += size_of_val(chunk) as u128;
            let elapsed = begin.elapsed();
            if elapsed >= PERIOD {
                return (bytes, elapsed);
            }
        }
    })
}

/// The least that can be done with all words. Compilers make several vector sums of it, for whichever CPU.
fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}
