//! Receipts (docs/RECEIPTS.md): what a model answered to a request, in a form that any machine can check.
//!
//! [`Engine::add_with_receipt`](crate::Engine::add_with_receipt) has one made, [`Engine::verify`](crate::Engine::verify)
//! checks one.

pub(crate) mod chain;
mod format;
mod hex;
pub(crate) mod probe;
pub(crate) mod record;
mod tensors;
mod verdict;
mod verify;

pub use format::{Ending, MAX_BYTES, OutputRecord, Receipt, RequestRecord, Trace, VERSION};
pub use hex::{Hash, Hex, Short};
pub use tensors::Tensors;
pub use verdict::{Place, Tensor, Verdict, What};
pub use verify::Spot;
