//! Sets that have nothing but dot products of their own.

/// The set's [`Kernels`](crate::kernels::Kernels): `$dot`, and every other slot from the reference, which the compiler
/// turns into the instructions of `$features`.
macro_rules! compiled_reference {
    ($name:literal, $features:literal, $dot:expr) => {{
        use $crate::activations::{self, TokenCodesMut};
        use $crate::formats::TILE;
        use $crate::kernels::{Attend, Kernels, RowConstants, Sums, reference};
        use $crate::matrix::Activation;
        use $crate::ops::attention::{self, Query, Run, Scoring, Scratch};
        use $crate::ops::gated::{self, Gate};
        use $crate::ops::rms_norm::{self, RmsNorm};

        #[target_feature(enable = $features)]
        fn finish(sums: &Sums, d: &[i32], t: &[i32], rows: RowConstants<'_>, out: &mut [[i32; TILE]]) {
            reference::finish(sums, d, t, rows, out);
        }

        #[target_feature(enable = $features)]
        fn quantize(x: &[i32], activation: Activation, out: TokenCodesMut<'_>) {
            activations::quantize(x, activation, out);
        }

        #[target_feature(enable = $features)]
        fn rms_norm(x: &mut [i32], gain: &[i16], norm: &RmsNorm, fraction_bits: u32) {
            rms_norm::rms_norm(x, gain, norm, fraction_bits);
        }

        #[target_feature(enable = $features)]
        fn gated_activation(kind: Gate, gate: &mut [i32], up: &[i32], fraction_bits: u32) {
            gated::gated_activation(kind, gate, up, fraction_bits);
        }

        #[target_feature(enable = $features)]
        fn scores(
            queries: &[Query<'_>], runs: &[Run<'_>], scoring: &Scoring, fraction_bits: u32, scratch: &mut Scratch,
        ) {
            attention::scores(queries, runs, scoring, fraction_bits, scratch);
        }

        #[target_feature(enable = $features)]
        fn sums(queries: &[Query<'_>], runs: &[Run<'_>], scratch: &mut Scratch) {
            attention::sums(queries, runs, scratch);
        }

        #[target_feature(enable = $features)]
        fn outputs(scoring: &Scoring, scratch: &Scratch, out: &mut [i32]) {
            attention::outputs(scoring, scratch, out);
        }

        Kernels {
            name: $name,
            dot: $dot,
            finish: |sums, d, t, rows, out| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { finish(sums, d, t, rows, out) }
            },
            quantize: |x, activation, out| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { quantize(x, activation, out) }
            },
            rms_norm: |x, gain, norm, fraction_bits| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { rms_norm(x, gain, norm, fraction_bits) }
            },
            gated_activation: |kind, gate, up, fraction_bits| {
                // SAFETY: a set is reached only where `available` holds.
                unsafe { gated_activation(kind, gate, up, fraction_bits) }
            },
            attention: Attend {
                scores: |queries, runs, scoring, fraction_bits, scratch| {
                    // SAFETY: a set is reached only where `available` holds.
                    unsafe { scores(queries, runs, scoring, fraction_bits, scratch) }
                },
                sums: |queries, runs, scratch| {
                    // SAFETY: a set is reached only where `available` holds.
                    unsafe { sums(queries, runs, scratch) }
                },
                outputs: |scoring, scratch, out| {
                    // SAFETY: a set is reached only where `available` holds.
                    unsafe { outputs(scoring, scratch, out) }
                },
            },
        }
    }};
}
