// 2.2: dynquant of a token's vector, and the stored form of the mode.
struct Quantize {
    input: u32,
    columns: u32,
    groups: u32,
    codes: u32,
    xmax: u32,
}

fn quantize(p: Quantize, token: u32, run: u32, thread: u32) {
    let x = p.input + token * p.columns;
    var most = 0u;
    for (var i = thread; i < p.columns; i += THREADS) {
        most = max(most, magnitude(slot_read(x + i)));
    }
    let scale = dynscale(largest_of(most, thread), p.xmax);
    let factor = dynquant_factor(scale.x);
    let shift = 24 + i32(scale.y);
    let groups = p.groups;
    for (var g = thread; g < groups; g += THREADS) {
        var q: array<i32, 32>;
        var peak = 0u;
        for (var i = 0u; i < 32u; i++) {
            q[i] = 0;
            if (32u * g + i < p.columns) {
                q[i] = requant(slot_read(x + 32u * g + i), factor, shift);
                peak = max(peak, magnitude(q[i]));
            }
        }
        if (ACT == ACT_A8B) {
            let s = max(1u, (peak + 126u) / 127u);
            arena[scales_at(p.codes, groups, token) + g] = s;
            let inverse = i32((1u << 30u) / s);
            for (var i = 0u; i < 32u; i++) {
                q[i] = requant(q[i], inverse, 30);
            }
        }
        for (var k = 0u; k < 8u; k++) {
            var first = 0u;
            var second = 0u;
            for (var c = 0u; c < 4u; c++) {
                let code = q[4u * k + c];
                if (ACT == ACT_A16) {
                    let high = (code + 128) >> 8u;
                    first |= (bitcast<u32>(high) & 255u) << (8u * c);
                    second |= (bitcast<u32>(code - 256 * high) & 255u) << (8u * c);
                } else {
                    first |= (bitcast<u32>(code) & 255u) << (8u * c);
                }
            }
            arena[codes_at(p.codes, groups, token, 0u) + 8u * g + k] = first;
            if (ACT == ACT_A16) {
                arena[codes_at(p.codes, groups, token, 1u) + 8u * g + k] = second;
            }
        }
    }
    if (thread < 2u) {
        arena[scales_at(p.codes, groups, token) + groups + thread] = scale[thread];
    }
}
