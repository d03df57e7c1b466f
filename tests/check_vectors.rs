//! The core against the oracle's vectors (tests/oracle/README.md describes the files), by equality.

use intact::core::activations::{Activations, Quantize, quantize};
use intact::core::bounds::Magnitudes;
use intact::core::fixed;
use intact::core::formats::{Format, GROUP, N4_DEFAULT_TABLE, ScaleMode, TILE};
use intact::core::kernels::{Kernels, RowConstants};
use intact::core::matrix::{Activation, Matrix, PlaneSizes, Planes, RowScale};
use intact::core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact::core::ops::gated::{self, Gate};
use intact::core::ops::linear::{Finish, code_value, finish};
use intact::core::ops::rms_norm::RmsNorm;
use intact::core::ops::rope::{self, Pairs};
use intact::core::ops::router::{Router, route};
use intact::core::ops::sample::{LogProbs, Sampling, draw, greedy};
use intact::core::ops::softcap::{Softcap, softcap};
use intact::core::ops::{embed::embed, hadamard::hadamard, residual::residual_add};
use intact::core::storage::{AlignedBytes, Plane};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn vectors(file: &str) -> Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// An argument as an integer of the type that the caller needs.
fn number<T: TryFrom<i128, Error: std::fmt::Debug>>(value: &Value) -> T {
    let wide = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    wide.unwrap_or_else(|| panic!("{value} is no integer")).try_into().unwrap()
}

fn numbers<T: TryFrom<i128, Error: std::fmt::Debug>>(value: &Value) -> Vec<T> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn rows(value: &Value) -> Vec<Vec<i32>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn changed(x: &Value, work: impl FnOnce(&mut [i32])) -> Value {
    let mut x = numbers(x);
    work(&mut x);
    json!(x)
}

/// A result that every kernel set gives; the sets agree.
fn by_every_set(result: impl Fn(&Kernels) -> Value) -> Value {
    let results: Vec<Value> = Kernels::available().into_iter().map(result).collect();
    assert!(results.iter().all(|result| *result == results[0]), "the kernel sets differ: {results:?}");
    results[0].clone()
}

#[test]
fn primitives() {
    check("primitives.json", |name, a| match name {
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
            json!(fixed::philox(ctr.try_into().unwrap(), key.try_into().unwrap()))
        }
        "ilog2" => json!(fixed::ilog2(number(&a["v"]))),
        _ => panic!("{name}: nothing computes it"),
    });
}

#[test]
fn operations() {
    check("ops.json", |name, a| {
        let f = if a["F"].is_null() { 0 } else { number(&a["F"]) };
        let kernel = |kind, element: fn(i32, i32, u32) -> i32| gate(a, f, kind, element);
        match name {
            "embed" => embedded(a, f),
            "rmsnorm" => rmsnorm(a, f),
            "linear" => linear(a),
            "phase" => {
                // `angles` keeps the phase to itself; its cosine and sine are those of this phase only if it agrees.
                let angle = rope::angles(&[number(&a["freq64"])], number(&a["position"])).next();
                let phase = number::<u64>(&a["position"]).wrapping_mul(number(&a["freq64"])) >> 32;
                assert_eq!(angle, Some(fixed::sincos(phase as u32)));
                json!(phase)
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
            "attention" => attention(a, f),
            "residual_add" => changed(&a["x"], |x| residual_add(x, &numbers::<i32>(&a["y"]))),
            "swiglu" => kernel(Gate::Swiglu, gated::swiglu),
            "geglu" => kernel(Gate::Geglu, |g, u, f| fixed::requant(gated::gelu(g, f), u, f as i32)),
            "relu2" if a["u"].is_null() => json!(gated::relu2(number(&a["g"]), f)),
            "relu2" => kernel(Gate::Relu2, |g, u, f| fixed::requant(gated::relu2(g, f), u, f as i32)),
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
            _ => panic!("{name}: nothing computes it"),
        }
    });
}

/// Computes every case of a file and compares.
fn check(file: &str, compute: impl Fn(&str, &Value) -> Value) {
    let names = vectors(file);
    assert!(!names.is_empty(), "{file} is empty");
    for (name, cases) in &names {
        let cases = cases.as_array().unwrap();
        assert!(!cases.is_empty(), "{file}: {name} is empty");
        for case in cases {
            assert_eq!(compute(name, &case["args"]), case["result"], "{name}: {}", case["args"]);
        }
    }
}

fn gate(a: &Value, f: u32, kind: Gate, element: fn(i32, i32, u32) -> i32) -> Value {
    let (g, u) = (number(&a["g"]), number(&a["u"]));
    let result = by_every_set(|kernels| {
        // A run longer than any vector register, so that vectors and remainders are seen alike.
        let mut gate = [g; 37];
        (kernels.gated_activation)(kind, &mut gate, &[u; 37], f);
        assert!(gate.iter().all(|y| *y == gate[0]), "{}: elements differ", kernels.name);
        json!(gate[0])
    });
    assert_eq!(result, json!(element(g, u, f)));
    result
}

fn rmsnorm(a: &Value, f: u32) -> Value {
    let norm = RmsNorm {
        gain_shift: number(&a["gs"]),
        epsilon: number(&a["E"]),
        root: number(&a["rn"]),
        root_shift: number(&a["rk"]),
    };
    let gain: Vec<i16> = numbers(&a["g"]);
    by_every_set(|kernels| changed(&a["x"], |x| (kernels.rms_norm)(x, &gain, &norm, f)))
}

fn softcap_of(constants: &Value) -> Option<Softcap> {
    let constants: Vec<i32> = constants.as_array()?.iter().map(number).collect();
    let [inverse, inverse_shift, cap, cap_shift] = constants.try_into().unwrap();
    Some(Softcap { inverse, inverse_shift, cap, cap_shift })
}

fn attention(a: &Value, f: u32) -> Value {
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
    by_every_set(|kernels| {
        let query = Query { codes: &query.0, d: i32::from(query.1[0]), t: i32::from(query.2[0]) };
        let mut out = vec![0; width];
        (kernels.attention)(query, &runs, &scoring, f, &mut Scratch::default(), &mut out);
        json!(out)
    })
}

fn plane(words: &[u32]) -> Plane {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Plane::from(bytes.as_slice())
}

/// A matrix of format W16r.
fn w16(weights: &[Vec<i32>], scales: &[RowScale], bias: Option<&[i32]>) -> Matrix {
    let format = Format::parse("W16r").unwrap();
    let columns = weights[0].len();
    let (tiles, groups, count) = (weights.len().div_ceil(TILE), columns.div_ceil(GROUP), format.payload.words());
    let mut payload = vec![0; tiles * groups * count * TILE];
    for (row, weights) in weights.iter().enumerate() {
        for (group, weights) in weights.chunks(GROUP).enumerate() {
            let mut codes = [0; GROUP];
            codes.iter_mut().zip(weights).for_each(|(code, &w)| *code = i16::try_from(w).unwrap());
            let mut words = vec![0; count];
            format.payload.pack(&codes, &mut words);
            for (i, word) in words.into_iter().enumerate() {
                payload[((row / TILE * groups + group) * count + i) * TILE + row % TILE] = word;
            }
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

fn linear(a: &Value) -> Value {
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
    let result = by_every_set(|kernels| {
        let codes = quantized(activation, &x, kernels.quantize);
        let (mut sums, mut out) = ([[0; TILE]], vec![0; weights.len()]);
        (kernels.dot)(&matrix, 0, &codes, 0..1, &mut sums);
        let rows = RowConstants {
            rows: matrix.planes.row.bytes(),
            bias: matrix.planes.bias.as_ref().map(|plane| &plane.bytes()[..4 * weights.len()]),
            preshift,
        };
        (kernels.finish)(&sums[0], codes.token(0).d, codes.token(0).t, rows, &mut out);
        json!(out)
    });
    let codes = quantized(activation, &x, quantize);
    let token = codes.token(0);
    let rows = weights.iter().zip(&scales).enumerate().map(|(n, (w, &scale))| {
        let acc = exact_sum(w, |column| code_value(&token, activation, column));
        let bias = bias.as_ref().map_or(0, |bias| bias[n]);
        finish(acc, token.d, token.t, preshift, Finish { scale, bias })
    });
    assert_eq!(result, json!(rows.collect::<Vec<_>>()), "the kernels and the plain sum");
    result
}

fn quantized(activation: Activation, x: &[i32], kernel: Quantize) -> Activations {
    let mut codes = Activations::default();
    codes.reset(activation, x.len(), 1);
    codes.quantize_with(kernel, 0, x);
    codes
}

fn exact_sum(weights: &[i32], code: impl Fn(usize) -> i32) -> i64 {
    weights.iter().enumerate().map(|(column, &w)| i64::from(w) * i64::from(code(column))).sum()
}

#[test]
fn formats() {
    let names = vectors("formats.json");
    let kinds = |format: Format| (format.payload.name(), format.mode.name());
    let covered: BTreeSet<_> = names.keys().map(|name| kinds(Format::parse(name).unwrap())).collect();
    assert_eq!(covered, Format::all().map(kinds).collect(), "payloads and modes");
    for (name, cases) in &names {
        for case in cases.as_array().unwrap() {
            check_format(name, case);
        }
    }
}

fn check_format(name: &str, case: &Value) {
    let format = Format::parse(name).unwrap();
    assert_eq!(format.to_string(), name);
    let (rows, columns): (usize, usize) = (number(&case["rows"]), number(&case["columns"]));
    let sizes = PlaneSizes::of(&format, rows, columns).unwrap();
    let planes = case["planes"].as_object().unwrap();
    let find = |kind: &str, size: usize, has: bool| {
        let bytes = planes.get(kind).map(|text| hex(text.as_str().unwrap()));
        assert_eq!(bytes.as_ref().map(Vec::len), has.then_some(size.next_multiple_of(64)), "{name}: {kind}");
        bytes.map(|bytes| Plane::from(AlignedBytes::from(bytes.as_slice())))
    };
    let planes = Planes {
        payload: find("payload", sizes.payload, true).unwrap(),
        scale: find("scale", sizes.scale, format.mode != ScaleMode::R),
        sign: find("sign", sizes.sign, format.mode == ScaleMode::B8),
        offset: find("offset", sizes.offset, format.mode == ScaleMode::Z8),
        row: find("row", sizes.row, true).unwrap(),
        bias: None,
        embedding_row: None,
    };
    let table: Vec<i8> = if case["table"].is_null() { N4_DEFAULT_TABLE.to_vec() } else { numbers(&case["table"]) };
    let table = table.try_into().unwrap();
    let activation = Activation::A8;
    let matrix = Matrix { name: name.into(), rows, columns, format, table, activation, preshift: 0, planes };

    let mut weights = vec![Vec::new(); rows];
    weights.iter_mut().enumerate().for_each(|(n, row)| matrix.row_weights(n, row));
    assert_eq!(
        sha256(weights.iter().flatten().map(|&w| i64::from(w)), 2),
        case["W_sha256"],
        "{name}: {rows}×{columns}"
    );
    assert!(case["W"].is_null() || json!(weights) == case["W"]);

    let measured = Magnitudes::measure(&matrix, 0..rows);
    let cap = number(&case["cap"]);
    assert_eq!(json!(measured.chunk_128), case["chunk_sum"]);
    assert_eq!(measured.choose_cap(), Some(cap));
    for (mode, activation) in [("A8", Activation::A8), ("A16", Activation::A16)] {
        assert_eq!(json!(measured.preshift(activation)), case["preshift"][mode]);
    }
    for activation in [Activation::A8, Activation::A8b { cap }, Activation::A16] {
        let matrix = Matrix { activation, ..matrix.clone() };
        // Squares modulo a prime: codes of all sizes and both signs.
        let x: Vec<i32> = (0..columns as i32).map(|i| (i * i * 977 + i * 31 + 5) % 65521 - 32760).collect();
        let codes = quantized(activation, &x, quantize);
        let token = codes.token(0);
        for kernels in Kernels::available() {
            let mut sums = [[0; TILE]];
            for (tile, rows) in weights.chunks(TILE).enumerate() {
                (kernels.dot)(&matrix, tile, &codes, 0..1, &mut sums);
                for (sum, row) in sums[0].iter().zip(rows) {
                    let exact = exact_sum(row, |column| code_value(&token, activation, column));
                    assert_eq!(*sum, exact, "{name}, {rows:?} × {columns}: {} of {activation:?}", kernels.name);
                }
            }
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// SHA-256 over integers as little-endian words of `size` bytes.
fn sha256(values: impl Iterator<Item = i64>, size: usize) -> String {
    let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes().into_iter().take(size)).collect();
    intact::model::sha256_hex(&bytes)
}
