//! Proof, before the first token, that a model can overflow nowhere (sections 2.3, 3.3 and 5).

use crate::bounds::{Ceiling, MAX_PRESHIFT, Magnitudes};
use crate::cpu::Pool;
use crate::formats::{GROUP, ScaleMode, TILE};
use crate::matrix::{Activation, Matrix, PlaneSizes, RowScale};
use crate::ops::{hadamard, softcap::Softcap};
use crate::program::{Attention, LOGITS, MatrixId, Model, Op, Slot, Vector, VectorId};
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::fmt;

/// Elements per token of all slots together: 1 GiB, which a program of many wide slots would exceed a thousandfold.
const MAX_SLOTS: usize = 1 << 28;
/// The most key elements per position over all caches, four times what the largest open models have.
const MAX_CACHED: usize = 1 << 22;

/// A bound that a model breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The matrix, vector or operation.
    pub subject: String,
    /// What must hold.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (the contract requires: {})", self.subject, self.found, self.rule)
    }
}

impl core::error::Error for Refusal {}

/// A model that passed every check; executors take nothing else.
#[derive(Debug)]
pub struct Certified {
    model: Model,
    widths: Vec<usize>,
    attentions: Vec<Attention>,
    head_inputs: Vec<Slot>,
    logits: Slot,
    final_softcap: Option<Softcap>,
}

impl Certified {
    /// The model. Its head lacks a final softcap, which [`Certified::final_softcap`] holds.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model as it was before certification, for writing it to a file.
    #[must_use]
    pub fn model_as_written(&self) -> Model {
        let mut model = self.model.clone();
        model.head.extend(self.final_softcap.map(|cap| Op::Softcap { slot: self.logits, cap }));
        model
    }

    /// Elements per token of each slot.
    #[must_use]
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// Every attention of the body in order: the n-th owns the n-th cache.
    #[must_use]
    pub fn attentions(&self) -> &[Attention] {
        &self.attentions
    }

    /// The slots that the head takes over from the body.
    #[must_use]
    pub fn head_inputs(&self) -> &[Slot] {
        &self.head_inputs
    }

    /// The slot that holds the logits after the head.
    #[must_use]
    pub fn logits(&self) -> Slot {
        self.logits
    }

    /// How many elements of the slot that the head leaves its result in are that result: the vocabulary, or all of them
    /// where this is the first part of a divided program.
    #[must_use]
    pub fn result_width(&self) -> usize {
        let width = self.widths[self.logits];
        if self.model.slots[self.logits] == LOGITS { width.min(self.model.vocabulary) } else { width }
    }

    /// Divides the program before its last `layers` attentions with what belongs to them: the first part, whose result
    /// is the slot that the second part goes on from, for every token. `None` where there are fewer, or where no single
    /// slot would do.
    #[must_use]
    pub fn divide(&self, layers: usize) -> Option<(Self, Self)> {
        let body = &self.model.body;
        let after = |at: usize| body[at..].iter().filter(|op| matches!(op, Op::Attention(_))).count();
        let live = |at: usize| {
            let rest: Vec<Op> = body[at..].iter().chain(&self.model.head).cloned().collect();
            inputs(&rest)
        };
        let single = |at: usize| match live(at).as_slice() {
            [slot] if self.model.slots[*slot] != LOGITS => Some((at, *slot)),
            _ => None,
        };
        // The last such place: what follows the attention before it in its own layer stays with that one.
        let (at, slot) = (1..=body.len()).rev().filter(|&at| after(at) == layers).find_map(single)?;
        let (front, back) = self.attentions.split_at(self.attentions.len() - layers);
        let first = Self {
            model: self.model.part(&body[..at], &[]),
            widths: self.widths.clone(),
            attentions: front.to_vec(),
            head_inputs: vec![slot],
            logits: slot,
            final_softcap: None,
        };
        let second = Self {
            model: self.model.part(&body[at..], &self.model.head),
            widths: self.widths.clone(),
            attentions: back.to_vec(),
            head_inputs: self.head_inputs.clone(),
            logits: self.logits,
            final_softcap: self.final_softcap,
        };
        Some((first, second))
    }

    /// A softcap on the logits: sampling and log-probabilities read them after it, greedy choice before (section 4).
    #[must_use]
    pub fn final_softcap(&self) -> Option<&Softcap> {
        self.final_softcap.as_ref()
    }
}

fn refuse<T>(subject: impl fmt::Display, rule: &'static str, found: impl fmt::Display) -> Result<T, Refusal> {
    Err(Refusal { subject: subject.to_string(), rule, found: found.to_string() })
}

fn require(
    holds: bool, subject: impl fmt::Display, rule: &'static str, found: impl fmt::Display,
) -> Result<(), Refusal> {
    if holds { Ok(()) } else { refuse(subject, rule, found) }
}

/// Checks `model` and makes it runnable. Reads weights where a rule speaks of them, on the threads of `pool`.
///
/// # Errors
/// The first rule that does not hold, with the matrix or operation and what was found.
pub fn certify(mut model: Model, pool: &Pool) -> Result<Certified, Refusal> {
    let f = model.fraction_bits;
    require((8..=20).contains(&f), "fraction_bits", "8 <= F <= 20", f)?;
    require((1..1 << 20).contains(&model.vocabulary), "vocabulary", "1 <= vocabulary < 2^20", model.vocabulary)?;
    require((1..=1 << 24).contains(&model.context), "context", "1 <= context <= 2^24", model.context)?;
    for matrix in &model.matrices {
        check_matrix(matrix, pool)?;
    }
    for vector in &model.vectors {
        if let Vector::Gain(gain) = &vector.values {
            require((1..=16384).contains(&gain.len()), &vector.name, "1 <= n <= 16384 in rms_norm", gain.len())?;
        }
    }
    let final_softcap = match model.head.last() {
        Some(&Op::Softcap { slot, cap }) if model.slots.get(slot).is_some_and(|name| name == LOGITS) => {
            check_softcap(&cap, "head softcap")?;
            model.head.pop();
            Some(cap)
        }
        _ => None,
    };
    let mut flow = Flow { model: &model, widths: vec![None; model.slots.len()], attentions: Vec::new(), cached: 0 };
    for (i, op) in model.body.iter().enumerate() {
        flow.check(op, &format!("body[{i}] {}", op.name()), true)?;
    }
    for (i, op) in model.head.iter().enumerate() {
        flow.check(op, &format!("head[{i}] {}", op.name()), false)?;
    }
    let Flow { widths, attentions, .. } = flow;
    let Some(logits) = model.slots.iter().position(|name| name == LOGITS) else {
        return refuse("head", "the head writes the slot logits", "no slot of that name");
    };
    let width = widths[logits].unwrap_or(0);
    require(width >= model.vocabulary, "head", "logits are at least as wide as the vocabulary", width)?;
    require(written(&model.head, logits), "head", "the head writes the slot logits", "it does not")?;
    let widths: Vec<usize> = widths.into_iter().map(|width| width.unwrap_or(0)).collect();
    let total = widths.iter().fold(0, |sum: usize, &width| sum.saturating_add(width));
    require(total <= MAX_SLOTS, "program", "all slots together are at most 2^28 wide", total)?;
    let head_inputs = inputs(&model.head);
    Ok(Certified { model, widths, attentions, head_inputs, logits, final_softcap })
}

fn written(ops: &[Op], slot: Slot) -> bool {
    ops.iter().any(|op| op.writes().contains(&slot))
}

/// The slots that `ops` read before they write them.
fn inputs(ops: &[Op]) -> Vec<Slot> {
    let (mut known, mut inputs) = (BTreeSet::new(), Vec::new());
    for op in ops {
        inputs.extend(op.reads().into_iter().filter(|&slot| known.insert(slot)));
        known.extend(op.writes());
    }
    inputs
}

/// Walks a program and tracks the width of every slot.
struct Flow<'a> {
    model: &'a Model,
    widths: Vec<Option<usize>>,
    attentions: Vec<Attention>,
    /// Key elements per position of the caches so far.
    cached: usize,
}

impl<'a> Flow<'a> {
    fn read(&self, slot: Slot, at: &str) -> Result<usize, Refusal> {
        match self.widths.get(slot) {
            Some(Some(width)) => Ok(*width),
            _ => refuse(at, "a slot is written before it is read", self.name(slot)),
        }
    }

    fn write(&mut self, slot: Slot, width: usize, at: &str) -> Result<(), Refusal> {
        let name = String::from(self.name(slot));
        match self.widths.get_mut(slot) {
            None => refuse(at, "a slot exists", slot),
            Some(Some(old)) if *old != width => {
                refuse(at, "a slot keeps its width", format!("{name}: {width} after {old}"))
            }
            Some(entry) => {
                *entry = Some(width);
                Ok(())
            }
        }
    }

    fn name(&self, slot: Slot) -> &'a str {
        self.model.slots.get(slot).map_or("?", String::as_str)
    }

    fn matrix(&self, id: MatrixId, at: &str) -> Result<&'a Matrix, Refusal> {
        self.model.matrices.get(id).map_or_else(|| refuse(at, "a matrix exists", id), Ok)
    }

    fn gain(&self, id: VectorId, at: &str) -> Result<&'a [i16], Refusal> {
        match self.model.vectors.get(id).map(|vector| &vector.values) {
            Some(Vector::Gain(gain)) => Ok(gain),
            _ => refuse(at, "gain names a gain vector", id),
        }
    }

    fn freq64(&self, id: VectorId, at: &str) -> Result<&'a [u64], Refusal> {
        match self.model.vectors.get(id).map(|vector| &vector.values) {
            Some(Vector::Freq64(table)) => Ok(table),
            _ => refuse(at, "table names a freq64 vector", id),
        }
    }

    fn check(&mut self, op: &Op, at: &str, body: bool) -> Result<(), Refusal> {
        for slot in op.reads() {
            self.read(slot, at)?;
        }
        match op {
            Op::Embed { matrix, out } => {
                let matrix = self.matrix(*matrix, at)?;
                require(body, at, "embed stands in the body", "it is in the head")?;
                require(matrix.rows >= self.model.vocabulary, &matrix.name, "a row per token", matrix.rows)?;
                self.write(*out, matrix.columns, at)
            }
            Op::RmsNorm { input, out, gain, norm } => {
                let width = self.read(*input, at)?;
                let n = self.gain(*gain, at)?.len();
                require(width % n == 0, at, "width is a multiple of the gains", format!("{width} and {n}"))?;
                require(norm.epsilon < 1 << 44, at, "E < 2^44", norm.epsilon)?;
                require((1 << 14..1 << 15).contains(&norm.root), at, "2^14 <= rn < 2^15", norm.root)?;
                require((0..=127).contains(&norm.root_shift), at, "0 <= rk <= 127", norm.root_shift)?;
                require((0..=127).contains(&norm.gain_shift), at, "0 <= gs <= 127", norm.gain_shift)?;
                self.write(*out, width, at)
            }
            Op::Linear { input, outputs } => self.check_linear(*input, outputs, at),
            Op::Rope { slot, head_width, table, .. } => {
                let width = self.read(*slot, at)?;
                let pairs = self.freq64(*table, at)?.len();
                check_heads(width, *head_width, at)?;
                require(2 * pairs <= *head_width, at, "rotated elements fit the head", 2 * pairs)
            }
            Op::Hadamard { slot, head_width } => {
                let width = self.read(*slot, at)?;
                check_heads(width, *head_width, at)?;
                let fits = head_width.is_power_of_two() && *head_width <= hadamard::MAX_WIDTH;
                require(fits, at, "head_width is a power of two up to 1024", head_width)
            }
            Op::Attention(attention) => {
                require(body, at, "attention stands in the body", "it is in the head")?;
                self.check_attention(attention, at)
            }
            Op::GatedActivation { gate, up, out, .. } => {
                let (g, u) = (self.read(*gate, at)?, self.read(*up, at)?);
                require(g == u, at, "gate and up have one width", format!("{g} and {u}"))?;
                self.write(*out, g, at)
            }
            Op::Relu2 { .. } => Ok(()),
            Op::ResidualAdd { into, from } => {
                let (a, b) = (self.read(*into, at)?, self.read(*from, at)?);
                require(into != from, at, "into and from are two slots", self.name(*into))?;
                require(a == b, at, "into and from have one width", format!("{a} and {b}"))
            }
            Op::Softcap { slot, cap } => {
                require(self.name(*slot) != LOGITS, at, "a softcap on logits ends the head", "it does not")?;
                check_softcap(cap, at)
            }
        }
    }

    fn check_linear(&mut self, input: Slot, outputs: &[(MatrixId, Slot)], at: &str) -> Result<(), Refusal> {
        let width = self.read(input, at)?;
        let mut shared: Option<Activation> = None;
        let mut written = BTreeSet::new();
        for &(id, slot) in outputs {
            let matrix = self.matrix(id, at)?;
            let columns = matrix.columns;
            require(
                columns == width,
                &matrix.name,
                "columns equal the width of the input",
                format!("{columns} and {width}"),
            )?;
            let activation = *shared.get_or_insert(matrix.activation);
            let same = matrix.activation == activation;
            require(
                same,
                &matrix.name,
                "matrices of one input share activation mode and cap",
                matrix.activation.name(),
            )?;
            let distinct = slot != input && written.insert(slot);
            require(distinct, at, "a linear op writes each slot once and not its input", self.name(slot))?;
            self.write(slot, matrix.rows, at)?;
        }
        require(!outputs.is_empty(), at, "a linear op has a matrix", "none")
    }

    fn check_attention(&mut self, a: &Attention, at: &str) -> Result<(), Refusal> {
        let (q, k, v) = (self.read(a.query, at)?, self.read(a.key, at)?, self.read(a.value, at)?);
        let grouped = a.kv_heads > 0 && a.heads > 0 && a.heads.is_multiple_of(a.kv_heads);
        require(grouped, at, "kv_heads divides heads", format!("{} and {}", a.kv_heads, a.heads))?;
        require((1..=4096).contains(&a.head_width), at, "1 <= head_width <= 4096", a.head_width)?;
        require(a.heads.checked_mul(a.head_width) == Some(q), at, "query is heads · head_width wide", q)?;
        let kv = a.kv_heads.checked_mul(a.head_width);
        require(
            kv == Some(k) && kv == Some(v),
            at,
            "key and value are kv_heads · head_width wide",
            format!("{k}, {v}"),
        )?;
        for (name, x, most) in [("xq", a.query_max, 32385), ("xk", a.key_max, 32385), ("xv", a.scoring.value_max, 127)]
        {
            require((1..=most).contains(&x), at, "1 <= xq, xk <= 32385 and 1 <= xv <= 127", format!("{name} = {x}"))?;
        }
        let score = a.head_width as u64 * u64::from(a.query_max) * u64::from(a.key_max);
        require(score <= i32::MAX as u64, at, "head_width · xq · xk <= 2^31 - 1", score)?;
        let scoring = &a.scoring;
        require((1 << 14..1 << 15).contains(&scoring.scale), at, "2^14 <= ca < 2^15", scoring.scale)?;
        require((-127..=127).contains(&scoring.scale_shift), at, "-127 <= cash <= 127", scoring.scale_shift)?;
        require(a.window <= 1 << 24, at, "window <= 2^24", a.window)?;
        if let Some(cap) = &scoring.softcap {
            check_softcap(cap, at)?;
        }
        require(
            a.out != a.query && a.out != a.key && a.out != a.value,
            at,
            "out is a slot of its own",
            self.name(a.out),
        )?;
        self.attentions.push(*a);
        self.cached += k;
        let rule = "all caches together hold at most 2^22 key elements per position";
        require(self.cached <= MAX_CACHED, at, rule, self.cached)?;
        self.write(a.out, q, at)
    }
}

fn check_heads(width: usize, head_width: usize, at: &str) -> Result<(), Refusal> {
    let whole = head_width > 0 && width.is_multiple_of(head_width);
    require(whole, at, "width is a multiple of head_width", format!("{width} and {head_width}"))
}

fn check_softcap(cap: &Softcap, at: &str) -> Result<(), Refusal> {
    let positive = cap.inverse >= 0 && cap.cap >= 0;
    require(positive, at, "0 <= im, cm < 2^31", format!("{} and {}", cap.inverse, cap.cap))?;
    let shifts = [cap.inverse_shift, cap.cap_shift];
    require(shifts.iter().all(|s| (-127..=127).contains(s)), at, "-127 <= is, cs <= 127", format!("{shifts:?}"))
}

/// Shape, plane sizes, row words, scales and codes of one matrix.
fn check_matrix(matrix: &Matrix, pool: &Pool) -> Result<(), Refusal> {
    let name = &matrix.name;
    require((1..=1 << 20).contains(&matrix.rows), name, "1 <= rows <= 2^20", matrix.rows)?;
    require((1..=131_072).contains(&matrix.columns), name, "1 <= columns <= 131072", matrix.columns)?;
    require(matrix.preshift <= MAX_PRESHIFT, name, "preshift <= 47", matrix.preshift)?;
    require(!matrix.table.contains(&i8::MIN), name, "levels of the table within -127..127", "-128")?;
    check_planes(matrix)?;
    let row_planes = [Some(&matrix.planes.row), matrix.planes.embedding_row.as_ref()];
    for plane in row_planes.into_iter().flatten() {
        for row in 0..matrix.rows {
            let word = plane.u32(row);
            let RowScale { m, .. } = RowScale::from_word(word);
            let fits = word >> 30 == 0 && (m >= 1 << 22 || word == 0);
            require(
                fits,
                name,
                "2^22 <= m < 2^23 and sh <= 127, or m = sh = 0",
                format_args!("row {row}: {word:#010x}"),
            )?;
        }
    }
    check_codes(matrix, pool)?;
    let level = Ceiling::level(matrix);
    let ceilings = pool.map(matrix.tiles(), |tile| Ceiling::of(matrix, level, tile));
    if matrix.format.mode == ScaleMode::Z8 && ceilings.iter().any(|ceiling| ceiling.weight > 32_767) {
        check_offsets(matrix)?;
    }
    if let Activation::A8b { cap } = matrix.activation {
        require(cap > 0, name, "1 <= S <= 255", cap)?;
        // Reading every code takes long, and scales mostly say enough.
        let chunk_128 = ceilings.iter().map(|ceiling| ceiling.chunk_128).max().unwrap_or(0);
        if !(Magnitudes { chunk_128, ..Magnitudes::default() }).allows_cap(cap) {
            let found = magnitudes(matrix, pool);
            let sum = found.chunk_128;
            let rule = "L1c · 127 · S <= 2^31 - 1 (rule 2.3)";
            require(found.allows_cap(cap), name, rule, format!("L1c = {sum}, S = {cap}"))?;
        }
    }
    Ok(())
}

/// The largest sums of |W| of a whole matrix.
#[must_use]
pub fn magnitudes(matrix: &Matrix, pool: &Pool) -> Magnitudes {
    let parts =
        pool.map(matrix.tiles(), |tile| Magnitudes::measure(matrix, tile * TILE..((tile + 1) * TILE).min(matrix.rows)));
    parts.into_iter().fold(Magnitudes::default(), Magnitudes::max)
}

fn check_planes(matrix: &Matrix) -> Result<(), Refusal> {
    let rule = "planes have the size that shape and format give, padded to 64 bytes";
    let Some(sizes) = PlaneSizes::of(&matrix.format, matrix.rows, matrix.columns) else {
        return refuse(&matrix.name, rule, "a size beyond the address space");
    };
    let planes = &matrix.planes;
    let rows = matrix.rows * 4;
    let given = [
        ("payload", Some(&planes.payload), sizes.payload),
        ("scale", planes.scale.as_ref(), sizes.scale),
        ("sign", planes.sign.as_ref(), sizes.sign),
        ("offset", planes.offset.as_ref(), sizes.offset),
        ("row", Some(&planes.row), sizes.row),
        ("bias", planes.bias.as_ref(), if planes.bias.is_some() { rows } else { 0 }),
        ("embedding_row", planes.embedding_row.as_ref(), if planes.embedding_row.is_some() { sizes.row } else { 0 }),
    ];
    for (name, plane, size) in given {
        let found = plane.map_or(0, |plane| plane.bytes().len());
        let subject = format_args!("{}.{name}", matrix.name);
        require(found == size.next_multiple_of(64), subject, rule, format!("{found} bytes for {size}"))?;
    }
    Ok(())
}

/// Proves |W| <= 32767 for every code that a block of mode z8 could hold.
fn check_offsets(matrix: &Matrix) -> Result<(), Refusal> {
    let largest = matrix.format.payload.max_code();
    for row in 0..matrix.rows {
        for block in 0..matrix.format.blocks(matrix.columns) {
            let scale = matrix.block_scale(row, block);
            let ends = [scale.z, scale.s * largest + scale.z];
            let fits = ends.iter().all(|w| w.unsigned_abs() <= 32767);
            let rule = "|z| and |s · umax + z| <= 32767";
            require(fits, &matrix.name, rule, format_args!("row {row}, block {block}: {ends:?}"))?;
        }
    }
    Ok(())
}

/// Finds codes that the format does not use.
fn check_codes(matrix: &Matrix, pool: &Pool) -> Result<(), Refusal> {
    let bad = pool.map(matrix.tiles(), |tile| {
        if matrix.format.payload.all_valid(matrix.tile_payload(tile)) {
            return None;
        }
        let mut codes = [0; GROUP];
        (tile * TILE..((tile + 1) * TILE).min(matrix.rows)).find(|&row| {
            (0..matrix.groups()).any(|group| {
                matrix.group_codes(row, group, &mut codes);
                let count = GROUP.min(matrix.columns - group * GROUP);
                codes[..count].iter().any(|&code| !matrix.format.payload.valid(code))
            })
        })
    });
    match bad.into_iter().flatten().next() {
        None => Ok(()),
        Some(row) => refuse(&matrix.name, "every code is one that the format uses", format!("row {row}")),
    }
}
