//! The self-test: adapters of this machine pass it, and what computes something else is named.

use super::adapters;
use intact::core::cpu::{Cpu, Pool};
use intact::core::executor::Executor;
use intact::core::kernels::{Kernels, reference};
use intact::core::storage::heap;
use intact_conformance::self_test::{self, Depth};
use intact_gpu::{Device, Gpu};
use std::sync::Arc;

/// The self-test of a device, as software gets it.
fn test(device: &Device) -> Result<usize, self_test::Failure> {
    self_test::run(Depth::Brief, &mut |model, page| {
        let gpu = Gpu::new(device.clone(), model, page);
        gpu.map(|gpu| Box::new(gpu) as Box<dyn Executor>).map_err(|fault| fault.to_string())
    })
}

#[test]
fn adapters_pass() {
    for adapter in adapters() {
        let start = std::time::Instant::now();
        let device = adapter.open().expect("opens");
        let passed = test(&device).unwrap_or_else(|failure| panic!("{}: {failure}", adapter.label()));
        println!("{}: {passed} programs in {} ms", adapter.label(), start.elapsed().as_millis());
    }
}

/// An op, a piece of its shader with what stands there instead, and what the self-test says about it.
const PLANTED: [[&str; 4]; 3] = [
    ["rms_norm", "+ 1) >> 1u", "+ 0) >> 1u", "self-test/extremes: .*rms_norm to normed"],
    ["embed", "level += 128 +", "level += 127 +", "self-test/extremes: .*embed to"],
    ["linear_tile", "k < (run + 1u) * (8u / HALVES)", "k + 1u < (run + 1u) * (8u / HALVES)", "self-test/.*linear to"],
];

#[test]
fn an_off_by_one_in_a_shader_is_refused() {
    for adapter in adapters() {
        for [op, from, to, named] in PLANTED {
            let device = adapter.open().expect("opens");
            device.plant(op, from, to);
            let failure = test(&device).expect_err(op).to_string();
            let parts: Vec<&str> = named.split(".*").collect();
            let told = failure.starts_with(parts[0]) && failure.contains(parts[1]);
            assert!(told, "{}: {from} planted in {op}: {failure}", adapter.label());
        }
    }
}

/// The self-test of a CPU with these kernels.
fn with_kernels(kernels: &'static Kernels) -> Result<usize, self_test::Failure> {
    self_test::run(Depth::Full, &mut |model, page| {
        Ok(Box::new(Cpu::new(model, kernels, Arc::new(Pool::new(1)), page, heap)))
    })
}

#[test]
fn kernels_pass() {
    for kernels in Kernels::available() {
        with_kernels(kernels).unwrap_or_else(|failure| panic!("{}: {failure}", kernels.name));
    }
}

#[test]
fn one_wrong_bit_is_named() {
    let off_by_one: &'static Kernels = Box::leak(Box::new(Kernels {
        rms_norm: |x, gain, norm, f| {
            (reference::KERNELS.rms_norm)(x, gain, norm, f);
            if x.len() == 16 {
                x[3] ^= 1;
            }
        },
        ..reference::KERNELS
    }));
    let failure = with_kernels(off_by_one).expect_err("a wrong bit");
    assert_eq!(failure.case, "self-test/extremes");
    assert!(failure.problem.contains("rms_norm to normed 16, "), "{failure}");
}
