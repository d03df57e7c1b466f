// W = 256 h + (l + 128): plane 0 is l, plane 1 is h.
const BIAS: i32 = 0;

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var k = 0u; k < 8u; k++) {
        let one = payload_word(tile, r, 16u * g + 2u * k) >> (8u * plane);
        let two = payload_word(tile, r, 16u * g + 2u * k + 1u) >> (8u * plane);
        let bytes = (one & 255u) | ((one >> 8u) & 0xff00u) | ((two & 255u) << 16u) | ((two << 8u) & 0xff000000u);
        out[k] = select(bytes, bytes ^ 0x80808080u, plane == 0u);
    }
    return out;
}
