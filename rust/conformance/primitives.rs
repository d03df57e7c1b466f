//! primitives.json: section 1 of the contract. Every back end shares this code; that is part of what is checked.

use crate::vectors::{number, numbers};
use crate::{Case, calls};
use intact_core::fixed;
use intact_core::formats::GROUP;
use intact_core::kernels::Kernels;
use serde_json::{Value, json};

pub(crate) fn cases() -> Vec<Case> {
    calls("primitives", "primitives.json", primitive)
}

fn primitive(name: &str, a: &Value, _: &Kernels) -> Value {
    match name {
        "sat" => json!(fixed::sat(number(&a["v"]))),
        "rshr" => json!(fixed::rshr(number(&a["v"]), number(&a["s"]))),
        "requant" => json!(fixed::requant(number(&a["x"]), number(&a["m"]), number(&a["s"]))),
        "dynscale" => json!(fixed::dynscale(number(&a["amax"]), number(&a["xmax"]))),
        "dynquant" => {
            let x: Vec<i32> = numbers(&a["x"]);
            let mut q = vec![0; x.len()];
            let (d, t) = fixed::dynquant(&x, number(&a["xmax"]), &mut q);
            json!([q, d, t])
        }
        "isqrt32" => json!(fixed::isqrt(number(&a["v"]))),
        "rsqrt" => json!(fixed::rsqrt(number(&a["v"]))),
        "exp2m" => json!(fixed::exp2_mantissa(number(&a["f"]))),
        "exp2" => json!(fixed::exp2(number(&a["x"]), number(&a["B"]))),
        "sigmoid" => json!(fixed::sigmoid(number(&a["x"]), number(&a["F"]))),
        "sincos" => json!(fixed::sincos(number(&a["phase"]))),
        "blockscale" => {
            let q: Vec<i32> = numbers(&a["q"]);
            let mut c = vec![0; q.len()];
            let runs = q.chunks(GROUP).zip(c.chunks_mut(GROUP));
            let s: Vec<u32> = runs.map(|(q, c)| fixed::blockscale(q, c)).collect();
            json!([c, s])
        }
        "philox" => {
            let (ctr, key): (Vec<u32>, Vec<u32>) = (numbers(&a["ctr"]), numbers(&a["key"]));
            json!(fixed::philox(ctr.try_into().expect("four words"), key.try_into().expect("two words")))
        }
        "ilog2" => json!(fixed::ilog2(number(&a["v"]))),
        _ => panic!("primitives.json: nothing computes {name}"),
    }
}
