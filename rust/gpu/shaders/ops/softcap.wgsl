// 3.4, in place.
struct Softcap {
    slot: u32,
    width: u32,
    inverse: i32,
    inverse_shift: i32,
    cap: i32,
    cap_shift: i32,
}

fn softcap(p: Softcap, token: u32, run: u32, thread: u32) {
    let constants = SoftcapConstants(p.inverse, p.inverse_shift, p.cap, p.cap_shift);
    for (var i = thread; i < p.width; i += THREADS) {
        let at = p.slot + token * p.width + i;
        slot_write(at, softcapped(slot_read(at), constants, FRACTION_BITS));
    }
}
