//! digests.json: functions over whole domains.

use crate::vectors::{list, number, object, sha256};
use crate::{Case, Line};
use intact_core::fixed;
use intact_core::formats::GROUP;
use intact_core::kernels::Kernels;
use intact_core::ops::gated::{self, Gate};
use intact_core::ops::softcap::{Softcap, softcap};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn cases() -> Vec<Case> {
    let mut functions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in list(&object("digests.json")["digests"]) {
        functions.entry(entry["function"].as_str().expect("a name").to_owned()).or_default().push(entry.clone());
    }
    let case = |(function, entries): (String, Vec<Value>)| {
        Case::new(format!("domains/{function}"), move |machine| {
            let line = |entry: &Value| {
                let domain = entry["domain"].as_str().expect("a text");
                let values = values(&function, domain, machine.kernels);
                let hash = sha256(values.iter().copied(), number(&entry["bytes"]));
                Line::with(domain, json!([values.len(), hash]), json!([entry["count"], entry["sha256"]]))
            };
            Ok(entries.iter().map(line).collect())
        })
    };
    functions.into_iter().map(case).collect()
}

/// The results of a function over a domain as the vectors describe it.
fn values(function: &str, domain: &str, kernels: &Kernels) -> Vec<i64> {
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
        "swiglu" => gated(Gate::Swiglu, 7, kernels),
        "relu2" => gated(Gate::Relu2, -5, kernels),
        "softcap" => {
            has("steps of 16 with im, is, cm, cs = 1145324612, 34, 31457280, 20");
            let cap = Softcap { inverse: 1_145_324_612, inverse_shift: 34, cap: 31_457_280, cap_shift: 20 };
            short(&|x| softcap(16 * x, &cap, 12))
        }
        "requant" => {
            let constants = [(1_549_082_005, 30), (i32::MAX, 14), (3, 1)];
            let known = |&(m, s): &(i32, i32)| domain.ends_with(&format!("m = {m}, s = {s}"));
            let (m, s) = constants.into_iter().find(known).expect("known constants");
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
            let known = |xmax: &u32| domain.contains(&format!("xmax = {xmax};"));
            let xmax = [7, 127, 5792, 32385].into_iter().find(known).expect("a known xmax");
            has("amax = i*i div 2");
            let scale = |i: u64| fixed::dynscale((i * i / 2) as u32, xmax);
            (0..=65536).flat_map(|i| <[u32; 2]>::from(scale(i)).map(i64::from)).collect()
        }
        "blockscale" => block_codes(),
        "philox" => (0..4096).flat_map(|i| fixed::philox([i, 0, 0, 0], [42, 0])).map(i64::from).collect(),
        "ilog2" => (1..=65536).map(fixed::ilog2).collect(),
        _ => panic!("digests.json: nothing computes {function}"),
    }
}

/// A gated activation of every 16-bit g with u = factor · g and F = 12.
fn gated(kind: Gate, factor: i32, kernels: &Kernels) -> Vec<i64> {
    let mut g: Vec<i32> = (-32768..32768).collect();
    let u: Vec<i32> = g.iter().map(|g| factor * g).collect();
    (kernels.gated_activation)(kind, &mut g, &u, 12);
    g.into_iter().map(i64::from).collect()
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
