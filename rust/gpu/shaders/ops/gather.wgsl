// What the head takes over from the body: the rows of the tokens whose logits are asked for.
struct Gather {
    input: u32,
    out: u32,
    width: u32,
}

fn gather(p: Gather, row: u32, run: u32, thread: u32) {
    let token = step[step[2] + row];
    for (var i = thread; i < p.width; i += THREADS) {
        arena[p.out + row * p.width + i] = arena[p.input + token * p.width + i];
    }
}
