// 3.3 where no token sees more than 256 positions: both passes at once. A workgroup has a query head of a token.
struct Params {
    attention: Attention,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    attention = params.attention;
    let token = token_of(group.z);
    let n = seen_by(token);
    let head = group.y;
    let first = token.position + 1u - n;
    var largest = i32(-2147483648);
    var value_t = 0u;
    for (var i = thread; i < n; i += THREADS) {
        let score = score_of(token, group.z, head, first + i);
        l_of[i] = score.l;
        largest = max(largest, score.l);
        value_t = max(value_t, score.value_t);
    }
    largest = bitcast<i32>(largest_signed(largest, thread));
    value_t = largest_of(value_t, thread);
    let scores = scores_of(token, head);
    if (thread < (n + SCORE_BLOCK - 1u) / SCORE_BLOCK) {
        scratch[scores.largest + 2u * thread + 1u] = value_t;
    }
    sum_block(token, head, first, n, largest, value_t, scores.sums, thread);
}
