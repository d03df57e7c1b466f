//! A program on two executors gives what it gives on one: every slot write, every logit, every saved page.

use intact::core::certify::Certified;
use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::executor::Executor;
use intact::core::kernels::Kernels;
use intact::core::storage::heap;
use intact::{Loaded, Split};
use std::path::Path;
use std::sync::Arc;

const PAGE: usize = 8;
/// Pages in any order.
const TABLE: [u32; 4] = [2, 0, 3, 1];

fn cpu(model: &Arc<Certified>) -> Cpu {
    let kernels = Kernels::choose(None).expect("a kernel set");
    let mut cpu = Cpu::new(Arc::clone(model), kernels, Arc::new(Pool::new(1)), PAGE, heap);
    cpu.reserve(4).expect("pages");
    cpu
}

/// Slot writes in order, and logits.
type Results = (Vec<(String, Vec<i32>)>, Vec<i32>);

/// A prompt in chunks, seen or not.
fn run(executor: &mut dyn Executor, chunk: usize, watched: bool) -> Results {
    let tokens: Vec<Token> =
        (0..25).map(|i| Token { id: (i * i + 31) % 90, sequence: 0, position: i, logits: i % 3 == 1 }).collect();
    let (mut writes, mut logits) = (Vec::new(), Vec::new());
    for tokens in tokens.chunks(chunk) {
        let mut see = |slot: &str, values: &[i32]| writes.push((slot.to_owned(), values.to_vec()));
        let batch = Batch { tokens, tables: &[&TABLE] };
        executor.forward(&batch, &mut logits, if watched { Some(&mut see) } else { None }).expect("runs");
    }
    (writes, logits)
}

fn pages(executor: &mut dyn Executor) -> Vec<u8> {
    let mut out = Vec::new();
    TABLE.iter().for_each(|&page| executor.save(page, &mut out).expect("saves"));
    out
}

#[test]
fn parts_give_what_the_whole_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let mut divided = 0;
    for entry in std::fs::read_dir(root).expect("tests/vectors/models") {
        let path = entry.expect("entry").path();
        if !path.is_dir() {
            continue;
        }
        let model = Loaded::open(&path, &Pool::new(1)).expect("opens").certified;
        let layers = model.attentions().len();
        assert!(model.divide(layers + 1).is_none());
        for back in 0..=layers {
            let at = format!("{}, {back} of {layers} layers apart", path.display());
            let (first, second) = model.divide(back).unwrap_or_else(|| panic!("{at}"));
            let all = first.model().matrices.len() + second.model().matrices.len();
            // A matrix of embeddings may serve as the head too.
            assert!((model.model().matrices.len()..=model.model().matrices.len() + 1).contains(&all), "{at}");
            let parts = (Arc::new(first), Arc::new(second));
            for chunk in [25, 4] {
                let (mut whole, mut split) = (cpu(&model), Split::new(&parts, Box::new(cpu(&parts.0)), cpu(&parts.1)));
                let expected = run(&mut whole, chunk, true);
                assert!(expected == run(&mut split, chunk, true), "{at}: writes");
                assert!(pages(&mut whole) == pages(&mut split), "{at}: pages");
                assert!(expected.1 == run(&mut split, chunk, false).1, "{at}: logits");
                let saved = pages(&mut whole);
                let mut other = Split::new(&parts, Box::new(cpu(&parts.0)), cpu(&parts.1));
                for (&page, bytes) in TABLE.iter().zip(saved.chunks_exact(saved.len() / TABLE.len())) {
                    other.restore(page, bytes).expect("restores");
                }
                assert!(saved == pages(&mut other), "{at}: restored pages");
                divided += 1;
            }
        }
    }
    assert!(divided > 100);
}
