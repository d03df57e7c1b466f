const BIAS: i32 = 0;

// The levels of a step's two columns, in the low two bytes.
fn pair(window: vec4<u32>) -> vec4<u32> {
    let signed = bitcast<vec4<i32>>(shl(window, 16u)) >> vec4<u32>(16u);
    let rounded = bitcast<vec4<u32>>((signed * 13793 + vec4<i32>(0x4000)) >> vec4<u32>(15u));
    let hash = window * 2767u + rounded;
    let first = table_entry(masked(hash, 15u)) + table_entry(masked(shr(hash, 4u), 15u));
    let second = table_entry(masked(shr(hash, 8u), 15u)) + table_entry(masked(shr(hash, 12u), 15u));
    return masked(first, 255u) | shl(masked(second, 255u), 8u);
}

fn group_levels(tile: u32, quad: u32, g: u32, plane: u32) -> array<vec4<u32>, 8> {
    var out: array<vec4<u32>, 8>;
    for (var i = 0u; i < 16u; i++) {
        // The window ends with the step's own bits; before the stream there are zeros.
        let end = (16u * g + i + 1u) * STEP_BITS;
        let last = (end - 1u) / 32u;
        let high = payload_words(tile, quad, last);
        // Bits of the last word that belong to the window or come before it: 1 to 32.
        let have = end - 32u * last;
        var window = vec4<u32>(0u);
        if (have >= 16u) {
            window = shr(high, have - 16u);
        } else {
            var before = vec4<u32>(0u);
            if (last > 0u) {
                before = payload_words(tile, quad, last - 1u);
            }
            window = shl(high, 16u - have) | shr(before, 16u + have);
        }
        out[i >> 1u] |= shl(pair(masked(window, 0xffffu)), 16u * (i & 1u));
    }
    return out;
}
