const BIAS: i32 = 1;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var k = 0u; k < 8u; k++) {
        // Four columns are digit number at mod 5 of the four bytes of a word.
        let at = 8u * g + k;
        let word = payload_word(tile, r, at / 5u);
        var even = word & 0x00ff00ffu;
        var odd = (word >> 8u) & 0x00ff00ffu;
        for (var i = 0u; i < at % 5u; i++) {
            even = (3u * even) & 0x00ff00ffu;
            odd = (3u * odd) & 0x00ff00ffu;
        }
        let digits = ((3u * even) >> 8u) & 0x00ff00ffu;
        out[k] = level_of(digits | ((3u * odd) & 0xff00ff00u), 1u);
    }
    return out;
}
