// Reductions over a workgroup of THREADS, a power of two.
var<workgroup> parts: array<u32, THREADS>;

// The largest of each thread's value.
fn largest_of(value: u32, thread: u32) -> u32 {
    parts[thread] = value;
    workgroupBarrier();
    for (var step = THREADS / 2u; step > 0u; step = step / 2u) {
        if (thread < step) {
            parts[thread] = max(parts[thread], parts[thread + step]);
        }
        workgroupBarrier();
    }
    let out = parts[0];
    workgroupBarrier();
    return out;
}
