//! formats.json: stored planes, what they decode to, their bounds, and the exact sums of the dot kernels over them.

use crate::ops::quantized;
use crate::vectors::{hex, list, number, numbers, object, sha256};
use crate::{Case, Line};
use intact_core::activations::quantize;
use intact_core::bounds::Magnitudes;
use intact_core::formats::{Format, N4_DEFAULT_TABLE, ScaleMode, TILE};
use intact_core::kernels::Kernels;
use intact_core::matrix::{Activation, Matrix, PlaneSizes, Planes};
use intact_core::storage::{AlignedBytes, Plane};
use serde_json::{Value, json};

pub(crate) fn cases() -> Vec<Case> {
    let case = |(name, matrices): (String, Value)| {
        Case::new(format!("formats/{name}"), move |machine| {
            Ok(list(&matrices).iter().map(|matrix| line(&name, matrix, machine.kernels)).collect())
        })
    };
    object("formats.json").into_iter().map(case).collect()
}

/// [SHA-256 of W, L1c, cap, the pre-shifts of A8 and A16, SHA-256 of the sums of A8, A8b and A16].
fn line(name: &str, case: &Value, kernels: &Kernels) -> Line {
    let matrix = stored(name, case);
    let (rows, columns) = (matrix.rows, matrix.columns);
    let mut weights = vec![Vec::new(); rows];
    weights.iter_mut().enumerate().for_each(|(n, row)| matrix.row_weights(n, row));
    let decoded = sha256(weights.iter().flatten().map(|&w| i64::from(w)), 2);

    let measured = Magnitudes::measure(&matrix, 0..rows);
    let cap = measured.choose_cap().expect("a matrix of the vectors has one");
    let activations = [Activation::A8, Activation::A8b { cap }, Activation::A16];
    let preshifts = [measured.preshift(activations[0]), measured.preshift(activations[2])];
    let sums = activations.map(|activation| sums(&Matrix { activation, ..matrix.clone() }, kernels));

    let expected_preshifts = ["A8", "A16"].map(|mode| &case["preshift"][mode]);
    let expected_sums = ["A8", "A8b", "A16"].map(|mode| &case["sums"][mode]);
    Line::with(
        format!("{name}, {rows}×{columns}, {}", case["kind"]),
        json!([decoded, measured.chunk_128, cap, preshifts, sums]),
        json!([case["W_sha256"], case["chunk_sum"], case["cap"], expected_preshifts, expected_sums]),
    )
}

fn stored(name: &str, case: &Value) -> Matrix {
    let format = Format::parse(name).expect("a format of this contract");
    let (rows, columns): (usize, usize) = (number(&case["rows"]), number(&case["columns"]));
    let sizes = PlaneSizes::of(&format, rows, columns).expect("a small matrix");
    let find = |kind: &str, size: usize| {
        let bytes = hex(&case["planes"][kind]);
        assert_eq!(bytes.len(), size.next_multiple_of(64), "{name}: {kind}");
        Plane::from(AlignedBytes::from(bytes.as_slice()))
    };
    let optional = |kind: &str, size: usize, has: bool| {
        assert_eq!(case["planes"].get(kind).is_some(), has, "{name}: {kind}");
        has.then(|| find(kind, size))
    };
    let planes = Planes {
        payload: find("payload", sizes.payload),
        scale: optional("scale", sizes.scale, format.mode != ScaleMode::R),
        sign: optional("sign", sizes.sign, format.mode == ScaleMode::B8),
        offset: optional("offset", sizes.offset, format.mode == ScaleMode::Z8),
        row: find("row", sizes.row),
        bias: None,
        embedding_row: None,
    };
    let own = (!case["table"].is_null()).then(|| numbers(&case["table"]).try_into().expect("16 levels"));
    let (table, activation) = (own.unwrap_or(N4_DEFAULT_TABLE), Activation::A8);
    Matrix { name: name.into(), rows, columns, format, table, activation, preshift: 0, planes }
}

/// SHA-256 over the sums of a vector that quantizes to codes of all sizes and both signs.
fn sums(matrix: &Matrix, kernels: &Kernels) -> String {
    let x: Vec<i32> = (0..matrix.columns as i32).map(|i| (i * i * 977 + i * 31 + 5) % 65521 - 32760).collect();
    let codes = quantized(matrix.activation, &x, quantize);
    let mut all = Vec::new();
    for tile in 0..matrix.tiles() {
        let mut sums = [[0; TILE]];
        (kernels.dot)(matrix, tile, &codes, 0..1, &mut sums);
        all.extend_from_slice(&sums[0][..TILE.min(matrix.rows - tile * TILE)]);
    }
    sha256(all.into_iter(), 8)
}
