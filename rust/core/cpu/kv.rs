//! The KV caches of all attentions of a model, in pages of positions.

use crate::certify::Certified;
use crate::fixed::{amax, dynquant_factor, dynscale, requant};
use crate::ops::attention::{Keys, Run};
use crate::program::Attention;
use crate::storage::{Allocate, Block};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of a slab about. Within one, pages that follow each other are read as one piece, which hides the latency of
/// memory, and large pages of the system are filled.
const SLAB: usize = 32 << 20;
/// Pages of a slab at most: what a small model takes at once.
const MOST: usize = 64;
/// Bytes that arrays are aligned to.
const LINE: usize = 64;

/// Pages of every cache. A page holds [`KvCache::page`] positions of one sequence in every layer.
///
/// Memory comes in slabs of some pages. A slab holds, for each layer, arrays of keys, values and their scales, each
/// indexed [kv head][page of the slab][position in page].
pub struct KvCache {
    page: usize,
    layers: Vec<Layer>,
    /// Pages of a slab.
    per: usize,
    /// Bytes of a slab, or `None` where they do not fit the address space.
    bytes: Option<usize>,
    slabs: Vec<Slab>,
    allocate: Allocate,
}

/// One attention's cache, with the places of its arrays in a slab.
struct Layer {
    kv_heads: usize,
    head_width: usize,
    key_max: u32,
    value_max: u32,
    keys: usize,
    values: usize,
    key_d: usize,
    key_t: usize,
    value_d: usize,
    value_t: usize,
}

impl Layer {
    /// Whether keys are i16.
    fn wide(&self) -> bool {
        self.key_max > 127
    }

    /// The arrays of scales, in order of saved pages.
    fn scales(&self) -> [usize; 4] {
        [self.key_d, self.key_t, self.value_d, self.value_t]
    }
}

struct Slab {
    start: *mut u8,
    len: usize,
    /// Owns what `start` points to.
    _memory: Box<dyn Block>,
}

// SAFETY: a slab's memory is its own; `part` and `part_mut` keep its uses apart.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

/// Types that arrays of a slab have: every pattern of bits is a value, and their alignment divides that of arrays.
trait Element {}
impl Element for i8 {}
impl Element for u8 {}
impl Element for i16 {}

impl Slab {
    fn place<T: Element>(&self, array: usize, start: usize, len: usize) -> *mut T {
        let (from, bytes) = (array + start * size_of::<T>(), len * size_of::<T>());
        assert!(from <= self.len && bytes <= self.len - from, "entries outside of the slab");
        // SAFETY: the place is inside the memory.
        unsafe { self.start.add(from).cast() }
    }

    /// The elements `start..start + len` of the array at byte `array`.
    ///
    /// # Safety
    /// None of them is written while the slice lives.
    unsafe fn part<T: Element>(&self, array: usize, start: usize, len: usize) -> &[T] {
        // SAFETY: the place holds `len` elements, initialised since memory begins as zeros; the caller's promise.
        unsafe { core::slice::from_raw_parts(self.place(array, start, len), len) }
    }

    /// The same, to write.
    ///
    /// # Safety
    /// Nothing else refers to them while the slice lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part_mut<T: Element>(&self, array: usize, start: usize, len: usize) -> &mut [T] {
        // SAFETY: as for `part`.
        unsafe { core::slice::from_raw_parts_mut(self.place(array, start, len), len) }
    }
}

/// Writes cache entries of one layer from several threads.
pub(crate) struct Writer<'a> {
    cache: &'a KvCache,
    layer: &'a Layer,
}

/// Bytes of what `heads` · `positions` entries take, as the places of arrays from `start` on; returns the end.
fn lay(layer: &mut Layer, positions: usize, start: usize) -> Option<usize> {
    let entries = positions.checked_mul(layer.kv_heads)?;
    let codes = entries.checked_mul(layer.head_width)?;
    let mut end = start;
    let mut array = |bytes: usize| {
        let place = end;
        end = end.checked_add(bytes.checked_next_multiple_of(LINE)?)?;
        Some(place)
    };
    layer.keys = array(if layer.wide() { codes.checked_mul(2)? } else { codes })?;
    layer.values = array(codes)?;
    layer.key_d = array(entries)?;
    layer.key_t = array(entries)?;
    layer.value_d = array(entries)?;
    layer.value_t = array(entries)?;
    Some(end)
}

impl KvCache {
    /// Caches for the attentions of `model`, without pages yet; `page` positions to a page, at least 1. Memory will
    /// come from `allocate`.
    #[must_use]
    pub fn new(model: &Certified, page: usize, allocate: Allocate) -> Self {
        let layer = |a: &Attention| Layer {
            kv_heads: a.kv_heads,
            head_width: a.head_width,
            key_max: a.key_max,
            value_max: a.scoring.value_max,
            keys: 0,
            values: 0,
            key_d: 0,
            key_t: 0,
            value_d: 0,
            value_t: 0,
        };
        let page = page.max(1);
        let mut layers: Vec<Layer> = model.attentions().iter().map(layer).collect();
        let mut size = |pages: usize| {
            let positions = page.checked_mul(pages)?;
            layers.iter_mut().try_fold(0, |end, layer| lay(layer, positions, end))
        };
        let per = size(1).map_or(1, |bytes| (SLAB / bytes.max(1)).clamp(1, MOST));
        let bytes = size(per);
        Self { page, layers, per, bytes, slabs: Vec::new(), allocate }
    }

    /// Positions per page.
    #[must_use]
    pub fn page(&self) -> usize {
        self.page
    }

    /// Pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.slabs.len() * self.per
    }

    /// Makes room for at least `pages` pages; existing content stays.
    ///
    /// # Errors
    /// When that many bytes are not to be had.
    pub fn reserve(&mut self, pages: usize) -> Result<(), usize> {
        while self.pages() < pages {
            let bytes = self.bytes.ok_or(usize::MAX)?;
            let mut memory = (self.allocate)(bytes).ok_or(bytes)?;
            let (start, len) = (memory.bytes().as_mut_ptr(), memory.bytes().len());
            assert!(len >= bytes && start.addr().is_multiple_of(LINE), "memory is not as asked for");
            self.slabs.push(Slab { start, len, _memory: memory });
        }
        Ok(())
    }

    /// Appends page `page` in the form of [`Executor::save`](crate::executor::Executor::save).
    pub(crate) fn save(&self, page: u32, out: &mut Vec<u8>) {
        for layer in &self.layers {
            for part in [Part::Keys, Part::Values, Part::Scales] {
                for head in 0..layer.kv_heads {
                    let (slab, entry) = self.find(page, head);
                    // SAFETY: a writer borrows the cache exclusively, so nothing is written while the slices live.
                    unsafe { part.save(slab, layer, entry, self.page, out) };
                }
            }
        }
    }

    /// Takes page `page` from that form.
    pub(crate) fn restore(&mut self, page: u32, bytes: &[u8]) {
        let mut rest = bytes;
        for layer in &self.layers {
            for part in [Part::Keys, Part::Values, Part::Scales] {
                for head in 0..layer.kv_heads {
                    let (slab, entry) = self.find(page, head);
                    // SAFETY: the cache is borrowed exclusively, and the slices live one after another.
                    unsafe { part.restore(slab, layer, entry, self.page, &mut rest) };
                }
            }
        }
        assert!(rest.is_empty(), "more bytes than a page has");
    }

    pub(crate) fn writer(&mut self, layer: usize) -> Writer<'_> {
        Writer { layer: &self.layers[layer], cache: self }
    }

    /// The slab of page `page`, and the index there of the page's first entry of `head`.
    fn find(&self, page: u32, head: usize) -> (&Slab, usize) {
        let page = page as usize;
        (&self.slabs[page / self.per], (head * self.per + page % self.per) * self.page)
    }

    /// Positions `first..=last` of one head of a sequence with page table `table`, as runs.
    pub(crate) fn runs<'a>(
        &'a self, layer: usize, head: usize, table: &[u32], first: usize, last: usize, runs: &mut Vec<Run<'a>>,
    ) {
        let layer = &self.layers[layer];
        let (width, page) = (layer.head_width, self.page);
        runs.clear();
        let mut index = first / page;
        while index <= last / page {
            let start = index;
            // Pages that follow each other in a slab are one piece.
            while index < last / page
                && table[index + 1] == table[index] + 1
                && !(table[index + 1] as usize).is_multiple_of(self.per)
            {
                index += 1;
            }
            index += 1;
            let from = first.max(start * page) - start * page;
            let to = last.min(index * page - 1) - start * page + 1;
            let (slab, entry) = self.find(table[start], head);
            let (entry, count) = (entry + from, to - from);
            // SAFETY: a writer borrows the cache exclusively, so nothing is written while runs live.
            runs.push(unsafe {
                let (at, codes) = (entry * width, count * width);
                Run {
                    keys: if layer.wide() {
                        Keys::I16(slab.part(layer.keys, at, codes))
                    } else {
                        Keys::I8(slab.part(layer.keys, at, codes))
                    },
                    key_d: slab.part(layer.key_d, entry, count),
                    key_t: slab.part(layer.key_t, entry, count),
                    values: slab.part(layer.values, at, codes),
                    value_d: slab.part(layer.value_d, entry, count),
                    value_t: slab.part(layer.value_t, entry, count),
                }
            });
        }
    }
}

impl Writer<'_> {
    /// Stores key and value vectors (all KV heads, in QF) of one position.
    ///
    /// # Safety
    /// No other thread writes the same page and position.
    pub(crate) unsafe fn write(&self, page: u32, offset: usize, key: &[i32], value: &[i32]) {
        let layer = self.layer;
        let width = layer.head_width;
        for (head, (key, value)) in key.chunks_exact(width).zip(value.chunks_exact(width)).enumerate() {
            let (slab, entry) = self.cache.find(page, head);
            let (entry, at) = (entry + offset, (entry + offset) * width);
            // SAFETY: entries of different positions and heads are disjoint (caller's promise), and the writer borrows
            // the cache exclusively.
            unsafe {
                let (d, t) = if layer.wide() {
                    codes(key, layer.key_max, slab.part_mut(layer.keys, at, width), |q| q as i16)
                } else {
                    codes(key, layer.key_max, slab.part_mut(layer.keys, at, width), |q| q as i8)
                };
                slab.part_mut(layer.key_d, entry, 1)[0] = d;
                slab.part_mut(layer.key_t, entry, 1)[0] = t;
                let (d, t) = codes(value, layer.value_max, slab.part_mut(layer.values, at, width), |q| q as i8);
                slab.part_mut(layer.value_d, entry, 1)[0] = d;
                slab.part_mut(layer.value_t, entry, 1)[0] = t;
            }
        }
    }
}

/// What a saved page has of each attention, in this order.
#[derive(Clone, Copy)]
enum Part {
    Keys,
    Values,
    Scales,
}

impl Part {
    /// Appends `count` entries from `entry` on.
    ///
    /// # Safety
    /// Nothing writes them meanwhile.
    unsafe fn save(self, slab: &Slab, layer: &Layer, entry: usize, count: usize, out: &mut Vec<u8>) {
        let (at, codes) = (entry * layer.head_width, count * layer.head_width);
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Keys if layer.wide() => {
                    let keys = slab.part::<i16>(layer.keys, at, codes);
                    out.extend(keys.iter().flat_map(|code| code.to_le_bytes()));
                }
                Self::Keys => out.extend_from_slice(slab.part(layer.keys, at, codes)),
                Self::Values => out.extend_from_slice(slab.part(layer.values, at, codes)),
                Self::Scales => {
                    let [dk, tk, dv, tv] = layer.scales().map(|array| slab.part::<u8>(array, entry, count));
                    out.extend((0..count).flat_map(|i| [dk[i], tk[i], dv[i], tv[i]]));
                }
            }
        }
    }

    /// Takes `count` entries from `entry` on from the beginning of `rest`.
    ///
    /// # Safety
    /// Nothing else refers to them.
    unsafe fn restore(self, slab: &Slab, layer: &Layer, entry: usize, count: usize, rest: &mut &[u8]) {
        let (at, codes) = (entry * layer.head_width, count * layer.head_width);
        let mut take = |len: usize| {
            let (now, later) = rest.split_at(len);
            *rest = later;
            now
        };
        // SAFETY: the caller's promise; the parts of different arrays are disjoint.
        unsafe {
            match self {
                Self::Keys if layer.wide() => {
                    let keys = slab.part_mut::<i16>(layer.keys, at, codes);
                    for (key, &bytes) in keys.iter_mut().zip(take(2 * codes).as_chunks().0) {
                        *key = i16::from_le_bytes(bytes);
                    }
                }
                Self::Keys => slab.part_mut(layer.keys, at, codes).copy_from_slice(take(codes)),
                Self::Values => slab.part_mut(layer.values, at, codes).copy_from_slice(take(codes)),
                Self::Scales => {
                    let bytes = take(4 * count).as_chunks::<4>().0;
                    for (i, array) in layer.scales().into_iter().enumerate() {
                        let scales = slab.part_mut::<u8>(array, entry, count);
                        scales.iter_mut().zip(bytes).for_each(|(scale, bytes)| *scale = bytes[i]);
                    }
                }
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
