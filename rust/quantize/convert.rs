//! Conversion: from a checkpoint to a model.
use crate::arch::{self, KeyCache, Lowered, MatrixPlan, Role};
use crate::calibrate::Calibration;
use crate::constants;
use crate::encode::{self, Guidance, QUANTIZED, RowError, Transcription};
use crate::error::Error;
use crate::import::{Source, Tensor};
use intact_core::bounds::Magnitudes;
use intact_core::certify::magnitudes;
use intact_core::cpu::Pool;
use intact_core::formats::{DEFAULT_BLOCK, Format};
use intact_core::matrix::{Activation, Matrix};
use intact_core::program::{Model, Op};
use intact_core::storage::{AlignedBytes, Plane};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a checkpoint cannot be converted. Every message names the file, the field in it, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] Error),
    /// The configuration is incomplete, contradictory or asks for something that Intact does not implement.
    #[error("{}: config.json: {field}: {problem}; {remedy}", path.display())]
    Config {
        /// The checkpoint.
        path: PathBuf,
        /// The key, with the keys of the objects around it.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A tensor is missing, unknown, of the wrong shape, or cannot be represented.
    #[error("{}: tensor {tensor}: {problem}; {remedy}", path.display())]
    Tensor {
        /// The checkpoint.
        path: PathBuf,
        /// Its Hugging Face name.
        tensor: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The caller's progress report asked for it.
    #[error("the conversion was stopped")]
    Stopped,
    /// An option has no meaning.
    #[error("option {option}: {problem}; {remedy}")]
    Option {
        /// The field of [`Options`].
        option: &'static str,
        /// What is wrong.
        problem: String,
        /// What to pass instead.
        remedy: String,
    },
}

/// How much accuracy is given for speed in activations and cache (docs/NUMERICS.md, sections 2.2 and 3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// 16-bit activations and keys.
    #[default]
    Default,
    /// 8-bit activations with block scales in the layers, 16-bit ones at the head, 16-bit keys.
    Fast,
    /// 8-bit activations and keys.
    Fastest,
}

impl Profile {
    /// Every profile, the slowest first.
    pub const ALL: [Self; 3] = [Self::Default, Self::Fast, Self::Fastest];

    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fast => "fast",
            Self::Fastest => "fastest",
        }
    }

    /// The profile of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    pub(crate) fn keys(self) -> KeyCache {
        match self {
            Self::Default | Self::Fast => KeyCache::Wide,
            Self::Fastest => KeyCache::Narrow,
        }
    }

    /// The activation mode of matrices in a role; the cap of A8b is still to be chosen.
    pub(crate) fn activation(self, role: Role) -> Activation {
        match (self, role) {
            (Self::Fastest, _) => Activation::A8,
            (Self::Fast, Role::Body) => Activation::A8b { cap: u8::MAX },
            (Self::Default, _) | (Self::Fast, Role::Head | Role::Embedding) => Activation::A16,
        }
    }
}

/// What is to become of a checkpoint.
#[derive(Clone, Debug)]
pub struct Options {
    /// Activations and cache.
    pub profile: Profile,
    /// The format of the layers' matrices. `None` keeps the codes of quantized tensors and takes U8b8 for others. A
    /// quantized tensor whose codes the format keeps is transcribed, any other is quantized anew.
    pub body: Option<Format>,
    /// The same for embedding and head.
    pub head: Option<Format>,
    /// Formats of single matrices, by name, instead of the two above.
    pub formats: BTreeMap<String, Format>,
    /// What matrices read; those that do not keep their codes are quantized by it.
    pub calibration: Option<Arc<Calibration>>,
    /// F, 8..=20.
    pub fraction_bits: u32,
    /// Threads to work on; the result does not depend on them.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: Profile::Default,
            body: None,
            head: None,
            formats: BTreeMap::new(),
            calibration: None,
            fraction_bits: 12,
            threads: 1,
        }
    }
}

/// A converted checkpoint.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The model, with its planes in memory.
    pub model: Model,
    /// Where it came from.
    pub provenance: Provenance,
    /// Matrices of quantized tensors that did not keep their codes: another format was asked for, or none fits.
    pub requantized: Vec<String>,
}

/// What a model directory says about its origin; it decides no bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// [`Profile::name`].
    pub profile: &'static str,
    /// The last component of the checkpoint's path.
    pub source: String,
    /// The version of this crate.
    pub version: &'static str,
}

/// The format of tensors without codes of their own.
const FLOAT_FORMAT: &str = "U8b8";

/// `source` with embedding and head in a rotated basis: their rows are transformed by [`encode::rotate`], and the program
/// takes that back after a lookup and does the same to what the head reads, which together change nothing but rounding.
/// Codes of their own are then lost.
///
/// # Errors
/// [`ConvertError::Option`] where their columns are not a multiple of [`encode::ROTATION`], and whatever makes the source
/// unfit.
pub fn rotate(mut source: Source) -> Result<Source, ConvertError> {
    for plan in matrices(&source)?.iter().filter(|plan| plan.role != Role::Body) {
        if !plan.columns.is_multiple_of(encode::ROTATION) {
            let problem = format!("{} has {} columns, no multiple of {}", plan.name, plan.columns, encode::ROTATION);
            return Err(ConvertError::Option { option: "rotate", problem, remedy: "convert without it".to_owned() });
        }
        let name = format!("{}.weight", plan.name);
        let rotated = tensor(&source, &name)?.rotated();
        source.tensors.insert(name, rotated);
    }
    source.rotated = true;
    Ok(source)
}

/// The model that `source` becomes, but for its matrices.
pub(crate) fn lowered(source: &Source, options: &Options) -> Result<Lowered, ConvertError> {
    let mut lowered = arch::lower(source, options.fraction_bits, options.profile.keys())?;
    if source.rotated {
        let rotation = |slot| Op::Hadamard { slot, head_width: encode::ROTATION };
        for at in (0..lowered.body.len()).rev() {
            if let Op::Embed { out, .. } = lowered.body[at] {
                lowered.body.insert(at + 1, rotation(out));
            }
        }
        for at in (0..lowered.head.len()).rev() {
            if let Op::Linear { input, .. } = lowered.head[at] {
                lowered.head.insert(at, rotation(input));
            }
        }
    }
    Ok(lowered)
}

/// The matrices that `source` has, in the order in which they are converted.
///
/// # Errors
/// Whatever makes the source unfit.
pub fn matrices(source: &Source) -> Result<Vec<MatrixPlan>, ConvertError> {
    let options = Options::default();
    Ok(arch::lower(source, options.fraction_bits, options.profile.keys())?.matrices)
}

/// Converts `source`. After every matrix `progress` is told how many are done, how many there are, and the last's name;
/// it answers whether to go on.
///
/// # Errors
/// [`ConvertError::Option`] for options out of range, [`ConvertError::Stopped`], and whatever makes the source unfit.
pub fn convert(
    source: &Source, options: &Options, progress: &mut dyn FnMut(usize, usize, &str) -> bool,
) -> Result<Converted, ConvertError> {
    check(options)?;
    let Lowered { vocabulary, context, matrices: plans, vectors, slots, body, head } = lowered(source, options)?;
    let choices = choices(source, &plans, options)?;
    let pool = Pool::new(options.threads);
    let mut matrices = Vec::with_capacity(plans.len());
    let mut sums = Vec::with_capacity(plans.len());
    let mut requantized = Vec::new();
    for (plan, choice) in plans.iter().zip(&choices) {
        let matrix = matrix(source, plan, choice, options, &pool)?;
        if choice.requantized {
            requantized.push(plan.name.clone());
        }
        sums.push(magnitudes(&matrix, &pool));
        matrices.push(matrix);
        if !progress(matrices.len(), plans.len(), &plan.name) {
            return Err(ConvertError::Stopped);
        }
    }
    share_caps(source, body.iter().chain(&head), &sums, &mut matrices)?;
    for (matrix, sums) in matrices.iter_mut().zip(&sums) {
        matrix.preshift = sums.preshift(matrix.activation);
    }
    let model =
        Model { fraction_bits: options.fraction_bits, vocabulary, context, matrices, vectors, slots, body, head };
    let name = source.path.file_name().unwrap_or(source.path.as_os_str());
    let provenance = Provenance {
        profile: options.profile.name(),
        source: name.to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(Converted { model, provenance, requantized })
}

pub(crate) fn check(options: &Options) -> Result<(), ConvertError> {
    let fault = |option, problem, remedy| Err(ConvertError::Option { option, problem, remedy });
    if !(8..=20).contains(&options.fraction_bits) {
        let problem = format!("it is {}", options.fraction_bits);
        return fault("fraction_bits", problem, "pass a number from 8 to 20".to_owned());
    }
    if options.threads == 0 {
        return fault("threads", "it is 0".to_owned(), "pass at least 1".to_owned());
    }
    Ok(())
}

/// How a matrix is to be stored.
pub(crate) struct Choice {
    pub(crate) format: Format,
    /// What keeps the tensor's own codes, where the format does.
    pub(crate) kept: Option<Transcription>,
    /// Whether codes of the source are lost.
    requantized: bool,
}

/// A choice for every plan, all of them before any long work.
pub(crate) fn choices(source: &Source, plans: &[MatrixPlan], options: &Options) -> Result<Vec<Choice>, ConvertError> {
    if let Some(name) = options.formats.keys().find(|&name| plans.iter().all(|plan| plan.name != *name)) {
        let remedy = "name one of the checkpoint's matrices".to_owned();
        return Err(ConvertError::Option { option: "formats", problem: format!("there is no matrix {name}"), remedy });
    }
    plans.iter().map(|plan| choice(source, plan, options)).collect()
}

fn choice(source: &Source, plan: &MatrixPlan, options: &Options) -> Result<Choice, ConvertError> {
    let weight = format!("{}.weight", plan.name);
    let tensor = tensor(source, &weight)?;
    let (option, asked) = match (options.formats.get(&plan.name), plan.role) {
        (Some(&format), _) => ("formats", Some(format)),
        (None, Role::Body) => ("body", options.body),
        (None, _) => ("head", options.head),
    };
    let own = encode::kept(tensor)?;
    let format = asked.or_else(|| Some(own?.format)).or_else(|| Format::parse(FLOAT_FORMAT));
    let Some(format) = format else {
        return Err(error(source, &weight, "no format fits it".to_owned(), "pass a format"));
    };
    let kept = own.and_then(|own| own.in_format(format));
    if kept.is_none() {
        quantizable(&plan.name, format, option)?;
    }
    Ok(Choice { format, kept, requantized: kept.is_none() && !tensor.is_float() })
}

/// Refuses a format that real weights are not quantized to, which `option` asks for.
pub(crate) fn quantizable(matrix: &str, format: Format, option: &'static str) -> Result<(), ConvertError> {
    let default_block = Format { block: DEFAULT_BLOCK, ..format };
    if QUANTIZED.contains(&default_block.to_string().as_str()) {
        return Ok(());
    }
    let remedy = format!("pass {}, or one with /16, /64 or /128 after b4, b8 or z8", QUANTIZED.join(", "));
    let problem = format!("{matrix}: real weights are not quantized to {format}");
    Err(ConvertError::Option { option, problem, remedy })
}

/// What `options` say of the inputs of a matrix.
pub(crate) fn guidance(source: &Source, plan: &MatrixPlan, options: &Options) -> Result<Guidance, ConvertError> {
    let Some(set) = options.calibration.as_ref().and_then(|calibration| calibration.find(&plan.name)) else {
        return Ok(Guidance::None);
    };
    let guidance = set.guidance().filter(|guidance| guidance.fits(plan.columns)).ok_or_else(|| {
        let problem = format!("the calibration has {} inputs for it, not {}", set.columns, plan.columns);
        error(source, &plan.name, problem, "pass a calibration of this checkpoint")
    })?;
    Ok(if source.rotated && plan.role != Role::Body { guidance.rotated() } else { guidance })
}

/// The matrix of a plan, with the activation mode of its role and no pre-shift yet.
fn matrix(
    source: &Source, plan: &MatrixPlan, choice: &Choice, options: &Options, pool: &Pool,
) -> Result<Matrix, ConvertError> {
    let weight = format!("{}.weight", plan.name);
    let tensor = tensor(source, &weight)?;
    let guidance = if choice.kept.is_some() { Guidance::None } else { guidance(source, plan, options)? };
    let encoded = encode::encode(tensor, choice.format, choice.kept, &guidance, pool)
        .map_err(|fault| row_error(source, &weight, fault))?;
    let mut planes = encoded.planes;
    if plan.bias {
        planes.bias = Some(bias(source, &format!("{}.bias", plan.name), options.fraction_bits)?);
    }
    Ok(Matrix {
        name: plan.name.clone(),
        rows: plan.rows,
        columns: plan.columns,
        format: choice.format,
        table: encoded.table,
        activation: options.profile.activation(plan.role),
        preshift: 0,
        planes,
    })
}

/// What an encoder found wrong in a tensor.
pub(crate) fn row_error(source: &Source, tensor: &str, fault: RowError) -> ConvertError {
    match fault {
        RowError::Read(fault) => ConvertError::Source(fault),
        RowError::TooLarge(row) => {
            let problem = format!("row {row}: weights are too large for a row constant of 23 bits");
            error(source, tensor, problem, "the checkpoint is damaged: fetch it again")
        }
    }
}

/// The plane of a bias: i32 in QF.
fn bias(source: &Source, name: &str, fraction_bits: u32) -> Result<Plane, ConvertError> {
    let values = tensor(source, name)?.vector_f32()?;
    let mut plane = AlignedBytes::zeroed((4 * values.len()).next_multiple_of(64));
    for (bytes, &value) in plane.as_mut_slice().as_chunks_mut::<4>().0.iter_mut().zip(&values) {
        let Some(value) = constants::bias(value, fraction_bits) else {
            let problem = format!("{value:e} leaves 32 bits with {fraction_bits} of them after the point");
            return Err(error(source, name, problem, "convert with fewer fraction bits"));
        };
        *bytes = value.to_le_bytes();
    }
    Ok(plane.into())
}

/// Gives the matrices of each linear op in mode A8b the smallest cap among theirs.
fn share_caps<'a>(
    source: &Source, ops: impl Iterator<Item = &'a Op>, sums: &[Magnitudes], matrices: &mut [Matrix],
) -> Result<(), ConvertError> {
    for op in ops {
        let Op::Linear { outputs, .. } = op else { continue };
        let mut smallest = u8::MAX;
        for &(id, _) in outputs {
            let Some(cap) = sums[id].choose_cap() else {
                let problem = "sums of its integer weights leave no room for 8-bit activations".to_owned();
                let name = format!("{}.weight", matrices[id].name);
                return Err(error(source, &name, problem, "choose another format or profile"));
            };
            smallest = smallest.min(cap);
        }
        for &(id, _) in outputs {
            if let Activation::A8b { cap } = &mut matrices[id].activation {
                *cap = smallest;
            }
        }
    }
    Ok(())
}

pub(crate) fn tensor<'a>(source: &'a Source, name: &str) -> Result<&'a Tensor, ConvertError> {
    let missing = || error(source, name, "it is missing".to_owned(), "fetch the checkpoint again");
    source.tensors.get(name).ok_or_else(missing)
}

pub(crate) fn error(source: &Source, tensor: &str, problem: String, remedy: &'static str) -> ConvertError {
    ConvertError::Tensor { path: source.path.clone(), tensor: tensor.to_owned(), problem, remedy }
}
