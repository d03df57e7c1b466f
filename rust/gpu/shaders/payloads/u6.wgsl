const BIAS: i32 = 32;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var i = 0u; i < 4u; i++) {
        let words = payload_words(tile, quad, 6u * g + i);
        out[i] = masked(words, 0x0f0f0f0fu);
        out[i + 4u] = masked(shr(words, 4u), 0x0f0f0f0fu);
    }
    for (var i = 0u; i < 2u; i++) {
        let words = payload_words(tile, quad, 6u * g + 4u + i);
        for (var p = 0u; p < 4u; p++) {
            let k = 2u * p + i;
            out[k] = level_of(out[k] | shl(masked(shr(words, 2u * p), 0x03030303u), 4u), 32u);
        }
    }
    return out;
}
