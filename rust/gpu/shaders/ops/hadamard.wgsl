// 3.2, in place, a head at a time.
struct Hadamard {
    slot: u32,
    width: u32,
    head_width: u32,
}

const LONGEST = 1024u;
var<workgroup> butterfly: array<vec2<u32>, LONGEST>;

fn hadamard(p: Hadamard, token: u32, head: u32, thread: u32) {
    let n = p.head_width;
    let v = p.slot + token * p.width + head * n;
    for (var i = thread; i < n; i += THREADS) {
        butterfly[i] = wide(slot_read(v + i));
    }
    workgroupBarrier();
    for (var step = 1u; step < n; step = 2u * step) {
        for (var i = thread; i < n / 2u; i += THREADS) {
            let low = (i / step) * 2u * step + i % step;
            let a = butterfly[low];
            let b = butterfly[low + step];
            butterfly[low] = wide_add(a, b);
            butterfly[low + step] = wide_sub(a, b);
        }
        workgroupBarrier();
    }
    for (var i = thread; i < n; i += THREADS) {
        slot_write(v + i, wide_sat(wide_rshr(butterfly[i], (bits(n) - 1u) / 2u)));
    }
}
