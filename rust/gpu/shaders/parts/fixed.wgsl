// The primitives of the contract, section 1.
const LOG2_E_Q30: i32 = 1549082005;

fn magnitude(v: i32) -> u32 {
    return bitcast<u32>(select(v, 0 - v, v < 0));
}

fn add_sat(a: i32, b: i32) -> i32 {
    return wide_sat(wide_add(wide(a), wide(b)));
}

fn sub_sat(a: i32, b: i32) -> i32 {
    return wide_sat(wide_sub(wide(a), wide(b)));
}

// P1.
fn requant(x: i32, m: i32, s: i32) -> i32 {
    if (s >= 63) {
        return 0;
    }
    let p = wide_mul(x, m);
    if (s >= 0) {
        return wide_sat(wide_rshr(p, u32(s)));
    }
    let left = u32(0 - max(s, -31));
    let v = wide_sat(p);
    let up = v << left;
    if ((up >> left) == v) {
        return up;
    }
    return select(i32(2147483647), i32(-2147483648), v < 0);
}

// The scale half of P2: d, t.
fn dynscale(amax: u32, xmax: u32) -> vec2<u32> {
    // ceil(128 amax / xmax), of which 128 (amax mod xmax) fits a word since xmax < 2^16.
    let whole = amax / xmax;
    let rest = (128u * (amax % xmax) + xmax - 1u) / xmax;
    var steps = wide_add(Wide(whole << 7u, whole >> 25u), Wide(rest, 0u));
    if (steps.y == 0u) {
        steps.x = max(steps.x, 128u);
    }
    let t = wide_bits(steps) - 8u;
    let up = wide_sub(wide_shl(Wide(1u, 0u), t), Wide(1u, 0u));
    let d = wide_shr(wide_add(steps, up), t).x;
    return select(vec2<u32>(d, t), vec2<u32>(128u, t + 1u), d == 256u);
}

fn dynquant_factor(d: u32) -> i32 {
    return i32(0x80000000u / d);
}

fn isqrt(v: u32) -> u32 {
    var rest = v;
    var root = 0u;
    var bit = 1u << 30u;
    loop {
        if (bit == 0u) {
            break;
        }
        if (rest >= root + bit) {
            rest -= root + bit;
            root = (root >> 1u) + bit;
        } else {
            root = root >> 1u;
        }
        bit = bit >> 2u;
    }
    return root;
}

struct Root {
    r: u32,
    u: i32,
}

// P3, v >= 1.
fn rsqrt(v: Wide) -> Root {
    let u = (i32(wide_bits(v)) - 31) >> 1u;
    var m = 0u;
    if (u >= 0) {
        m = wide_shr(v, 2u * u32(u)).x;
    } else {
        m = wide_shl(v, 2u * u32(-u)).x;
    }
    return Root(0x80000000u / isqrt(m), u);
}

// P5, x <= 0 and b <= 30.
fn exp2_fixed(x: i32, b: i32) -> u32 {
    let f = bitcast<u32>(x) & 0xffffu;
    var t = 3420u + ((882u * f) >> 16u);
    t = 15815u + ((t * f) >> 16u);
    t = 45420u + ((t * f) >> 16u);
    let m = 65536u + ((t * f + 32768u) >> 16u);
    let h = 16 - b - (x >> 16u);
    if (h >= 18) {
        return 0u;
    }
    if (h > 0) {
        return (m + (1u << u32(h - 1))) >> u32(h);
    }
    return m << u32(-h);
}

// P6, in Q15.
fn sigmoid(x: i32, fraction_bits: i32) -> i32 {
    let a = select(i32(magnitude(x)), i32(2147483647), x == i32(-2147483648));
    let z = requant(a, LOG2_E_Q30, fraction_bits + 14);
    let e = exp2_fixed(-z, 16);
    let numerator = select(e << 15u, 0x80000000u, x >= 0);
    return i32(numerator / (65536u + e));
}

struct SoftcapConstants {
    inverse: i32,
    inverse_shift: i32,
    cap: i32,
    cap_shift: i32,
}

fn softcapped(x: i32, c: SoftcapConstants, fraction_bits: i32) -> i32 {
    let tanh = 2 * sigmoid(requant(x, c.inverse, c.inverse_shift), fraction_bits) - 32768;
    return requant(tanh, c.cap, c.cap_shift + 15 - fraction_bits);
}
