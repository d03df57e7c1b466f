//! What runs a program: an executor, on whatever device.

use crate::cpu::Batch;
use alloc::{string::String, vec::Vec};
use core::fmt;

/// Sees every slot that an op has written, by name, with its values for all tokens.
pub type Probe<'a> = &'a mut dyn FnMut(&str, &[i32]);

/// Why a step did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// So many bytes are not to be had; everything is as it was.
    OutOfMemory {
        /// For what, with the device where it is not the CPU.
        what: String,
        /// As many.
        bytes: usize,
    },
    /// The device failed, and what it held is lost.
    Device(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { what, bytes } => write!(f, "{what}: {bytes} more bytes are not to be had"),
            Self::Device(message) => f.write_str(message),
        }
    }
}

impl core::error::Error for Fault {}

/// Runs one model, with caches of its own. Which one does it changes no bit.
pub trait Executor: Send {
    /// Positions per cache page.
    fn page(&self) -> usize;

    /// Cache pages that there is room for.
    fn pages(&self) -> usize;

    /// Makes room for at least `pages` pages; existing content stays.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`].
    fn reserve(&mut self, pages: usize) -> Result<(), Fault>;

    /// Runs `batch` and appends the logits of the tokens that ask for them to `logits`, `vocabulary` each, in order.
    /// They are before a final softcap.
    ///
    /// # Errors
    /// A fault of the device; the CPU has none.
    ///
    /// # Panics
    /// When a token id is not below the vocabulary, or a position has no page in its sequence's table: the caller's
    /// scheduler guarantees both.
    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<i32>, probe: Option<Probe<'_>>) -> Result<(), Fault>;

    /// Appends the content of a cache page in the form that all executors share: of each attention, the keys of all
    /// KV heads and positions, a byte or two little-endian ones for each code; their values; then dk, tk, dv and tv of
    /// each, a byte each.
    ///
    /// # Errors
    /// A fault of the device.
    ///
    /// # Panics
    /// When there is no such page.
    fn save(&mut self, page: u32, out: &mut Vec<u8>) -> Result<(), Fault>;

    /// Takes the content of a cache page from that form.
    ///
    /// # Errors
    /// A fault of the device.
    ///
    /// # Panics
    /// When there is no such page, or `bytes` are not as many as a page has.
    fn restore(&mut self, page: u32, bytes: &[u8]) -> Result<(), Fault>;
}
