// What every op reads: the batch, and the slots of all tokens.

struct Token {
    id: u32,
    position: u32,
    // Of its sequence's page table in `step`.
    table: u32,
    // Of its scores in `scratch`.
    scores: u32,
}

// 0: tokens of the body; 1: tokens of the head; 2: where the list of the head's tokens begins; 4: tokens, 4 words each.
@group(0) @binding(0) var<storage, read> step: array<u32>;
@group(0) @binding(1) var<storage, read_write> arena: array<u32>;
@group(0) @binding(2) var<storage, read_write> scratch: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

fn token_of(i: u32) -> Token {
    return Token(step[4u + 4u * i], step[5u + 4u * i], step[6u + 4u * i], step[7u + 4u * i]);
}

fn slot_read(i: u32) -> i32 {
    return bitcast<i32>(arena[i]);
}

fn slot_write(i: u32, v: i32) {
    arena[i] = bitcast<u32>(v);
}
