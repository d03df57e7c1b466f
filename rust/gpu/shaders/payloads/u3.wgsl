const BIAS: i32 = 4;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    let high = payload_word(tile, r, 3u * g + 2u);
    for (var i = 0u; i < 2u; i++) {
        let word = payload_word(tile, r, 3u * g + i);
        for (var p = 0u; p < 4u; p++) {
            let k = 2u * p + i;
            let codes = ((word >> (2u * p)) & 0x03030303u) | (((high >> k) & 0x01010101u) << 2u);
            out[k] = level_of(codes, 4u);
        }
    }
    return out;
}
