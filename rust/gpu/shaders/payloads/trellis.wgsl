const BIAS: i32 = 0;

fn entry(nibble: u32) -> u32 {
    return (params.table[nibble >> 2u] >> (8u * (nibble & 3u))) & 255u;
}

// The levels of a step's two columns, in the low two bytes.
fn pair(window: u32) -> u32 {
    let signed = bitcast<i32>(window << 16u) >> 16u;
    let rounded = bitcast<u32>((signed * 13793 + 0x4000) >> 15u);
    let hash = window * 2767u + rounded;
    let first = entry(hash & 15u) + entry((hash >> 4u) & 15u);
    let second = entry((hash >> 8u) & 15u) + entry((hash >> 12u) & 15u);
    return (first & 255u) | ((second & 255u) << 8u);
}

fn group_levels(tile: u32, r: u32, g: u32, plane: u32) -> array<u32, 8> {
    var out: array<u32, 8>;
    for (var i = 0u; i < 16u; i++) {
        // The window ends with the step's own bits; before the stream there are zeros.
        let end = (16u * g + i + 1u) * STEP_BITS;
        let last = (end - 1u) / 32u;
        let high = payload_word(tile, r, last);
        // Bits of the last word that belong to the window or come before it: 1 to 32.
        let have = end - 32u * last;
        var window = 0u;
        if (have >= 16u) {
            window = high >> (have - 16u);
        } else {
            var before = 0u;
            if (last > 0u) {
                before = payload_word(tile, r, last - 1u);
            }
            window = (high << (16u - have)) | (before >> (16u + have));
        }
        out[i >> 1u] |= pair(window & 0xffffu) << (16u * (i & 1u));
    }
    return out;
}
