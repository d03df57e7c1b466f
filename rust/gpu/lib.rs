//! The GPU executor: runs a certified program through wgpu, with the bits of the reference.
//!
//! Weights, cache pages and slots of all tokens live on the device. A step is one submission: tokens and page tables go
//! up, logits of the tokens that ask for them come down.

mod device;
mod executor;
mod pages;
mod plan;
mod shaders;
mod weights;

pub use device::{Adapter, Device, Fault};
pub use executor::{Gpu, Traffic};
