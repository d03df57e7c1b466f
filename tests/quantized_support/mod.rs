//! A writer of the tensors of GPTQ, AWQ and compressed-tensors, from the formats' definitions.
use intact_quantize::error::Error;
use intact_quantize::import::Source;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const BASE: &str = "model.layers.0.mlp.up_proj";
pub(crate) const NAME: &str = "model.layers.0.mlp.up_proj.weight";
pub(crate) const ROWS: usize = 16;
pub(crate) const COLUMNS: usize = 96;

pub(crate) type Entries = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn random(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 8
}

/// Numbers below 2^bits.
pub(crate) fn numbers(seed: u32, count: usize, bits: u32) -> Vec<u32> {
    let mut state = seed;
    (0..count).map(|_| random(&mut state) & ((1 << bits) - 1)).collect()
}

/// Positive scales that a half holds.
pub(crate) fn scales(seed: u32, count: usize) -> Vec<f32> {
    numbers(seed, count, 10).into_iter().map(|number| (1024 + number) as f32 / 65536.0).collect()
}

pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn singles(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Rows of `width` numbers to rows of words, `order[i]` being the neighbour in the i-th lowest bits.
pub(crate) fn pack_rows(values: &[u32], width: usize, bits: u32, order: &[usize]) -> Vec<u32> {
    let word = |part: &[u32]| {
        order
            .iter()
            .enumerate()
            .fold(0, |word, (i, &at)| word | part.get(at).copied().unwrap_or(0) << (bits * i as u32))
    };
    values.chunks(width).flat_map(|row| row.chunks(order.len()).map(word).collect::<Vec<_>>()).collect()
}

pub(crate) fn transposed(values: &[u32], width: usize) -> Vec<u32> {
    (0..width).flat_map(|column| values.chunks(width).map(move |row| row[column])).collect()
}

pub(crate) fn transposed_scales(values: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| values.chunks(width).map(move |row| row[column])).collect()
}

pub(crate) fn in_order(bits: u32) -> Vec<usize> {
    (0..32 / bits as usize).collect()
}

/// A quantized matrix in plain numbers, rows first.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) bits: u32,
    pub(crate) codes: Vec<u32>,
    pub(crate) scales: Vec<f32>,
    pub(crate) zeros: Vec<u32>,
    /// The group of each column.
    pub(crate) group_of: Vec<usize>,
    pub(crate) groups: usize,
}

impl Plain {
    pub(crate) fn new(bits: u32, group: usize) -> Self {
        let groups = COLUMNS / group;
        Self {
            bits,
            codes: numbers(1, ROWS * COLUMNS, bits),
            scales: scales(2, ROWS * groups),
            zeros: numbers(3, ROWS * groups, bits).into_iter().map(|zero| zero.max(1)).collect(),
            group_of: (0..COLUMNS).map(|column| column / group).collect(),
            groups,
        }
    }

    pub(crate) fn symmetric(mut self) -> Self {
        self.zeros.fill(1 << (self.bits - 1));
        self
    }

    pub(crate) fn weight(&self, row: usize, column: usize) -> f32 {
        let at = row * self.groups + self.group_of[column];
        let level = i64::from(self.codes[row * COLUMNS + column]) - i64::from(self.zeros[at]);
        (f64::from(self.scales[at]) * level as f64) as f32
    }

    /// GPTQ's four tensors; `less` is what zero points are stored less.
    pub(crate) fn gptq(&self, less: u32) -> Entries {
        let zeros: Vec<u32> = self.zeros.iter().map(|zero| zero.wrapping_sub(less) & ((1 << self.bits) - 1)).collect();
        let lanes = 32 / self.bits as usize;
        let codes = transposed(&pack_rows(&self.codes, COLUMNS, self.bits, &in_order(self.bits)), COLUMNS / lanes);
        let zeros = pack_rows(&transposed(&zeros, self.groups), ROWS, self.bits, &in_order(self.bits));
        let order: Vec<u32> = self.group_of.iter().map(|&group| group as u32).collect();
        entries([
            ("qweight", Dtype::I32, vec![COLUMNS / lanes, ROWS], words(&codes)),
            ("qzeros", Dtype::I32, vec![self.groups, ROWS / lanes], words(&zeros)),
            ("scales", Dtype::F32, vec![self.groups, ROWS], singles(&transposed_scales(&self.scales, self.groups))),
            ("g_idx", Dtype::I32, vec![COLUMNS], words(&order)),
        ])
    }

    pub(crate) fn awq(&self) -> Entries {
        let order = [0, 2, 4, 6, 1, 3, 5, 7];
        let codes = pack_rows(&transposed(&self.codes, COLUMNS), ROWS, 4, &order);
        let zeros = pack_rows(&transposed(&self.zeros, self.groups), ROWS, 4, &order);
        entries([
            ("qweight", Dtype::I32, vec![COLUMNS, ROWS / 8], words(&codes)),
            ("qzeros", Dtype::I32, vec![self.groups, ROWS / 8], words(&zeros)),
            ("scales", Dtype::F32, vec![self.groups, ROWS], singles(&transposed_scales(&self.scales, self.groups))),
        ])
    }

    /// compressed-tensors' packed form, zero points included.
    pub(crate) fn packed(&self) -> Entries {
        let (lanes, order) = (32 / self.bits as usize, in_order(self.bits));
        let zeros = transposed(
            &pack_rows(&transposed(&self.zeros, self.groups), ROWS, self.bits, &order),
            ROWS.div_ceil(lanes),
        );
        let shape = [ROWS as u64, COLUMNS as u64].iter().flat_map(|side| side.to_le_bytes()).collect();
        entries([
            (
                "weight_packed",
                Dtype::I32,
                vec![ROWS, COLUMNS.div_ceil(lanes)],
                words(&pack_rows(&self.codes, COLUMNS, self.bits, &order)),
            ),
            ("weight_scale", Dtype::F32, vec![ROWS, self.groups], singles(&self.scales)),
            ("weight_zero_point", Dtype::I32, vec![ROWS.div_ceil(lanes), self.groups], words(&zeros)),
            ("weight_shape", Dtype::I64, vec![2], shape),
        ])
    }

    /// compressed-tensors' byte form.
    pub(crate) fn bytes(&self) -> Entries {
        let signed = |values: &[u32]| values.iter().map(|&value| (value as u8) ^ 0x80).collect::<Vec<u8>>();
        entries([
            ("weight", Dtype::I8, vec![ROWS, COLUMNS], signed(&self.codes)),
            ("weight_scale", Dtype::F32, vec![ROWS, self.groups], singles(&self.scales)),
            ("weight_zero_point", Dtype::I8, vec![ROWS, self.groups], signed(&self.zeros)),
            ("input_scale", Dtype::F32, vec![1], singles(&[1.0])),
        ])
    }
}

pub(crate) fn entries<const N: usize>(parts: [(&str, Dtype, Vec<usize>, Vec<u8>); N]) -> Entries {
    parts.into_iter().map(|(name, dtype, shape, data)| (format!("{BASE}.{name}"), (dtype, shape, data))).collect()
}

pub(crate) fn open(quantization: &Value, entries: &Entries) -> Result<Source, Error> {
    let views = entries
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    let config = Map::from_iter([("quantization_config".to_owned(), quantization.clone())]);
    Source::from_bytes(Path::new("m"), config, bytes)
}

pub(crate) fn gptq(bits: u32, group: i64) -> Value {
    json!({"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": "gptq", "desc_act": false})
}

pub(crate) fn awq(group: i64) -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": true})
}

pub(crate) fn compressed(format: &str, bits: u32, group: Option<usize>) -> Value {
    let strategy = if group.is_some() { "group" } else { "channel" };
    let weights =
        json!({"num_bits": bits, "type": "int", "symmetric": false, "strategy": strategy, "group_size": group});
    json!({
        "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": null}},
    })
}
