//! Calibration: second moments of what every matrix reads while the integer engine runs a text (docs/CALIBRATION.md).
mod file;
mod moments;
mod observe;
mod weights;

use intact::model::Loaded;
use intact::{Engine, RequestError};
use intact_core::cpu::Pool;
use intact_core::program::Model;
use observe::Observer;
use std::path::PathBuf;

/// Longest window, in tokens.
pub const LONGEST_WINDOW: usize = 1 << 16;

/// How much each token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// All the same.
    None,
    /// In the inputs of query, key and value projections by an estimate of the gradient energy at their outputs, taken
    /// from the attention; elsewhere all the same.
    Auto,
}

impl Weighting {
    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
        }
    }

    /// The weighting of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Auto].into_iter().find(|weighting| weighting.name() == name)
    }
}

/// What a calibration is of; two with equal settings go on from one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The model's digest, 64 hexadecimal digits.
    pub model: String,
    /// SHA-256 of the text, 64 hexadecimal digits.
    pub text: String,
    /// Tokens per window, 1…[`LONGEST_WINDOW`].
    pub window: usize,
    /// How tokens are weighed.
    pub weighting: Weighting,
    /// All second moments, rather than those of each column with itself.
    pub full: bool,
}

/// What can go wrong while a calibration is made or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine cannot run the window.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The sums do not fit into memory.
    #[error("calibration: {bytes} bytes of sums do not fit into memory; calibrate without full moments")]
    OutOfMemory {
        /// Bytes of all sums.
        bytes: usize,
    },
    /// A calibration that was to be continued is of something else.
    #[error(
        "calibration: the file to resume has another {field}; give another output, or the same model, text and options"
    )]
    Other {
        /// What differs.
        field: &'static str,
    },
    /// The model's projections lead to no attention that was seen.
    #[error("calibration: the program's attention cannot be followed; use the weighting none")]
    Program,
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] crate::error::Error),
    /// A file cannot be written.
    #[error("{}: cannot be written: {cause}; check the directory and the space that is left", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
}

/// Moments of the inputs that one or more matrices read.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// The matrices, which share inputs and weights of tokens; at least one.
    pub matrices: Vec<String>,
    /// Inputs per token.
    pub columns: usize,
    full: bool,
    sums: Vec<f64>,
}

impl Set {
    /// The weighted sum of squares of each column, `columns` values.
    #[must_use]
    pub fn importance(&self) -> Vec<f64> {
        if !self.full {
            return self.sums.clone();
        }
        (0..self.columns).map(|k| self.sums[moments::packed(k) + k]).collect()
    }

    /// The lower triangle of all second moments, row j with columns 0…j, where the calibration has them.
    #[must_use]
    pub fn moments(&self) -> Option<&[f64]> {
        self.full.then_some(&*self.sums)
    }

    fn add(&mut self, x: &[i32], gains: &[u32], pool: &Pool) {
        if self.full {
            moments::add_moments(x, gains, self.columns, &mut self.sums, pool);
        } else {
            moments::add_diagonal(x, gains, &mut self.sums);
        }
    }
}

/// Moments of the inputs of every matrix of a model, over the windows that were run so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// What it is of.
    pub settings: Settings,
    /// Windows that are in the sums.
    pub windows: u64,
    /// One for each set of matrices, in the program's order.
    pub sets: Vec<Set>,
}

impl Calibration {
    /// Empty sums for a model.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(model: &Loaded, settings: Settings) -> Result<Self, Error> {
        let model = model.certified.model();
        let plans = observe::plan(model, settings.weighting);
        let length = |columns: usize| if settings.full { moments::packed(columns) } else { columns };
        let total = plans.iter().map(|plan| length(model.matrices[plan.matrices[0]].columns) * 8).sum();
        let mut sets = Vec::with_capacity(plans.len());
        for plan in plans {
            let columns = model.matrices[plan.matrices[0]].columns;
            let mut sums = Vec::new();
            sums.try_reserve_exact(length(columns)).map_err(|_| Error::OutOfMemory { bytes: total })?;
            sums.resize(length(columns), 0.0);
            let matrices = plan.matrices.iter().map(|&id| model.matrices[id].name.clone()).collect();
            sets.push(Set { matrices, columns, full: settings.full, sums });
        }
        Ok(Self { settings, windows: 0, sets })
    }

    /// Goes on from `saved`, which must be of the same settings and matrices.
    ///
    /// # Errors
    /// [`Error::Other`].
    pub fn resume(&mut self, saved: Self) -> Result<(), Error> {
        let (mine, theirs) = (&self.settings, &saved.settings);
        let shapes = |sets: &[Set]| -> Vec<_> { sets.iter().map(|set| (set.matrices.clone(), set.columns)).collect() };
        let fields = [
            ("model", mine.model == theirs.model),
            ("window", mine.window == theirs.window),
            ("weighting", mine.weighting == theirs.weighting),
            ("choice of moments", mine.full == theirs.full),
            ("text", mine.text == theirs.text),
            ("list of matrices", shapes(&self.sets) == shapes(&saved.sets)),
        ];
        match fields.iter().find(|(_, same)| !same) {
            Some(&(field, _)) => Err(Error::Other { field }),
            None => {
                *self = saved;
                Ok(())
            }
        }
    }

    /// Runs one window of at least one token on `engine`, an engine of the model that this was made for, and adds it.
    ///
    /// # Errors
    /// [`Error::Request`], [`Error::Program`]. The sums are then not to be used.
    pub fn add(&mut self, engine: &mut Engine, pool: &Pool, tokens: &[u32]) -> Result<(), Error> {
        let certified = engine.certified();
        let model: &Model = certified.model();
        let plans = observe::plan(model, self.settings.weighting);
        let mut observer = Observer::new(model, pool, &plans, &mut self.sets, tokens.len());
        engine.observe(tokens, &mut |values| observer.see(values))?;
        observer.finish()?;
        self.windows += 1;
        Ok(())
    }

    /// The set that a matrix belongs to.
    #[must_use]
    pub fn find(&self, matrix: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.matrices.iter().any(|name| name == matrix))
    }
}
