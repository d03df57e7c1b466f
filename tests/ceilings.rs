//! What scales alone promise about weights holds for the weights.

use intact::core::bounds::{Ceiling, Magnitudes};
use intact::core::formats::{Format, TILE};
use intact::core::matrix::Activation;
use intact_conformance::fills::{Fill, Rng, matrix};

#[test]
fn no_code_exceeds_the_ceiling() {
    let mut rng = Rng::new(7);
    for format in Format::all() {
        for (i, fill) in Fill::ALL.into_iter().enumerate() {
            let (rows, columns) = ([16, 5, 33][i % 3], [128, 580, 33, 512, 1][i]);
            let matrix = matrix(format, Activation::A16, [rows, columns], fill, &mut rng);
            let level = Ceiling::level(&matrix);
            for tile in 0..matrix.tiles() {
                let rows = tile * TILE..((tile + 1) * TILE).min(rows);
                let (ceiling, found) = (Ceiling::of(&matrix, level, tile), Magnitudes::measure(&matrix, rows));
                let at = format!("{format}, {fill:?}, tile {tile}: {ceiling:?}, {found:?}");
                assert!(ceiling.chunk_128 >= found.chunk_128, "{at}");
                assert!(128 * u64::from(ceiling.weight) >= ceiling.chunk_128.min(found.chunk_128), "{at}");
            }
        }
    }
}
