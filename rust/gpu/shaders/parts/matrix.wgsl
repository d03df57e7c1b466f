// Some tiles of a matrix, all planes in one array at places of 16 bytes; a thread has a quad, 4 of the 16 rows.
@group(1) @binding(0) var<storage, read> weights: array<vec4<u32>>;

struct Piece {
    // Levels of codes that index a table, four to a word.
    table: vec4<u32>,
    columns: u32,
    row_words: u32,
    payload: u32,
    scale: u32,
    sign: u32,
    offset: u32,
    row: u32,
    // Of the biases, or all ones.
    bias: u32,
    // Its first row, the end of the rows that the matrix has, and its tiles.
    first: u32,
    rows: u32,
    tiles: u32,
    preshift: u32,
    // The slot that it writes, and that slot's width.
    out: u32,
    width: u32,
    unused: vec2<u32>,
}

var<private> piece: Piece;

const MODE_R = 0u;
const MODE_B4 = 1u;
const MODE_B8 = 2u;
const MODE_Z8 = 3u;

struct Scales {
    s: vec4<i32>,
    z: vec4<i32>,
}

fn shr(v: vec4<u32>, s: u32) -> vec4<u32> {
    return v >> vec4<u32>(s);
}

fn shl(v: vec4<u32>, s: u32) -> vec4<u32> {
    return v << vec4<u32>(s);
}

fn masked(v: vec4<u32>, mask: u32) -> vec4<u32> {
    return v & vec4<u32>(mask);
}

// Word i of the rows' payload.
fn payload_words(tile: u32, quad: u32, i: u32) -> vec4<u32> {
    return weights[piece.payload + (tile * piece.row_words + i) * 4u + quad];
}

fn bytes_of(word: u32) -> vec4<u32> {
    return masked(vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u), 255u);
}

// s and z of a block, with W = s (level) + z.
fn block_scales(tile: u32, quad: u32, block: u32) -> Scales {
    if (MODE == MODE_R) {
        return Scales(vec4<i32>(1), vec4<i32>(0));
    }
    // Rows are padded to groups.
    let blocks = ((piece.columns + 31u) / 32u * 32u + BLOCK - 1u) / BLOCK;
    let pair = tile * ((blocks + 1u) / 2u) + block / 2u;
    if (MODE == MODE_B4) {
        let bytes = bytes_of(weights[piece.scale + pair][quad]);
        return Scales(bitcast<vec4<i32>>(masked(shr(bytes, 4u * (block & 1u)), 15u)), vec4<i32>(0));
    }
    let at = tile * blocks + block;
    let s = bitcast<vec4<i32>>(bytes_of(weights[piece.scale + at][quad]));
    if (MODE == MODE_B8) {
        let signs = (weights[piece.sign + (at >> 3u)][(at >> 1u) & 3u] >> (16u * (at & 1u))) >> (4u * quad);
        let negative = (vec4<u32>(signs) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u);
        return Scales(select(s, -s, negative), vec4<i32>(0));
    }
    let offsets = weights[piece.offset + 4u * pair + quad];
    let z = bitcast<vec4<i32>>(shl(offsets, 16u * (1u - (block & 1u)))) >> vec4<u32>(16u);
    return Scales(s, z + s * BIAS);
}

// Subtracts `bias` < 128 from each of four codes < 128.
fn level_of(codes: vec4<u32>, bias: u32) -> vec4<u32> {
    return ((codes | vec4<u32>(0x80808080u)) - vec4<u32>(bias * 0x01010101u)) ^ vec4<u32>(0x80808080u);
}

// The levels of nibbles, in the low byte.
fn table_entry(nibble: vec4<u32>) -> vec4<u32> {
    let table = piece.table;
    let odd = masked(nibble, 4u) != vec4<u32>(0u);
    let low = select(vec4<u32>(table.x), vec4<u32>(table.y), odd);
    let high = select(vec4<u32>(table.z), vec4<u32>(table.w), odd);
    let word = select(low, high, masked(nibble, 8u) != vec4<u32>(0u));
    return masked(word >> (masked(nibble, 3u) * 8u), 255u);
}
