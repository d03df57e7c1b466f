// 3.4 with a gate.
struct GatedActivation {
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

fn gated_activation(p: GatedActivation, token: u32, run: u32, thread: u32) {
    for (var i = token * p.width + thread; i < (token + 1u) * p.width; i += THREADS) {
        let g = slot_read(p.gate + i);
        let u = slot_read(p.up + i);
        var a = 0;
        if (KIND == 0u) {
            a = requant(g, sigmoid(g, FRACTION_BITS), 15);
        } else if (KIND == 1u) {
            a = gelu(g);
        } else {
            a = requant(max(g, 0), max(g, 0), FRACTION_BITS);
        }
        slot_write(p.out + i, requant(a, u, FRACTION_BITS));
    }
}
