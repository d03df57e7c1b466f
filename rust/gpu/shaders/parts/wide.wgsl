// 64-bit integers in two words, x the low one; signed unless said otherwise.
alias Wide = vec2<u32>;

fn wide(v: i32) -> Wide {
    return Wide(bitcast<u32>(v), bitcast<u32>(v >> 31u));
}

fn wide_add(a: Wide, b: Wide) -> Wide {
    let low = a.x + b.x;
    return Wide(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn wide_sub(a: Wide, b: Wide) -> Wide {
    return Wide(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

// Unsigned.
fn wide_umul(a: u32, b: u32) -> Wide {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    // At most 2^32 - 1: (2^16 - 1)^2 + 2 (2^16 - 1).
    let one = ah * bl + (low >> 16u);
    let two = al * bh + (one & 0xffffu);
    return Wide((two << 16u) | (low & 0xffffu), ah * bh + (one >> 16u) + (two >> 16u));
}

fn wide_mul(a: i32, b: i32) -> Wide {
    let p = wide_umul(bitcast<u32>(a), bitcast<u32>(b));
    let high = p.y - select(0u, bitcast<u32>(b), a < 0) - select(0u, bitcast<u32>(a), b < 0);
    return Wide(p.x, high);
}

// s < 64.
fn wide_shl(a: Wide, s: u32) -> Wide {
    if (s == 0u) {
        return a;
    }
    if (s >= 32u) {
        return Wide(0u, a.x << (s - 32u));
    }
    return Wide(a.x << s, (a.y << s) | (a.x >> (32u - s)));
}

// Unsigned; s < 64.
fn wide_shr(a: Wide, s: u32) -> Wide {
    if (s == 0u) {
        return a;
    }
    if (s >= 32u) {
        return Wide(a.y >> (s - 32u), 0u);
    }
    return Wide((a.x >> s) | (a.y << (32u - s)), a.y >> s);
}

// s < 64.
fn wide_sar(a: Wide, s: u32) -> Wide {
    if (s == 0u) {
        return a;
    }
    let high = bitcast<i32>(a.y);
    if (s >= 32u) {
        return Wide(bitcast<u32>(high >> (s - 32u)), bitcast<u32>(high >> 31u));
    }
    return Wide((a.x >> s) | (a.y << (32u - s)), bitcast<u32>(high >> s));
}

// rshr of the contract, s < 64: floor((floor(v / 2^(s-1)) + 1) / 2).
fn wide_rshr(v: Wide, s: u32) -> Wide {
    if (s == 0u) {
        return v;
    }
    return wide_sar(wide_add(wide_sar(v, s - 1u), Wide(1u, 0u)), 1u);
}

fn wide_sat(v: Wide) -> i32 {
    let low = bitcast<i32>(v.x);
    if (bitcast<u32>(low >> 31u) == v.y) {
        return low;
    }
    return select(i32(2147483647), i32(-2147483648), bitcast<i32>(v.y) < 0);
}

fn bits(v: u32) -> u32 {
    return 32u - countLeadingZeros(v);
}

// Unsigned.
fn wide_bits(v: Wide) -> u32 {
    return select(bits(v.x), 32u + bits(v.y), v.y != 0u);
}
