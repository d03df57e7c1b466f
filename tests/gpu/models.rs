//! Tiny models of the vectors: every slot write and every logit.

use super::adapters;
use intact::Loaded;
use intact::core::certify::Certified;
use intact::core::cpu::{Batch, Cpu, Pool, Token};
use intact::core::executor::Executor;
use intact::core::kernels::reference::KERNELS;
use intact::core::storage::heap;
use intact_gpu::{Device, Gpu};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const PAGE: usize = 8;

pub(crate) fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models");
    let entries = std::fs::read_dir(root).expect("tests/vectors/models");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).filter(|p| p.is_dir()).collect();
    models.sort();
    models
}

pub(crate) fn load(path: &Path) -> Arc<Certified> {
    Loaded::open(path, &Pool::new(1)).expect("opens").certified
}

fn cpu(model: &Arc<Certified>) -> Cpu {
    let mut cpu = Cpu::new(Arc::clone(model), &KERNELS, Arc::new(Pool::new(1)), PAGE, heap);
    cpu.reserve(8).expect("pages");
    cpu
}

pub(crate) fn gpu(device: &Device, model: &Arc<Certified>) -> Gpu {
    let mut gpu = Gpu::new(device.clone(), Arc::clone(model), PAGE).expect("fits");
    gpu.reserve(8).expect("pages");
    gpu
}

/// One sequence, some of whose logits are asked for, on pages that lie in any order.
const TABLE: [u32; 5] = [4, 1, 2, 3, 0];

fn tokens() -> Vec<Token> {
    (0..40).map(|i| Token { id: (i * i + 31) % 90, sequence: 0, position: i, logits: i % 3 != 1 }).collect()
}

/// Slot writes in order, and logits.
type Results = (Vec<(String, Vec<i32>)>, Vec<i32>);

fn run(executor: &mut dyn Executor, tokens: &[Token], results: &mut Results) {
    let batch = Batch { tokens, tables: &[&TABLE] };
    let mut see = |slot: &str, values: &[i32]| results.0.push((slot.to_owned(), values.to_vec()));
    executor.forward(&batch, &mut results.1, Some(&mut see)).expect("runs");
}

#[test]
fn every_slot_write_is_the_references() {
    for adapter in adapters() {
        let device = adapter.open().expect("opens");
        for path in models() {
            let model = load(&path);
            let (mut cpu, mut gpu) = (cpu(&model), gpu(&device, &model));
            for chunk in [40, 7, 1] {
                let (mut expected, mut found, mut plain) = (Results::default(), Results::default(), Vec::new());
                for tokens in tokens().chunks(chunk) {
                    run(&mut cpu, tokens, &mut expected);
                    run(&mut gpu, tokens, &mut found);
                    let batch = Batch { tokens, tables: &[&TABLE] };
                    gpu.forward(&batch, &mut plain, None).expect("runs");
                }
                let at = format!("{}, {}, chunks of {chunk}", adapter.label(), path.display());
                for (i, (expected, found)) in expected.0.iter().zip(&found.0).enumerate() {
                    assert!(expected == found, "{at}: write {i}, to {}", expected.0);
                }
                assert_eq!(expected.0.len(), found.0.len(), "{at}");
                assert!(expected.1 == found.1 && expected.1 == plain, "{at}: logits");
            }
        }
    }
}

#[test]
fn a_sequence_goes_on_elsewhere() {
    for adapter in adapters() {
        let device = adapter.open().expect("opens");
        for path in models().into_iter().step_by(3) {
            let model = load(&path);
            let (mut cpu, mut other, mut gpu) = (cpu(&model), cpu(&model), gpu(&device, &model));
            let tokens = tokens();
            let mut expected = Results::default();
            run(&mut cpu, &tokens, &mut expected);
            let mut found = Results::default();
            for (i, tokens) in tokens.chunks(9).enumerate() {
                let (here, there): (&mut dyn Executor, &mut dyn Executor) =
                    if i % 2 == 0 { (&mut gpu, &mut other) } else { (&mut other, &mut gpu) };
                run(here, tokens, &mut found);
                for page in TABLE {
                    let (mut saved, mut again) = (Vec::new(), Vec::new());
                    here.save(page, &mut saved).expect("saves");
                    there.restore(page, &saved).expect("restores");
                    there.save(page, &mut again).expect("saves");
                    assert!(saved == again, "{}, {}: page {page}", adapter.label(), path.display());
                }
            }
            assert!(expected.1 == found.1, "{}, {}", adapter.label(), path.display());
        }
    }
}
