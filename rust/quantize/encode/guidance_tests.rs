//! What guidance is worth, and that neither threads nor odd matrices change or break anything.
use super::tests::{Random, decoded, matrix};
use super::*;

/// Rows, their inputs' moments packed, and the importance of columns.
fn problem(rows: usize, columns: usize) -> (Vec<Vec<f32>>, Moments, Vec<f64>) {
    let mut random = Random(21);
    let values: Vec<Vec<f32>> = (0..rows).map(|_| random.row(columns)).collect();
    let mixes: Vec<Vec<f64>> = (0..24).map(|_| (0..columns).map(|_| random.signed()).collect()).collect();
    let gains: Vec<f64> = (0..columns).map(|_| 0.2 + random.signed().abs()).collect();
    let mut lower = vec![0.0; columns * (columns + 1) / 2];
    for _ in 0..4 * columns {
        let mut x: Vec<f64> = gains.iter().map(|gain| gain * f64::from(random.normal()) / 2.0).collect();
        for mix in &mixes {
            let size = f64::from(random.normal()) / 4.0;
            x.iter_mut().zip(mix).for_each(|(x, mix)| *x += size * mix);
        }
        for i in 0..columns {
            for j in 0..=i {
                lower[i * (i + 1) / 2 + j] += x[i] * x[j];
            }
        }
    }
    let importance = (0..columns).map(|k| lower[k * (k + 1) / 2 + k]).collect();
    (values, Moments::new(columns, lower).unwrap(), importance)
}

fn rows_of(format: &Format, guide: &Guide, values: &[Vec<f32>]) -> Vec<Row> {
    let mut rows = vec![Row::default(); values.len()];
    quantize(format, &N4_DEFAULT_TABLE, guide, values, &mut rows).unwrap();
    rows
}

/// tr(E·H·Eᵀ) over that of the values themselves.
fn loss(format: &Format, guide: &Guide, values: &[Vec<f32>], moments: &Moments) -> f64 {
    let columns = values[0].len();
    let matrix = matrix(*format, N4_DEFAULT_TABLE, &rows_of(format, guide, values), columns);
    let (mut lost, mut whole) = (0.0, 0.0);
    for (r, row) in values.iter().enumerate() {
        let x: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let e: Vec<f64> = x.iter().zip(decoded(&matrix, r)).map(|(x, d)| x - d).collect();
        lost += moments.energy(&e);
        whole += moments.energy(&x);
    }
    lost / whole
}

#[test]
fn energies_of_rows_side_by_side_are_those_of_each() {
    let (values, moments, importance) = problem(5, 40);
    let mut columns = vec![[0.0; TILE]; 40];
    for (r, row) in values.iter().enumerate() {
        columns.iter_mut().zip(row).for_each(|(column, &x)| column[r] = f64::from(x));
    }
    let guides = [Guidance::None, Guidance::Importance(importance.clone()), Guidance::Moments(moments.clone())];
    let [plain, weighted, full] = guides.map(|guidance| guidance.energies(&columns));
    for (r, row) in values.iter().enumerate() {
        let x: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        assert_eq!(full[r], moments.energy(&x));
        assert_eq!(plain[r], x.iter().fold(0.0, |sum, x| sum + x * x));
        assert_eq!(weighted[r], x.iter().zip(&importance).fold(0.0, |sum, (x, w)| sum + x * x * w));
    }
    assert_eq!(full[values.len()..], [0.0; TILE][values.len()..]);
}

#[test]
fn feedback_and_importance_lower_the_loss() {
    let (values, moments, importance) = problem(8, 256);
    let pool = Pool::new(2);
    let guides = [Guidance::None, Guidance::Importance(importance), Guidance::Moments(moments.clone())];
    let guides = guides.map(|guidance| Guide::new(&guidance, 256, &pool));
    for name in [
        "T16r", "T20b4", "U2b8", "U3b8", "U4b8", "N4b8", "U6b8", "P10b4", "P20b4", "P20r", "P30b4", "P30b8/64", "P40b4",
    ] {
        let format = Format::parse(name).unwrap();
        let [plain, weighted, fed] = guides.each_ref().map(|guide| loss(&format, guide, &values, &moments));
        println!("{name}: none {plain:.5}, importance {weighted:.5}, feedback {fed:.5}");
        assert!(fed < 0.8 * plain && fed < weighted, "{name} {plain} {weighted} {fed}");
    }
}

#[test]
fn factors_make_the_moments_and_do_not_depend_on_threads() {
    let (_, moments, _) = problem(1, 75);
    let guides = [1, 2, 7].map(|threads| Guide::new(&Guidance::Moments(moments.clone()), 75, &Pool::new(threads)));
    let [first, rest @ ..] = guides.map(|guide| guide.factor.unwrap());
    assert!(rest.iter().all(|other| *other == first));
    for i in 0..75 {
        for j in 0..i {
            let entry = |i: usize, k: usize| if i == k { 1.0 } else { first.column(k)[i] };
            let product: f64 = (i..75).map(|k| entry(i, k) * entry(j, k) * first.weights(k..k + 1)[0]).sum();
            let stored = moments.lower_entry(i, j);
            assert!((product - stored).abs() < 1e-6 * moments.lower_entry(i, i), "{i} {j} {product} {stored}");
        }
    }
}

#[test]
fn odd_rows_and_moments_are_encoded() {
    let columns = 70;
    let mut outlier = vec![0.01; columns];
    outlier[33] = -1e5;
    let mut small = vec![f32::from_bits(1); columns];
    small[3] = 1e-30;
    let rows = vec![vec![0.0; columns], outlier, small, vec![0.5; columns]];
    let count = columns * (columns + 1) / 2;
    // None, one column alone, all the same column, and none at all.
    let mut single = vec![0.0; count];
    single[0] = 1e9;
    for moments in [single, vec![7.0; count], vec![0.0; count]] {
        let guide = Guide::new(&Guidance::Moments(Moments::new(columns, moments).unwrap()), columns, &Pool::new(1));
        for name in QUANTIZED {
            let format = Format::parse(name).unwrap();
            let rows = rows_of(&format, &guide, &rows);
            assert_eq!(rows[0].constants.word(), 0, "{name}");
            let matrix = matrix(format, N4_DEFAULT_TABLE, &rows, columns);
            (0..4).for_each(|r| assert_eq!(decoded(&matrix, r).len(), columns));
        }
    }
    assert!(Moments::new(2, vec![1.0, 0.0]).is_none());
    assert!(Moments::new(1, vec![-1.0]).is_none());
    assert!(Moments::new(1, vec![f64::NAN]).is_none());
    assert!(!Guidance::Importance(vec![f64::INFINITY]).fits(1) && !Guidance::Importance(vec![]).fits(1));
}

#[test]
fn the_best_scale_is_that_of_a_fine_search() {
    let mut random = Random(22);
    for name in ["T20b8", "U2b8", "U3b8", "U4b8", "N4b8", "U5b8"] {
        let grid = scalar::grid(&Format::parse(name).unwrap(), &N4_DEFAULT_TABLE);
        for _ in 0..20 {
            let values: Vec<f64> = (0..16).map(|_| f64::from(random.normal())).collect();
            let weights: Vec<f64> = (0..16).map(|_| random.signed().abs()).collect();
            let found = grid.error(&values, &weights, grid.best_scale(&values, &weights, true));
            for i in 1..4000 {
                for sign in [1.0, -1.0] {
                    let other = grid.error(&values, &weights, sign * f64::from(i) * 0.002);
                    assert!(found <= other * (1.0 + 1e-9), "{name} {i} {found} {other}");
                }
            }
        }
    }
}
