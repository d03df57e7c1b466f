// Quantized inputs of linear layers in `arena`, token after token: the planes of codes in column order, four to a word
// and zeros beyond the last column; the scales of the groups (A8b); d and t.
const ACT_A8 = 0u;
const ACT_A8B = 1u;
const ACT_A16 = 2u;
const PLANES = select(1u, 2u, ACT == ACT_A16);

fn codes_stride(groups: u32) -> u32 {
    return groups * (8u * PLANES + 1u) + 2u;
}

fn codes_at(base: u32, groups: u32, token: u32, plane: u32) -> u32 {
    return base + token * codes_stride(groups) + plane * 8u * groups;
}

fn scales_at(base: u32, groups: u32, token: u32) -> u32 {
    return codes_at(base, groups, token, PLANES);
}
