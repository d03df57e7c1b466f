//! stub
use crate::kernels::{KernelSet, Kernels, reference};

/// The set.
pub(in crate::kernels) const SET: KernelSet = KernelSet {
    kernels: Kernels { name: "avx2", ..reference::KERNELS },
    available: || std::arch::is_x86_feature_detected!("avx2"),
    needs: "avx2",
};
