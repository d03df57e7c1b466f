// A piece of a matrix: some of its tiles, all planes in one array, at the places that params give.
@group(1) @binding(0) var<storage, read> weights: array<u32>;

const MODE_R = 0u;
const MODE_B4 = 1u;
const MODE_B8 = 2u;
const MODE_Z8 = 3u;

fn blocks_per_row() -> u32 {
    // Rows are padded to groups.
    return ((params.columns + 31u) / 32u * 32u + BLOCK - 1u) / BLOCK;
}

// Word i of row r of a tile's payload.
fn payload_word(tile: u32, r: u32, i: u32) -> u32 {
    return weights[params.payload + (tile * params.row_words + i) * 16u + r];
}

fn byte_of(plane: u32, i: u32) -> u32 {
    return (weights[plane + (i >> 2u)] >> (8u * (i & 3u))) & 255u;
}

// s and z of a block, with W = s (level) + z.
fn block_scale(tile: u32, r: u32, block: u32) -> vec2<i32> {
    if (MODE == MODE_R) {
        return vec2<i32>(1, 0);
    }
    let blocks = blocks_per_row();
    if (MODE == MODE_B4) {
        let byte = byte_of(params.scale, (tile * ((blocks + 1u) / 2u) + block / 2u) * 16u + r);
        return vec2<i32>(i32((byte >> (4u * (block & 1u))) & 15u), 0);
    }
    let s = i32(byte_of(params.scale, (tile * blocks + block) * 16u + r));
    if (MODE == MODE_B8) {
        let at = tile * blocks + block;
        let signs = weights[params.sign + (at >> 1u)] >> (16u * (at & 1u));
        return vec2<i32>(select(s, -s, ((signs >> r) & 1u) == 1u), 0);
    }
    let pair = weights[params.offset + (tile * ((blocks + 1u) / 2u) + block / 2u) * 16u + r];
    let z = bitcast<i32>(pair << (16u * (1u - (block & 1u)))) >> 16u;
    return vec2<i32>(s, z + s * BIAS);
}

// Subtracts `bias` < 128 from each of four codes < 128.
fn level_of(codes: u32, bias: u32) -> u32 {
    return ((codes | 0x80808080u) - bias * 0x01010101u) ^ 0x80808080u;
}
