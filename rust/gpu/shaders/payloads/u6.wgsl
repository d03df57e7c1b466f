const BIAS: i32 = 32;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var i = 0u; i < 4u; i++) {
        let word = payload_word(tile, r, 6u * g + i);
        out[i] = word & 0x0f0f0f0fu;
        out[i + 4u] = (word >> 4u) & 0x0f0f0f0fu;
    }
    for (var i = 0u; i < 2u; i++) {
        let word = payload_word(tile, r, 6u * g + 4u + i);
        for (var p = 0u; p < 4u; p++) {
            let k = 2u * p + i;
            out[k] = level_of(out[k] | (((word >> (2u * p)) & 0x03030303u) << 4u), 32u);
        }
    }
    return out;
}
