// 3.4 with a gate.
struct Params {
    gate: u32,
    up: u32,
    out: u32,
    width: u32,
}

const GELU_LINEAR: i32 = 1713444047;
const GELU_CUBIC: i32 = 76616651;

fn gelu(x: i32) -> i32 {
    let limit = 16 << u32(FRACTION_BITS);
    let y = clamp(x, -limit, limit);
    let square = requant(y, y, FRACTION_BITS);
    let p = requant(square, GELU_CUBIC, 30) + requant(GELU_LINEAR, 1, 30 - FRACTION_BITS);
    return requant(x, sigmoid(requant(y, p, FRACTION_BITS), FRACTION_BITS), 15);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.width) {
        return;
    }
    let i = id.y * params.width + id.x;
    let g = slot_read(params.gate + i);
    let u = slot_read(params.up + i);
    var a = 0;
    if (KIND == 0u) {
        a = requant(g, sigmoid(g, FRACTION_BITS), 15);
    } else if (KIND == 1u) {
        a = gelu(g);
    } else {
        a = requant(max(g, 0), max(g, 0), FRACTION_BITS);
    }
    slot_write(params.out + i, requant(a, u, FRACTION_BITS));
}
