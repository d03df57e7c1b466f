struct Attention {
    query: u32,
    key: u32,
    value: u32,
    out: u32,
    queries: u32,
    window: u32,
    scale: i32,
    scale_shift: i32,
    inverse: i32,
    inverse_shift: i32,
    cap: i32,
    cap_shift: i32,
}

var<private> attention: Attention;

// The KV cache of one attention, page after page: the keys of all KV heads and positions, then their values, then a
// word of scales for each: dk, tk, dv, tv. Codes lie in order, four to a word, or two where keys are wide.
@group(2) @binding(0) var<storage, read_write> cache: array<u32>;

const CODES = select(4u, 2u, WIDE_KEYS == 1u);
const KEY_WORDS = (HEAD_WIDTH + CODES - 1u) / CODES;
const VALUE_WORDS = (HEAD_WIDTH + 3u) / 4u;
const ENTRIES = KV_HEADS * PAGE;
const GROUP = HEADS / KV_HEADS;

struct Entry {
    keys: u32,
    values: u32,
    scales: u32,
}

fn entry_of(token: Token, position: u32, head: u32) -> Entry {
    let page = step[token.table + position / PAGE] * (ENTRIES * (KEY_WORDS + VALUE_WORDS + 1u));
    let entry = head * PAGE + position % PAGE;
    let values = page + ENTRIES * KEY_WORDS;
    return Entry(page + entry * KEY_WORDS, values + entry * VALUE_WORDS, values + ENTRIES * VALUE_WORDS + entry);
}

// The positions that a token sees: how many, the last one its own.
fn seen_by(token: Token) -> u32 {
    let all = token.position + 1u;
    return select(min(all, attention.window), all, attention.window == 0u);
}

// What a query head leaves in `scratch`: l of each position that it sees; the largest l and tv of each 64 of them; the
// sums over each 256 of them, of p and of high and low parts of w times v.
struct Scores {
    l: u32,
    largest: u32,
    sums: u32,
}

const SCORE_BLOCK = 64u;
const SUM_BLOCK = 256u;
const SUM_WORDS = 2u * HEAD_WIDTH + 1u;

fn scores_of(token: Token, head: u32) -> Scores {
    let n = seen_by(token);
    let blocks = (n + SCORE_BLOCK - 1u) / SCORE_BLOCK;
    let stride = n + 2u * blocks + (n + SUM_BLOCK - 1u) / SUM_BLOCK * SUM_WORDS;
    let l = token.scores + head * stride;
    return Scores(l, l + n, l + n + 2u * blocks);
}

// Codes of a query head in `arena`, a word each, then d and t.
fn query_at(token: u32, head: u32) -> u32 {
    return attention.queries + (token * HEADS + head) * (HEAD_WIDTH + 2u);
}

fn byte_at(word: u32, i: u32) -> i32 {
    return bitcast<i32>(word << (24u - 8u * i)) >> 24u;
}
