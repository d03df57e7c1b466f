//! The search against all paths, against a vector of the document, and its instruction sets against each other.
use super::*;
use crate::encode::tests::Random;

fn path(bits: u32, set: Set, targets: &[f64], weights: &[f64], start: u16) -> Vec<u16> {
    let mut row = Vec::new();
    costs(bits, targets, weights, &mut row);
    let mut paths = [Vec::new()];
    Viterbi::new(bits, set).paths(&[row], &[start], &mut paths);
    let [path] = paths;
    path
}

fn error(path: &[u16], targets: &[f64], weights: &[f64]) -> f64 {
    let levels = path.iter().flat_map(|&state| trellis_pair(state.reverse_bits()));
    let parts = levels.zip(targets).zip(weights);
    parts.map(|((level, x), w)| w * (f64::from(level) - x) * (f64::from(level) - x)).sum()
}

#[test]
fn the_vector_of_the_document_is_found() {
    let targets = [10.0, -25.0, 3.0, 40.0, -7.0, 0.0, 18.0, -33.0];
    for set in sets() {
        let path = path(4, set, &targets, &[1.0; 8], 0);
        let symbols: Vec<i16> = path.iter().map(|&state| arrival(4, state).1).collect();
        assert_eq!(symbols, [0xA, 0x5, 0xE, 0xD], "{}", set.name);
        assert_eq!(error(&path, &targets, &[1.0; 8]), 386.0);
    }
}

#[test]
fn the_best_of_all_paths_is_found() {
    let mut random = Random(11);
    let set = sets().next().unwrap();
    for bits in 2..=8 {
        let steps = 16 / bits as usize;
        let targets: Vec<f64> = (0..2 * steps).map(|_| f64::from(random.normal()) * 10.0).collect();
        let weights: Vec<f64> = (0..2 * steps).map(|_| random.signed().abs() + 0.2).collect();
        let start = random.below(1 << 16) as u16;
        let least = (0..1_u32 << (bits as usize * steps)).map(|symbols| {
            let mut now = u32::from(start);
            let path: Vec<u16> = (0..steps)
                .map(|t| {
                    let symbol = symbols >> (t as u32 * bits) & ((1 << bits) - 1);
                    now = (now << bits | symbol) & 0xFFFF;
                    now as u16
                })
                .collect();
            error(&path, &targets, &weights)
        });
        let least = least.fold(f64::INFINITY, f64::min);
        let found = error(&path(bits, set, &targets, &weights, start), &targets, &weights);
        // Weights have 8 bits or more.
        assert!(found <= least * 1.01, "{bits} {found} {least}");
    }
}

#[test]
fn instruction_sets_agree() {
    let mut random = Random(12);
    for bits in 2..=8 {
        let rows: Vec<Vec<Cost>> = (0..5)
            .map(|_| {
                let targets: Vec<f64> = (0..48).map(|_| f64::from(random.normal()) * 30.0).collect();
                let weights: Vec<f64> = (0..48).map(|_| [0.0, 1.0, 3.0, 1e4][random.below(4) as usize]).collect();
                let mut row = Vec::new();
                costs(bits, &targets, &weights, &mut row);
                row
            })
            .collect();
        let starts = [0, 1, 0xFFFF, 0x8000, 12345];
        let found = sets().map(|set| {
            let mut paths = vec![Vec::new(); 5];
            Viterbi::new(bits, set).paths(&rows, &starts, &mut paths);
            paths
        });
        let found: Vec<_> = found.collect();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{bits}");
        for (path, &start) in found[0].iter().zip(&starts) {
            let mut before = start;
            for &state in path {
                assert_eq!(state >> bits, before & ((1 << (16 - bits)) - 1));
                before = state;
            }
        }
    }
}

/// Distortion of a unit Gaussian, in the order of `bits`, and the time it takes.
#[test]
#[ignore = "seconds; prints the time of every instruction set"]
fn distortion_and_time() {
    let mut random = Random(13);
    let targets: Vec<Vec<f64>> =
        (0..8).map(|_| (0..4096).map(|_| f64::from(random.normal()) / 2.0).collect()).collect();
    for set in sets() {
        for (bits, expected) in (2..=8).zip([0.2645, 0.1355, 0.0684, 0.0349, 0.0180, 0.0094, 0.0050]) {
            let size = crate::encode::fit::Fit::of(bits).spread;
            let units: Vec<Vec<f64>> = targets.iter().map(|row| row.iter().map(|x| x * size).collect()).collect();
            let mut rows = vec![Vec::new(); 8];
            units.iter().zip(&mut rows).for_each(|(x, row)| costs(bits, x, &vec![1.0; 4096], row));
            let mut search = Viterbi::new(bits, set);
            let mut paths = vec![Vec::new(); 8];
            search.paths(&rows[..4], &[0; 4], &mut paths[..4]);
            let start = std::time::Instant::now();
            search.paths(&rows, &[0; 8], &mut paths);
            let time = start.elapsed().as_secs_f64() / (8.0 * 4096.0);
            let total: f64 = paths.iter().zip(&units).map(|(p, x)| error(p, x, &vec![1.0; 4096])).sum();
            let power: f64 = units.iter().flatten().map(|x| x * x).sum();
            println!(
                "{} P{}: {:.4} (expected {expected}), {:.2} us per weight",
                set.name,
                5 * bits,
                total / power,
                time * 1e6
            );
            assert!(total / power < expected * 1.03);
        }
    }
}
