// 2.5: rows of a matrix as vectors. A thread has a group of 32 columns.
struct Params {
    piece: Piece,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    piece = params.piece;
    let g = id.x;
    let token = id.y;
    let row = token_of(token).id - piece.first;
    if (32u * g >= piece.columns || row >= 16u * piece.tiles) {
        return;
    }
    let tile = row / 16u;
    let quad = row / 4u % 4u;
    let r = row % 4u;
    let word = weights[piece.row + (row >> 2u)][r];
    let m = i32(word & 0x7fffffu);
    let shift = i32((word >> 23u) & 127u) - FRACTION_BITS;
    let low = group_levels(tile, quad, g, 0u);
    let high = group_levels(tile, quad, g, 1u);
    let out = piece.out + token * piece.columns;
    for (var i = 0u; i < min(32u, piece.columns - 32u * g); i++) {
        let scale = block_scales(tile, quad, (32u * g + i) / BLOCK);
        var level = bitcast<i32>(low[i >> 2u][r] << (24u - 8u * (i & 3u))) >> 24u;
        if (WEIGHT_PLANES == 2u) {
            level += 128 + 256 * (bitcast<i32>(high[i >> 2u][r] << (24u - 8u * (i & 3u))) >> 24u);
        }
        slot_write(out + 32u * g + i, requant(scale.s[r] * level + scale.z[r], m, shift));
    }
}
