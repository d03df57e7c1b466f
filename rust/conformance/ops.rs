//! ops.json: sections 2 to 4 of the contract, by the kernels of a back end where an operation has a slot.

use crate::vectors::{number, numbers, rows};
use crate::{Case, calls};
use intact_core::activations::{Activations, Quantize};
use intact_core::fixed;
use intact_core::formats::{Format, GROUP, N4_DEFAULT_TABLE, TILE};
use intact_core::kernels::{Kernels, RowConstants};
use intact_core::matrix::{Activation, Matrix, Planes, RowScale};
use intact_core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact_core::ops::gated::{self, Gate};
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::rope::{self, Pairs};
use intact_core::ops::router::{Router, route};
use intact_core::ops::sample::{LogProbs, Sampling, draw, greedy};
use intact_core::ops::softcap::{Softcap, softcap};
use intact_core::ops::{embed::embed, hadamard::hadamard, residual::residual_add};
use intact_core::storage::Plane;
use serde_json::{Value, json};

pub(crate) fn cases() -> Vec<Case> {
    calls("ops", "ops.json", operation)
}

fn operation(name: &str, a: &Value, kernels: &Kernels) -> Value {
    let f = if a["F"].is_null() { 0 } else { number(&a["F"]) };
    match name {
        "embed" => embedded(a, f),
        "rmsnorm" => rmsnorm(a, f, kernels),
        "linear" => linear(a, kernels),
        "phase" => {
            // `angles` keeps the phase to itself; its cosine and sine are those of this phase only if it agrees.
            let angle = rope::angles(&[number(&a["freq64"])], number(&a["position"])).next();
            let phase = number::<u64>(&a["position"]).wrapping_mul(number(&a["freq64"])) >> 32;
            if angle == Some(fixed::sincos(phase as u32)) { json!(phase) } else { json!("another angle") }
        }
        "rope_pair" => json!(rope::rotate(number(&a["a"]), number(&a["b"]), fixed::sincos(number(&a["phase"])))),
        "rope" => changed(&a["v"], |v| {
            let table: Vec<u64> = numbers(&a["freq64"]);
            let angles: Vec<_> = rope::angles(&table, number(&a["position"])).collect();
            let pairs = if a["interleaved"] == true { Pairs::Interleaved } else { Pairs::Half };
            assert_eq!(2 * table.len(), number::<usize>(&a["rot"]));
            rope::rope(v, &angles, pairs);
        }),
        "hadamard" => changed(&a["v"], hadamard),
        "attention" => attention(a, f, kernels),
        "residual_add" => changed(&a["x"], |x| residual_add(x, &numbers::<i32>(&a["y"]))),
        "swiglu" => gate(a, f, Gate::Swiglu, kernels),
        "geglu" => gate(a, f, Gate::Geglu, kernels),
        "relu2" if a["u"].is_null() => json!(gated::relu2(number(&a["g"]), f)),
        "relu2" => gate(a, f, Gate::Relu2, kernels),
        "gelu" => json!(gated::gelu(number(&a["x"]), f)),
        "softcap" => {
            let cap = [&a["im"], &a["is_"], &a["cm"], &a["cs"]].map(Value::clone);
            json!(softcap(number(&a["x"]), &softcap_of(&json!(cap)).unwrap(), f))
        }
        "router" => {
            let (renormalise, sigmoid) = (a["renorm"] == true, a["sigmoid"] == true);
            json!(route(&numbers::<i32>(&a["r"]), Router { k: number(&a["k"]), renormalise, sigmoid }, f))
        }
        "expert_sum" => {
            // No op of schema 1 forms this sum; what is checked is its rounding.
            let (w, y) = (numbers::<i64>(&a["w"]), rows(&a["y"]));
            let sum = |i: usize| w.iter().zip(&y).map(|(w, y)| w * i64::from(y[i])).sum();
            json!((0..y[0].len()).map(|i| fixed::sat(fixed::rshr(sum(i), 15))).collect::<Vec<_>>())
        }
        "greedy" => json!(greedy(&numbers::<i32>(&a["logits"]))),
        "sample" => {
            let [temperature, top_k, top_p, min_p, random] =
                ["tau", "top_k", "top_p", "min_p", "rnd"].map(|key| number(&a[key]));
            let sampling = Sampling { temperature, top_k, top_p, min_p, seed: 0 };
            json!(draw(&numbers::<i32>(&a["logits"]), f, &sampling, random))
        }
        "logprobs" => {
            let logits: Vec<i32> = numbers(&a["logits"]);
            let scores = LogProbs::new(&logits, f);
            json!((0..logits.len() as u32).map(|id| scores.of(id)).collect::<Vec<_>>())
        }
        _ => panic!("ops.json: nothing computes {name}"),
    }
}

fn changed(x: &Value, work: impl FnOnce(&mut [i32])) -> Value {
    let mut x = numbers(x);
    work(&mut x);
    json!(x)
}

fn gate(a: &Value, f: u32, kind: Gate, kernels: &Kernels) -> Value {
    // A run longer than any vector register, so that vectors and remainders are seen alike.
    let mut gate = [number(&a["g"]); 37];
    (kernels.gated_activation)(kind, &mut gate, &[number(&a["u"]); 37], f);
    if gate.iter().all(|y| *y == gate[0]) { json!(gate[0]) } else { json!(gate.to_vec()) }
}

fn rmsnorm(a: &Value, f: u32, kernels: &Kernels) -> Value {
    let norm = RmsNorm {
        gain_shift: number(&a["gs"]),
        epsilon: number(&a["E"]),
        root: number(&a["rn"]),
        root_shift: number(&a["rk"]),
    };
    let gain: Vec<i16> = numbers(&a["g"]);
    changed(&a["x"], |x| (kernels.rms_norm)(x, &gain, &norm, f))
}

fn softcap_of(constants: &Value) -> Option<Softcap> {
    let constants: Vec<i32> = constants.as_array()?.iter().map(number).collect();
    let [inverse, inverse_shift, cap, cap_shift] = constants.try_into().unwrap();
    Some(Softcap { inverse, inverse_shift, cap, cap_shift })
}

fn attention(a: &Value, f: u32, kernels: &Kernels) -> Value {
    let (q, lo): (Vec<i32>, usize) = (numbers(&a["q"]), number(&a["lo"]));
    let [xq, xk, xv]: [u32; 3] = ["xq", "xk", "xv"].map(|key| number(&a[key]));
    let scoring = Scoring {
        scale: number(&a["ca"]),
        scale_shift: number(&a["cash"]),
        value_max: xv,
        softcap: softcap_of(&a["softcap"]),
    };
    let entries = |vectors: &[Vec<i32>], xmax| {
        let (mut codes, mut d, mut t) = (Vec::new(), Vec::new(), Vec::new());
        for vector in vectors {
            let mut q = vec![0; vector.len()];
            let scale = fixed::dynquant(vector, xmax, &mut q);
            codes.extend(q.iter().map(|&q| i16::try_from(q).unwrap()));
            d.push(u8::try_from(scale.0).unwrap());
            t.push(u8::try_from(scale.1).unwrap());
        }
        (codes, d, t)
    };
    let (query, keys, values) =
        (entries(std::slice::from_ref(&q), xq), entries(&rows(&a["k"])[lo..], xk), entries(&rows(&a["v"])[lo..], xv));
    let bytes = |codes: &[i16]| codes.iter().map(|&q| i8::try_from(q).unwrap()).collect::<Vec<_>>();
    let (narrow, value_codes) = (if xk <= 127 { bytes(&keys.0) } else { Vec::new() }, bytes(&values.0));
    let width = q.len();
    // The positions in two runs, as if on two pages of the cache.
    let half = keys.1.len() / 2;
    let run = |range: std::ops::Range<usize>| {
        let codes = range.start * width..range.end * width;
        let wide = &keys.0[codes.clone()];
        Run {
            keys: if xk <= 127 { Keys::I8(&narrow[codes.clone()]) } else { Keys::I16(wide) },
            key_d: &keys.1[range.clone()],
            key_t: &keys.2[range.clone()],
            values: &value_codes[codes],
            value_d: &values.1[range.clone()],
            value_t: &values.2[range],
        }
    };
    let runs = [run(0..half), run(half..keys.1.len())];
    let (codes, d, t, visible) = (&query.0, i32::from(query.1[0]), i32::from(query.2[0]), 0..keys.1.len());
    let query = Query { codes, d, t, visible };
    let mut out = vec![0; width];
    kernels.attention.run(&[query], &runs, &scoring, f, &mut Scratch::default(), &mut out);
    json!(out)
}

fn plane(words: &[u32]) -> Plane {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Plane::from(bytes.as_slice())
}

/// A matrix of format W16r.
pub(crate) fn w16(weights: &[Vec<i32>], scales: &[RowScale], bias: Option<&[i32]>) -> Matrix {
    let format = Format::parse("W16r").unwrap();
    let columns = weights[0].len();
    let (tiles, groups) = (weights.len().div_ceil(TILE), columns.div_ceil(GROUP));
    let count = format.payload.row_words(groups).unwrap();
    let mut payload = vec![0; tiles * count * TILE];
    for (row, weights) in weights.iter().enumerate() {
        let mut codes = vec![0; groups * GROUP];
        codes.iter_mut().zip(weights).for_each(|(code, &w)| *code = i16::try_from(w).unwrap());
        let mut words = vec![0; count];
        format.payload.pack(&codes, &mut words);
        for (i, word) in words.into_iter().enumerate() {
            payload[(row / TILE * count + i) * TILE + row % TILE] = word;
        }
    }
    let mut row = vec![0; tiles * TILE];
    row.iter_mut().zip(scales).for_each(|(word, scale)| *word = scale.word());
    let planes = Planes {
        payload: plane(&payload),
        scale: None,
        sign: None,
        offset: None,
        row: plane(&row),
        bias: bias.map(|bias| plane(&bias.iter().map(|&b| b as u32).collect::<Vec<_>>())),
        embedding_row: None,
    };
    let (table, activation) = (N4_DEFAULT_TABLE, Activation::A8);
    Matrix { name: "W".into(), rows: weights.len(), columns, format, table, activation, preshift: 0, planes }
}

fn embedded(a: &Value, f: u32) -> Value {
    let scale = RowScale { m: number(&a["m"]), shift: number(&a["sh"]) };
    let matrix = w16(&[numbers(&a["w"])], &[scale], None);
    let mut out = vec![0; matrix.columns];
    embed(&matrix, 0, f, &mut out);
    json!(out)
}

fn linear(a: &Value, kernels: &Kernels) -> Value {
    let (x, weights): (Vec<i32>, _) = (numbers(&a["x"]), rows(&a["W"]));
    let constants = numbers(&a["m"]).into_iter().zip(numbers(&a["sh"]));
    let scales: Vec<RowScale> = constants.map(|(m, shift)| RowScale { m, shift }).collect();
    let bias: Option<Vec<i32>> = (!a["bias"].is_null()).then(|| numbers(&a["bias"]));
    let activation = match a["mode"].as_str() {
        Some("A8") => Activation::A8,
        Some("A8b") => Activation::A8b { cap: number(&a["S"]) },
        _ => Activation::A16,
    };
    let preshift = number(&a["a"]);
    let matrix = Matrix { activation, preshift, ..w16(&weights, &scales, bias.as_deref()) };
    let codes = quantized(activation, &x, kernels.quantize);
    let (mut sums, mut out) = ([[0; TILE]], [[0; TILE]]);
    (kernels.dot)(&matrix, 0, &codes, 0..1, &mut sums);
    let rows = RowConstants {
        rows: matrix.planes.row.bytes(),
        bias: matrix.planes.bias.as_ref().map(|plane| &plane.bytes()[..4 * weights.len()]),
        preshift,
    };
    (kernels.finish)(&sums, &[codes.token(0).d], &[codes.token(0).t], rows, &mut out);
    json!(out[0][..weights.len()])
}

/// One vector in the form that the matrices of a mode read.
pub(crate) fn quantized(activation: Activation, x: &[i32], kernel: Quantize) -> Activations {
    let mut codes = Activations::default();
    codes.reset(activation, x.len(), 1);
    codes.quantize_with(kernel, 0, x);
    codes
}
