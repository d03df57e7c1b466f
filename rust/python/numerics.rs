//! The definitions of the contract, one function each, for `intact.numerics`.
//!
//! That module checks types and ranges and hands over contiguous arrays of its own, so that nothing changes them while
//! the GIL is free. Here lengths are checked where the core relies on them, and the core computes.
#![allow(clippy::too_many_arguments)] // They are the symbols of the contract's formulas.

use intact_core::activations::Activations;
use intact_core::bounds::Magnitudes;
use intact_core::formats::{Format, GROUP, N4_DEFAULT_TABLE, ScaleMode, TILE};
use intact_core::kernels::{Kernels, RowConstants};
use intact_core::matrix::{Activation, Matrix, PlaneSizes, Planes, RowScale};
use intact_core::ops::attention::{Keys, Query, Run, Scoring, Scratch};
use intact_core::ops::gated::Gate;
use intact_core::ops::linear::Finish;
use intact_core::ops::rms_norm::RmsNorm;
use intact_core::ops::rope::Pairs;
use intact_core::ops::router::Router;
use intact_core::ops::sample::{LogProbs, Sampling};
use intact_core::ops::softcap::Softcap;
use intact_core::storage::{AlignedBytes, Plane};
use intact_core::{fixed, ops};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type In<'py, T = i32> = PyReadonlyArray1<'py, T>;
type Out<'py> = Bound<'py, PyArray1<i32>>;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    macro_rules! add {
        ($($name:ident)*) => { $(m.add_function(wrap_pyfunction!($name, m)?)?;)* };
    }
    add!(requant dynquant rsqrt rmsnorm exp2 sigmoid sincos blockscale philox);
    add!(linear embed residual_add rope hadamard attention gated_activation relu2 gelu softcap router);
    add!(sample greedy logprobs decode);
    Ok(())
}

fn require(holds: bool, message: &'static str) -> PyResult<()> {
    if holds { Ok(()) } else { Err(PyValueError::new_err(message)) }
}

/// The kernel set of that name; the reference, of which every slot is the plain op, where none is named.
fn set(name: Option<&str>) -> PyResult<&'static Kernels> {
    let name = name.unwrap_or("reference");
    Kernels::choose(Some(name)).ok_or_else(|| {
        let names: Vec<&str> = Kernels::available().iter().map(|kernels| kernels.name).collect();
        PyValueError::new_err(format!("kernels: {name:?} is not one of {} on this machine", names.join(", ")))
    })
}

/// Maps a function over an array.
fn map<'py, T: numpy::Element + Copy + Sync>(
    py: Python<'py>, x: &In<'py, T>, function: impl Fn(T) -> i32 + Sync,
) -> PyResult<Out<'py>> {
    let x = x.as_slice()?;
    Ok(PyArray1::from_vec(py, py.detach(|| x.iter().map(|&x| function(x)).collect())))
}

/// Maps a function with two results over an array.
fn map_pair<'py, T: numpy::Element + Copy + Sync>(
    py: Python<'py>, x: &In<'py, T>, function: impl Fn(T) -> (i32, i32) + Sync,
) -> PyResult<(Out<'py>, Out<'py>)> {
    let x = x.as_slice()?;
    let (first, second) = py.detach(|| x.iter().map(|&x| function(x)).unzip());
    Ok((PyArray1::from_vec(py, first), PyArray1::from_vec(py, second)))
}

/// Changes a copy of an array.
fn change<'py>(py: Python<'py>, x: &In<'py>, work: impl FnOnce(&mut [i32]) + Send) -> PyResult<Out<'py>> {
    let mut x = x.as_slice()?.to_vec();
    py.detach(|| work(&mut x));
    Ok(PyArray1::from_vec(py, x))
}

#[pyfunction]
fn requant<'py>(py: Python<'py>, x: In<'py>, m: In<'py>, s: In<'py>) -> PyResult<Out<'py>> {
    let (x, m, s) = (x.as_slice()?, m.as_slice()?, s.as_slice()?);
    require(x.len() == m.len() && x.len() == s.len(), "x, m, s: their lengths differ")?;
    let values = x.iter().zip(m).zip(s);
    Ok(PyArray1::from_vec(py, py.detach(|| values.map(|((&x, &m), &s)| fixed::requant(x, m, s)).collect())))
}

#[pyfunction]
fn dynquant<'py>(py: Python<'py>, x: In<'py>, xmax: u32, kernels: Option<&str>) -> PyResult<(Out<'py>, u32, u32)> {
    let x = x.as_slice()?;
    // The quantize slot has the code ranges of A8 and A16 (A8b changes the codes further).
    let slots = [Activation::A8, Activation::A16].into_iter();
    let activation = slots.filter(|_| kernels.is_some()).find(|slot| slot.xmax() == xmax);
    let quantize = set(kernels)?.quantize;
    let mut q = vec![0; x.len()];
    let (d, t) = py.detach(|| match activation {
        None => fixed::dynquant(x, xmax, &mut q),
        Some(activation) => {
            let mut codes = Activations::default();
            codes.reset(activation, x.len(), 1);
            codes.quantize_with(quantize, 0, x);
            let token = codes.token(0);
            for (column, q) in q.iter_mut().enumerate() {
                *q = ops::linear::code_value(&token, activation, column);
            }
            (token.d as u32, token.t as u32)
        }
    });
    Ok((PyArray1::from_vec(py, q), d, t))
}

#[pyfunction]
fn rsqrt<'py>(py: Python<'py>, v: In<'py, u64>) -> PyResult<(Out<'py>, Out<'py>)> {
    map_pair(py, &v, |v| {
        let (r, u) = fixed::rsqrt(v);
        (r as i32, u)
    })
}

#[pyfunction]
fn rmsnorm<'py>(
    py: Python<'py>, x: In<'py>, g: In<'py, i16>, gs: i32, epsilon: u64, rn: i32, rk: i32, f: u32,
    kernels: Option<&str>,
) -> PyResult<Out<'py>> {
    let g = g.as_slice()?;
    require(g.len() == x.len(), "g: is as long as x")?;
    let kernel = set(kernels)?.rms_norm;
    let norm = RmsNorm { gain_shift: gs, epsilon, root: rn, root_shift: rk };
    change(py, &x, |x| kernel(x, g, &norm, f))
}

#[pyfunction]
fn exp2<'py>(py: Python<'py>, x: In<'py>, b: u32) -> PyResult<Out<'py>> {
    map(py, &x, |x| fixed::exp2(x, b) as i32)
}

#[pyfunction]
fn sigmoid<'py>(py: Python<'py>, x: In<'py>, f: u32) -> PyResult<Out<'py>> {
    map(py, &x, |x| fixed::sigmoid(x, f) as i32)
}

#[pyfunction]
fn sincos<'py>(py: Python<'py>, phase: In<'py, u32>) -> PyResult<(Out<'py>, Out<'py>)> {
    map_pair(py, &phase, fixed::sincos)
}

#[pyfunction]
fn blockscale<'py>(py: Python<'py>, q: In<'py>) -> PyResult<(Out<'py>, Out<'py>)> {
    let q = q.as_slice()?;
    let mut codes = vec![0; q.len()];
    let scales = py.detach(|| {
        let runs = q.chunks(GROUP).zip(codes.chunks_mut(GROUP));
        runs.map(|(q, codes)| fixed::blockscale(q, codes) as i32).collect()
    });
    Ok((PyArray1::from_vec(py, codes.into_iter().map(i32::from).collect()), PyArray1::from_vec(py, scales)))
}

#[pyfunction]
fn philox(ctr: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    fixed::philox(ctr, key)
}

/// A matrix of format W16r: `rows` rows of `columns` weights that all fit i16.
fn w16(weights: &[i16], columns: usize, scales: &[RowScale], bias: Option<&[i32]>) -> Option<Matrix> {
    let format = Format::parse("W16r")?;
    let rows = scales.len();
    let sizes = PlaneSizes::of(&format, rows, columns)?;
    let mut payload = AlignedBytes::zeroed(sizes.payload);
    let groups = columns.div_ceil(GROUP);
    let (mut codes, mut words) = (vec![0; groups * GROUP], vec![0; format.payload.row_words(groups)?]);
    for (row, weights) in weights.chunks_exact(columns).enumerate() {
        codes[..columns].copy_from_slice(weights);
        format.payload.pack(&codes, &mut words);
        for (i, word) in words.iter().enumerate() {
            let at = ((row / TILE * words.len() + i) * TILE + row % TILE) * 4;
            payload.as_mut_slice()[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    let mut row = AlignedBytes::zeroed(sizes.row);
    for (bytes, scale) in row.as_mut_slice().chunks_exact_mut(4).zip(scales) {
        bytes.copy_from_slice(&scale.word().to_le_bytes());
    }
    let bias = bias.map(|bias| {
        let bytes: Vec<u8> = bias.iter().flat_map(|b| b.to_le_bytes()).collect();
        Plane::from(bytes.as_slice())
    });
    let planes = Planes {
        payload: payload.into(),
        scale: None,
        sign: None,
        offset: None,
        row: row.into(),
        bias,
        embedding_row: None,
    };
    let (activation, table) = (Activation::A8, N4_DEFAULT_TABLE);
    Some(Matrix { name: "W".into(), rows, columns, format, table, activation, preshift: 0, planes })
}

fn row_scales(m: &In<'_>, sh: &In<'_>) -> PyResult<Vec<RowScale>> {
    let (m, sh) = (m.as_slice()?, sh.as_slice()?);
    require(m.len() == sh.len(), "sh: is as long as m")?;
    Ok(m.iter().zip(sh).map(|(&m, &shift)| RowScale { m, shift }).collect())
}

#[pyfunction]
fn linear<'py>(
    py: Python<'py>, x: In<'py>, w: PyReadonlyArray2<'py, i16>, m: In<'py>, sh: In<'py>, a: u8, mode: &str, s: u8,
    bias: Option<In<'py>>, kernels: Option<&str>,
) -> PyResult<Out<'py>> {
    let scales = row_scales(&m, &sh)?;
    let (rows, columns) = (w.shape()[0], w.shape()[1]);
    let (x, w) = (x.as_slice()?, w.as_slice()?);
    require(columns > 0 && columns == x.len(), "W: has a column per element of x, at least one")?;
    require(rows == scales.len(), "m: has an element per row of W")?;
    let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
    require(bias.is_none_or(|bias| bias.len() == rows), "bias: has an element per row of W")?;
    let activation = match mode {
        "A8" => Activation::A8,
        "A8b" => Activation::A8b { cap: s },
        "A16" => Activation::A16,
        _ => return Err(PyValueError::new_err(format!("mode: {mode:?} is not A8, A8b or A16"))),
    };
    let tiles = kernels.is_some().then_some(set(kernels)?);
    let y = py.detach(|| {
        let matrix = w16(w, columns, &scales, bias).ok_or("W: too large for this machine")?;
        let matrix = Matrix { activation, preshift: a, ..matrix };
        if matches!(activation, Activation::A8b { cap } if !Magnitudes::measure(&matrix, 0..rows).allows_cap(cap)) {
            return Err("S: the sum of |W| over 128 columns times 127 S exceeds 2^31 - 1; a smaller S is needed");
        }
        Ok(match tiles {
            None => linear_plain(x, w, &scales, a, activation, bias),
            Some(kernels) => linear_tiles(x, &matrix, kernels),
        })
    });
    y.map(|y| PyArray1::from_vec(py, y)).map_err(PyValueError::new_err)
}

/// The formulas of 2.1 as they stand.
fn linear_plain(
    x: &[i32], w: &[i16], scales: &[RowScale], preshift: u8, activation: Activation, bias: Option<&[i32]>,
) -> Vec<i32> {
    let mut q = vec![0; x.len().next_multiple_of(GROUP)];
    let (d, t) = fixed::dynquant(x, activation.xmax(), &mut q);
    if let Activation::A8b { .. } = activation {
        let mut codes = [0; GROUP];
        for q in q.chunks_exact_mut(GROUP) {
            let s = fixed::blockscale(q, &mut codes) as i32;
            q.iter_mut().zip(codes).for_each(|(q, c)| *q = s * i32::from(c));
        }
    }
    let row = |(n, (w, &scale)): (usize, (&[i16], &RowScale))| {
        let acc = w.iter().zip(&q).map(|(&w, &q)| i64::from(w) * i64::from(q)).sum();
        ops::linear::finish(acc, d as i32, t as i32, preshift, Finish { scale, bias: bias.map_or(0, |bias| bias[n]) })
    };
    w.chunks_exact(x.len()).zip(scales).enumerate().map(row).collect()
}

/// The slots of a kernel set, as an executor calls them.
fn linear_tiles(x: &[i32], matrix: &Matrix, kernels: &Kernels) -> Vec<i32> {
    let mut codes = Activations::default();
    codes.reset(matrix.activation, matrix.columns, 1);
    codes.quantize_with(kernels.quantize, 0, x);
    let (d, t) = (codes.token(0).d, codes.token(0).t);
    let mut y = vec![0; matrix.rows];
    let (mut sums, mut out) = ([[0; TILE]], [[0; TILE]]);
    for (tile, y) in y.chunks_mut(TILE).enumerate() {
        let first = 4 * TILE * tile;
        let rows = RowConstants {
            rows: &matrix.planes.row.bytes()[first..first + 4 * TILE],
            bias: matrix.planes.bias.as_ref().map(|plane| &plane.bytes()[first..first + 4 * y.len()]),
            preshift: matrix.preshift,
        };
        (kernels.dot)(matrix, tile, &codes, 0..1, &mut sums);
        (kernels.finish)(&sums, &[d], &[t], rows, &mut out);
        y.copy_from_slice(&out[0][..y.len()]);
    }
    y
}

#[pyfunction]
fn embed<'py>(py: Python<'py>, w: In<'py, i16>, m: i32, sh: i32, f: u32) -> PyResult<Out<'py>> {
    let w = w.as_slice()?;
    require(!w.is_empty(), "w: is empty")?;
    let mut x = vec![0; w.len()];
    py.detach(|| {
        let matrix = w16(w, w.len(), &[RowScale { m, shift: sh }], None).ok_or("w: too large for this machine")?;
        ops::embed::embed(&matrix, 0, f, &mut x);
        Ok(())
    })
    .map_err(PyValueError::new_err::<&str>)?;
    Ok(PyArray1::from_vec(py, x))
}

#[pyfunction]
fn residual_add<'py>(py: Python<'py>, x: In<'py>, y: In<'py>) -> PyResult<Out<'py>> {
    let y = y.as_slice()?;
    require(y.len() == x.len(), "y: is as long as x")?;
    change(py, &x, |x| ops::residual::residual_add(x, y))
}

#[pyfunction]
fn rope<'py>(
    py: Python<'py>, v: In<'py>, position: u32, freq64: In<'py, u64>, interleaved: bool,
) -> PyResult<Out<'py>> {
    let freq64 = freq64.as_slice()?;
    require(freq64.len() <= v.len() / 2, "freq64: rot is at most the length of v")?;
    let pairs = if interleaved { Pairs::Interleaved } else { Pairs::Half };
    change(py, &v, |v| {
        let angles: Vec<_> = ops::rope::angles(freq64, position).collect();
        ops::rope::rope(v, &angles, pairs);
    })
}

#[pyfunction]
fn hadamard<'py>(py: Python<'py>, v: In<'py>) -> PyResult<Out<'py>> {
    let width = v.len();
    require(
        width.is_power_of_two() && width <= ops::hadamard::MAX_WIDTH,
        "v: its length is a power of two up to 1024",
    )?;
    change(py, &v, ops::hadamard::hadamard)
}

/// Consecutive cache entries of one kind: codes of all positions, d and t of each.
struct Entries {
    codes: Vec<i16>,
    d: Vec<u8>,
    t: Vec<u8>,
}

impl Entries {
    fn new(vectors: &[i32], width: usize, xmax: u32) -> Self {
        let mut entries = Self { codes: Vec::with_capacity(vectors.len()), d: Vec::new(), t: Vec::new() };
        let mut q = vec![0; width];
        for vector in vectors.chunks_exact(width) {
            let (d, t) = fixed::dynquant(vector, xmax, &mut q);
            entries.codes.extend(q.iter().map(|&q| q as i16));
            entries.d.push(d as u8);
            entries.t.push(t as u8);
        }
        entries
    }

    fn narrow(&self) -> Vec<i8> {
        self.codes.iter().map(|&q| q as i8).collect()
    }
}

/// im, is, cm, cs.
type SoftcapConstants = (i32, i32, i32, i32);

fn softcap_of((inverse, inverse_shift, cap, cap_shift): SoftcapConstants) -> Softcap {
    Softcap { inverse, inverse_shift, cap, cap_shift }
}

#[pyfunction]
fn attention<'py>(
    py: Python<'py>, q: In<'py>, k: PyReadonlyArray2<'py, i32>, v: PyReadonlyArray2<'py, i32>, f: u32, xq: u32,
    xk: u32, xv: u32, ca: i32, cash: i32, softcap: Option<SoftcapConstants>, kernels: Option<&str>,
) -> PyResult<Out<'py>> {
    let width = q.len();
    require(width > 0 && !k.is_empty(), "k: has a vector at least, of one element at least")?;
    require(k.shape() == v.shape() && k.shape()[1] == width, "k, v: hold vectors as long as q, as many of each")?;
    let (q, k, v) = (q.as_slice()?, k.as_slice()?, v.as_slice()?);
    let kernel = set(kernels)?.attention;
    let scoring = Scoring { scale: ca, scale_shift: cash, value_max: xv, softcap: softcap.map(softcap_of) };
    let mut out = vec![0; width];
    py.detach(|| {
        let (query, keys, values) =
            (Entries::new(q, width, xq), Entries::new(k, width, xk), Entries::new(v, width, xv));
        let (narrow, value_codes) = (keys.narrow(), values.narrow());
        let run = Run {
            keys: if xk <= 127 { Keys::I8(&narrow) } else { Keys::I16(&keys.codes) },
            key_d: &keys.d,
            key_t: &keys.t,
            values: &value_codes,
            value_d: &values.d,
            value_t: &values.t,
        };
        let (d, t, visible) = (i32::from(query.d[0]), i32::from(query.t[0]), 0..keys.d.len());
        let query = Query { codes: &query.codes, d, t, visible };
        kernel.run(&[query], &[run], &scoring, f, &mut Scratch::default(), &mut out);
    });
    Ok(PyArray1::from_vec(py, out))
}

#[pyfunction]
fn gated_activation<'py>(
    py: Python<'py>, kind: &str, g: In<'py>, u: In<'py>, f: u32, kernels: Option<&str>,
) -> PyResult<Out<'py>> {
    let kind = match kind {
        "swiglu" => Gate::Swiglu,
        "geglu" => Gate::Geglu,
        "relu2" => Gate::Relu2,
        _ => return Err(PyValueError::new_err(format!("kind: {kind:?} is not swiglu, geglu or relu2"))),
    };
    let u = u.as_slice()?;
    require(u.len() == g.len(), "u: is as long as g")?;
    let kernel = set(kernels)?.gated_activation;
    change(py, &g, |g| kernel(kind, g, u, f))
}

#[pyfunction]
fn relu2<'py>(py: Python<'py>, g: In<'py>, f: u32, kernels: Option<&str>) -> PyResult<Out<'py>> {
    set(kernels)?; // No slot is without gate; a wrong name is an error all the same.
    map(py, &g, |g| ops::gated::relu2(g, f))
}

#[pyfunction]
fn gelu<'py>(py: Python<'py>, x: In<'py>, f: u32) -> PyResult<Out<'py>> {
    map(py, &x, |x| ops::gated::gelu(x, f))
}

#[pyfunction]
fn softcap<'py>(py: Python<'py>, x: In<'py>, constants: SoftcapConstants, f: u32) -> PyResult<Out<'py>> {
    map(py, &x, |x| ops::softcap::softcap(x, &softcap_of(constants), f))
}

#[pyfunction]
fn router(py: Python<'_>, r: In<'_>, k: usize, f: u32, renorm: bool, sigmoid: bool) -> PyResult<Vec<(usize, u32)>> {
    let r = r.as_slice()?;
    Ok(py.detach(|| ops::router::route(r, Router { k, renormalise: renorm, sigmoid }, f)))
}

#[pyfunction]
fn sample(
    py: Python<'_>, logits: In<'_>, f: u32, tau: u32, top_k: u32, top_p: u32, min_p: u32, rnd: u32,
) -> PyResult<u32> {
    let logits = logits.as_slice()?;
    require(!logits.is_empty() && tau > 0, "logits, tau: there is a logit, and tau is not 0")?;
    let sampling = Sampling { temperature: tau, top_k, top_p, min_p, seed: 0 };
    Ok(py.detach(|| ops::sample::draw(logits, f, &sampling, rnd)))
}

#[pyfunction]
fn greedy(py: Python<'_>, logits: In<'_>) -> PyResult<u32> {
    let logits = logits.as_slice()?;
    Ok(py.detach(|| ops::sample::greedy(logits)))
}

#[pyfunction]
fn logprobs<'py>(py: Python<'py>, logits: In<'py>, f: u32) -> PyResult<Out<'py>> {
    let logits = logits.as_slice()?;
    require(!logits.is_empty(), "logits: is empty")?;
    let values = py.detach(|| {
        let distribution = LogProbs::new(logits, f);
        (0..logits.len() as u32).map(|id| distribution.of(id)).collect()
    });
    Ok(PyArray1::from_vec(py, values))
}

#[pyfunction]
fn decode<'py>(
    py: Python<'py>, format: &str, payload: Option<&[u8]>, scale: Option<&[u8]>, sign: Option<&[u8]>,
    offset: Option<&[u8]>, rows: usize, columns: usize, table: Option<[i8; 16]>,
) -> PyResult<Bound<'py, PyArray2<i32>>> {
    let Some(layout) = Format::parse(format) else {
        return Err(PyValueError::new_err(format!("format: {format:?} is no format; one is U4z8, another U6b8/16")));
    };
    require(table.is_none() || layout.payload.has_table(), "table: only N4 has one")?;
    let Some(sizes) = PlaneSizes::of(&layout, rows, columns) else {
        return Err(PyValueError::new_err(format!(
            "rows, columns: {rows} × {columns} weights do not fit this machine"
        )));
    };
    let plane = |name: &str, bytes: Option<&[u8]>, size: usize| {
        let size = size.next_multiple_of(64);
        match bytes {
            Some(bytes) if bytes.len() == size => Ok(Plane::from(bytes)),
            Some(bytes) => Err(format!("planes: {name} has {} bytes; {format} of this shape has {size}", bytes.len())),
            None => Err(format!("planes: {name} is missing; {format} has it, {size} bytes")),
        }
        .map_err(PyValueError::new_err)
    };
    let optional = |name, bytes, size, has: bool| has.then(|| plane(name, bytes, size)).transpose();
    let planes = Planes {
        payload: plane("payload", payload, sizes.payload)?,
        scale: optional("scale", scale, sizes.scale, layout.mode != ScaleMode::R)?,
        sign: optional("sign", sign, sizes.sign, layout.mode == ScaleMode::B8)?,
        offset: optional("offset", offset, sizes.offset, layout.mode == ScaleMode::Z8)?,
        row: AlignedBytes::default().into(),
        bias: None,
        embedding_row: None,
    };
    let table = table.unwrap_or(N4_DEFAULT_TABLE);
    let (activation, name) = (Activation::A8, String::new());
    let matrix = Matrix { name, rows, columns, format: layout, table, activation, preshift: 0, planes };
    let weights = py.detach(|| {
        let (mut weights, mut row) = (Vec::with_capacity(rows * columns), Vec::new());
        for n in 0..rows {
            matrix.row_weights(n, &mut row);
            weights.extend_from_slice(&row);
        }
        weights
    });
    PyArray1::from_vec(py, weights).reshape([rows, columns])
}
