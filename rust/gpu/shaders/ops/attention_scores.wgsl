// 3.3 over many positions, first pass: l of every position that a query head sees, and the largest l and tv of each 64
// of them, which a workgroup has.
struct Params {
    attention: Attention,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    attention = params.attention;
    let token = token_of(group.z);
    let n = seen_by(token);
    if (group.x * SCORE_BLOCK >= n) {
        return;
    }
    let head = group.y;
    let out = scores_of(token, head);
    let i = group.x * SCORE_BLOCK + thread;
    var score = Score(i32(-2147483648), 0u);
    if (i < n) {
        score = score_of(token, group.z, head, token.position + 1u - n + i);
        scratch[out.l + i] = bitcast<u32>(score.l);
    }
    let largest = largest_signed(score.l, thread);
    let largest_t = largest_of(score.value_t, thread);
    if (thread == 0u) {
        scratch[out.largest + 2u * group.x] = largest;
        scratch[out.largest + 2u * group.x + 1u] = largest_t;
    }
}
