// 2.1 for up to TOKENS tokens: 16 rows, whose columns SPLITS threads share, so that many loads of weights are on their
// way at once. A thread has 4 rows of every SPLITS-th group.
var<workgroup> low: array<vec4<u32>, 4u * SPLITS>;
var<workgroup> high: array<vec4<u32>, 4u * SPLITS>;

@compute @workgroup_size(4u * SPLITS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = find_piece(group.x, 1u);
    let quad = thread % 4u;
    let split = thread / 4u;
    let tokens = step[params.count];
    let start = group.y * TOKENS;
    var totals: array<Total, TOKENS>;
    for (var t = 0u; t < TOKENS; t++) {
        totals[t] = Total(vec4<u32>(0u), vec4<u32>(0u));
    }
    for (var g = split; g < params.groups; g += SPLITS) {
        let one = block_scales(tile, quad, (32u * g) / BLOCK);
        var two = one;
        if (BLOCK == 16u) {
            two = block_scales(tile, quad, 2u * g + 1u);
        }
        for (var w = 0u; w < WEIGHT_PLANES; w++) {
            let levels = group_levels(tile, quad, g, w);
            for (var t = 0u; t < TOKENS; t++) {
                let token = min(start + t, tokens - 1u);
                for (var plane = 0u; plane < PLANES; plane++) {
                    let at = codes_at(params.codes, params.groups, token, plane) + 8u * g;
                    var first = vec4<i32>(0);
                    var second = vec4<i32>(0);
                    var ones = vec2<i32>(0, 0);
                    for (var k = 0u; k < 4u; k++) {
                        let a = arena[at + k];
                        let b = arena[at + 4u + k];
                        first += dots(levels[k], a);
                        second += dots(levels[4u + k], b);
                        if (MODE == MODE_Z8 || WEIGHT_PLANES == 2u) {
                            ones += vec2<i32>(dot4I8Packed(a, 0x01010101u), dot4I8Packed(b, 0x01010101u));
                        }
                    }
                    var sum = one.s * first + two.s * second;
                    if (MODE == MODE_Z8) {
                        sum += one.z * ones.x + two.z * ones.y;
                    }
                    if (WEIGHT_PLANES == 2u && w == 0u) {
                        sum += vec4<i32>(128 * (ones.x + ones.y));
                    }
                    if (ACT == ACT_A8B) {
                        sum *= i32(arena[scales_at(params.codes, params.groups, token) + g]);
                    }
                    totals[t] = total_add_shifted(totals[t], sum, 8u * (w + PLANES - 1u - plane));
                }
            }
        }
    }
    for (var t = 0u; t < TOKENS && start + t < tokens; t++) {
        low[thread] = totals[t].low;
        high[thread] = totals[t].high;
        workgroupBarrier();
        for (var step = SPLITS / 2u; step > 0u; step = step / 2u) {
            if (split < step) {
                let other = thread + 4u * step;
                let sum = total_add(Total(low[thread], high[thread]), Total(low[other], high[other]));
                low[thread] = sum.low;
                high[thread] = sum.high;
            }
            workgroupBarrier();
        }
        if (thread < 16u) {
            finish(16u * tile + thread, start + t, low[thread >> 2u][thread & 3u], high[thread >> 2u][thread & 3u]);
        }
        workgroupBarrier();
    }
}
