// 3.3: p, w and the sums of w times v over up to 256 positions of a query head, whose l are here.
var<workgroup> l_of: array<i32, SUM_BLOCK>;
var<workgroup> weights_of: array<u32, SUM_BLOCK>;
var<workgroup> sums_of: array<vec4<i32>, 2u * THREADS>;

// Writes the sums to `out` in `scratch`; `first` is the first position.
fn sum_block(
    token: Token, head: u32, first: u32, count: u32, largest: i32, value_t: u32, out: u32, thread: u32,
) {
    var total = 0u;
    for (var i = thread; i < count; i += THREADS) {
        let scales = cache[entry_of(token, first + i, head / GROUP).scales];
        let p = exp2_fixed(sub_sat(l_of[i], largest), 22);
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
                let word = cache[entry_of(token, first + i, head / GROUP).values + k];
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
