//! `intact.json` as data.

use super::program::ProgramRecord;
use super::write::Extras;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout.
    pub schema: u32,
    /// SHA-256 of the canonical JSON of `model`.
    pub digest: String,
    /// What decides bits.
    pub model: ModelRecord,
    /// SHA-256 of the small files.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Where the model comes from; decides nothing.
    #[serde(default)]
    pub provenance: BTreeMap<String, String>,
}

/// What decides bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Contract version.
    pub contract: u32,
    /// F.
    pub fraction_bits: u32,
    /// Tokens.
    pub vocabulary: usize,
    /// Longest sequence.
    pub context: u32,
    /// By name.
    pub matrices: BTreeMap<String, MatrixRecord>,
    /// By name.
    pub vectors: BTreeMap<String, VectorRecord>,
    /// Operations.
    pub program: ProgramRecord,
}

/// One matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixRecord {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Format name.
    pub format: String,
    /// Activation mode.
    pub activation: String,
    /// S of A8b.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u8>,
    /// a.
    pub preshift: u8,
    /// Levels of N4, where they are not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<[i8; 16]>,
    /// SHA-256 by plane.
    pub planes: BTreeMap<String, String>,
}

/// One small vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorRecord {
    /// Values.
    pub length: usize,
    /// Of the plane.
    pub sha256: String,
}

impl Manifest {
    /// Names small files with their hashes, and the provenance.
    pub(super) fn add(&mut self, extras: &Extras) {
        self.files = extras.files.iter().map(|(name, bytes)| (name.clone(), sha256_hex(bytes))).collect();
        self.provenance.clone_from(&extras.provenance);
    }

    /// The content of the file.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl ModelRecord {
    /// The model digest.
    #[must_use]
    pub fn digest(&self) -> String {
        // A record of strings, integers, maps and lists always becomes a value.
        sha256_hex(canonical_json(&serde_json::to_value(self).unwrap_or_default()).as_bytes())
    }
}

/// JSON with sorted keys and no white space, one text for one value.
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// SHA-256 as 64 hex digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
