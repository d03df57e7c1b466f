// 2.1: what the sums of linear layers have in common. Matrices of one format that read one vector are one dispatch.
struct Params {
    groups: u32,
    codes: u32,
    // Where `step` has the number of tokens.
    count: u32,
    pieces: u32,
    piece: array<Piece, 4>,
}

// Sums are i32 first: |W| < 2^15 and |code| <= 2^7, so a group's sum is at most 2^27, and that of A8b with its scale
// obeys rule 2.3. Sum number i counts 2^(8i): planes of weights and of codes have each their power.
const SUMS = WEIGHT_PLANES + PLANES - 1u;

// A sum for each of 4 rows, in two words.
struct Total {
    low: vec4<u32>,
    high: vec4<u32>,
}

fn total_add(a: Total, b: Total) -> Total {
    let low = a.low + b.low;
    return Total(low, a.high + b.high + select(vec4<u32>(0u), vec4<u32>(1u), low < a.low));
}

fn total_add_shifted(a: Total, sum: vec4<i32>, shift: u32) -> Total {
    let low = bitcast<vec4<u32>>(sum) << vec4<u32>(shift);
    // The bits that leave the low word, with the sign: a shift of 32 is none.
    let high = bitcast<vec4<u32>>((sum >> vec4<u32>(31u - shift)) >> vec4<u32>(1u));
    return total_add(a, Total(low, high));
}

fn dots(levels: vec4<u32>, codes: u32) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(levels.x, codes), dot4I8Packed(levels.y, codes), dot4I8Packed(levels.z, codes),
        dot4I8Packed(levels.w, codes),
    );
}

// Takes the piece that block number `block`, of `tiles` tiles each, belongs to; returns the block's number in it.
fn find_piece(block: u32, tiles: u32) -> u32 {
    var rest = block;
    var i = 0u;
    loop {
        piece = params.piece[i];
        let own = (piece.tiles + tiles - 1u) / tiles;
        if (rest < own || i + 1u == params.pieces) {
            return rest;
        }
        rest -= own;
        i++;
    }
    return rest;
}

// The output of a row of the piece.
fn finish(row: u32, token: u32, low: u32, high: u32) {
    if (piece.first + row >= piece.rows) {
        return;
    }
    let word = weights[piece.row + (row >> 2u)][row & 3u];
    let dt = scales_at(params.codes, params.groups, token) + params.groups;
    let d = i32(arena[dt]);
    let t = i32(arena[dt + 1u]);
    let a = piece.preshift;
    let shift = i32((word >> 23u) & 127u) + 7 - t - i32(a);
    var y = requant(wide_sat(wide_rshr(Wide(low, high), a)), d * i32(word & 0x7fffffu), shift);
    if (piece.bias != 0xffffffffu) {
        y = add_sat(y, bitcast<i32>(weights[piece.bias + (row >> 2u)][row & 3u]));
    }
    slot_write(piece.out + token * piece.width + piece.first + row, y);
}
