//! A mutant's way through the engine, as far as it comes.

use crate::random::Random;
use intact::core::cpu::Pool;
use intact::core::formats::Format;
use intact::core::kernels::Kernels;
use intact::core::kernels::reference;
use intact::core::ops::sample::Sampling;
use intact::model::{Extras, write};
use intact::request::{Event, Request};
use intact::{Engine, Loaded, ModelError, Options, RequestError};
use intact_quantize::convert::{self, ConvertError, Profile, convert};
use intact_quantize::error::Error;
use intact_quantize::import::{Blocks, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as Cause;
use std::path::Path;
use std::sync::Arc;

/// Ran on two kernel sets with one result.
pub(crate) const RAN: &str = "accepted and run";

/// What a mutant met on its way, [`RAN`] among it where it was accepted.
pub(crate) type Met = BTreeSet<&'static str>;

/// The families of refusals that mutants of a checkpoint must meet, and those of a model directory.
pub(crate) const CHECKPOINT_FAMILIES: [&str; 11] = [
    RAN,
    "Io",
    "NotACheckpoint",
    "Malformed",
    "Unsupported",
    "AlreadyQuantized",
    "NotFinite",
    "Access",
    "Config",
    "Tensor",
    "Option",
];
pub(crate) const MODEL_FAMILIES: [&str; 7] =
    [RAN, "model Io", "model Manifest", "model Version", "model Planes", "model Hash", "model Refused"];

/// Rows of a tensor that are read one by one.
const ROWS: usize = 64;

struct Refusals<'a> {
    root: &'a Path,
    met: Met,
}

impl Refusals<'_> {
    /// Records an error, whose message must name the file and be fit for a terminal.
    fn meet(&mut self, family: &'static str, error: &dyn Cause) {
        const LONGEST: usize = 2_000;
        let message = error.to_string();
        let root = self.root.to_string_lossy();
        let fit = message.len() < LONGEST && !message.contains(char::is_control);
        assert!(fit, "a message of {} bytes: {message:.200?}", message.len());
        assert!(family == "Option" || message.contains(&*root), "a message without the file: {message}");
        self.met.insert(family);
    }

    fn model(&mut self, error: &ModelError) {
        let family = match error {
            ModelError::Io { .. } => "model Io",
            ModelError::Manifest { .. } => "model Manifest",
            ModelError::Version { .. } => "model Version",
            ModelError::Planes { .. } => "model Planes",
            ModelError::Hash { .. } => "model Hash",
            ModelError::Refused { .. } => "model Refused",
            ModelError::Exists { .. } => "model Exists",
        };
        self.meet(family, error);
    }

    fn source(&mut self, error: &Error) {
        let family = match error {
            Error::Io { .. } => "Io",
            Error::NotACheckpoint { .. } => "NotACheckpoint",
            Error::Malformed { .. } => "Malformed",
            Error::Unsupported { .. } => "Unsupported",
            Error::AlreadyQuantized { .. } => "AlreadyQuantized",
            Error::NotFinite { .. } => "NotFinite",
            Error::Access { .. } => "Access",
        };
        self.meet(family, error);
    }

    fn convert(&mut self, error: &ConvertError) {
        let family = match error {
            ConvertError::Source(error) => return self.source(error),
            ConvertError::Config { .. } => "Config",
            ConvertError::Tensor { .. } => "Tensor",
            ConvertError::Stopped => "Stopped",
            ConvertError::Option { .. } => "Option",
        };
        self.meet(family, error);
    }
}

/// Opens a model directory, compares its hashes and runs it.
pub(crate) fn model(path: &Path, root: &Path, random: &mut Random) -> Met {
    let mut refusals = Refusals { root, met: Met::new() };
    let pool = Arc::new(Pool::new(1));
    match Loaded::open(path, &pool) {
        Err(error) => refusals.model(&error),
        Ok(loaded) => {
            if let Err(error) = loaded.verify(&pool) {
                refusals.model(&error);
            }
            refusals.met.insert(run(&loaded, &pool, random));
        }
    }
    refusals.met
}

/// Opens a checkpoint, reads its tensors, converts it and runs the result.
pub(crate) fn checkpoint(path: &Path, root: &Path, random: &mut Random) -> Met {
    let mut refusals = Refusals { root, met: Met::new() };
    let source = match Source::open(path) {
        Ok(source) => source,
        Err(error) => {
            refusals.source(&error);
            return refusals.met;
        }
    };
    for tensor in source.tensors.values() {
        if let Err(error) = read(tensor) {
            refusals.source(&error);
        }
    }
    let converted = match convert(&source, &options(random), &mut |_, _, _| true) {
        Ok(converted) => converted,
        Err(error) => {
            refusals.convert(&error);
            return refusals.met;
        }
    };
    let pool = Arc::new(Pool::new(1));
    match Loaded::from_model(converted.model, path, &pool) {
        Err(error) => refusals.model(&error),
        Ok(loaded) => {
            if random.one_in(16) {
                write_and_read(&loaded, &root.join("written"), &pool);
            }
            refusals.met.insert(run(&loaded, &pool, random));
        }
    }
    refusals.met
}

/// Every way to read a tensor; the rows at its beginning and its last.
fn read(tensor: &intact_quantize::import::Tensor) -> Result<(), Error> {
    let (mut values, mut blocks) = (vec![0.0; tensor.columns()], Blocks::default());
    let rows = tensor.rows();
    for row in (0..rows.min(ROWS)).chain([rows - 1]) {
        tensor.row_f32(row, &mut values)?;
        if tensor.grid().is_some() {
            tensor.row_blocks(row, &mut blocks)?;
        }
    }
    if tensor.shape.len() == 1 {
        tensor.vector_f32()?;
    }
    Ok(())
}

/// Options that a user may give, sound and otherwise.
fn options(random: &mut Random) -> convert::Options {
    const FORMATS: [&str; 16] = [
        "U4b8", "U4z8", "U5b8", "U6z8", "U8b8", "U8z8/16", "N4b8/64", "U4b8/128", "W16r", "N4r", "T16r", "T20b8/16",
        "U2b4", "U3b8", "P20b8", "P35r",
    ];
    let mut format = || if random.one_in(3) { Format::parse(random.pick::<&str>(&FORMATS)) } else { None };
    let (body, head, one) = (format(), format(), format());
    let fraction_bits = if random.one_in(4) { random.between(7, 21) as u32 } else { 12 };
    let name = "model.layers.0.self_attn.v_proj.weight".to_string();
    let formats: BTreeMap<_, _> = one.map(|format| (name, format)).into_iter().collect();
    convert::Options {
        profile: *random.pick(&Profile::ALL),
        body,
        head,
        formats,
        fraction_bits,
        calibration: None,
        threads: 1,
    }
}

/// A directory that was written from a model is that model.
fn write_and_read(loaded: &Loaded, path: &Path, pool: &Pool) {
    let written = write(path, &loaded.certified.model_as_written(), &Extras::default(), true, pool);
    let digest = written.expect("an accepted model can be written").digest;
    let read = Loaded::open(path, pool).expect("what was written can be opened");
    read.verify(pool).expect("what was written is whole");
    assert_eq!((&read.manifest.digest, &loaded.manifest.digest), (&digest, &digest));
    std::fs::remove_dir_all(path).expect("the directory is ours");
}

/// The logits of three tokens and two requests, on the reference and on another kernel set.
fn run(loaded: &Loaded, pool: &Arc<Pool>, random: &mut Random) -> &'static str {
    /// Beyond it running takes as long as it should, which is too long here.
    const LONGEST_PROGRAM: usize = 30_000;
    let others = Kernels::available();
    let (fastest, other) = (others[others.len() - 1], *random.pick(&others));
    let model = loaded.certified.model();
    if model.body.len() + model.head.len() > LONGEST_PROGRAM {
        return "accepted, too long";
    }
    let tokens: Vec<u32> = (0..3.min(model.context)).map(|_| random.below(model.vocabulary) as u32).collect();
    let seed = random.word();
    let expected = results(loaded, pool, &reference::KERNELS, &tokens, seed);
    for kernels in [fastest, other] {
        let found = results(loaded, pool, kernels, &tokens, seed);
        assert!(found == expected, "{} computes something else than the reference", kernels.name);
    }
    if expected.is_ok() { RAN } else { "accepted, no memory" }
}

type Results = Result<(Vec<i32>, Vec<Event>), RequestError>;

fn results(loaded: &Loaded, pool: &Arc<Pool>, kernels: &'static Kernels, tokens: &[u32], seed: u64) -> Results {
    let options = Options { kernels, chunk: 2, max_sequences: 2, page: 4, kv_tokens: 64, share: 1 };
    let mut engine = Engine::new(loaded, Arc::clone(pool), options);
    let mut logits = Vec::new();
    engine.logits(tokens, &mut |row| logits.extend_from_slice(row))?;
    let mut events = Vec::new();
    for temperature in [0, 40_000] {
        let sampling = Sampling { temperature, top_k: 0, top_p: 62_000, min_p: 100, seed };
        let prompt = tokens.to_vec();
        engine.add(Request {
            prompt,
            max_tokens: 2,
            sampling,
            n: 1,
            stop_ids: Vec::new(),
            logprobs: Some(2),
            first_step: 0,
        })?;
    }
    while !engine.idle() {
        events.extend(engine.step()?);
    }
    Ok((logits, events))
}
