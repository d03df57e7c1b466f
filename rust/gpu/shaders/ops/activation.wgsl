// 3.4 without a gate: ReLU squared, in place.
struct Activation {
    slot: u32,
    width: u32,
}

fn activation(p: Activation, token: u32, run: u32, thread: u32) {
    for (var i = thread; i < p.width; i += THREADS) {
        let at = p.slot + token * p.width + i;
        let r = max(slot_read(at), 0);
        slot_write(at, requant(r, r, FRACTION_BITS));
    }
}
