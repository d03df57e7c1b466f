// 3.3: l of a position that a query head sees, and tv of its value.
struct Score {
    l: i32,
    value_t: u32,
}

fn score_of(token: Token, index: u32, head: u32, position: u32) -> Score {
    let entry = entry_of(token, position, head / GROUP);
    let query = query_at(index, head);
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
    var l = requant(s, d * attention.scale, attention.scale_shift + 2 * FRACTION_BITS - 2 - t);
    if (SOFTCAP == 1u) {
        let constants = SoftcapConstants(attention.inverse, attention.inverse_shift, attention.cap, attention.cap_shift);
        l = requant(softcapped(l, constants, 16), LOG2_E_Q30, 30);
    }
    return Score(l, scales >> 24u);
}

// Order of signed integers as that of unsigned ones.
fn largest_signed(v: i32, thread: u32) -> u32 {
    return largest_of(bitcast<u32>(v) ^ 0x80000000u, thread) ^ 0x80000000u;
}
