// 3.3: p, w and the sums of w times v of 256 positions of a query head. A workgroup has them.
var<workgroup> weights_of: array<u32, 256>;
var<workgroup> sums_of: array<vec4<i32>, 2u * THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
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
    let first = token.position + 1u - n;
    let count = min(SUM_BLOCK, n - start);
    var total = 0u;
    for (var i = thread; i < count; i += THREADS) {
        let scales = cache[entry_of(token, first + start + i, head / GROUP).scales];
        let p = exp2_fixed(sub_sat(bitcast<i32>(scratch[scores.l + start + i]), largest), 22);
        total += p;
        let shift = 8u + value_t - (scales >> 24u);
        let product = p * ((scales >> 16u) & 255u);
        // p d < 2^31, and a shift of 31 or more leaves nothing.
        var w = 0u;
        if (shift < 31u) {
            w = ((product >> (shift - 1u)) + 1u) >> 1u;
        }
        weights_of[i] = w;
    }
    // At most 256 · 2^22.
    parts[thread] = total;
    workgroupBarrier();
    for (var step = THREADS / 2u; step > 0u; step = step / 2u) {
        if (thread < step) {
            parts[thread] += parts[thread + step];
        }
        workgroupBarrier();
    }
    let out = scores.sums + group.x * SUM_WORDS;
    if (thread == 0u) {
        scratch[out] = parts[0];
    }
    // COLUMN_THREADS threads have the words of a value, and THREADS / COLUMN_THREADS of them share the positions.
    let column = thread % COLUMN_THREADS;
    let share = thread / COLUMN_THREADS;
    for (var round = 0u; round < (VALUE_WORDS + COLUMN_THREADS - 1u) / COLUMN_THREADS; round++) {
        let k = round * COLUMN_THREADS + column;
        var high = vec4<i32>(0);
        var low = vec4<i32>(0);
        if (k < VALUE_WORDS) {
            for (var i = share; i < count; i += THREADS / COLUMN_THREADS) {
                let word = cache[entry_of(token, first + start + i, head / GROUP).values + k];
                let v = vec4<i32>(byte_at(word, 0u), byte_at(word, 1u), byte_at(word, 2u), byte_at(word, 3u));
                let w = weights_of[i];
                // 127 · 2048 · 256 fits.
                high += i32(w >> 11u) * v;
                low += i32(w & 2047u) * v;
            }
        }
        sums_of[2u * thread] = high;
        sums_of[2u * thread + 1u] = low;
        workgroupBarrier();
        if (share == 0u && k < VALUE_WORDS) {
            for (var i = 1u; i < THREADS / COLUMN_THREADS; i++) {
                high += sums_of[2u * (thread + i * COLUMN_THREADS)];
                low += sums_of[2u * (thread + i * COLUMN_THREADS) + 1u];
            }
            for (var c = 0u; c < min(4u, HEAD_WIDTH - 4u * k); c++) {
                scratch[out + 1u + 2u * (4u * k + c)] = bitcast<u32>(high[c]);
                scratch[out + 2u + 2u * (4u * k + c)] = bitcast<u32>(low[c]);
            }
        }
        workgroupBarrier();
    }
}
