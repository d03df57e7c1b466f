// Gains and frequencies.
@group(1) @binding(0) var<storage, read> vectors: array<u32>;
