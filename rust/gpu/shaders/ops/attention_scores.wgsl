// 3.3: l of every position that a query head sees, and the largest l and tv. A workgroup has 64 positions.
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = token_of(group.z);
    let n = seen_by(token);
    if (group.x * SCORE_BLOCK >= n) {
        return;
    }
    let head = group.y;
    let out = scores_of(token, head);
    let i = group.x * SCORE_BLOCK + thread;
    var l = i32(-2147483648);
    var value_t = 0u;
    if (i < n) {
        let position = token.position + 1u - n + i;
        let entry = entry_of(token, position, head / GROUP);
        let query = query_at(group.z, head);
        var s = 0;
        for (var k = 0u; k < KEY_WORDS; k++) {
            let word = cache[entry.keys + k];
            for (var c = 0u; c < CODES; c++) {
                if (CODES * k + c < HEAD_WIDTH) {
                    let bits_of_code = 32u / CODES;
                    let key = bitcast<i32>(word << (32u - bits_of_code * (c + 1u))) >> (32u - bits_of_code);
                    s += slot_read(query + CODES * k + c) * key;
                }
            }
        }
        let scales = cache[entry.scales];
        let d = slot_read(query + HEAD_WIDTH) * i32(scales & 255u);
        let t = slot_read(query + HEAD_WIDTH + 1u) + i32((scales >> 8u) & 255u);
        l = requant(s, d * params.scale, params.scale_shift + 2 * FRACTION_BITS - 2 - t);
        if (SOFTCAP == 1u) {
            let constants = Softcap(params.inverse, params.inverse_shift, params.cap, params.cap_shift);
            l = requant(softcap(l, constants, 16), LOG2_E_Q30, 30);
        }
        slot_in_scratch(out.l + i, l);
        value_t = scales >> 24u;
    }
    // Order of signed integers as that of unsigned ones.
    let largest = largest_of(bitcast<u32>(l) ^ 0x80000000u, thread) ^ 0x80000000u;
    let largest_t = largest_of(value_t, thread);
    if (thread == 0u) {
        scratch[out.largest + 2u * group.x] = largest;
        scratch[out.largest + 2u * group.x + 1u] = largest_t;
    }
}

fn slot_in_scratch(i: u32, v: i32) {
    scratch[i] = bitcast<u32>(v);
}
