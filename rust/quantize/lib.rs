//! Sources and quantizers.
pub mod arch;
pub mod calibrate;
pub mod constants;
pub mod convert;
pub mod encode;
pub mod error;
pub mod import;
mod real;
pub mod survey;
