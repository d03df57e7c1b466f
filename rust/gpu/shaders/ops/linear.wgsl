// 2.1: exact sums of 16 rows with TOKENS vectors, then outputs. SPLITS threads share the columns of a row.
struct Params {
    table: vec4<u32>,
    columns: u32,
    row_words: u32,
    payload: u32,
    scale: u32,
    sign: u32,
    offset: u32,
    row: u32,
    // Of the biases, or all ones.
    bias: u32,
    // The first row of this piece, and the end of the rows that the matrix has.
    first: u32,
    rows: u32,
    groups: u32,
    codes: u32,
    out: u32,
    width: u32,
    preshift: u32,
    // Where `step` has the number of tokens.
    count: u32,
}

var<workgroup> partial: array<vec2<u32>, 16u * SPLITS * TOKENS>;

@compute @workgroup_size(16u * SPLITS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = group.x;
    let r = thread % 16u;
    let split = thread / 16u;
    let tokens = step[params.count];
    let start = group.y * TOKENS;
    var sums: array<vec2<u32>, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) {
        sums[t] = Wide(0u, 0u);
    }
    for (var g = split; g < params.groups; g += SPLITS) {
        let one = block_scale(tile, r, (32u * g) / BLOCK);
        var two = one;
        if (BLOCK == 16u) {
            two = block_scale(tile, r, 2u * g + 1u);
        }
        for (var w = 0u; w < WEIGHT_PLANES; w++) {
            let levels = group_levels(tile, r, g, w);
            for (var t = 0u; t < TOKENS; t++) {
                let token = min(start + t, tokens - 1u);
                for (var plane = 0u; plane < PLANES; plane++) {
                    let at = codes_at(params.codes, params.groups, token, plane) + 8u * g;
                    // |W| < 2^15 and |code| <= 2^7: a group's sum is at most 2^27, and 2.3 bounds that of A8b with its
                    // scale.
                    var dots = vec2<i32>(0, 0);
                    var ones = vec2<i32>(0, 0);
                    for (var k = 0u; k < 4u; k++) {
                        let a = arena[at + k];
                        let b = arena[at + 4u + k];
                        dots += vec2<i32>(dot4I8Packed(levels[k], a), dot4I8Packed(levels[4u + k], b));
                        if (MODE == MODE_Z8 || WEIGHT_PLANES == 2u) {
                            ones += vec2<i32>(dot4I8Packed(a, 0x01010101u), dot4I8Packed(b, 0x01010101u));
                        }
                    }
                    var sum = one.x * dots.x + two.x * dots.y;
                    if (MODE == MODE_Z8) {
                        sum += one.y * ones.x + two.y * ones.y;
                    }
                    if (WEIGHT_PLANES == 2u && w == 0u) {
                        sum += 128 * (ones.x + ones.y);
                    }
                    if (ACT == ACT_A8B) {
                        sum *= i32(arena[scales_at(params.codes, params.groups, token) + g]);
                    }
                    let shift = 8u * w + select(0u, 8u, ACT == ACT_A16 && plane == 0u);
                    sums[t] = wide_add(sums[t], wide_shl(wide(sum), shift));
                }
            }
        }
    }
    for (var t = 0u; t < TOKENS; t++) {
        partial[(t * SPLITS + split) * 16u + r] = sums[t];
    }
    workgroupBarrier();
    for (var i = thread; i < 16u * TOKENS; i += 16u * SPLITS) {
        let row = params.first + 16u * tile + i % 16u;
        let token = start + i / 16u;
        if (row < params.rows && token < tokens) {
            var sum = Wide(0u, 0u);
            for (var s = 0u; s < SPLITS; s++) {
                sum = wide_add(sum, partial[(i / 16u * SPLITS + s) * 16u + i % 16u]);
            }
            let word = weights[params.row + 16u * tile + i % 16u];
            let dt = scales_at(params.codes, params.groups, token) + params.groups;
            let d = i32(arena[dt]);
            let t = i32(arena[dt + 1u]);
            let a = params.preshift;
            let shift = i32((word >> 23u) & 127u) + 7 - t - i32(a);
            var y = requant(wide_sat(wide_rshr(sum, a)), d * i32(word & 0x7fffffu), shift);
            if (params.bias != 0xffffffffu) {
                y = add_sat(y, bitcast<i32>(weights[params.bias + 16u * tile + i % 16u]));
            }
            slot_write(params.out + token * params.width + row, y);
        }
    }
}
