const BIAS: i32 = 0;

// The levels of four nibbles, one in each byte.
fn look_up(codes: u32) -> u32 {
    var out = 0u;
    for (var c = 0u; c < 32u; c += 8u) {
        let code = (codes >> c) & 15u;
        out |= ((params.table[code >> 2u] >> (8u * (code & 3u))) & 255u) << c;
    }
    return out;
}

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var i = 0u; i < 4u; i++) {
        let word = payload_word(tile, r, 4u * g + i);
        out[i] = look_up(word & 0x0f0f0f0fu);
        out[i + 4u] = look_up((word >> 4u) & 0x0f0f0f0fu);
    }
    return out;
}
