// 3.4 without a gate: ReLU squared, in place.
struct Params {
    slot: u32,
    width: u32,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.width) {
        let i = params.slot + id.y * params.width + id.x;
        let r = max(slot_read(i), 0);
        slot_write(i, requant(r, r, FRACTION_BITS));
    }
}
