//! Tiny models on every adapter of this machine: every slot write and every logit as the reference kernels give them.

use intact::Loaded;
use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::kernels::reference::KERNELS;
use intact::core::storage::heap;
use intact_gpu::{Adapter, Executor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/models");
    let entries = std::fs::read_dir(root).expect("tests/vectors/models");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).filter(|p| p.is_dir()).collect();
    models.sort();
    models
}

#[test]
fn every_slot_write_is_the_references() {
    let adapters = Adapter::all();
    assert!(!adapters.is_empty(), "no GPU adapter");
    for adapter in &adapters {
        for path in models() {
            let start = std::time::Instant::now();
            let pool = Arc::new(Pool::new(1));
            let loaded = Loaded::open(&path, &pool).expect("opens");
            let model = Arc::clone(&loaded.certified);
            let mut cpu = Cpu::new(Arc::clone(&model), &KERNELS, Arc::clone(&pool), 8, heap);
            cpu.kv_mut().reserve(8).expect("pages");
            let mut gpu = Executor::new(adapter.open().expect("opens"), Arc::clone(&model), 8).expect("fits");
            gpu.reserve(8).expect("pages");
            let token = |i: u32| Token { id: (i * i + 31) % 90, sequence: 0, position: i, logits: i % 3 != 1 };
            let tokens: Vec<Token> = (0..40).map(token).collect();
            let table = [4, 3, 2, 1, 0];
            for chunk in [40, 7, 1] {
                let (mut expected, mut found) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
                let mut plain = Vec::new();
                for tokens in tokens.chunks(chunk) {
                    let batch = Batch { tokens, tables: &[&table] };
                    cpu.forward(&batch, &mut expected.0, &mut |slot, values| {
                        expected.1.push((slot.to_owned(), values.to_vec()));
                    });
                    gpu.forward(&batch, &mut found.0, Some(&mut |slot, values: &[i32]| {
                        found.1.push((slot.to_owned(), values.to_vec()));
                    }))
                    .expect("runs");
                    gpu.forward(&batch, &mut plain, None).expect("runs");
                }
                for (i, (expected, found)) in expected.1.iter().zip(&found.1).enumerate() {
                    assert_eq!(expected.0, found.0);
                    if let Some(at) = expected.1.iter().zip(&found.1).position(|(a, b)| a != b) {
                        panic!("{} {}: write {i} to {}, value {at}: {} for {}", adapter.label(), path.display(), found.0, found.1[at], expected.1[at]);
                    }
                }
                assert_eq!(expected.1.len(), found.1.len());
                assert!(expected.0 == found.0 && expected.0 == plain, "{}", path.display());
            }
            println!("{} {} {:?}", adapter.label(), path.file_name().unwrap_or_default().display(), start.elapsed());
        }
    }
}
