//! The engine: model directories, scheduling and sampling over the integer core. It speaks token ids only.

pub mod engine;
pub mod error;
mod memory;
pub mod model;
pub mod receipt;
mod replay;
pub mod request;
mod scheduler;
pub mod split;
pub mod state;

pub use engine::{Engine, Options};
pub use error::{ModelError, ReceiptError, RequestError, StateError};
pub use intact_core as core;
pub use model::Loaded;
pub use split::Split;
pub use state::State;
