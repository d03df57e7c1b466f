//! The self-test: adapters of this machine pass it, and what computes something else is named.

use super::adapters;
use intact::core::certify::Certified;
use intact::core::cpu::{Cpu, Pool};
use intact::core::executor::Executor;
use intact::core::kernels::{Kernels, reference};
use intact::core::storage::heap;
use intact_conformance::self_test::{self, Depth};
use intact_gpu::Gpu;
use std::sync::Arc;

#[test]
fn adapters_pass() {
    for adapter in adapters() {
        let start = std::time::Instant::now();
        let mut make = |model: Arc<Certified>, page: usize| -> Result<Box<dyn Executor>, String> {
            let gpu = adapter.open().and_then(|device| Gpu::new(device, model, page));
            gpu.map(|gpu| Box::new(gpu) as Box<dyn Executor>).map_err(|fault| fault.to_string())
        };
        let passed =
            self_test::run(Depth::Brief, &mut make).unwrap_or_else(|failure| panic!("{}: {failure}", adapter.label()));
        println!("{}: {passed} programs in {} ms", adapter.label(), start.elapsed().as_millis());
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
    assert!(failure.problem.contains("(rms_norm) writes normed 16: token 0, element 3 is "), "{failure}");
}
