//! What formats would make of a checkpoint: sizes and losses, before it is converted.
use crate::arch::{Lowered, MatrixPlan};
use crate::convert::{self, ConvertError, Options};
use crate::encode::{self, PlaneBuffers};
use crate::import::Source;
use intact_core::cpu::Pool;
use intact_core::formats::{Format, N4_DEFAULT_TABLE};
use intact_core::matrix::{Activation, Matrix};
use intact_core::program::Model;
use intact_core::storage::AlignedBytes;
use std::collections::BTreeMap;

/// The format that keeps the codes of a matrix's tensor; `None` where there is none.
///
/// # Errors
/// Whatever makes the tensor unfit.
pub fn own_format(source: &Source, matrix: &str) -> Result<Option<Format>, ConvertError> {
    let tensor = convert::tensor(source, &format!("{matrix}.weight"))?;
    Ok(encode::kept(tensor)?.map(|own| own.format))
}

/// The model that [`convert::convert`] gives, all planes of its matrices being empty, for its size on disk: pre-shifts
/// and caps, which depend on weights, are as long as they can be.
///
/// # Errors
/// As for [`convert::convert`], as far as it does not look at weights.
pub fn outline(source: &Source, options: &Options) -> Result<Model, ConvertError> {
    convert::check(options)?;
    let Lowered { vocabulary, context, matrices: plans, vectors, slots, body, head } =
        convert::lowered(source, options)?;
    let choices = convert::choices(source, &plans, options)?;
    let matrix = |(plan, choice): (&MatrixPlan, &convert::Choice)| {
        let mut planes = PlaneBuffers::new(choice.format, 0, plan.columns).finish();
        planes.bias = plan.bias.then(|| AlignedBytes::zeroed(0).into());
        Matrix {
            name: plan.name.clone(),
            rows: plan.rows,
            columns: plan.columns,
            format: choice.format,
            table: choice.kept.map_or(N4_DEFAULT_TABLE, |kept| kept.table),
            activation: match options.profile.activation(plan.role) {
                Activation::A8b { .. } => Activation::A8b { cap: u8::MAX },
                other => other,
            },
            preshift: u8::MAX,
            planes,
        }
    };
    let matrices = plans.iter().zip(&choices).map(matrix).collect();
    Ok(Model { fraction_bits: options.fraction_bits, vocabulary, context, matrices, vectors, slots, body, head })
}

/// The losses ([`encode::losses`]) of some matrices in some formats, guided by the calibration of `options`, of which
/// nothing else but `threads` counts. `progress` is as for [`convert::convert`].
///
/// # Errors
/// As for [`convert::convert`].
pub fn survey(
    source: &Source, candidates: &BTreeMap<String, Vec<Format>>, options: &Options,
    progress: &mut dyn FnMut(usize, usize, &str) -> bool,
) -> Result<BTreeMap<String, Vec<f64>>, ConvertError> {
    convert::check(options)?;
    let plans = convert::matrices(source)?;
    let plan = |name: &String| {
        let missing = || convert::error(source, name, "it is no matrix".to_owned(), "name one of the checkpoint's");
        plans.iter().find(|plan| plan.name == *name).ok_or_else(missing)
    };
    let pool = Pool::new(options.threads);
    let mut out = BTreeMap::new();
    for (name, formats) in candidates {
        let plan = plan(name)?;
        for &format in formats {
            convert::quantizable(name, format, "formats")?;
        }
        let weight = format!("{name}.weight");
        let guidance = convert::guidance(source, plan, options)?;
        let losses = encode::losses(convert::tensor(source, &weight)?, formats, &guidance, &pool)
            .map_err(|fault| convert::row_error(source, &weight, fault))?;
        out.insert(name.clone(), losses);
        if !progress(out.len(), candidates.len(), name) {
            return Err(ConvertError::Stopped);
        }
    }
    Ok(out)
}
