// P4 over runs of n elements. A workgroup has a run.
struct Params {
    input: u32,
    out: u32,
    n: u32,
    gain: u32,
    gain_shift: i32,
    epsilon_low: u32,
    epsilon_high: u32,
    root: i32,
    root_shift: i32,
}

@group(1) @binding(0) var<storage, read> vectors: array<u32>;

var<workgroup> totals: array<vec2<u32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let run = (group.y * groups.x + group.x) * params.n;
    var most = 0u;
    for (var i = thread; i < params.n; i += THREADS) {
        most = max(most, magnitude(slot_read(params.input + run + i)));
    }
    let t = u32(max(i32(bits(largest_of(most, thread))) - 15, 0));
    var sum = Wide(0u, 0u);
    for (var i = thread; i < params.n; i += THREADS) {
        var v = slot_read(params.input + run + i);
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
    let epsilon = wide_shr(Wide(params.epsilon_low, params.epsilon_high), 2u * t);
    var squares = wide_add(totals[0], epsilon);
    if (squares.y == 0u) {
        squares.x = max(squares.x, 1u);
    }
    let root = rsqrt(squares);
    let c = i32(root.r) * params.root;
    let shift = 31 + root.u + i32(t) + params.root_shift - FRACTION_BITS;
    for (var i = thread; i < params.n; i += THREADS) {
        let gain = bitcast<i32>(vectors[params.gain + i]);
        let x = requant(slot_read(params.input + run + i), c, shift);
        slot_write(params.out + run + i, requant(x, gain, params.gain_shift));
    }
}
