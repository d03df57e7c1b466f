//! An operation reads all its inputs before it writes, whichever slots coincide (docs/NUMERICS.md, section 5).

use intact::core::cpu::Pool;
use intact::core::kernels::Kernels;
use intact::core::ops::gated::Gate;
use intact::core::program::{Model, Op, Slot};
use intact::{Engine, Loaded, Options};
use std::path::Path;
use std::sync::Arc;

/// Logits of three tokens of `model`, by each kernel set.
fn logits(model: &Model) -> Vec<Vec<i32>> {
    let pool = Arc::new(Pool::new(1));
    let loaded = Loaded::from_model(model.clone(), Path::new("model"), &pool).expect("is sound");
    let run = |kernels| {
        let mut engine = Engine::new(&loaded, Arc::clone(&pool), Options::new(kernels, model.context));
        let mut out = Vec::new();
        engine.logits(&[1, 7, 3], &mut |row| out.extend_from_slice(row)).expect("runs");
        out
    };
    Kernels::available().into_iter().map(run).collect()
}

/// A tiny model in which `kind` of the slots `gate` and `up` (indices) goes to `out`, and what is there afterwards in
/// all the three is added to the residual stream, all of one width. `fresh` stands for a slot that nobody else uses.
fn model(kind: Gate, gate: usize, up: usize, out: usize) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/models/llama-default");
    let loaded = Loaded::open(&path, &Pool::new(1)).expect("opens");
    let mut model = loaded.certified.model_as_written();
    let stream = model.slots.iter().position(|name| name == "x").expect("the stream");
    let norm = model.body.iter().find_map(|op| match op {
        Op::RmsNorm { gain, norm, .. } => Some((*gain, *norm)),
        _ => None,
    });
    let (gain, norm) = norm.expect("a norm");
    let first: Slot = model.slots.len();
    model.slots.extend((0..3).map(|i| format!("alias{i}")));
    let copy = |to| Op::RmsNorm { input: stream, out: first + to, gain, norm };
    let add = |from| Op::ResidualAdd { into: stream, from: first + from };
    let at = model.body.iter().position(|op| matches!(op, Op::Embed { .. })).expect("an embed") + 1;
    let product = Op::GatedActivation { kind, gate: first + gate, up: first + up, out: first + out };
    // The gate and the factor differ: the stream has changed between the two copies.
    model.body.splice(at..at, [copy(0), add(0), copy(1), product, add(gate), add(up), add(out)]);
    model
}

#[test]
fn a_gated_activation_may_write_to_its_inputs() {
    for kind in [Gate::Swiglu, Gate::Geglu, Gate::Relu2] {
        // The same with a third slot for the product, which is read wherever the aliased slot is.
        for (gate, up, out) in [(0, 1, 0), (0, 1, 1), (0, 0, 0), (1, 1, 1), (0, 0, 1)] {
            let aliased = model(kind, gate, up, out);
            let mut apart = model(kind, gate, up, 2);
            let third = apart.slots.len() - 1;
            let alias = third - 2 + out;
            let product = apart.body.iter().position(|op| matches!(op, Op::GatedActivation { .. })).expect("the op");
            for op in &mut apart.body[product + 1..product + 4] {
                if let Op::ResidualAdd { from, .. } = op
                    && *from == alias
                {
                    *from = third;
                }
            }
            let (expected, found) = (logits(&apart), logits(&aliased));
            assert!(found == expected, "{kind:?} of {gate} and {up} to {out}");
            assert!(found.iter().all(|logits| *logits == found[0]), "{kind:?} of {gate} and {up} to {out}");
        }
    }
}
