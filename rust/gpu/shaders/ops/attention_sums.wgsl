// 3.3 over many positions, second pass: sums over 256 positions of a query head, which a workgroup has.
struct Params {
    attention: Attention,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    attention = params.attention;
    let token = token_of(group.z);
    let n = seen_by(token);
    let start = group.x * SUM_BLOCK;
    if (start >= n) {
        return;
    }
    let head = group.y;
    let scores = scores_of(token, head);
    var largest = i32(-2147483648);
    var value_t = 0u;
    for (var b = 0u; b < (n + SCORE_BLOCK - 1u) / SCORE_BLOCK; b++) {
        largest = max(largest, bitcast<i32>(scratch[scores.largest + 2u * b]));
        value_t = max(value_t, scratch[scores.largest + 2u * b + 1u]);
    }
    let count = min(SUM_BLOCK, n - start);
    for (var i = thread; i < count; i += THREADS) {
        l_of[i] = bitcast<i32>(scratch[scores.l + start + i]);
    }
    let out = scores.sums + group.x * SUM_WORDS;
    sum_block(token, head, token.position + 1u - n + start, count, largest, value_t, out, thread);
}
