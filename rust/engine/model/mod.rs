//! The model directory (docs/MODEL.md): reading, checking, writing.

mod manifest;
mod program;
mod read;
mod write;

pub use manifest::{Manifest, canonical_json, sha256_hex};
pub use read::{Loaded, Verified};
pub use write::{Extras, directory_bytes, plane_bytes, write};

/// The file that holds everything that decides a bit, but the planes.
pub const MANIFEST: &str = "intact.json";
/// The file that holds the planes.
pub const PLANES: &str = "model.safetensors";
/// The version of the directory's layout.
pub const SCHEMA: u32 = 1;
