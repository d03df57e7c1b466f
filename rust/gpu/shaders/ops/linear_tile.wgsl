// 2.1 for many tokens: 64 rows with 32 of them. STEP groups of weights are decoded, and as many of codes fetched, into
// the workgroup's memory, where each of 128 threads multiplies 4 rows with 4 tokens.
const QUADS = 16u;
const TOKENS = 32u;
const TOKEN_QUADS = 8u;
const WORDS = 8u * STEP;
// Runs of columns within a group that have a scale of their own.
const HALVES = select(1u, 2u, BLOCK == 16u);

var<workgroup> levels: array<vec4<u32>, WEIGHT_PLANES * WORDS * QUADS>;
var<workgroup> codes: array<array<u32, TOKENS>, PLANES * WORDS>;
var<workgroup> scales: array<Scales, HALVES * STEP * QUADS>;
// Sums of codes of a run, where weights have offsets.
var<workgroup> ones: array<array<i32, TOKENS>, PLANES * HALVES * STEP>;
var<workgroup> code_scales: array<array<i32, TOKENS>, STEP>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = find_piece(group.x, 4u);
    let tokens = step[params.count];
    let start = group.y * TOKENS;
    let quad = thread / TOKEN_QUADS;
    let mine = 4u * (thread % TOKEN_QUADS);
    var totals: array<Total, 4>;
    for (var j = 0u; j < 4u; j++) {
        totals[j] = Total(vec4<u32>(0u), vec4<u32>(0u));
    }
    for (var g = 0u; g < params.groups; g += STEP) {
        for (var task = thread; task < QUADS * STEP; task += 128u) {
            fetch_weights(4u * block + (task % QUADS) / 4u, task % QUADS, g, task / QUADS);
        }
        for (var task = thread; task < TOKENS * STEP; task += 128u) {
            fetch_codes(min(start + task % TOKENS, tokens - 1u), task % TOKENS, g, task / TOKENS);
        }
        workgroupBarrier();
        // A step is within a chunk of 128 columns: its sums fit by rule 2.3.
        var sums: array<array<vec4<i32>, 4>, SUMS>;
        for (var i = 0u; i < SUMS; i++) {
            for (var j = 0u; j < 4u; j++) {
                sums[i][j] = vec4<i32>(0);
            }
        }
        for (var run = 0u; run < HALVES * STEP; run++) {
            let scale = scales[run * QUADS + quad];
            for (var w = 0u; w < WEIGHT_PLANES; w++) {
                for (var plane = 0u; plane < PLANES; plane++) {
                    var products: array<vec4<i32>, 4>;
                    for (var j = 0u; j < 4u; j++) {
                        products[j] = vec4<i32>(0);
                    }
                    for (var k = run * (8u / HALVES); k < (run + 1u) * (8u / HALVES); k++) {
                        let words = levels[(w * WORDS + k) * QUADS + quad];
                        for (var j = 0u; j < 4u; j++) {
                            products[j] += dots(words, codes[plane * WORDS + k][mine + j]);
                        }
                    }
                    for (var j = 0u; j < 4u; j++) {
                        var sum = scale.s * products[j];
                        if (MODE == MODE_Z8) {
                            sum += scale.z * ones[plane * HALVES * STEP + run][mine + j];
                        }
                        if (WEIGHT_PLANES == 2u && w == 0u) {
                            sum += vec4<i32>(128 * ones[plane * HALVES * STEP + run][mine + j]);
                        }
                        if (ACT == ACT_A8B) {
                            sum *= code_scales[run / HALVES][mine + j];
                        }
                        sums[w + PLANES - 1u - plane][j] += sum;
                    }
                }
            }
        }
        for (var j = 0u; j < 4u; j++) {
            for (var i = 0u; i < SUMS; i++) {
                totals[j] = total_add_shifted(totals[j], sums[i][j], 8u * i);
            }
        }
        workgroupBarrier();
    }
    if (4u * block + quad / 4u >= piece.tiles) {
        return;
    }
    for (var j = 0u; j < 4u && start + mine + j < tokens; j++) {
        for (var r = 0u; r < 4u; r++) {
            finish(64u * block + 4u * quad + r, start + mine + j, totals[j].low[r], totals[j].high[r]);
        }
    }
}

// Groups beyond the last count nothing.
fn fetch_weights(tile: u32, quad: u32, start: u32, i: u32) {
    let g = start + i;
    let there = g < params.groups && tile < piece.tiles;
    for (var h = 0u; h < HALVES; h++) {
        var scale = Scales(vec4<i32>(0), vec4<i32>(0));
        if (there) {
            scale = block_scales(tile, quad % 4u, (32u * g + 16u * h) / BLOCK);
        }
        scales[(HALVES * i + h) * QUADS + quad] = scale;
    }
    for (var w = 0u; w < WEIGHT_PLANES; w++) {
        var words: array<vec4<u32>, 8>;
        if (there) {
            words = group_levels(tile, quad % 4u, g, w);
        }
        for (var k = 0u; k < 8u; k++) {
            levels[(w * WORDS + 8u * i + k) * QUADS + quad] = words[k];
        }
    }
}

fn fetch_codes(token: u32, place: u32, start: u32, i: u32) {
    let g = start + i;
    let there = g < params.groups;
    if (ACT == ACT_A8B && there) {
        code_scales[i][place] = i32(arena[scales_at(params.codes, params.groups, token) + g]);
    }
    for (var plane = 0u; plane < PLANES; plane++) {
        let at = codes_at(params.codes, params.groups, token, plane) + 8u * g;
        for (var h = 0u; h < HALVES; h++) {
            var sum = 0;
            for (var k = h * (8u / HALVES); k < (h + 1u) * (8u / HALVES); k++) {
                var word = 0u;
                if (there) {
                    word = arena[at + k];
                }
                codes[plane * WORDS + 8u * i + k][place] = word;
                sum += dot4I8Packed(word, 0x01010101u);
            }
            if (MODE == MODE_Z8 || WEIGHT_PLANES == 2u) {
                ones[(plane * STEP + i) * HALVES + h][place] = sum;
            }
        }
    }
}
