// 3.1, in place, a head at a time.
struct Rope {
    slot: u32,
    width: u32,
    head_width: u32,
    pairs: u32,
    interleaved: u32,
    angles: u32,
}

fn rope(p: Rope, token: u32, head: u32, thread: u32) {
    let v = p.slot + token * p.width + head * p.head_width;
    for (var i = thread; i < p.pairs; i += THREADS) {
        let first = v + select(i, 2u * i, p.interleaved == 1u);
        let second = select(first + p.pairs, first + 1u, p.interleaved == 1u);
        let angle = p.angles + 2u * (token * p.pairs + i);
        let c = slot_read(angle);
        let s = slot_read(angle + 1u);
        let a = slot_read(first);
        let b = slot_read(second);
        slot_write(first, wide_sat(wide_rshr(wide_sub(wide_mul(a, c), wide_mul(b, s)), 30u)));
        slot_write(second, wide_sat(wide_rshr(wide_add(wide_mul(a, s), wide_mul(b, c)), 30u)));
    }
}
