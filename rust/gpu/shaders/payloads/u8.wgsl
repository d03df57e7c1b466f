const BIAS: i32 = 128;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var k = 0u; k < 8u; k++) {
        out[k] = payload_word(tile, r, 8u * g + k) ^ 0x80808080u;
    }
    return out;
}
