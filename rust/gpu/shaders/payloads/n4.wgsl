const BIAS: i32 = 0;

// The levels of four nibbles, one in each byte.
fn look_up(codes: vec4<u32>) -> vec4<u32> {
    var out = vec4<u32>(0u);
    for (var c = 0u; c < 32u; c += 8u) {
        out |= shl(table_entry(masked(shr(codes, c), 15u)), c);
    }
    return out;
}

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var i = 0u; i < 4u; i++) {
        let words = payload_words(tile, quad, 4u * g + i);
        out[i] = look_up(words);
        out[i + 4u] = look_up(shr(words, 4u));
    }
    return out;
}
