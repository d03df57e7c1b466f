const BIAS: i32 = 128;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var k = 0u; k < 8u; k++) {
        out[k] = payload_words(tile, quad, 8u * g + k) ^ vec4<u32>(0x80808080u);
    }
    return out;
}
