const BIAS: i32 = 16;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    let high = payload_words(tile, quad, 5u * g + 4u);
    for (var i = 0u; i < 4u; i++) {
        let words = payload_words(tile, quad, 5u * g + i);
        let low = masked(words, 0x0f0f0f0fu) | shl(masked(shr(high, i), 0x01010101u), 4u);
        let upper = masked(shr(words, 4u), 0x0f0f0f0fu) | shl(masked(shr(high, i + 4u), 0x01010101u), 4u);
        out[i] = level_of(low, 16u);
        out[i + 4u] = level_of(upper, 16u);
    }
    return out;
}
