//! The integer inference contract in code: primitives, ops, weight formats, programs and kernels.
//!
//! `docs/NUMERICS.md` is the specification; section numbers in these comments are its sections. The modules
//! [`fixed`] and [`ops`] hold the one plain reference of each primitive and op. Everything in [`kernels`] and
//! [`cpu`] is a faster way to the same integers. The crate needs no operating system: the feature `std` adds
//! run-time CPU detection and the thread pool.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod activations;
pub mod bounds;
pub mod certify;
pub mod cpu;
pub mod executor;
pub mod fixed;
pub mod formats;
pub mod kernels;
pub mod matrix;
pub mod ops;
pub mod program;
pub mod storage;

/// The version of the numeric contract that this crate implements.
pub const CONTRACT_VERSION: u32 = 1;
