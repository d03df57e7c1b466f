//! The ops of the contract, one per file: the plain reference that everything else is compared with.

pub mod attention;
pub mod embed;
pub mod gated;
pub mod hadamard;
pub mod linear;
pub mod residual;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod sample;
pub mod softcap;
