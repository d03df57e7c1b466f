// 2.5: rows of a matrix as vectors. A thread has a group of 32 columns.
struct Params {
    table: vec4<u32>,
    columns: u32,
    row_words: u32,
    payload: u32,
    scale: u32,
    sign: u32,
    offset: u32,
    row: u32,
    // The rows that this piece has.
    first: u32,
    rows: u32,
    out: u32,
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let g = id.x;
    let token = id.y;
    let row = token_of(token).id - params.first;
    if (32u * g >= params.columns || row >= params.rows) {
        return;
    }
    let tile = row / 16u;
    let r = row % 16u;
    let word = weights[params.row + row];
    let m = i32(word & 0x7fffffu);
    let shift = i32((word >> 23u) & 127u) - FRACTION_BITS;
    let low = group_levels(tile, r, g, 0u);
    let high = group_levels(tile, r, g, 1u);
    let out = params.out + token * params.columns;
    for (var i = 0u; i < min(32u, params.columns - 32u * g); i++) {
        let scale = block_scale(tile, r, (32u * g + i) / BLOCK);
        var level = bitcast<i32>(low[i >> 2u] << (24u - 8u * (i & 3u))) >> 24u;
        if (WEIGHT_PLANES == 2u) {
            level += 128 + 256 * (bitcast<i32>(high[i >> 2u] << (24u - 8u * (i & 3u))) >> 24u);
        }
        slot_write(out + 32u * g + i, requant(scale.x * level + scale.y, m, shift));
    }
}
