//! What a matrix's errors cost, by trial: it loses most of its bits, alone, and the logits tell.
use super::{Calibration, Error};
use crate::encode;
use intact::model::Loaded;
use intact_core::certify::{Certified, certify};
use intact_core::cpu::{Batch, Cpu, Pool, Token};
use intact_core::executor::Executor;
use intact_core::fixed::{LOG2_E_Q30, exp2, requant, sat};
use intact_core::formats::Format;
use intact_core::kernels::Kernels;
use intact_core::ops::softcap::softcap;
use intact_core::program::Op;
use intact_core::storage::heap;
use std::sync::Arc;

/// What a matrix is quantized to, and one that makes logits: much coarser than the noise of activations.
const FORMAT: &str = "U2b8";
const HEAD_FORMAT: &str = "U3b8";
/// The logits of one token in so many are compared.
const EVERY: usize = 8;
/// Positions per cache page.
const PAGE: usize = 64;
/// Shares of a distribution are in units of 2^-24 of the largest.
const SHARE_BITS: u32 = 24;

/// A distribution: the tokens with a share above 0, their shares and logits.
type Distribution = Vec<(u32, u32, i32)>;

impl Calibration {
    /// Measures what a unit of relative error energy costs, in nats per token, of each matrix in the sums whose
    /// sensitivity is not known yet. Each is quantized to 2 bits, alone, by these sums; the cost is half of the variance of
    /// what that changes in the logits, under the model's distribution, which is the KL divergence to second order, over
    /// the relative error energy. `windows`, each at least one token, are the text. `progress` is told how many of how many
    /// matrices are done, and stops the work by `false`.
    ///
    /// Windows of fewer than 8 tokens tell nothing, and leave sensitivities unknown.
    ///
    /// # Errors
    /// [`Error::Other`] for another model than that of the sums, [`Error::OutOfMemory`] where the logits do not fit.
    ///
    /// # Panics
    /// When a token is not below the vocabulary, or a window is longer than the context.
    pub fn try_matrices(
        &mut self, model: &Loaded, pool: &Arc<Pool>, windows: &[Vec<u32>],
        progress: &mut dyn FnMut(usize, usize, &str) -> bool,
    ) -> Result<(), Error> {
        if model.manifest.digest != self.settings.model {
            return Err(Error::Other { field: "model" });
        }
        if windows.iter().all(|window| window.len() < EVERY) {
            return Ok(());
        }
        let base = &model.certified;
        let reference: Vec<Distribution> = distributions(base, &logits(base, pool, windows)?, pool);
        let names: Vec<(usize, String)> = self
            .sets
            .iter()
            .enumerate()
            .flat_map(|(set, found)| found.matrices.iter().map(move |name| (set, name.clone())))
            .filter(|(_, name)| !self.sensitivities.contains_key(name))
            .collect();
        let head: Vec<usize> = base.model().head.iter().flat_map(heads).collect();
        for (done, (set, name)) in names.iter().enumerate() {
            let Some(id) = base.model().matrices.iter().position(|matrix| matrix.name == *name) else { continue };
            let format = Format::parse(if head.contains(&id) { HEAD_FORMAT } else { FORMAT });
            let guidance = self.sets[*set].guidance();
            let degraded = format
                .zip(guidance)
                .and_then(|(format, guidance)| encode::degraded(&base.model().matrices[id], format, &guidance, pool));
            if let Some((matrix, lost)) = degraded.filter(|(_, lost)| *lost > 0.0) {
                let mut changed = base.model_as_written();
                changed.matrices[id] = matrix;
                // Bounds that only the matrix in this format exceeds say nothing of it in others.
                if let Ok(changed) = certify(changed, pool) {
                    let logits = logits(&Arc::new(changed), pool, windows)?;
                    let cost = divergence(&reference, &logits, base, pool);
                    self.sensitivities.insert(name.clone(), cost / lost * self.windows as f64);
                }
            }
            if !progress(done + 1, names.len(), name) {
                break;
            }
        }
        Ok(())
    }
}

/// The matrices of an op of the head.
fn heads(op: &Op) -> Vec<usize> {
    match op {
        Op::Linear { outputs, .. } => outputs.iter().map(|&(matrix, _)| matrix).collect(),
        _ => Vec::new(),
    }
}

/// The logits of every [`EVERY`]th token of each window, which runs on its own.
fn logits(model: &Arc<Certified>, pool: &Arc<Pool>, windows: &[Vec<u32>]) -> Result<Vec<i32>, Error> {
    let Some(kernels) = Kernels::choose(None) else { unreachable!("the reference is always there") };
    let mut cpu = Cpu::new(Arc::clone(model), kernels, Arc::clone(pool), PAGE, heap);
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0).div_ceil(PAGE);
    let table: Vec<u32> = (0..longest as u32).collect();
    let count: usize = windows.iter().map(|window| window.len() / EVERY).sum();
    let bytes = count * model.model().vocabulary * 4;
    let mut logits = Vec::new();
    let reserved = cpu.reserve(longest).is_ok() && logits.try_reserve_exact(bytes / 4).is_ok();
    if !reserved {
        return Err(Error::OutOfMemory { bytes });
    }
    for window in windows {
        let token = |(&id, position): (&u32, u32)| Token {
            id,
            sequence: 0,
            position,
            logits: (position as usize + 1).is_multiple_of(EVERY),
        };
        let tokens: Vec<Token> = window.iter().zip(0..).map(token).collect();
        for part in tokens.chunks(256) {
            let batch = Batch { tokens: part, tables: &[&table] };
            if cpu.forward(&batch, &mut logits, None).is_err() {
                return Err(Error::OutOfMemory { bytes });
            }
        }
    }
    if let Some(cap) = model.final_softcap() {
        logits.iter_mut().for_each(|x| *x = softcap(*x, cap, model.model().fraction_bits));
    }
    Ok(logits)
}

/// The distribution of each row of logits.
fn distributions(model: &Certified, logits: &[i32], pool: &Pool) -> Vec<Distribution> {
    let (vocabulary, shift) = (model.model().vocabulary, model.model().fraction_bits as i32 + 14);
    pool.map(logits.len() / vocabulary, |row| {
        let row = &logits[row * vocabulary..][..vocabulary];
        let largest = i64::from(row.iter().copied().max().unwrap_or(0));
        let share = |logit: i32| exp2(requant(sat(i64::from(logit) - largest), LOG2_E_Q30, shift), SHARE_BITS);
        (0..).zip(row).map(|(id, &logit)| (id, share(logit), logit)).filter(|token| token.1 > 0).collect()
    })
}

/// Half of the mean variance of what changes in logits, in squares of nats.
fn divergence(reference: &[Distribution], logits: &[i32], model: &Certified, pool: &Pool) -> f64 {
    let (vocabulary, unit) = (model.model().vocabulary, f64::from(1u32 << model.model().fraction_bits));
    let variances = pool.map(reference.len(), |row| {
        let changed = &logits[row * vocabulary..][..vocabulary];
        let (mut total, mut first, mut second) = (0i128, 0i128, 0i128);
        for &(id, share, logit) in &reference[row] {
            let (share, change) = (i128::from(share), i128::from(i64::from(changed[id as usize]) - i64::from(logit)));
            (total, first, second) = (total + share, first + share * change, second + share * change * change);
        }
        let mean = first as f64 / total as f64;
        second as f64 / total as f64 - mean * mean
    });
    let sum = variances.iter().fold(0.0, |sum, variance| sum + variance);
    // Rounding may leave a trifle below 0.
    (sum / reference.len().max(1) as f64 / (2.0 * unit * unit)).max(0.0)
}
