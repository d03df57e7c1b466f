//! Memory, dispatches and bytes of a model of SmolLM2-135M's shapes, whose weights are all 0.

use super::adapters;
use intact::core::certify::{Certified, certify};
use intact::core::cpu::{Batch, Pool, Token};
use intact::core::executor::Executor;
use intact::core::formats::{Format, N4_DEFAULT_TABLE};
use intact::core::matrix::{Activation, Matrix, PlaneSizes, Planes};
use intact::core::ops::attention::Scoring;
use intact::core::ops::gated::Gate;
use intact::core::ops::rms_norm::RmsNorm;
use intact::core::ops::rope::Pairs;
use intact::core::program::{Attention, LOGITS, MatrixId, Model, NamedVector, Op, Slot, Vector};
use intact::core::storage::{AlignedBytes, Plane};
use intact_gpu::Gpu;
use std::sync::Arc;

const LAYERS: usize = 30;
const WIDTH: usize = 576;
const HIDDEN: usize = 1536;
const VOCABULARY: usize = 49_152;
const HEADS: [usize; 2] = [9, 3];
const HEAD: usize = 64;
const CONTEXT: u32 = 2048;
const PAGE: usize = 64;
/// More tokens than one submission takes.
const MANY: u32 = 600;

fn matrix(model: &mut Model, rows: usize, columns: usize) -> MatrixId {
    let format = Format::parse("U8b8").expect("a format of this contract");
    let sizes = PlaneSizes::of(&format, rows, columns).expect("fits");
    let plane = |size: usize| Plane::from(AlignedBytes::zeroed(size.next_multiple_of(64)));
    // The level 0: U8 has no code 0.
    let mut codes = AlignedBytes::zeroed(sizes.payload.next_multiple_of(64));
    codes.as_mut_slice().fill(128);
    let planes = Planes {
        payload: codes.into(),
        scale: Some(plane(sizes.scale)),
        sign: Some(plane(sizes.sign)),
        offset: None,
        row: plane(sizes.row),
        bias: None,
        embedding_row: None,
    };
    let (name, table) = (model.matrices.len().to_string(), N4_DEFAULT_TABLE);
    model.matrices.push(Matrix {
        name,
        rows,
        columns,
        format,
        table,
        activation: Activation::A16,
        preshift: 0,
        planes,
    });
    model.matrices.len() - 1
}

fn model() -> Certified {
    let slots = ["x", "n", "q", "k", "v", "a", "g", "u", "y", LOGITS].map(str::to_owned).to_vec();
    let [x, n, q, k, v, a, g, u, y, logits]: [Slot; 10] = std::array::from_fn(|i| i);
    let vector = |name: &str, values| NamedVector { name: name.to_owned(), values };
    let vectors = vec![
        vector("gain", Vector::Gain(vec![1 << 14; WIDTH])),
        vector("table", Vector::Freq64((0..HEAD / 2).map(|i| u64::MAX >> i).collect())),
    ];
    let mut model = Model {
        fraction_bits: 12,
        vocabulary: VOCABULARY,
        context: CONTEXT,
        matrices: Vec::new(),
        vectors,
        slots,
        body: Vec::new(),
        head: Vec::new(),
    };
    let norm = |input, out| {
        let norm = RmsNorm { gain_shift: 14, epsilon: 1000, root: 24 << 10, root_shift: 10 };
        Op::RmsNorm { input, out, gain: 0, norm }
    };
    let table = matrix(&mut model, VOCABULARY, WIDTH);
    model.body.push(Op::Embed { matrix: table, out: x });
    for _ in 0..LAYERS {
        let m = &mut model;
        let mut to = |slot: Slot, rows, columns| (matrix(m, rows, columns), slot);
        let qkv = vec![to(q, WIDTH, WIDTH), to(k, HEADS[1] * HEAD, WIDTH), to(v, HEADS[1] * HEAD, WIDTH)];
        let (o, gate_up) = (to(y, WIDTH, WIDTH), vec![to(g, HIDDEN, WIDTH), to(u, HIDDEN, WIDTH)]);
        let down = to(y, WIDTH, HIDDEN);
        let rope = |slot| Op::Rope { slot, head_width: HEAD, table: 1, pairs: Pairs::Half };
        let attention = Attention {
            query: q,
            key: k,
            value: v,
            out: a,
            heads: HEADS[0],
            kv_heads: HEADS[1],
            head_width: HEAD,
            window: 0,
            query_max: 32_385,
            key_max: 127,
            scoring: Scoring { scale: 23_637, scale_shift: 28, value_max: 127, softcap: None },
        };
        model.body.extend([norm(x, n), Op::Linear { input: n, outputs: qkv }, rope(q), rope(k)]);
        model.body.extend([Op::Attention(attention), Op::Linear { input: a, outputs: vec![o] }]);
        model.body.extend([Op::ResidualAdd { into: x, from: y }, norm(x, n)]);
        model.body.push(Op::Linear { input: n, outputs: gate_up });
        model.body.push(Op::GatedActivation { kind: Gate::Swiglu, gate: g, up: u, out: g });
        model.body.push(Op::Linear { input: g, outputs: vec![down] });
        model.body.push(Op::ResidualAdd { into: x, from: y });
    }
    model.head.extend([norm(x, n), Op::Linear { input: n, outputs: vec![(table, logits)] }]);
    certify(model, &Pool::new(1)).expect("within the contract")
}

#[test]
fn memory_and_traffic_are_bounded() {
    let model = Arc::new(model());
    let pages = CONTEXT.div_ceil(PAGE as u32);
    let table: Vec<u32> = (0..pages).collect();
    for adapter in adapters() {
        let mut gpu = Gpu::new(adapter.open().expect("opens"), Arc::clone(&model), PAGE).expect("fits");
        gpu.reserve(pages as usize).expect("pages");
        let mut logits = Vec::new();
        // Tokens with a long past, as a prompt's last chunk has, and then one alone.
        let token = |position| Token { id: 1, sequence: 0, position, logits: position == CONTEXT - 1 };
        let last: Vec<Token> = (CONTEXT - 4..CONTEXT).map(token).collect();
        gpu.forward(&Batch { tokens: &last, tables: &[&table] }, &mut logits, None).expect("runs");
        for (past, tokens) in [("long", &last[3..]), ("short", &[Token { logits: true, ..token(100) }][..])] {
            let before = gpu.traffic();
            gpu.forward(&Batch { tokens, tables: &[&table] }, &mut logits, None).expect("runs");
            let after = gpu.traffic();
            let dispatches = after.dispatches - before.dispatches;
            let (up, down) = (after.up - before.up, after.down - before.down);
            println!("{}: {past} past: {dispatches} dispatches, {up} bytes up, {down} down", adapter.label());
            assert_eq!(after.submissions - before.submissions, 1);
            let each = if past == "long" { 11 } else { 10 };
            assert!(dispatches <= (each * LAYERS + 5) as u64, "{dispatches} dispatches");
            assert_eq!(down, 4 * VOCABULARY as u64);
        }
        // A submission of as many tokens and logits as there are at once: a while on a software adapter.
        if std::env::var_os("INTACT_TEST_FULL").is_some() {
            let first = CONTEXT - 4 - MANY;
            let tokens: Vec<Token> = (first..first + MANY).map(|i| Token { logits: i % 4 == 0, ..token(i) }).collect();
            gpu.forward(&Batch { tokens: &tokens, tables: &[&table] }, &mut logits, None).expect("runs");
        }
        let [weights, caches, others] = gpu.memory();
        println!("{}: {weights} bytes of weights, {caches} of caches, {others} besides", adapter.label());
        assert!(20 * others <= 3 * (weights + caches), "{others} bytes beside {weights} and {caches}");
    }
}
