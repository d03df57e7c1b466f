// into = sat(into + from).
struct Params {
    to: u32,
    width: u32,
    added: u32,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.width) {
        let i = id.y * params.width + id.x;
        slot_write(params.to + i, add_sat(slot_read(params.to + i), slot_read(params.added + i)));
    }
}
