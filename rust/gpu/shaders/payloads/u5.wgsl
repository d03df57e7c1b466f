const BIAS: i32 = 16;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    let high = payload_word(tile, r, 5u * g + 4u);
    for (var i = 0u; i < 4u; i++) {
        let word = payload_word(tile, r, 5u * g + i);
        let low = (word & 0x0f0f0f0fu) | (((high >> i) & 0x01010101u) << 4u);
        let upper = ((word >> 4u) & 0x0f0f0f0fu) | (((high >> (i + 4u)) & 0x01010101u) << 4u);
        out[i] = level_of(low, 16u);
        out[i + 4u] = level_of(upper, 16u);
    }
    return out;
}
