// 3.2, in place. A workgroup has a head.
struct Params {
    slot: u32,
    width: u32,
}

var<workgroup> values: array<vec2<u32>, HEAD_WIDTH>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let v = params.slot + group.y * params.width + group.x * HEAD_WIDTH;
    for (var i = thread; i < HEAD_WIDTH; i += 64u) {
        values[i] = wide(slot_read(v + i));
    }
    workgroupBarrier();
    for (var step = 1u; step < HEAD_WIDTH; step = 2u * step) {
        for (var i = thread; i < HEAD_WIDTH / 2u; i += 64u) {
            let low = (i / step) * 2u * step + i % step;
            let a = values[low];
            let b = values[low + step];
            values[low] = wide_add(a, b);
            values[low + step] = wide_sub(a, b);
        }
        workgroupBarrier();
    }
    for (var i = thread; i < HEAD_WIDTH; i += 64u) {
        slot_write(v + i, wide_sat(wide_rshr(values[i], (bits(HEAD_WIDTH) - 1u) / 2u)));
    }
}
