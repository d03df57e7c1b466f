const BIAS: i32 = 8;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var i = 0u; i < 4u; i++) {
        let words = payload_words(tile, quad, 4u * g + i);
        out[i] = level_of(masked(words, 0x0f0f0f0fu), 8u);
        out[i + 4u] = level_of(masked(shr(words, 4u), 0x0f0f0f0fu), 8u);
    }
    return out;
}
