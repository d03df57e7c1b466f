// into = sat(into + from).
struct ResidualAdd {
    to: u32,
    width: u32,
    added: u32,
}

fn residual_add(p: ResidualAdd, token: u32, run: u32, thread: u32) {
    for (var i = thread; i < p.width; i += THREADS) {
        let at = token * p.width + i;
        slot_write(p.to + at, add_sat(slot_read(p.to + at), slot_read(p.added + at)));
    }
}
