// 3.4, in place.
struct Params {
    slot: u32,
    width: u32,
    inverse: i32,
    inverse_shift: i32,
    cap: i32,
    cap_shift: i32,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.width) {
        let i = params.slot + id.y * params.width + id.x;
        let constants = Softcap(params.inverse, params.inverse_shift, params.cap, params.cap_shift);
        slot_write(i, softcap(slot_read(i), constants, FRACTION_BITS));
    }
}
