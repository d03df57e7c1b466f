//! Every weight format and operation on every adapter, equal to the reference in every slot.

use super::adapters;
use intact::core::executor::Fault;
use intact_conformance::programs::{Program, programs};
use intact_gpu::{Adapter, Device, Gpu};
use std::sync::Arc;

/// What a program computes otherwise on a device.
pub(crate) fn difference(device: &Device, program: &Program) -> Option<String> {
    let run = || -> Result<Option<String>, Fault> {
        let mut gpu = Gpu::new(device.clone(), Arc::clone(&program.model), program.page)?;
        program.difference(&mut gpu)
    };
    run().unwrap_or_else(|fault| Some(fault.to_string()))
}

/// Whether program `number` of the sorted ones runs on adapter `adapter`. Software adapters take many minutes to compile
/// the shaders of all, so that where time is short a format has one activation, which changes from format to format, on
/// the first adapter, a third of these on others, and ops have one number of fraction bits.
fn chosen(adapter: usize, number: usize, name: &str) -> bool {
    let full = std::env::var_os("INTACT_TEST_FULL").is_some() || std::env::var_os("INTACT_GPU_CASES").is_some();
    let turn = number % 3 == number / 3 % 3 && (adapter == 0 || (number / 9).is_multiple_of(3));
    full || if name.starts_with("linear") { turn } else { !name.ends_with("F8") && !name.ends_with("F20") }
}

/// Programs after which a device is opened anew: a software adapter keeps tens of megabytes of each shader.
const KEPT: usize = 100;

#[test]
fn every_format_and_op_is_the_references() {
    // `INTACT_GPU_CASES` chooses those whose name begins so.
    let prefix = std::env::var("INTACT_GPU_CASES").unwrap_or_default();
    let on = |(i, adapter): (usize, &Adapter)| {
        let mut device = adapter.open().expect("opens");
        let (mut count, mut problems) = (0, Vec::new());
        let all = programs().into_iter().filter(|(name, _)| name.starts_with(&prefix)).enumerate();
        for (_, (name, make)) in all.filter(|(number, (name, _))| chosen(i, *number, name)) {
            problems.extend(difference(&device, &make()).map(|problem| format!("{name}: {problem}")));
            count += 1;
            if count % KEPT == 0 {
                println!("{}: {count} programs", adapter.label());
                device = adapter.open().expect("opens");
            }
        }
        println!("{}: {count} programs", adapter.label());
        assert!(problems.is_empty(), "{}: {} differ\n{}", adapter.label(), problems.len(), problems.join("\n"));
    };
    // Each adapter in a thread of its own: a compiler of shaders uses one.
    let adapters = adapters();
    std::thread::scope(|scope| {
        for adapter in adapters.iter().enumerate() {
            scope.spawn(move || on(adapter));
        }
    });
}

/// An op, a piece of its shader with what stands there instead, the program that tells, and the op that it names.
const PLANTED: [[&str; 5]; 10] = [
    ["linear", "128 * (ones.x", "127 * (ones.x", "linear/W16r/A16", "linear to y 15x1,"],
    ["linear", "step > 0u; step = step", "step > 1u; step = step", "linear/U4b8/A8b", "linear to y 31x33,"],
    [
        "linear_tile",
        "k < (run + 1u) * (8u / HALVES)",
        "k + 1u < (run + 1u) * (8u / HALVES)",
        "linear/U8b8/A8",
        "linear",
    ],
    ["quantize", "peak + 126u", "peak + 127u", "ops/quantize/F12", "linear to"],
    ["embed", "level += 128 +", "level += 127 +", "ops/softcap/F12", "embed to"],
    ["rms_norm", "+ 1) >> 1u", "+ 0) >> 1u", "ops/rms_norm/F12", "rms_norm to"],
    ["rope", "wide_mul(b, c)), 30u)", "wide_mul(b, c)), 29u)", "ops/rope/F12", "rope to"],
    [
        "gated_activation",
        "requant(a, u, FRACTION_BITS)",
        "requant(a, u, FRACTION_BITS - 1)",
        "ops/gated_activation/F12",
        "gated_activation to",
    ],
    ["attention_few", "* key;", "* (key + 1);", "attention/width 64", "attention to"],
    ["attention_few", "w & 2047u", "w & 2046u", "attention/width 64", "attention to"],
];

#[test]
fn an_off_by_one_in_a_shader_is_named() {
    let programs = programs();
    for adapter in adapters() {
        for [op, from, to, name, named] in PLANTED {
            let device = adapter.open().expect("opens");
            let program = programs[name]();
            device.plant(op, from, to);
            let problem = difference(&device, &program).unwrap_or_default();
            assert!(problem.contains(named), "{}: {from} planted in {op}: {name}: {problem:?}", adapter.label());
        }
    }
}
