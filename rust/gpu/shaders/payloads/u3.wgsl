const BIAS: i32 = 4;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    let high = payload_words(tile, quad, 3u * g + 2u);
    for (var i = 0u; i < 2u; i++) {
        let words = payload_words(tile, quad, 3u * g + i);
        for (var p = 0u; p < 4u; p++) {
            let k = 2u * p + i;
            let codes = masked(shr(words, 2u * p), 0x03030303u) | shl(masked(shr(high, k), 0x01010101u), 2u);
            out[k] = level_of(codes, 4u);
        }
    }
    return out;
}
