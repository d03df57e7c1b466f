const BIAS: i32 = 1;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var k = 0u; k < 8u; k++) {
        // Four columns are digit number at mod 5 of the four bytes of a word.
        let at = 8u * g + k;
        let words = payload_words(tile, quad, at / 5u);
        var even = masked(words, 0x00ff00ffu);
        var odd = masked(shr(words, 8u), 0x00ff00ffu);
        for (var i = 0u; i < at % 5u; i++) {
            even = masked(3u * even, 0x00ff00ffu);
            odd = masked(3u * odd, 0x00ff00ffu);
        }
        let digits = masked(shr(3u * even, 8u), 0x00ff00ffu);
        out[k] = level_of(digits | masked(3u * odd, 0xff00ff00u), 1u);
    }
    return out;
}
