//! The decoder that all families share: norm, attention, norm, gated feed-forward network.
use super::config::Config;
use super::source::Tensors;
use super::{KeyCache, Lowered, MatrixPlan, Role};
use crate::constants;
use crate::convert::ConvertError;
use intact_core::fixed::{A16_MAX, isqrt};
use intact_core::ops::{attention::Scoring, gated::Gate, hadamard, rms_norm::RmsNorm, rope::Pairs};
use intact_core::program::{Attention, LOGITS, MatrixId, NamedVector, Op, Slot, Vector, VectorId};
use serde_json::json;

/// The longest sequence, and the largest window, that the contract has room for.
pub(super) const LONGEST_CONTEXT: usize = 1 << 24;

/// Bounds of the contract (section 5.2) that a configuration must keep.
const WIDEST_NORM: usize = 1 << 14;
const MOST_ROWS: usize = 1 << 20;
const MOST_COLUMNS: usize = 131_072;
const WIDEST_HEAD: usize = 4096;

/// More layers than any model has. Every layer must have tensors, so the number is harmless.
const MOST_LAYERS: usize = 1 << 16;

/// Numbers that every configuration has.
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_width: usize,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    /// Of every norm.
    pub(super) epsilon: f64,
    /// The feed-forward network's activation.
    pub(super) gate: Gate,
}

impl Shape {
    /// Reads and checks the numbers, and the keys that only one value is implemented of.
    pub(super) fn read(config: &Config<'_>, gate: Gate) -> Result<Self, ConvertError> {
        let activation = match gate {
            Gate::Swiglu => "silu",
            Gate::Geglu => "gelu_pytorch_tanh",
            Gate::Relu2 => "relu2",
        };
        config.only("hidden_act", &json!(activation))?;
        let hidden = config.required_count("hidden_size", 1..=WIDEST_NORM)?;
        let heads = config.required_count("num_attention_heads", 1..=MOST_COLUMNS)?;
        let kv_heads = config.count("num_key_value_heads", 1..=heads)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("{kv_heads} does not divide num_attention_heads, {heads}");
            return Err(config.error("num_key_value_heads", problem, "take config.json from the model's publisher"));
        }
        let head_width = match config.count("head_dim", 2..=WIDEST_HEAD)? {
            Some(width) => width,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let problem = format!("it is missing, and {heads} heads do not divide hidden_size, {hidden}");
                return Err(config.error("head_dim", problem, "take config.json from the model's publisher"));
            }
        };
        if head_width % 2 != 0 || head_width > WIDEST_HEAD {
            let remedy = format!("Intact needs heads of an even width up to {WIDEST_HEAD}");
            return Err(config.error("head_dim", format!("heads are {head_width} wide"), remedy));
        }
        if heads * head_width > MOST_COLUMNS {
            let problem = format!("{heads} heads of {head_width} are wider than {MOST_COLUMNS}");
            return Err(config.error("num_attention_heads", problem, "take config.json from the model's publisher"));
        }
        Ok(Self {
            layers: config.required_count("num_hidden_layers", 1..=MOST_LAYERS)?,
            hidden,
            intermediate: config.required_count("intermediate_size", 1..=MOST_COLUMNS)?,
            heads,
            kv_heads,
            head_width,
            vocabulary: config.required_count("vocab_size", 1..=MOST_ROWS - 1)?,
            context: config.required_count("max_position_embeddings", 1..=LONGEST_CONTEXT)?,
            epsilon: config.required_number("rms_norm_eps", 0.0..=1.0)?,
            gate,
        })
    }
}

/// How a family differs from the plain decoder.
pub(super) struct Traits {
    /// Biases of the query, key and value projections.
    pub(super) query_key_value_bias: bool,
    /// A bias of the attention's output projection.
    pub(super) output_bias: bool,
    /// Biases of the feed-forward network's three projections.
    pub(super) mlp_bias: bool,
    /// A norm for each query and key head before the rotation.
    pub(super) head_norms: bool,
    /// A norm before the attention's output projection, and one before the feed-forward network's.
    pub(super) sub_norms: bool,
    /// For each layer the positions that a query sees, 0 for all.
    pub(super) windows: Vec<u32>,
}

/// What a profile decides of a program.
#[derive(Clone, Copy)]
pub(super) struct Numerics {
    pub(super) fraction_bits: u32,
    pub(super) keys: KeyCache,
}

/// Slots, in the order of [`SLOTS`].
const X: Slot = 0;
const H: Slot = 1;
const Q: Slot = 2;
const K: Slot = 3;
const V: Slot = 4;
const O: Slot = 5;
const Y: Slot = 6;
const GATE: Slot = 7;
const UP: Slot = 8;
const OUT: Slot = 9;
const SLOTS: [&str; 10] = ["x", "h", "q", "k", "v", "o", "y", "gate", "up", LOGITS];

const ROPE_TABLE: &str = "rope.0.freq64";
const EMBEDDING: &str = "model.embed_tokens";
const HEAD: &str = "lm_head";

/// The program of a model whose rope has the table `rope`.
pub(super) fn lower(
    tensors: &mut Tensors<'_>, shape: &Shape, traits: &Traits, rope: &[u64], numerics: Numerics,
) -> Result<Lowered, ConvertError> {
    let table = NamedVector { name: ROPE_TABLE.to_owned(), values: Vector::Freq64(rope.to_vec()) };
    let scoring = scoring(shape.head_width, numerics.keys);
    let mut builder =
        Builder { tensors, shape, numerics, table: 0, scoring, vectors: vec![table], matrices: Vec::new() };

    let tied = !builder.tensors.has(&format!("{HEAD}.weight"));
    let role = if tied { Role::Head } else { Role::Embedding };
    let embedding = builder.matrix(EMBEDDING, shape.vocabulary, shape.hidden, role, false)?;
    let mut body = vec![Op::Embed { matrix: embedding, out: X }];
    for (layer, &window) in traits.windows.iter().enumerate() {
        let name = format!("model.layers.{layer}");
        builder.attention(&name, traits, window, &mut body)?;
        builder.feed_forward(&name, traits, &mut body)?;
    }
    let mut head = Vec::new();
    builder.norm("model.norm", shape.hidden, X, H, &mut head)?;
    let projection = match tied {
        true => embedding,
        false => builder.matrix(HEAD, shape.vocabulary, shape.hidden, Role::Head, false)?,
    };
    head.push(Op::Linear { input: H, outputs: vec![(projection, OUT)] });

    Ok(Lowered {
        vocabulary: shape.vocabulary,
        context: shape.context as u32,
        matrices: builder.matrices,
        vectors: builder.vectors,
        slots: SLOTS.map(str::to_owned).to_vec(),
        body,
        head,
    })
}

/// The constants of every attention: code ranges as large as the sum of products allows.
struct Scores {
    query_max: u32,
    key_max: u32,
    scoring: Scoring,
    transformed: bool,
}

fn scoring(head_width: usize, keys: KeyCache) -> Scores {
    let room = i32::MAX as u32 / head_width as u32;
    let transformed = keys == KeyCache::Narrow && head_width.is_power_of_two() && head_width <= hadamard::MAX_WIDTH;
    let (query_max, key_max) = match keys {
        KeyCache::Wide => (isqrt(room).min(A16_MAX), isqrt(room).min(A16_MAX)),
        KeyCache::Narrow => ((room / 127).min(A16_MAX), 127),
    };
    let (scale, scale_shift) = constants::score(head_width, transformed);
    Scores { query_max, key_max, scoring: Scoring { scale, scale_shift, value_max: 127, softcap: None }, transformed }
}

/// A program in the making.
struct Builder<'a, 's> {
    tensors: &'a mut Tensors<'s>,
    shape: &'a Shape,
    numerics: Numerics,
    table: VectorId,
    scoring: Scores,
    vectors: Vec<NamedVector>,
    matrices: Vec<MatrixPlan>,
}

impl Builder<'_, '_> {
    fn attention(&mut self, layer: &str, traits: &Traits, window: u32, ops: &mut Vec<Op>) -> Result<(), ConvertError> {
        let Shape { hidden, heads, kv_heads, head_width, .. } = *self.shape;
        let (query, key) = (heads * head_width, kv_heads * head_width);
        self.norm(&format!("{layer}.input_layernorm"), hidden, X, H, ops)?;
        let mut outputs = Vec::new();
        for (name, rows, slot) in [("q_proj", query, Q), ("k_proj", key, K), ("v_proj", key, V)] {
            let name = format!("{layer}.self_attn.{name}");
            outputs.push((self.matrix(&name, rows, hidden, Role::Body, traits.query_key_value_bias)?, slot));
        }
        ops.push(Op::Linear { input: H, outputs });
        for (slot, name) in [(Q, "q_norm"), (K, "k_norm")] {
            if traits.head_norms {
                self.norm(&format!("{layer}.self_attn.{name}"), head_width, slot, slot, ops)?;
            }
            ops.push(Op::Rope { slot, head_width, table: self.table, pairs: Pairs::Half });
            if self.scoring.transformed {
                ops.push(Op::Hadamard { slot, head_width });
            }
        }
        ops.push(Op::Attention(Attention {
            query: Q,
            key: K,
            value: V,
            out: O,
            heads,
            kv_heads,
            head_width,
            window,
            query_max: self.scoring.query_max,
            key_max: self.scoring.key_max,
            scoring: self.scoring.scoring,
        }));
        if traits.sub_norms {
            self.norm(&format!("{layer}.self_attn.attn_sub_norm"), query, O, O, ops)?;
        }
        let output =
            self.matrix(&format!("{layer}.self_attn.o_proj"), hidden, query, Role::Body, traits.output_bias)?;
        ops.push(Op::Linear { input: O, outputs: vec![(output, Y)] });
        ops.push(Op::ResidualAdd { into: X, from: Y });
        Ok(())
    }

    fn feed_forward(&mut self, layer: &str, traits: &Traits, ops: &mut Vec<Op>) -> Result<(), ConvertError> {
        let Shape { hidden, intermediate, .. } = *self.shape;
        self.norm(&format!("{layer}.post_attention_layernorm"), hidden, X, H, ops)?;
        let mut outputs = Vec::new();
        for (name, slot) in [("gate_proj", GATE), ("up_proj", UP)] {
            let name = format!("{layer}.mlp.{name}");
            outputs.push((self.matrix(&name, intermediate, hidden, Role::Body, traits.mlp_bias)?, slot));
        }
        ops.push(Op::Linear { input: H, outputs });
        ops.push(Op::GatedActivation { kind: self.shape.gate, gate: GATE, up: UP, out: GATE });
        if traits.sub_norms {
            self.norm(&format!("{layer}.mlp.ffn_sub_norm"), intermediate, GATE, GATE, ops)?;
        }
        let down = self.matrix(&format!("{layer}.mlp.down_proj"), hidden, intermediate, Role::Body, traits.mlp_bias)?;
        ops.push(Op::Linear { input: GATE, outputs: vec![(down, Y)] });
        ops.push(Op::ResidualAdd { into: X, from: Y });
        Ok(())
    }

    /// Plans a matrix of the tensor `NAME.weight`.
    fn matrix(
        &mut self, name: &str, rows: usize, columns: usize, role: Role, bias: bool,
    ) -> Result<MatrixId, ConvertError> {
        self.tensors.take(&format!("{name}.weight"), &[rows, columns])?;
        if bias {
            self.tensors.take(&format!("{name}.bias"), &[rows])?;
        }
        self.matrices.push(MatrixPlan { name: name.to_owned(), rows, columns, role, bias });
        Ok(self.matrices.len() - 1)
    }

    /// Appends a norm over runs of `n` elements whose gains are the tensor `NAME.weight`.
    fn norm(&mut self, name: &str, n: usize, input: Slot, out: Slot, ops: &mut Vec<Op>) -> Result<(), ConvertError> {
        let tensor = format!("{name}.weight");
        let values = self.tensors.vector(&tensor, n)?;
        let Some((gains, gain_shift)) = constants::gains(&values) else {
            let problem = "a gain is 32768 or larger".to_owned();
            return Err(self.tensors.error(&tensor, problem, "the checkpoint is damaged: fetch it again"));
        };
        let Some(epsilon) = constants::epsilon(n, self.shape.epsilon, self.numerics.fraction_bits) else {
            let problem =
                format!("with n = {n} and rms_norm_eps = {:e} the norm's E leaves 44 bits", self.shape.epsilon);
            return Err(self.tensors.error(&tensor, problem, "convert with fewer fraction bits"));
        };
        let (root, root_shift) = constants::root(n);
        let gain = self.vectors.len();
        self.vectors.push(NamedVector { name: format!("{name}.gain"), values: Vector::Gain(gains) });
        let norm = RmsNorm { gain_shift, epsilon, root, root_shift };
        ops.push(Op::RmsNorm { input, out, gain, norm });
        Ok(())
    }
}
