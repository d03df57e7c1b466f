// W = 256 h + (l + 128): plane 0 is l, plane 1 is h.
const BIAS: i32 = 0;

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var k = 0u; k < 8u; k++) {
        let one = shr(payload_words(tile, quad, 16u * g + 2u * k), 8u * plane);
        let two = shr(payload_words(tile, quad, 16u * g + 2u * k + 1u), 8u * plane);
        let first = masked(one, 255u) | masked(shr(one, 8u), 0xff00u);
        let second = shl(masked(two, 255u), 16u) | masked(shl(two, 8u), 0xff000000u);
        out[k] = (first | second) ^ vec4<u32>(select(0u, 0x80808080u, plane == 0u));
    }
    return out;
}
