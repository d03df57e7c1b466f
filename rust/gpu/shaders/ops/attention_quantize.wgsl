// 3.3: codes of queries, keys and values, a head at a time.
fn dynquant_scale(start: u32, xmax: u32, thread: u32) -> vec2<u32> {
    var most = 0u;
    for (var i = thread; i < HEAD_WIDTH; i += THREADS) {
        most = max(most, magnitude(slot_read(start + i)));
    }
    return dynscale(largest_of(most, thread), xmax);
}

fn code(start: u32, i: u32, scale: vec2<u32>) -> i32 {
    if (i >= HEAD_WIDTH) {
        return 0;
    }
    return requant(slot_read(start + i), dynquant_factor(scale.x), 24 + i32(scale.y));
}

fn attention_query(p: Attention, index: u32, head: u32, thread: u32) {
    attention = p;
    let start = p.query + (index * HEADS + head) * HEAD_WIDTH;
    let out = query_at(index, head);
    let scale = dynquant_scale(start, QUERY_MAX, thread);
    for (var i = thread; i < HEAD_WIDTH; i += THREADS) {
        slot_write(out + i, code(start, i, scale));
    }
    if (thread < 2u) {
        arena[out + HEAD_WIDTH + thread] = scale[thread];
    }
}

fn attention_entry(p: Attention, index: u32, head: u32, thread: u32) {
    attention = p;
    let vector = (index * KV_HEADS + head) * HEAD_WIDTH;
    let token = token_of(index);
    let entry = entry_of(token, token.position, head);
    let keys = dynquant_scale(p.key + vector, KEY_MAX, thread);
    let values = dynquant_scale(p.value + vector, VALUE_MAX, thread);
    for (var k = thread; k < KEY_WORDS; k += THREADS) {
        var word = 0u;
        for (var c = 0u; c < CODES; c++) {
            let q = bitcast<u32>(code(p.key + vector, CODES * k + c, keys));
            word |= (q & ((1u << (32u / CODES)) - 1u)) << (32u / CODES * c);
        }
        cache[entry.keys + k] = word;
    }
    for (var k = thread; k < VALUE_WORDS; k += THREADS) {
        var word = 0u;
        for (var c = 0u; c < 4u; c++) {
            word |= (bitcast<u32>(code(p.value + vector, 4u * k + c, values)) & 255u) << (8u * c);
        }
        cache[entry.values + k] = word;
    }
    if (thread == 0u) {
        cache[entry.scales] = keys.x | (keys.y << 8u) | (values.x << 16u) | (values.y << 24u);
    }
}
