//! What vector sets share: the dot kernel, written once over the operations of [`lanes::Lanes`].

pub(super) mod codes;
pub(super) mod dot;
pub(super) mod lanes;
pub(super) mod scales;
pub(super) mod staged;
pub(super) mod tile;
pub(super) mod wide;

/// Runs `$body` with each `$j` below `$count`, a constant of at most 4, written out: the compiler keeps what `$j`
/// indexes in registers only where it is a constant.
macro_rules! unrolled {
    ($j:ident < $count:expr, $body:block) => {
        unrolled!(@ $j < $count, $body, 0, 1, 2, 3)
    };
    (@ $j:ident < $count:expr, $body:block, $($at:literal),*) => {
        $(if $at < $count {
            const $j: usize = $at;
            $body
        })*
    };
}
pub(in crate::kernels) use unrolled;
