//! The KV caches of all attentions of a model, in pages of positions.

use crate::certify::Certified;
use crate::cpu::pool::Disjoint;
use crate::fixed::{amax, dynquant_factor, dynscale, requant};
use crate::ops::attention::{Keys, Run};
use crate::program::Attention;
use alloc::vec::Vec;

/// Pages of every cache. A page holds [`KvCache::page`] positions of one sequence in every layer.
pub struct KvCache {
    page: usize,
    pages: usize,
    layers: Vec<Layer>,
}

/// One attention's cache; arrays are indexed [page][kv head][position in page].
struct Layer {
    kv_heads: usize,
    head_width: usize,
    key_max: u32,
    value_max: u32,
    keys: KeyStore,
    values: Vec<i8>,
    key_d: Vec<u8>,
    key_t: Vec<u8>,
    value_d: Vec<u8>,
    value_t: Vec<u8>,
}

enum KeyStore {
    I8(Vec<i8>),
    I16(Vec<i16>),
}

/// Writes cache entries of one layer from several threads.
pub(crate) struct Writer {
    page: usize,
    kv_heads: usize,
    head_width: usize,
    key_max: u32,
    value_max: u32,
    keys: KeyParts,
    values: Disjoint<i8>,
    key_d: Disjoint<u8>,
    key_t: Disjoint<u8>,
    value_d: Disjoint<u8>,
    value_t: Disjoint<u8>,
}

enum KeyParts {
    I8(Disjoint<i8>),
    I16(Disjoint<i16>),
}

impl KvCache {
    /// Caches for the attentions of `model`, without pages yet; `page` positions to a page, at least 1.
    #[must_use]
    pub fn new(model: &Certified, page: usize) -> Self {
        let layer = |a: &Attention| Layer {
            kv_heads: a.kv_heads,
            head_width: a.head_width,
            key_max: a.key_max,
            value_max: a.scoring.value_max,
            keys: if a.key_max <= 127 { KeyStore::I8(Vec::new()) } else { KeyStore::I16(Vec::new()) },
            values: Vec::new(),
            key_d: Vec::new(),
            key_t: Vec::new(),
            value_d: Vec::new(),
            value_t: Vec::new(),
        };
        Self { page: page.max(1), pages: 0, layers: model.attentions().iter().map(layer).collect() }
    }

    /// Positions per page.
    #[must_use]
    pub fn page(&self) -> usize {
        self.page
    }

    /// Pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of one page over all layers, or `None` where they do not fit the address space.
    #[must_use]
    pub fn page_bytes(&self) -> Option<usize> {
        self.layers.iter().try_fold(0usize, |sum, layer| {
            let key = if matches!(layer.keys, KeyStore::I8(_)) { 1 } else { 2 };
            let entry = layer.head_width.checked_mul(key + 1)?.checked_add(4)?;
            sum.checked_add(self.page.checked_mul(layer.kv_heads)?.checked_mul(entry)?)
        })
    }

    /// Makes room for `pages` pages; existing content stays.
    ///
    /// # Errors
    /// When the memory is not to be had; the cache is as before.
    pub fn reserve(&mut self, pages: usize) -> Result<(), alloc::collections::TryReserveError> {
        fn grow<T: Copy + Default>(store: &mut Vec<T>, len: usize) -> Result<(), alloc::collections::TryReserveError> {
            if len > store.len() {
                store.try_reserve_exact(len - store.len())?;
                store.resize(len, T::default());
            }
            Ok(())
        }
        for layer in &mut self.layers {
            let heads = pages.saturating_mul(self.page).saturating_mul(layer.kv_heads);
            let codes = heads.saturating_mul(layer.head_width);
            match &mut layer.keys {
                KeyStore::I8(keys) => grow(keys, codes)?,
                KeyStore::I16(keys) => grow(keys, codes)?,
            }
            grow(&mut layer.values, codes)?;
            for store in [&mut layer.key_d, &mut layer.key_t, &mut layer.value_d, &mut layer.value_t] {
                grow(store, heads)?;
            }
        }
        self.pages = self.pages.max(pages);
        Ok(())
    }

    pub(crate) fn writer(&mut self, layer: usize) -> Writer {
        let page = self.page;
        let layer = &mut self.layers[layer];
        Writer {
            page,
            kv_heads: layer.kv_heads,
            head_width: layer.head_width,
            key_max: layer.key_max,
            value_max: layer.value_max,
            keys: match &mut layer.keys {
                KeyStore::I8(keys) => KeyParts::I8(Disjoint::new(keys)),
                KeyStore::I16(keys) => KeyParts::I16(Disjoint::new(keys)),
            },
            values: Disjoint::new(&mut layer.values),
            key_d: Disjoint::new(&mut layer.key_d),
            key_t: Disjoint::new(&mut layer.key_t),
            value_d: Disjoint::new(&mut layer.value_d),
            value_t: Disjoint::new(&mut layer.value_t),
        }
    }

    /// Positions `first..=last` of one head of a sequence with page table `table`, as runs.
    pub(crate) fn runs<'a>(
        &'a self, layer: usize, head: usize, table: &[u32], first: usize, last: usize, runs: &mut Vec<Run<'a>>,
    ) {
        let layer = &self.layers[layer];
        let width = layer.head_width;
        runs.clear();
        for (index, &page) in table.iter().enumerate().take(last / self.page + 1).skip(first / self.page) {
            let from = first.max(index * self.page) - index * self.page;
            let to = last.min(index * self.page + self.page - 1) - index * self.page + 1;
            let base = (page as usize * layer.kv_heads + head) * self.page;
            let entries = base + from..base + to;
            let codes = entries.start * width..entries.end * width;
            runs.push(Run {
                keys: match &layer.keys {
                    KeyStore::I8(keys) => Keys::I8(&keys[codes.clone()]),
                    KeyStore::I16(keys) => Keys::I16(&keys[codes.clone()]),
                },
                key_d: &layer.key_d[entries.clone()],
                key_t: &layer.key_t[entries.clone()],
                values: &layer.values[codes],
                value_d: &layer.value_d[entries.clone()],
                value_t: &layer.value_t[entries],
            });
        }
    }
}

impl Writer {
    /// Stores key and value vectors (all KV heads, in QF) of one position.
    ///
    /// # Safety
    /// The cache outlives the writer, and no other thread writes the same page and position.
    pub(crate) unsafe fn write(&self, page: u32, offset: usize, key: &[i32], value: &[i32]) {
        let width = self.head_width;
        for (head, (key, value)) in key.chunks_exact(width).zip(value.chunks_exact(width)).enumerate() {
            let entry = (page as usize * self.kv_heads + head) * self.page + offset;
            // SAFETY: entries of different positions and heads are disjoint (caller's promise).
            unsafe {
                let (d, t) = match &self.keys {
                    KeyParts::I8(keys) => codes(key, self.key_max, keys.part(entry * width, width), |q| q as i8),
                    KeyParts::I16(keys) => codes(key, self.key_max, keys.part(entry * width, width), |q| q as i16),
                };
                (self.key_d.part(entry, 1)[0], self.key_t.part(entry, 1)[0]) = (d, t);
                let (d, t) = codes(value, self.value_max, self.values.part(entry * width, width), |q| q as i8);
                (self.value_d.part(entry, 1)[0], self.value_t.part(entry, 1)[0]) = (d, t);
            }
        }
    }
}

/// `dynquant` into the cache's own width.
fn codes<T>(x: &[i32], xmax: u32, out: &mut [T], narrow: impl Fn(i32) -> T) -> (u8, u8) {
    let (d, t) = dynscale(amax(x), xmax);
    let factor = dynquant_factor(d);
    for (out, &x) in out.iter_mut().zip(x) {
        *out = narrow(requant(x, factor, 24 + t as i32));
    }
    (d as u8, t as u8)
}

/// `dynquant` of a query head.
pub(crate) fn query_codes(x: &[i32], xmax: u32, out: &mut [i16]) -> (u8, u8) {
    codes(x, xmax, out, |q| q as i16)
}
