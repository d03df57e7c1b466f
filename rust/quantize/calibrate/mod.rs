//! Calibration: second moments of what every matrix reads while the integer engine runs a text (docs/CALIBRATION.md).
mod file;
mod moments;
mod observe;
mod trial;
mod weights;

use crate::encode::{Guidance, Moments};
use intact::model::Loaded;
use intact::{Engine, RequestError};
use intact_core::cpu::Pool;
use intact_core::program::Model;
use observe::Observer;
use std::collections::BTreeMap;
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
    /// By gradients that a caller gives with each window.
    Gradient,
}

impl Weighting {
    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auto => "auto",
            Self::Gradient => "gradient",
        }
    }

    /// The weighting of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Auto, Self::Gradient].into_iter().find(|weighting| weighting.name() == name)
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
    /// A window came without the gradients that its weighting needs, or with such that do not fit.
    #[error("calibration: the gradients of {matrix} do not fit the window")]
    Gradients {
        /// The matrix.
        matrix: String,
    },
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

/// What one matrix's outputs mean for the loss, over one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// The weight of each token.
    pub weights: Vec<f64>,
    /// Other vectors of as many elements as the matrix has columns, of weight 1, in QF: where it is an embedding as well.
    pub rows: Vec<i32>,
    /// What a unit of relative error energy costs, in nats.
    pub sensitivity: f64,
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

    /// What encoders make of them; `None` where they are no moments.
    #[must_use]
    pub fn guidance(&self) -> Option<Guidance> {
        match self.moments() {
            Some(moments) => Moments::new(self.columns, moments.to_vec()).map(Guidance::Moments),
            None => Some(Guidance::Importance(self.importance())),
        }
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
    /// By matrix, the sum over windows of what a unit of relative error energy costs; empty without gradients.
    pub sensitivities: BTreeMap<String, f64>,
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
        Ok(Self { settings, windows: 0, sets, sensitivities: BTreeMap::new() })
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
    /// `gradients`, by matrix, are what [`Weighting::Gradient`] needs, and nothing else takes.
    ///
    /// # Errors
    /// [`Error::Request`], [`Error::Program`], [`Error::Gradients`]. The sums are then not to be used.
    pub fn add(
        &mut self, engine: &mut Engine, pool: &Pool, tokens: &[u32], gradients: &BTreeMap<String, Gradient>,
    ) -> Result<(), Error> {
        self.check(tokens.len(), gradients)?;
        let certified = engine.certified();
        let model: &Model = certified.model();
        let plans = observe::plan(model, self.settings.weighting);
        let mut observer = Observer::new(model, pool, &plans, &mut self.sets, tokens.len(), gradients);
        engine.observe(tokens, &mut |values| observer.see(values))?;
        observer.finish()?;
        for (matrix, gradient) in gradients {
            *self.sensitivities.entry(matrix.clone()).or_default() += gradient.sensitivity;
        }
        self.windows += 1;
        Ok(())
    }

    /// Whether the gradients are those of every set, and of a window of so many tokens.
    fn check(&self, tokens: usize, gradients: &BTreeMap<String, Gradient>) -> Result<(), Error> {
        let mut sets = self.sets.iter().filter(|_| self.settings.weighting == Weighting::Gradient);
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite() && *value >= 0.0);
        let fits = |set: &Set| {
            gradients.get(&set.matrices[0]).is_some_and(|given| {
                given.weights.len() == tokens
                    && given.rows.len().is_multiple_of(set.columns)
                    && finite(&given.weights)
                    && finite(&[given.sensitivity])
            })
        };
        match sets.find(|set| !fits(set)) {
            Some(set) => Err(Error::Gradients { matrix: set.matrices[0].clone() }),
            None => Ok(()),
        }
    }

    /// What a unit of relative error energy of a matrix costs, in nats per token; `None` without gradients.
    #[must_use]
    pub fn sensitivity(&self, matrix: &str) -> Option<f64> {
        self.sensitivities.get(matrix).map(|sum| sum / self.windows.max(1) as f64)
    }

    /// The set that a matrix belongs to.
    #[must_use]
    pub fn find(&self, matrix: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.matrices.iter().any(|name| name == matrix))
    }
}
