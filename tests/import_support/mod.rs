//! A writer of GGUF files, honest and otherwise, and small models made with it.
#![allow(dead_code, reason = "each test crate uses a part")]

/// ggml's codes of the element types.
pub(crate) const F32: u32 = 0;
/// IEEE half.
pub(crate) const F16: u32 = 1;
/// 8 bits, blocks of 32.
pub(crate) const Q8_0: u32 = 8;

/// A file to be: everything can be set to something wrong.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    /// Key, value type, value bytes.
    pub(crate) meta: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Fastest dimension first.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) code: u32,
    pub(crate) data: Vec<u8>,
    /// Instead of the honest offset.
    pub(crate) offset: Option<u64>,
}

/// A text as the format stores it.
pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An array's value bytes.
pub(crate) fn array(code: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// Little-endian singles.
pub(crate) fn singles(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, meta: Vec::new(), tensors: Vec::new() }
    }

    pub(crate) fn meta(mut self, key: &str, code: u32, value: impl AsRef<[u8]>) -> Self {
        self.meta.push((key.to_owned(), code, value.as_ref().to_owned()));
        self
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.meta(key, 8, string(value))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.meta(key, 4, value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.meta(key, 6, value.to_le_bytes())
    }

    pub(crate) fn u16(self, key: &str, value: u16) -> Self {
        self.meta(key, 2, value.to_le_bytes())
    }

    /// Without the key or tensor of that name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.meta.retain(|(key, _, _)| key != name);
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    pub(crate) fn tensor(mut self, name: &str, dimensions: &[u64], code: u32, data: Vec<u8>) -> Self {
        let (name, dimensions) = (name.to_owned(), dimensions.to_owned());
        self.tensors.push(Tensor { name, dimensions, code, data, offset: None });
        self
    }

    /// A tensor of singles that count up from `first`.
    pub(crate) fn counting(self, name: &str, dimensions: &[u64], first: u16) -> Self {
        let size = dimensions.iter().product::<u64>() as u16;
        self.tensor(name, dimensions, F32, singles((first..first + size).map(f32::from)))
    }

    /// The file. Data end with the last tensor's, unpadded, so that every byte of it counts.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.meta.len() as u64).to_le_bytes());
        for (key, code, value) in &self.meta {
            file.extend(string(key));
            file.extend(code.to_le_bytes());
            file.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            file.extend(string(&tensor.name));
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend(tensor.code.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        [file, data].concat()
    }
}

/// The hyperparameters of a model with 1 layer, width 8, 2 heads of 4, 1 key-value head, and its matrices.
pub(crate) fn tiny(architecture: &str) -> Gguf {
    let key = |name: &str| format!("{architecture}.{name}");
    Gguf::new()
        .text("general.architecture", architecture)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 8)
        .u32(&key("feed_forward_length"), 12)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .counting("token_embd.weight", &[8, 5], 0)
        .counting("output_norm.weight", &[8], 1)
        .counting("blk.0.attn_norm.weight", &[8], 2)
        .counting("blk.0.ffn_norm.weight", &[8], 3)
        .counting("blk.0.attn_q.weight", &[8, 8], 100)
        .counting("blk.0.attn_k.weight", &[8, 4], 200)
        .counting("blk.0.attn_v.weight", &[8, 4], 300)
        .counting("blk.0.attn_output.weight", &[8, 8], 400)
        .counting("blk.0.ffn_gate.weight", &[8, 12], 500)
        .counting("blk.0.ffn_up.weight", &[8, 12], 600)
        .counting("blk.0.ffn_down.weight", &[12, 8], 700)
}
