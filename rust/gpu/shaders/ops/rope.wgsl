// 3.1, in place. A thread has a pair.
struct Params {
    slot: u32,
    width: u32,
    head_width: u32,
    pairs: u32,
    interleaved: u32,
    angles: u32,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let head = id.x / params.pairs;
    let i = id.x % params.pairs;
    if (head >= params.width / params.head_width) {
        return;
    }
    let v = params.slot + id.y * params.width + head * params.head_width;
    let first = v + select(i, 2u * i, params.interleaved == 1u);
    let second = select(first + params.pairs, first + 1u, params.interleaved == 1u);
    let angle = params.angles + 2u * (id.y * params.pairs + i);
    let c = slot_read(angle);
    let s = slot_read(angle + 1u);
    let a = slot_read(first);
    let b = slot_read(second);
    slot_write(first, wide_sat(wide_rshr(wide_sub(wide_mul(a, c), wide_mul(b, s)), 30u)));
    slot_write(second, wide_sat(wide_rshr(wide_add(wide_mul(a, s), wide_mul(b, c)), 30u)));
}
