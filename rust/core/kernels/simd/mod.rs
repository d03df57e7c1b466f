//! What vector sets share: the dot kernel, written once over the operations of [`lanes::Lanes`].

pub(super) mod codes;
pub(super) mod dot;
pub(super) mod lanes;
pub(super) mod scales;
pub(super) mod tile;
pub(super) mod wide;
