//! Writing a model directory: whole or not at all.

use super::manifest::{Manifest, MatrixRecord, ModelRecord, VectorRecord, sha256_hex};
use super::program::{ProgramRecord, record};
use super::{MANIFEST, PLANES, SCHEMA};
use crate::error::ModelError;
use intact_core::CONTRACT_VERSION;
use intact_core::cpu::Pool;
use intact_core::formats::N4_DEFAULT_TABLE;
use intact_core::matrix::{Activation, Matrix, PlaneSizes};
use intact_core::program::{Model, Vector};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What goes into a directory besides the model.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Small files by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Where the model comes from.
    pub provenance: BTreeMap<String, String>,
}

/// The planes that a matrix has, by kind.
fn planes(matrix: &Matrix) -> Vec<(&'static str, &[u8])> {
    let p = &matrix.planes;
    let all = [
        ("payload", Some(&p.payload)),
        ("scale", p.scale.as_ref()),
        ("sign", p.sign.as_ref()),
        ("offset", p.offset.as_ref()),
        ("row", Some(&p.row)),
        ("bias", p.bias.as_ref()),
        ("embedding_row", p.embedding_row.as_ref()),
    ];
    all.into_iter().filter_map(|(kind, plane)| Some((kind, plane?.bytes()))).collect()
}

/// Bytes of all planes of a model.
#[must_use]
pub fn plane_bytes(model: &Model) -> usize {
    named_planes(model).iter().map(|(_, bytes)| bytes.len()).sum()
}

/// Every plane of a model with its name, in ascending order of names.
pub(super) fn named_planes(model: &Model) -> Vec<(String, Cow<'_, [u8]>)> {
    let mut out: Vec<(String, Cow<'_, [u8]>)> = Vec::new();
    for matrix in &model.matrices {
        out.extend(planes(matrix).into_iter().map(|(kind, bytes)| (format!("{}.{kind}", matrix.name), bytes.into())));
    }
    for vector in &model.vectors {
        let mut bytes: Vec<u8> = match &vector.values {
            Vector::Gain(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Vector::Freq64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        out.push((vector.name.clone(), bytes.into()));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

/// The manifest of a model, without small files and provenance.
pub(super) fn describe(model: &Model, pool: &Pool) -> Manifest {
    let planes = named_planes(model);
    let hashes = pool.map(planes.len(), |i| sha256_hex(&planes[i].1));
    describe_as(model, &planes.iter().map(|(name, _)| name.as_str()).zip(hashes).collect())
}

/// The same with the hashes of planes given.
fn describe_as(model: &Model, hashes: &BTreeMap<&str, String>) -> Manifest {
    let matrix = |matrix: &Matrix| {
        let record = MatrixRecord {
            rows: matrix.rows,
            columns: matrix.columns,
            format: matrix.format.to_string(),
            activation: matrix.activation.name().into(),
            cap: if let Activation::A8b { cap } = matrix.activation { Some(cap) } else { None },
            preshift: matrix.preshift,
            table: (matrix.format.payload.has_table() && matrix.table != N4_DEFAULT_TABLE).then_some(matrix.table),
            planes: planes(matrix)
                .into_iter()
                .map(|(kind, _)| (kind.to_string(), hashes[format!("{}.{kind}", matrix.name).as_str()].clone()))
                .collect(),
        };
        (matrix.name.clone(), record)
    };
    let vectors = model.vectors.iter().map(|vector| {
        let length = match &vector.values {
            Vector::Gain(values) => values.len(),
            Vector::Freq64(values) => values.len(),
        };
        (vector.name.clone(), VectorRecord { length, sha256: hashes[vector.name.as_str()].clone() })
    });
    let ops = |ops: &[_]| ops.iter().map(|op| record(model, op)).collect();
    let model = ModelRecord {
        contract: CONTRACT_VERSION,
        fraction_bits: model.fraction_bits,
        vocabulary: model.vocabulary,
        context: model.context,
        matrices: model.matrices.iter().map(matrix).collect(),
        vectors: vectors.collect(),
        program: ProgramRecord { body: ops(&model.body), head: ops(&model.head) },
    };
    Manifest { schema: SCHEMA, digest: model.digest(), model, files: BTreeMap::new(), provenance: BTreeMap::new() }
}

/// A directory beside the target that is removed unless it becomes the target.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes `model` to the directory `path` and returns its manifest. The directory appears complete or not at all.
///
/// # Errors
/// [`ModelError::Exists`] where `path` exists and `overwrite` is false; [`ModelError::Io`].
pub fn write(
    path: &Path, model: &Model, extras: &Extras, overwrite: bool, pool: &Pool,
) -> Result<Manifest, ModelError> {
    if !overwrite && path.exists() {
        return Err(ModelError::Exists { path: path.to_owned() });
    }
    let mut manifest = describe(model, pool);
    manifest.add(extras);

    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let sibling = |suffix: &str| path.with_file_name(format!(".{name}.{suffix}-{}", std::process::id()));
    let partial = Partial(sibling("partial"));
    fs::create_dir_all(&partial.0).map_err(io(&partial.0, "create"))?;
    for (name, bytes) in &extras.files {
        write_file(&partial.0.join(name), &[bytes])?;
    }
    write_planes(&partial.0.join(PLANES), model)?;
    write_file(&partial.0.join(MANIFEST), &[&manifest.text()])?;

    let old = Partial(sibling("old"));
    if path.exists() {
        fs::rename(path, &old.0).map_err(io(path, "replace"))?;
    }
    if let Err(error) = fs::rename(&partial.0, path) {
        // The old directory goes back to its place before anybody misses it.
        let _ = fs::rename(&old.0, path);
        return Err(io(path, "create")(error));
    }
    Ok(manifest)
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Io { path, action, source }
}

fn write_file(path: &Path, parts: &[&[u8]]) -> Result<(), ModelError> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io(path, "create"))?);
    for part in parts {
        file.write_all(part).map_err(io(path, "write"))?;
    }
    let file = file.into_inner().map_err(|error| io(path, "write")(error.into_error()))?;
    file.sync_all().map_err(io(path, "write"))
}

/// The header of `model.safetensors` for planes of these names and lengths in bytes.
fn header<'a>(planes: impl Iterator<Item = (&'a str, usize)>) -> Vec<u8> {
    let mut offset = 0;
    let entries: Vec<String> = planes
        .map(|(name, length)| {
            let start = offset;
            offset += length;
            format!("{name:?}:{{\"dtype\":\"U8\",\"shape\":[{length}],\"data_offsets\":[{start},{offset}]}}")
        })
        .collect();
    let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
    header
}

fn write_planes(path: &Path, model: &Model) -> Result<(), ModelError> {
    let planes = named_planes(model);
    let header = header(planes.iter().map(|(name, bytes)| (name.as_str(), bytes.len())));
    let length = (header.len() as u64).to_le_bytes();
    let mut parts: Vec<&[u8]> = vec![&length, &header];
    parts.extend(planes.iter().map(|(_, bytes)| &**bytes));
    write_file(path, &parts)
}

/// The bytes of all files of the directory that [`write()`] makes of a model, or `None` where they do not fit the address
/// space. Planes of matrices may be empty: formats and shapes say their lengths.
#[must_use]
pub fn directory_bytes(model: &Model, extras: &Extras) -> Option<usize> {
    let mut lengths: BTreeMap<String, usize> =
        named_planes(model).into_iter().map(|(name, bytes)| (name, bytes.len())).collect();
    for matrix in &model.matrices {
        let sizes = PlaneSizes::of(&matrix.format, matrix.rows, matrix.columns)?;
        for (kind, _) in planes(matrix) {
            let length = match kind {
                "payload" => sizes.payload,
                "scale" => sizes.scale,
                "sign" => sizes.sign,
                "offset" => sizes.offset,
                "bias" => matrix.rows.checked_mul(4)?,
                _ => sizes.row,
            };
            lengths.insert(format!("{}.{kind}", matrix.name), length.checked_next_multiple_of(64)?);
        }
    }
    let hashes = lengths.keys().map(|name| (name.as_str(), sha256_hex(&[]))).collect();
    let mut manifest = describe_as(model, &hashes);
    manifest.add(extras);
    let header = header(lengths.iter().map(|(name, &length)| (name.as_str(), length))).len() + 8;
    let parts = lengths.values().copied().chain(extras.files.values().map(Vec::len));
    parts.chain([header, manifest.text().len()]).try_fold(0_usize, usize::checked_add)
}
