const BIAS: i32 = 8;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var i = 0u; i < 4u; i++) {
        let word = payload_word(tile, r, 4u * g + i);
        out[i] = level_of(word & 0x0f0f0f0fu, 8u);
        out[i + 4u] = level_of((word >> 4u) & 0x0f0f0f0fu, 8u);
    }
    return out;
}
