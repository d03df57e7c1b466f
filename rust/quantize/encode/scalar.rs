//! Rows of scalar codes: block after block, each with the scale that serves its targets best.
use super::feedback::Targets;
use super::grid::Grid;
use super::guidance::Guide;
use super::row::{Row, Unrepresentable};
use intact_core::formats::{Format, GROUP, PayloadKind, ScaleMode};

/// Scales of blocks whose targets errors have made larger find room below the largest.
const HEADROOM: f64 = 1.15;

/// The levels of a payload.
pub(super) fn grid(format: &Format, table: &[i8; 16]) -> Grid {
    let codes = 0..=format.payload.max_code() as i16;
    Grid::new(codes.map(|code| (f64::from(format.payload.level(code, table)), code)))
}

/// Whether this encoder serves a format: modes r, b4 and b8 of payloads with up to 64 levels.
pub(super) fn serves(format: &Format) -> bool {
    let few = !matches!(format.payload.kind(), PayloadKind::U8 | PayloadKind::W16 | PayloadKind::Trellis(_));
    few && format.mode != ScaleMode::Z8
}

/// Encodes up to 16 rows of finite values.
///
/// # Errors
/// The index of a row whose values are beyond the row constants.
pub(super) fn encode(
    format: &Format, table: &[i8; 16], guide: &Guide, values: &[Vec<f64>], rows: &mut [Row],
) -> Result<(), usize> {
    let grid = grid(format, table);
    let columns = values[0].len();
    let (least, most) = match format.mode {
        ScaleMode::R => (1, 1),
        ScaleMode::B4 => (0, 15),
        ScaleMode::B8 | ScaleMode::Z8 => (-255, 255),
    };
    let span = if most == 1 { columns } else { format.block };
    let real_scales = |row: &Vec<f64>| -> Vec<f64> {
        let blocks = row.chunks(span).zip(guide.weights.chunks(span));
        blocks.map(|(values, weights)| grid.best_scale(values, weights, least < 0)).collect()
    };
    let real_scales: Vec<Vec<f64>> = values.iter().map(real_scales).collect();
    let headroom = if guide.factor.is_some() && most > 1 { HEADROOM } else { 1.0 };
    let largest = |scales: &Vec<f64>| scales.iter().fold(0.0, |largest: f64, scale| largest.max(scale.abs()));
    let units: Vec<f64> = real_scales.iter().map(|scales| largest(scales) / f64::from(most) * headroom).collect();
    let mut targets = Targets::new(guide.factor.as_ref(), values, columns);
    rows.iter_mut().for_each(|row| row.clear(format, columns));
    let span = if most == 1 { GROUP } else { format.block };
    for first in (0..columns).step_by(span) {
        let end = (first + span).min(columns);
        targets.prepare(first..end, first);
        let weights = match &guide.factor {
            Some(factor) => factor.weights(first..end),
            None => guide.weights[first..end].to_vec(),
        };
        let mut steps = vec![0.0; rows.len()];
        for (r, row) in rows.iter_mut().enumerate().filter(|&(r, _)| units[r] > 0.0) {
            steps[r] = units[r];
            if most > 1 {
                let block: Vec<f64> = (first..end).map(|k| targets.get(r, k)).collect();
                let near = match guide.factor {
                    Some(_) => grid.best_scale(&block, &weights, least < 0),
                    None => real_scales[r][first / span],
                };
                let scale = grid.whole_scale(&block, &weights, near, units[r], (least, most));
                row.scales[first / span] = scale;
                steps[r] *= f64::from(scale);
            }
        }
        for k in first..end {
            targets.prepare(k..k + 1, k);
            for (r, row) in rows.iter_mut().enumerate() {
                let level = if steps[r] == 0.0 {
                    0.0
                } else {
                    let (level, code) = grid.nearest(targets.get(r, k) / steps[r]);
                    row.codes[k] = code;
                    level
                };
                targets.fix(r, k, steps[r] * level);
            }
        }
    }
    for (r, row) in rows.iter_mut().enumerate() {
        match row.set_unit(units[r]) {
            Err(Unrepresentable) => return Err(r),
            Ok(true) => {}
            Ok(false) => row.clear(format, columns),
        }
    }
    Ok(())
}
