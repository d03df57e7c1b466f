//! The core over whole domains against the oracle's digests (tests/oracle/README.md describes the file), by equality.

use intact::core::fixed;
use intact::core::formats::GROUP;
use intact::core::kernels::Kernels;
use intact::core::ops::gated::{self, Gate};
use intact::core::ops::softcap::{Softcap, softcap};
use intact::model::sha256_hex;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[test]
fn digests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/digests.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).unwrap();
    let entries = file["digests"].as_array().unwrap();
    for entry in entries {
        let (function, domain) = (entry["function"].as_str().unwrap(), entry["domain"].as_str().unwrap());
        let values = domain_values(function, domain);
        assert_eq!(json!(values.len()), entry["count"], "{function}: {domain}");
        let size = entry["bytes"].as_u64().unwrap() as usize;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(size)).collect();
        assert_eq!(sha256_hex(&bytes), entry["sha256"], "{function}: {domain}");
    }
    assert!(!entries.is_empty());
}

/// The results of a function over a domain as the vectors describe it.
fn domain_values(function: &str, domain: &str) -> Vec<i64> {
    let has = |text: &str| assert!(domain.contains(text), "{function}: {domain} is not known");
    let steps = 0..65536i64;
    let short = |work: &dyn Fn(i32) -> i32| (-32768..32768).map(|x| i64::from(work(x))).collect();
    let both = |(a, b): (u32, i32)| [i64::from(a), i64::from(b)];
    match function {
        "exp2m" => steps.map(|f| i64::from(fixed::exp2_mantissa(f as u32))).collect(),
        "exp2" => {
            let b = if domain.ends_with("B = 22") { 22 } else { 24 };
            has(&format!("-37*65535 with B = {b}"));
            steps.map(|i| i64::from(fixed::exp2(-37 * i as i32, b))).collect()
        }
        "sigmoid" if domain.ends_with("F = 16") => {
            has("in steps of 32");
            short(&|x| fixed::sigmoid(32 * x, 16) as i32)
        }
        "sigmoid" => short(&|x| fixed::sigmoid(x, 12) as i32),
        "gelu" => short(&|x| gated::gelu(x, 12)),
        "swiglu" => gated_by_every_set(Gate::Swiglu, 7),
        "relu2" => gated_by_every_set(Gate::Relu2, -5),
        "softcap" => {
            has("steps of 16 with im, is, cm, cs = 1145324612, 34, 31457280, 20");
            let cap = Softcap { inverse: 1145324612, inverse_shift: 34, cap: 31457280, cap_shift: 20 };
            short(&|x| softcap(16 * x, &cap, 12))
        }
        "requant" => {
            let constants = [(1549082005, 30), (i32::MAX, 14), (3, 1)];
            let (m, s) = constants.into_iter().find(|(m, s)| domain.ends_with(&format!("m = {m}, s = {s}"))).unwrap();
            short(&|x| fixed::requant(x, m, s))
        }
        "sincos" => steps.flat_map(|i| <[i32; 2]>::from(fixed::sincos((i as u32) << 16)).map(i64::from)).collect(),
        "isqrt32" => {
            let roots = (1..65536u32).flat_map(|r| [r * r - 1, r * r, r * r + 2 * r]);
            roots.map(|v| i64::from(fixed::isqrt(v))).collect()
        }
        "rsqrt" if domain.starts_with("v = 1,") => (1..=65536).flat_map(|v| both(fixed::rsqrt(v))).collect(),
        "rsqrt" => {
            has("v = 65537*i*i");
            (1..=65536).flat_map(|i| both(fixed::rsqrt(65537 * i * i))).collect()
        }
        "dynscale" => {
            has("amax = i*i div 2");
            let xmax =
                [7, 127, 5792, 32385].into_iter().find(|xmax| domain.contains(&format!("xmax = {xmax};"))).unwrap();
            let scale = |i: u64| fixed::dynscale((i * i / 2) as u32, xmax);
            (0..=65536).flat_map(|i| <[u32; 2]>::from(scale(i)).map(i64::from)).collect()
        }
        "blockscale" => block_codes(),
        "philox" => (0..4096).flat_map(|i| fixed::philox([i, 0, 0, 0], [42, 0])).map(i64::from).collect(),
        "ilog2" => (1..=65536).map(fixed::ilog2).collect(),
        _ => panic!("{function}: nothing computes it"),
    }
}

/// A gated activation of every 16-bit g with u = factor · g and F = 12, which every kernel set computes.
fn gated_by_every_set(kind: Gate, factor: i32) -> Vec<i64> {
    let g: Vec<i32> = (-32768..32768).collect();
    let u: Vec<i32> = g.iter().map(|g| factor * g).collect();
    let results = Kernels::available().into_iter().map(|kernels| {
        let mut out = g.clone();
        (kernels.gated_activation)(kind, &mut out, &u, 12);
        out
    });
    let results: Vec<Vec<i32>> = results.collect();
    assert!(results.iter().all(|result| *result == results[0]), "{kind:?}: the kernel sets differ");
    results[0].iter().map(|&y| i64::from(y)).collect()
}

/// Runs of 31 consecutive values behind the largest value of a scale.
fn block_codes() -> Vec<i64> {
    let mut out = Vec::new();
    for s in [1, 2, 3, 7, 100, 127, 128, 254, 255] {
        let values: Vec<i32> = (-127 * s..=127 * s).collect();
        for part in values.chunks(GROUP - 1) {
            let (mut q, mut c) = ([0; GROUP], [0; GROUP]);
            q[0] = 127 * s;
            q[1..=part.len()].copy_from_slice(part);
            fixed::blockscale(&q, &mut c);
            out.extend(c.map(i64::from));
        }
    }
    out
}
