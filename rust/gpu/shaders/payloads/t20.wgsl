const BIAS: i32 = 1;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var i = 0u; i < 2u; i++) {
        let words = payload_words(tile, quad, 2u * g + i);
        for (var p = 0u; p < 4u; p++) {
            out[2u * p + i] = level_of(masked(shr(words, 2u * p), 0x03030303u), 1u);
        }
    }
    return out;
}
