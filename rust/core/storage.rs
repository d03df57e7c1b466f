//! Bytes that planes are read from: a memory-mapped file, or an aligned buffer.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::fmt;

/// Owner of immutable bytes, such as a memory map.
pub trait Storage: Send + Sync {
    /// All of the bytes; the same address and content on every call.
    fn bytes(&self) -> &[u8];
}

/// Owner of bytes that can be written.
pub trait Block: Send + Sync {
    /// All of the bytes, beginning on a cache line; the same address on every call, wherever the owner moves to.
    fn bytes(&mut self) -> &mut [u8];
}

/// Memory of so many zero bytes, or `None` where it is not to be had.
pub type Allocate = fn(usize) -> Option<Box<dyn Block>>;

/// [`Allocate`] from the heap.
#[must_use]
pub fn heap(len: usize) -> Option<Box<dyn Block>> {
    AlignedBytes::try_zeroed(len).map(|bytes| Box::new(bytes) as Box<dyn Block>)
}

/// A cache line, the alignment of every plane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A growable buffer of bytes that begins on a cache line.
#[derive(Default, Clone)]
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBytes {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self { lines: alloc::vec![Line([0; 64]); len.div_ceil(64)], len }
    }

    /// The same, or `None` where the memory is not to be had.
    #[must_use]
    pub fn try_zeroed(len: usize) -> Option<Self> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(64)).ok()?;
        lines.resize(len.div_ceil(64), Line([0; 64]));
        Some(Self { lines, len })
    }

    /// Sets the length; new bytes are zero, old ones may keep stale content.
    pub fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(64), Line([0; 64]));
        self.len = len;
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `lines` owns at least `len` initialised bytes (see `resize`), and u8 has no alignment.
        unsafe { core::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The bytes, mutable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Storage for AlignedBytes {
    fn bytes(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Block for AlignedBytes {
    fn bytes(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl From<&[u8]> for AlignedBytes {
    fn from(bytes: &[u8]) -> Self {
        let mut out = Self::zeroed(bytes.len());
        out.as_mut_slice().copy_from_slice(bytes);
        out
    }
}

/// A range of a [`Storage`], shared and cheap to clone.
#[derive(Clone)]
pub struct Plane {
    storage: Arc<dyn Storage>,
    start: usize,
    len: usize,
}

impl Plane {
    /// The bytes `start..start + len` of `storage`, or `None` when they are not all there.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= storage.bytes().len()).then_some(Self { storage, start, len })
    }

    /// The bytes of the plane.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.start..self.start + self.len]
    }

    /// The little-endian u32 at index `i`.
    #[inline]
    #[must_use]
    pub fn u32(&self, i: usize) -> u32 {
        read_u32(self.bytes(), i)
    }
}

impl From<AlignedBytes> for Plane {
    fn from(bytes: AlignedBytes) -> Self {
        let len = bytes.len;
        Self { storage: Arc::new(bytes), start: 0, len }
    }
}

impl From<&[u8]> for Plane {
    fn from(bytes: &[u8]) -> Self {
        AlignedBytes::from(bytes).into()
    }
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plane({} bytes)", self.len)
    }
}

/// The little-endian u32 at index `i` of `bytes`.
#[inline(always)]
#[must_use]
pub fn read_u32(bytes: &[u8], i: usize) -> u32 {
    let b = &bytes[4 * i..4 * i + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

/// The little-endian i16 at index `i` of `bytes`.
#[inline(always)]
#[must_use]
pub fn read_i16(bytes: &[u8], i: usize) -> i16 {
    let b = &bytes[2 * i..2 * i + 2];
    i16::from_le_bytes([b[0], b[1]])
}
