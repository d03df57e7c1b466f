// P4 over a run of n elements.
struct RmsNorm {
    input: u32,
    out: u32,
    width: u32,
    n: u32,
    gain: u32,
    gain_shift: i32,
    epsilon_low: u32,
    epsilon_high: u32,
    root: i32,
    root_shift: i32,
}

var<workgroup> totals: array<vec2<u32>, THREADS>;

fn rms_norm(p: RmsNorm, token: u32, number: u32, thread: u32) {
    let run = token * p.width + number * p.n;
    var most = 0u;
    for (var i = thread; i < p.n; i += THREADS) {
        most = max(most, magnitude(slot_read(p.input + run + i)));
    }
    let t = u32(max(i32(bits(largest_of(most, thread))) - 15, 0));
    var sum = Wide(0u, 0u);
    for (var i = thread; i < p.n; i += THREADS) {
        var v = slot_read(p.input + run + i);
        if (t > 0u) {
            v = ((v >> (t - 1u)) + 1) >> 1u;
        }
        sum = wide_add(sum, Wide(u32(v * v), 0u));
    }
    totals[thread] = sum;
    workgroupBarrier();
    for (var step = THREADS / 2u; step > 0u; step = step / 2u) {
        if (thread < step) {
            totals[thread] = wide_add(totals[thread], totals[thread + step]);
        }
        workgroupBarrier();
    }
    let epsilon = wide_shr(Wide(p.epsilon_low, p.epsilon_high), 2u * t);
    var squares = wide_add(totals[0], epsilon);
    if (squares.y == 0u) {
        squares.x = max(squares.x, 1u);
    }
    let root = rsqrt(squares);
    let c = i32(root.r) * p.root;
    let shift = 31 + root.u + i32(t) + p.root_shift - FRACTION_BITS;
    for (var i = thread; i < p.n; i += THREADS) {
        let gain = bitcast<i32>(vectors[p.gain + i]);
        let x = requant(slot_read(p.input + run + i), c, shift);
        slot_write(p.out + run + i, requant(x, gain, p.gain_shift));
    }
}
