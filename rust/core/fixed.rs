//! The primitives of the contract (section 1), each in the one form in which everything uses it.

/// log2(e) in Q30, the factor that turns natural exponents into log2 units.
pub const LOG2_E_Q30: i32 = 1_549_082_005;

/// The largest magnitude of a 16-bit activation: 127 · 255, so that block scales fit a byte.
pub const A16_MAX: u32 = 32_385;

/// Bit length: `bit_length(0) = 0`, `bit_length(255) = 8`.
#[inline(always)]
#[must_use]
pub const fn bit_length(a: u64) -> u32 {
    64 - a.leading_zeros()
}

/// Clamps to the range of i32.
#[inline(always)]
#[must_use]
pub const fn sat(v: i64) -> i32 {
    if v > i32::MAX as i64 {
        i32::MAX
    } else if v < i32::MIN as i64 {
        i32::MIN
    } else {
        v as i32
    }
}

/// Rounding shift right, half towards +infinity, for `s <= 62` and `|v| <= 2^62`.
#[inline(always)]
#[must_use]
pub const fn rshr(v: i64, s: u32) -> i64 {
    debug_assert!(s <= 62);
    if s == 0 { v } else { (v + (1i64 << (s - 1))) >> s }
}

/// P1: `x · m · 2^-s`, rounded half up and saturated; any shift is defined.
#[inline(always)]
#[must_use]
pub const fn requant(x: i32, m: i32, s: i32) -> i32 {
    let p = x as i64 * m as i64;
    if s >= 63 {
        0
    } else if s >= 0 {
        sat(rshr(p, s as u32))
    } else {
        let left = if s < -31 { 31 } else { -s };
        sat((sat(p) as i64) << left)
    }
}

/// The scale half of P2: `(d, t)` with `128 <= d <= 255` for a largest magnitude `amax` and a code range `xmax >= 1`.
#[inline]
#[must_use]
pub const fn dynscale(amax: u32, xmax: u32) -> (u32, u32) {
    let steps = (128 * amax as u64).div_ceil(xmax as u64);
    let big = if steps < 128 { 128 } else { steps };
    let t = bit_length(big) - 8;
    let d = big.div_ceil(1 << t) as u32;
    if d == 256 { (128, t + 1) } else { (d, t) }
}

/// The multiplier of P2: `2^31 div d`.
#[inline(always)]
#[must_use]
pub const fn dynquant_factor(d: u32) -> i32 {
    (0x8000_0000u32 / d) as i32
}

/// Largest magnitude of a vector, as u32 because `|-2^31|` does not fit i32.
#[inline(always)]
#[must_use]
pub fn amax(x: &[i32]) -> u32 {
    x.iter().fold(0, |a, v| a.max(v.unsigned_abs()))
}

/// P2: quantizes `x` to codes of magnitude at most `xmax`; returns `(d, t)`, with `x_i ≈ q_i · d · 2^(t-7)`.
pub fn dynquant(x: &[i32], xmax: u32, q: &mut [i32]) -> (u32, u32) {
    let (d, t) = dynscale(amax(x), xmax);
    let r = dynquant_factor(d);
    for (q, &x) in q.iter_mut().zip(x) {
        *q = requant(x, r, 24 + t as i32);
    }
    (d, t)
}

/// Largest integer whose square is at most `v`.
#[inline]
#[must_use]
pub const fn isqrt(v: u32) -> u32 {
    let mut rest = v;
    let mut root = 0u32;
    let mut bit = 1u32 << 30;
    while bit > 0 {
        if rest >= root + bit {
            rest -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
        bit >>= 2;
    }
    root
}

/// P3: `1 / sqrt(v) ≈ R · 2^-(31 + u)` for `v >= 1`.
#[inline]
#[must_use]
pub const fn rsqrt(v: u64) -> (u32, i32) {
    debug_assert!(v > 0);
    let u = (bit_length(v) as i32 - 31) >> 1;
    let m = if u >= 0 { v >> (2 * u) } else { v << (-2 * u) };
    (0x8000_0000u32 / isqrt(m as u32), u)
}

/// The mantissa of P5 for a fraction `f` in 0…65535: 65536 · 2^(f / 65536), 65536 … 131069.
#[inline(always)]
#[must_use]
pub const fn exp2_mantissa(f: u32) -> u32 {
    let t = 3420 + ((882 * f) >> 16);
    let t = 15815 + ((t * f) >> 16);
    let t = 45420 + ((t * f) >> 16);
    65536 + ((t * f + 32768) >> 16)
}

/// P5: `2^(x / 65536) · 2^b` for `x <= 0` in Q16 log2 units and `b <= 30`.
#[inline(always)]
#[must_use]
pub const fn exp2(x: i32, b: u32) -> u32 {
    debug_assert!(x <= 0 && b <= 30);
    let m = exp2_mantissa((x & 0xFFFF) as u32);
    let h = -(x >> 16) + 16 - b as i32;
    if h >= 18 {
        0
    } else if h > 0 {
        (m + (1 << (h - 1))) >> h
    } else {
        m << -h
    }
}

/// P6: the logistic function in Q15, 0 … 32768, of `x` in QF.
#[inline(always)]
#[must_use]
pub const fn sigmoid(x: i32, fraction_bits: u32) -> u32 {
    let a = if x == i32::MIN { i32::MAX } else { x.abs() };
    let z = requant(a, LOG2_E_Q30, fraction_bits as i32 + 14);
    let e = exp2(-z, 16);
    let numerator = if x >= 0 { 0x8000_0000 } else { e << 15 };
    numerator / (65536 + e)
}

/// `round(atan(2^-i) / 2π · 2^32)` for the rotations of P7.
const CORDIC_ANGLE: [i32; 31] = [
    536870912, 316933406, 167458907, 85004756, 42667331, 21354465, 10679838, 5340245, 2670163, 1335087, 667544, 333772,
    166886, 83443, 41722, 20861, 10430, 5215, 2608, 1304, 652, 326, 163, 81, 41, 20, 10, 5, 3, 1, 1,
];

/// P7: `(cos, sin)` in Q30 of a phase that counts 2^-32 turns.
#[must_use]
pub const fn sincos(phase: u32) -> (i32, i32) {
    let quarter = (phase.wrapping_add(1 << 29) >> 30) & 3;
    let mut z = phase.wrapping_sub(quarter << 30) as i32;
    let (mut x, mut y) = (652_032_874i32, 0i32);
    let mut i = 0;
    while i < 31 {
        let (dx, dy) = (y >> i, x >> i);
        if z < 0 {
            x += dx;
            y -= dy;
            z += CORDIC_ANGLE[i];
        } else {
            x -= dx;
            y += dy;
            z -= CORDIC_ANGLE[i];
        }
        i += 1;
    }
    let (c, s) = match quarter {
        0 => (x, y),
        1 => (-y, x),
        2 => (-x, -y),
        _ => (y, -x),
    };
    (clamp_q30(c), clamp_q30(s))
}

const fn clamp_q30(v: i32) -> i32 {
    const ONE: i32 = 1 << 30;
    if v > ONE {
        ONE
    } else if v < -ONE {
        -ONE
    } else {
        v
    }
}

/// P8 for one run of codes: the integer scale `s >= 1`; the codes become `|c| <= 127` with `q ≈ s · c`.
#[inline]
pub fn blockscale(q: &[i32], c: &mut [i8]) -> u32 {
    let s = q.iter().fold(0, |a: u32, v| a.max(v.unsigned_abs())).div_ceil(127).max(1);
    let factor = ((1u32 << 30) / s) as i32;
    for (c, &q) in c.iter_mut().zip(q) {
        *c = requant(q, factor, 30) as i8;
    }
    s
}

/// P9: Philox4x32-10, a counter-based generator of random bits.
#[must_use]
pub const fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    let mut round = 0;
    while round < 10 {
        let low = c0 as u64 * 0xD251_1F53;
        let high = c2 as u64 * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((high >> 32) as u32 ^ c1 ^ k0, high as u32, (low >> 32) as u32 ^ c3 ^ k1, low as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// Base-2 logarithm in Q16 (section 4), for `v >= 1`.
#[must_use]
pub const fn ilog2(v: u64) -> i64 {
    debug_assert!(v > 0);
    let e = bit_length(v) - 1;
    let mut m = if e <= 31 { v << (31 - e) } else { v >> (e - 31) };
    let mut y = e as i64;
    let mut i = 0;
    while i < 16 {
        m *= m;
        y *= 2;
        if m >= 1 << 63 {
            y += 1;
            m >>= 32;
        } else {
            m >>= 31;
        }
        i += 1;
    }
    y
}
