//! Opening a model directory: nothing is allocated before the file has proved its size.

use super::manifest::{Manifest, MatrixRecord, sha256_hex};
use super::program::Names;
use super::{MANIFEST, PLANES, SCHEMA, write};
use crate::error::ModelError;
use intact_core::CONTRACT_VERSION;
use intact_core::certify::{Certified, certify};
use intact_core::cpu::Pool;
use intact_core::formats::{Format, N4_DEFAULT_TABLE};
use intact_core::matrix::{Activation, Matrix, Planes};
use intact_core::program::{Model, NamedVector, Op, Vector};
use intact_core::storage::{Plane, Storage};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest `intact.json` that is read: several thousand matrices. In memory it takes up to twenty times as much.
const MAX_MANIFEST: u64 = 4 << 20;
/// The largest header of `model.safetensors` that is read. In memory it takes up to ten times as much.
const MAX_HEADER: u64 = 8 << 20;
/// The largest of the small files, of which the hash is all that is wanted.
const MAX_SMALL: u64 = 256 << 20;

/// A model that passed every check, with its identity.
#[derive(Debug)]
pub struct Loaded {
    /// The runnable model.
    pub certified: Arc<Certified>,
    /// Its description; `manifest.digest` is the model digest.
    pub manifest: Manifest,
    /// The directory or source that it came from.
    pub path: PathBuf,
}

/// What [`Loaded::verify`] has checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Planes whose hash is as recorded.
    pub planes: usize,
    /// Small files whose hash is as recorded.
    pub files: usize,
}

impl Loaded {
    /// Opens the directory `path`.
    ///
    /// # Errors
    /// Any [`ModelError`].
    pub fn open(path: &Path, pool: &Pool) -> Result<Self, ModelError> {
        let manifest = parse_manifest(&path.join(MANIFEST), &read_small(&path.join(MANIFEST), MAX_MANIFEST)?)?;
        Self::assemble(path, manifest, crate::memory::load(&path.join(PLANES))?, pool)
    }

    /// A directory whose two files are in memory; `path` names it in messages.
    ///
    /// # Errors
    /// Any [`ModelError`] but `Io`.
    pub fn from_bytes(path: &Path, manifest: &[u8], planes: Arc<dyn Storage>, pool: &Pool) -> Result<Self, ModelError> {
        Self::assemble(path, parse_manifest(&path.join(MANIFEST), manifest)?, planes, pool)
    }

    fn assemble(path: &Path, manifest: Manifest, planes: Arc<dyn Storage>, pool: &Pool) -> Result<Self, ModelError> {
        let file = path.join(PLANES);
        let reader = Reader { planes: named_planes(&file, planes)?, path: &file, used: 0 };
        let model = reader.model(&manifest).map_err(|problem| match problem {
            Problem::Manifest(problem) => ModelError::Manifest { path: path.join(MANIFEST), problem },
            Problem::Planes(problem) => ModelError::Planes { path: path.join(PLANES), problem },
        })?;
        Self::certified(model, manifest, path, pool)
    }

    /// A model that was just converted, without a directory; the same identity as if it had been written and read.
    ///
    /// # Errors
    /// [`ModelError::Refused`].
    pub fn from_model(model: Model, source: &Path, pool: &Pool) -> Result<Self, ModelError> {
        let manifest = write::describe(&model, pool);
        Self::certified(model, manifest, source, pool)
    }

    fn certified(model: Model, manifest: Manifest, path: &Path, pool: &Pool) -> Result<Self, ModelError> {
        let certified =
            certify(model, pool).map_err(|refusal| ModelError::Refused { path: path.to_owned(), refusal })?;
        Ok(Self { certified: Arc::new(certified), manifest, path: path.to_owned() })
    }

    /// Compares every plane and every small file with its recorded hash.
    ///
    /// # Errors
    /// [`ModelError::Hash`] at the first difference, [`ModelError::Io`] where a file is missing.
    pub fn verify(&self, pool: &Pool) -> Result<Verified, ModelError> {
        let path = self.path.join(PLANES);
        let planes = write::named_planes(self.certified.model());
        let found = pool.map(planes.len(), |i| sha256_hex(&planes[i].1));
        for ((name, _), found) in planes.iter().zip(found) {
            let recorded = recorded_hash(&self.manifest, name).unwrap_or_default();
            if found != recorded {
                return Err(ModelError::Hash { path, what: name.clone(), found, recorded });
            }
        }
        for (name, recorded) in &self.manifest.files {
            let path = self.path.join(name);
            let found = sha256_hex(&read_small(&path, MAX_SMALL)?);
            if found != *recorded {
                return Err(ModelError::Hash { path, what: name.clone(), found, recorded: recorded.clone() });
            }
        }
        Ok(Verified { planes: planes.len(), files: self.manifest.files.len() })
    }
}

fn recorded_hash(manifest: &Manifest, plane: &str) -> Option<String> {
    if let Some(vector) = manifest.model.vectors.get(plane) {
        return Some(vector.sha256.clone());
    }
    let (matrix, kind) = plane.rsplit_once('.')?;
    manifest.model.matrices.get(matrix)?.planes.get(kind).cloned()
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Io { path, action, source }
}

fn read_small(path: &Path, most: u64) -> Result<Vec<u8>, ModelError> {
    let file = File::open(path).map_err(io(path, "open"))?;
    let size = file.metadata().map_err(io(path, "read"))?.len();
    if size > most {
        let problem = format!("{size} bytes are more than the {most} that such a file may have");
        return Err(ModelError::Manifest { path: path.to_owned(), problem });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(most).read_to_end(&mut bytes).map_err(io(path, "read"))?;
    Ok(bytes)
}

fn parse_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, ModelError> {
    let broken = |problem: String| ModelError::Manifest { path: path.to_owned(), problem };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
    for (what, found, supported) in
        [("schema", manifest.schema, SCHEMA), ("contract", manifest.model.contract, CONTRACT_VERSION)]
    {
        if found != supported {
            return Err(ModelError::Version { path: path.to_owned(), what, found, supported });
        }
    }
    let names = manifest.model.matrices.keys().chain(manifest.model.vectors.keys());
    if let Some(name) = names.into_iter().find(|name| !valid_name(name)) {
        return Err(broken(format!("model: {name:?} is not a name of A–Z a–z 0–9 _ . - with at most 200 characters")));
    }
    if let Some(name) = manifest.files.keys().find(|name| !valid_name(name) || name.starts_with('.')) {
        return Err(broken(format!("files: {name:?} is not the name of a file in the directory")));
    }
    let found = manifest.model.digest();
    if found != manifest.digest {
        let (what, recorded) = ("model".into(), manifest.digest);
        return Err(ModelError::Hash { path: path.to_owned(), what, found, recorded });
    }
    Ok(manifest)
}

fn valid_name(name: &str) -> bool {
    (1..=200).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Every plane of the file by name.
fn named_planes(path: &Path, storage: Arc<dyn Storage>) -> Result<BTreeMap<String, Plane>, ModelError> {
    let broken = |problem: String| ModelError::Planes { path: path.to_owned(), problem };
    let bytes = storage.bytes();
    let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    if let Some(length) = length.filter(|&length| length > MAX_HEADER) {
        return Err(broken(format!("header: {length} bytes are more than {MAX_HEADER}")));
    }
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| broken(format!("header: {error}")))?;
    let data = header + 8;
    let mut planes = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let whole = info.dtype == Dtype::U8 && info.shape.len() == 1;
        if !whole || (data + start) % 64 != 0 || (end - start) % 64 != 0 {
            return Err(broken(format!("{name}: a plane is one dimension of U8, 64-byte aligned and padded")));
        }
        let plane = Plane::new(Arc::clone(&storage), data + start, end - start);
        planes.insert(name.clone(), plane.ok_or_else(|| broken(format!("{name}: lies outside of the file")))?);
    }
    Ok(planes)
}

/// Which file is at fault, and how.
enum Problem {
    Manifest(String),
    Planes(String),
}

struct Reader<'a> {
    path: &'a Path,
    planes: BTreeMap<String, Plane>,
    used: usize,
}

impl Reader<'_> {
    fn plane(&mut self, name: &str) -> Result<Plane, Problem> {
        self.used += 1;
        self.planes.get(name).cloned().ok_or_else(|| Problem::Planes(format!("{name}: there is no such plane")))
    }

    fn model(mut self, manifest: &Manifest) -> Result<Model, Problem> {
        let record = &manifest.model;
        let mut matrices = Vec::with_capacity(record.matrices.len());
        for (name, matrix) in &record.matrices {
            matrices.push(self.matrix(name, matrix)?);
        }
        let mut vectors = Vec::with_capacity(record.vectors.len());
        for (name, vector) in &record.vectors {
            vectors.push(self.vector(name, vector.length)?);
        }
        if self.used != self.planes.len() {
            let count = self.planes.len();
            return Err(Problem::Planes(format!(
                "{}: {count} planes, {} are named in {MANIFEST}",
                self.path.display(),
                self.used
            )));
        }
        let index = |names: Vec<&String>| -> BTreeMap<String, usize> {
            names.into_iter().cloned().enumerate().map(|(i, name)| (name, i)).collect()
        };
        let (by_matrix, by_vector) = (index(record.matrices.keys().collect()), index(record.vectors.keys().collect()));
        let mut names = Names {
            matrices: &|name| by_matrix.get(name).copied(),
            vectors: &|name| by_vector.get(name).copied(),
            slots: BTreeMap::new(),
        };
        let mut resolve = |ops: &[super::program::OpRecord]| -> Result<Vec<Op>, Problem> {
            ops.iter().map(|op| names.resolve(op.clone()).map_err(Problem::Manifest)).collect()
        };
        let (body, head) = (resolve(&record.program.body)?, resolve(&record.program.head)?);
        Ok(Model {
            fraction_bits: record.fraction_bits,
            vocabulary: record.vocabulary,
            context: record.context,
            matrices,
            vectors,
            slots: names.into_slots(),
            body,
            head,
        })
    }

    fn matrix(&mut self, name: &str, record: &MatrixRecord) -> Result<Matrix, Problem> {
        let broken = |problem: String| Problem::Manifest(format!("model.matrices.{name}: {problem}"));
        let format = Format::parse(&record.format)
            .ok_or_else(|| broken(format!("format: {:?} is not one of this version", record.format)))?;
        let activation = match (record.activation.as_str(), record.cap) {
            ("A8", None) => Activation::A8,
            ("A16", None) => Activation::A16,
            ("A8b", Some(cap)) => Activation::A8b { cap },
            (mode, cap) => {
                return Err(broken(format!(
                    "activation: {mode:?} with cap {cap:?}; A8 and A16 have none, A8b has one"
                )));
            }
        };
        if record.table.is_some() && !format.payload.has_table() {
            return Err(broken("table: this format has none".into()));
        }
        let mut optional = |kind: &str| -> Result<Option<Plane>, Problem> {
            if record.planes.contains_key(kind) { self.plane(&format!("{name}.{kind}")).map(Some) } else { Ok(None) }
        };
        let (scale, sign, offset) = (optional("scale")?, optional("sign")?, optional("offset")?);
        let (bias, embedding_row) = (optional("bias")?, optional("embedding_row")?);
        let (payload, row) = (optional("payload")?, optional("row")?);
        let count = [&scale, &sign, &offset, &bias, &embedding_row].into_iter().flatten().count() + 2;
        let (Some(payload), Some(row)) = (payload, row) else {
            return Err(broken("planes: payload and row are missing".into()));
        };
        if count != record.planes.len() {
            return Err(broken("planes: names one that does not exist".into()));
        }
        Ok(Matrix {
            name: name.into(),
            rows: record.rows,
            columns: record.columns,
            format,
            table: record.table.unwrap_or(N4_DEFAULT_TABLE),
            activation,
            preshift: record.preshift,
            planes: Planes { payload, scale, sign, offset, row, bias, embedding_row },
        })
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<NamedVector, Problem> {
        let plane = self.plane(name)?;
        let size = match name.rsplit_once('.') {
            Some((_, "gain")) => 2,
            Some((_, "freq64")) => 8,
            _ => return Err(Problem::Manifest(format!("model.vectors.{name}: ends in neither .gain nor .freq64"))),
        };
        let bytes = plane.bytes();
        let padded = length.checked_mul(size).and_then(|used| used.checked_next_multiple_of(64));
        if padded != Some(bytes.len()) {
            let found = bytes.len();
            return Err(Problem::Planes(format!("{name}: {found} bytes are not {length} values padded to 64")));
        }
        let values = &bytes[..length * size];
        let values = if size == 2 {
            Vector::Gain(values.as_chunks().0.iter().map(|&b| i16::from_le_bytes(b)).collect())
        } else {
            Vector::Freq64(values.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect())
        };
        Ok(NamedVector { name: name.into(), values })
    }
}
