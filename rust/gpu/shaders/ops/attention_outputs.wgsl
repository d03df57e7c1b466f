// 3.3: outputs from the sums over all positions.
fn attention_outputs(p: Attention, index: u32, run: u32, thread: u32) {
    attention = p;
    let token = token_of(index);
    let n = seen_by(token);
    for (var i = thread; i < HEADS * HEAD_WIDTH; i += THREADS) {
        let column = i % HEAD_WIDTH;
        let scores = scores_of(token, i / HEAD_WIDTH);
        var value_t = 0u;
        for (var b = 0u; b < (n + SCORE_BLOCK - 1u) / SCORE_BLOCK; b++) {
            value_t = max(value_t, scratch[scores.largest + 2u * b + 1u]);
        }
        var total = Wide(0u, 0u);
        var sum = Wide(0u, 0u);
        for (var b = 0u; b < (n + SUM_BLOCK - 1u) / SUM_BLOCK; b++) {
            let at = scores.sums + b * SUM_WORDS;
            total = wide_add(total, Wide(scratch[at], 0u));
            sum = wide_add(sum, wide_shl(wide(bitcast<i32>(scratch[at + 1u + 2u * column])), 11u));
            sum = wide_add(sum, wide(bitcast<i32>(scratch[at + 2u + 2u * column])));
        }
        let e = wide_bits(total);
        let r = i32(0x80000000u / wide_shr(total, e - 16u).x);
        let b = u32(max(i32(e + bits(VALUE_MAX)) - 31, 0));
        let y = requant(bitcast<i32>(wide_rshr(sum, b).x), r, i32(e) + 14 - i32(value_t) - i32(b));
        slot_write(p.out + index * HEADS * HEAD_WIDTH + i, y);
    }
}
