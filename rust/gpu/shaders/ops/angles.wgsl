// P7 of every token's position and frequency: cosine and sine in Q30.
struct Params {
    table: u32,
    pairs: u32,
    out: u32,
}

const ANGLES = array<i32, 31>(
    536870912, 316933406, 167458907, 85004756, 42667331, 21354465, 10679838, 5340245, 2670163, 1335087, 667544, 333772,
    166886, 83443, 41722, 20861, 10430, 5215, 2608, 1304, 652, 326, 163, 81, 41, 20, 10, 5, 3, 1, 1,
);

fn clamp_q30(v: i32) -> i32 {
    return clamp(v, -(1 << 30u), 1 << 30u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.pairs) {
        return;
    }
    let position = token_of(id.y).position;
    let low = vectors[params.table + 2u * id.x];
    let high = vectors[params.table + 2u * id.x + 1u];
    let phase = wide_umul(position, low).y + position * high;
    let quarter = ((phase + (1u << 29u)) >> 30u) & 3u;
    var z = bitcast<i32>(phase - (quarter << 30u));
    var x = 652032874;
    var y = 0;
    var angles = ANGLES;
    for (var i = 0u; i < 31u; i++) {
        let dx = y >> i;
        let dy = x >> i;
        if (z < 0) {
            x += dx;
            y -= dy;
            z += angles[i];
        } else {
            x -= dx;
            y += dy;
            z -= angles[i];
        }
    }
    var turned = vec2<i32>(x, y);
    if (quarter == 1u) {
        turned = vec2<i32>(-y, x);
    } else if (quarter == 2u) {
        turned = vec2<i32>(-x, -y);
    } else if (quarter == 3u) {
        turned = vec2<i32>(y, -x);
    }
    let out = params.out + 2u * (id.y * params.pairs + id.x);
    slot_write(out, clamp_q30(turned.x));
    slot_write(out + 1u, clamp_q30(turned.y));
}
