"""`intact.numerics` against the oracle's vectors, and what it does with arguments outside the contract."""

import inspect
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intact import _native, numerics

VECTORS = Path(__file__).parents[1] / "vectors"


def read(name):
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


CASES = {**read("primitives"), **read("ops")}
FORMATS = read("formats")
DIGESTS = {(entry["function"], entry["domain"]): entry for entry in read("digests")["digests"]}

# Parts of definitions, which are no callables of their own; the Rust test of the vectors has them.
PARTS = {"sat", "rshr", "dynscale", "isqrt32", "exp2m", "ilog2", "phase", "rope_pair", "expert_sum"}
KERNELS = [None, *(entry["name"] for entry in _native.kernels() if entry["available"])]
WITH_KERNELS = [name for name in numerics.__all__ if "kernels" in inspect.signature(getattr(numerics, name)).parameters]

I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1
i32 = st.integers(I32_MIN, I32_MAX)
fraction_bits = st.integers(8, 20)


def plain(value):
    """A result with every tuple and array as a list."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_every_callable_has_vectors():
    assert set(CASES) - PARTS | {"decode"} == set(numerics.__all__)
    assert set(CASES) >= PARTS
    assert WITH_KERNELS == ["attention", "dynquant", "geglu", "linear", "relu2", "rmsnorm", "swiglu"]


@pytest.mark.parametrize("name", sorted(set(CASES) - PARTS))
def test_vectors(name):
    function = getattr(numerics, name)
    for case in CASES[name]:
        assert plain(function(**case["args"])) == case["result"], case


@pytest.mark.parametrize("kernels", KERNELS[1:])
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_vectors_with_kernels(name, kernels):
    function = getattr(numerics, name)
    for case in CASES[name]:
        assert plain(function(**case["args"], kernels=kernels)) == case["result"], case


@pytest.mark.parametrize("name", sorted(set(CASES) - PARTS))
def test_vectors_as_arrays(name):
    """Lists become arrays of the narrowest dtype, and so do results; values stay values."""
    function = getattr(numerics, name)
    for case in CASES[name][:: 1 + len(CASES[name]) // 60]:
        lists = {key: isinstance(value, list) and key != "softcap" for key, value in case["args"].items()}
        args = {key: narrow(value) if lists[key] else value for key, value in case["args"].items()}
        result = function(**args)
        assert plain(result) == case["result"], case
        if any(lists.values()) and name not in ("greedy", "sample", "router"):
            first = result[0] if isinstance(result, tuple) else result
            assert isinstance(first, np.ndarray)
            assert first.dtype == (np.uint32 if name == "philox" else np.int32)


def narrow(values):
    """An array of the narrowest dtype that holds the values."""
    array = np.array(values, dtype=object)
    smallest, largest = int(array.min()), int(array.max())
    kinds = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
    fits = (kind for kind in kinds if np.iinfo(kind).min <= smallest and largest <= np.iinfo(kind).max)
    return array.astype(next(fits))


SCALARS = ("requant", "rsqrt", "exp2", "sigmoid", "sincos", "swiglu", "geglu", "gelu")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", SCALARS)
def test_maps_over_lists_and_arrays(name, kernels):
    """The cases of one F or B at a time, as a list, a nested list, and an array that is not contiguous."""
    function = getattr(numerics, name)
    options = {"kernels": kernels} if name in WITH_KERNELS else {}
    for constant in {case["args"].get("F", case["args"].get("B")) for case in CASES[name]}:
        fixed = {key: constant for key in ("F", "B") if constant is not None and key in CASES[name][0]["args"]}
        cases = [case for case in CASES[name] if all(case["args"][key] == value for key, value in fixed.items())]
        columns = {key: [case["args"][key] for case in cases] for key in cases[0]["args"] if key not in fixed}
        expected = [case["result"] for case in cases]
        expected = [list(part) for part in zip(*expected, strict=True)] if isinstance(expected[0], list) else expected

        assert plain(function(**columns, **fixed, **options)) == expected
        nested = {key: [[value] for value in values] for key, values in columns.items()}
        deep = [[value] for value in expected] if not isinstance(expected[0], list) else None
        if deep is not None:
            assert function(**nested, **fixed, **options) == deep
        strided = {key: np.repeat(narrow(values), 2)[::2] for key, values in columns.items()}
        result = function(**strided, **fixed, **options)
        assert plain(result) == expected
        assert isinstance(result[0] if isinstance(result, tuple) else result, np.ndarray)


def test_kinds_of_results():
    assert numerics.sigmoid(0, 12) == 16384
    assert type(numerics.sigmoid(np.int64(0), 12)) is int
    assert numerics.sigmoid([], 12) == []
    assert numerics.sigmoid((0, 0), 12) == [16384, 16384]
    assert numerics.sigmoid(np.array(0), 12).shape == ()
    assert numerics.sigmoid(np.zeros((2, 3), dtype=np.uint8), 12).shape == (2, 3)
    assert numerics.requant([[5], [6]], 1, [0, 1]) == [[5, 3], [6, 3]]
    assert numerics.requant(np.arange(4), 2, 0).dtype == np.int32
    assert numerics.relu2(-3, None, 12) == 0


def test_arguments_stay_as_they_are():
    x = np.arange(-5, 5, dtype=np.int32)
    kept = x.copy()
    for kernels in KERNELS:
        numerics.swiglu(x, x, 12, kernels=kernels)
        numerics.dynquant(x, 127, kernels=kernels)
    numerics.residual_add(x, x)
    assert (x == kept).all()


I16 = np.arange(-32768, 32768)
STEPS = np.arange(65536)


def pairs(function, values):
    """Both results of a function, one behind the other for each value."""
    return np.stack(function(values), axis=-1)


def block_codes():
    for s in (1, 2, 3, 7, 100, 127, 128, 254, 255):
        values = list(range(-127 * s, 127 * s + 1))
        for start in range(0, len(values), 31):
            run = values[start : start + 31]
            yield [127 * s, *run, *[0] * (31 - len(run))]


DOMAINS = {
    ("exp2", "x = 0, -37, -74, ..., -37*65535 with B = 22"): lambda: numerics.exp2(-37 * STEPS, 22),
    ("exp2", "x = 0, -37, -74, ..., -37*65535 with B = 24"): lambda: numerics.exp2(-37 * STEPS, 24),
    ("sigmoid", "x = -32768, ..., 32767 with F = 12"): lambda: numerics.sigmoid(I16, 12),
    ("sigmoid", "x = -32768*32, ..., 32767*32 in steps of 32 with F = 16"): lambda: numerics.sigmoid(32 * I16, 16),
    ("gelu", "x = -32768, ..., 32767 with F = 12"): lambda: numerics.gelu(I16, 12),
    ("swiglu", "g = -32768, ..., 32767 with u = 7 * g and F = 12"): lambda: numerics.swiglu(I16, 7 * I16, 12),
    ("relu2", "g = -32768, ..., 32767 with u = -5 * g and F = 12"): lambda: numerics.relu2(I16, -5 * I16, 12),
    (
        "softcap",
        "x = -32768*16, ..., 32767*16 in steps of 16 with im, is, cm, cs = 1145324612, 34, 31457280, 20 and F = 12",
    ): lambda: numerics.softcap(16 * I16, 1145324612, 34, 31457280, 20, 12),
    ("requant", "x = -32768, ..., 32767 with m = 1549082005, s = 30"): lambda: numerics.requant(I16, 1549082005, 30),
    ("requant", "x = -32768, ..., 32767 with m = 2147483647, s = 14"): lambda: numerics.requant(I16, I32_MAX, 14),
    ("requant", "x = -32768, ..., 32767 with m = 3, s = 1"): lambda: numerics.requant(I16, 3, 1),
    ("sincos", "phase = 0, 65536, ..., 65535*65536; c then s for each"): lambda: pairs(numerics.sincos, 65536 * STEPS),
    ("rsqrt", "v = 1, ..., 65536; R then u for each"): lambda: pairs(numerics.rsqrt, STEPS + 1),
    ("rsqrt", "v = 65537*i*i for i = 1, ..., 65536; R then u for each"): lambda: pairs(
        numerics.rsqrt, 65537 * (STEPS + 1) ** 2
    ),
    (
        "blockscale",
        "for s in 1, 2, 3, 7, 100, 127, 128, 254, 255: the values -127s, ..., 127s in runs of 31, each run behind the "
        "element 127s and filled up to 32 with 0; c of every run",
    ): lambda: numerics.blockscale(np.array(list(block_codes())).reshape(-1))[0].astype(np.int8),
    ("philox", "ctr = (i, 0, 0, 0) for i = 0, ..., 4095 with key = (42, 0); four words each"): lambda: np.array(
        [numerics.philox([i, 0, 0, 0], [42, 0]) for i in range(4096)], dtype=np.uint32
    ),
}


def test_every_digest_is_computed():
    assert {key for key in DIGESTS if key[0] not in PARTS} == set(DOMAINS)


@pytest.mark.parametrize("domain", DOMAINS, ids=" ".join)
def test_digests(domain):
    values, entry = DOMAINS[domain](), DIGESTS[domain]
    assert (values.size, values.dtype.itemsize) == (entry["count"], entry["bytes"])
    assert sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("kernels", KERNELS[1:])
@pytest.mark.parametrize("name", ["swiglu", "relu2"])
def test_digests_with_kernels(name, kernels):
    factor, domain = {"swiglu": (7, "u = 7 * g"), "relu2": (-5, "u = -5 * g")}[name]
    values = getattr(numerics, name)(I16, factor * I16, 12, kernels=kernels)
    entry = DIGESTS[name, f"g = -32768, ..., 32767 with {domain} and F = 12"]
    assert sha256(values.astype("<i4").tobytes()).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("format", FORMATS)
def test_decode(format):
    for case in FORMATS[format]:
        planes = {name: bytes.fromhex(data) for name, data in case["planes"].items()}
        W = numerics.decode(format, planes, case["rows"], case["columns"], case["table"])
        assert "W" not in case or case["W"] == W
        assert sha256(np.array(W, dtype="<i2").tobytes()).hexdigest() == case["W_sha256"]
        arrays = {name: np.frombuffer(data, dtype=np.uint8) for name, data in planes.items()}
        array = numerics.decode(format, arrays, case["rows"], case["columns"], case["table"])
        assert array.dtype == np.int32
        assert array.tolist() == W


@given(st.lists(i32, min_size=1, max_size=50), st.integers(1, I32_MAX))
def test_codes_are_within_their_range(x, xmax):
    q, d, t = numerics.dynquant(x, xmax)
    assert max(map(abs, q)) <= xmax
    assert 128 <= d <= 255
    assert t >= 0
    if max(map(abs, x)) <= xmax:
        assert (q, d, t) == (x, 128, 0)


@given(st.lists(i32, min_size=1, max_size=70), st.sampled_from([127, 32385]), st.sampled_from(KERNELS))
def test_kernels_quantize_alike(x, xmax, kernels):
    assert numerics.dynquant(x, xmax, kernels=kernels) == numerics.dynquant(x, xmax)


@given(st.lists(st.integers(-32385, 32385), min_size=32, max_size=32))
def test_block_codes_are_within_their_range(q):
    c, s = numerics.blockscale(q)
    assert max(map(abs, c)) <= 127
    assert s == [max(1, -(-max(map(abs, q)) // 127))]


@given(st.integers(I32_MIN, 0), st.integers(I32_MIN, 0), st.integers(0, 30))
def test_exp2_is_monotone(a, b, B):
    low, high = numerics.exp2(sorted([a, b]), B)
    assert 0 <= low <= high <= 1 << B
    assert numerics.exp2(0, B) == 1 << B


@given(st.integers(-(1 << 20), 0), st.integers(18, 30))
def test_exp2_halves_by_whole_units(x, B):
    """One unit of 65536 is one shift, where nothing is rounded."""
    assert numerics.exp2(x - 65536, B) == numerics.exp2(x, B - 1)


@given(i32, fraction_bits)
def test_sigmoid_of_both_signs(x, F):
    """2^31 and 2^15·e over one denominator: the floors lose less than 1 together."""
    if x != I32_MIN:
        assert numerics.sigmoid(x, F) + numerics.sigmoid(-x, F) in (32767, 32768)


@given(i32, i32, st.integers(-100, 100))
def test_requant_is_the_formula(x, m, s):
    exact = x * m << -s if s < 0 else (x * m + (1 << s >> 1)) >> s
    assert numerics.requant(x, m, s) == (0 if s >= 63 else max(I32_MIN, min(I32_MAX, exact)))


@given(st.integers(1, (1 << 64) - 1))
def test_rsqrt_is_close(v):
    """|R·2^-(31+u)·sqrt(v) - 1| < 2^-15, squared and in integers."""
    R, u = numerics.rsqrt(v)
    assert 1 << 15 <= R <= 1 << 16
    scale = 62 + 2 * u
    numerator, denominator = R * R * v << max(0, -scale), 1 << max(0, scale)
    assert denominator * ((1 << 15) - 1) ** 2 < numerator << 30 < denominator * ((1 << 15) + 1) ** 2


@given(st.lists(i32, min_size=1, max_size=40), fraction_bits, st.integers(0, (1 << 32) - 1))
def test_filters_leave_the_greedy_choice(logits, F, rnd):
    """top_k 1, top_p 0 and min_p 1 keep the largest logits only; the first of them is the greedy choice."""
    best = numerics.greedy(logits)
    assert best == logits.index(max(logits))
    assert numerics.sample(logits, F, 65536, 1, 65536, 0, rnd) == best
    assert numerics.sample(logits, F, 65536, 0, 0, 0, rnd) == best
    assert numerics.sample(logits, F, 65536, 0, 65536, 65536, 0) == best
    scores = numerics.logprobs(logits, F)
    assert max(scores) == scores[best]
    assert max(scores) <= 0


@given(st.lists(i32, min_size=1, max_size=20), fraction_bits, st.booleans(), st.data())
def test_router_selects_in_order(r, F, sigmoid, data):
    k = data.draw(st.integers(1, len(r)))
    chosen = numerics.router(r, k, F, True, sigmoid)
    assert [expert for expert, _ in chosen] == sorted(range(len(r)), key=lambda e: (-r[e], e))[:k]
    assert 32768 - k < sum(weight for _, weight in chosen) <= 32768 or (sigmoid and not any(w for _, w in chosen))


@given(st.lists(i32, min_size=1, max_size=64), st.data())
def test_linear_depends_on_no_kernel(x, data):
    mode = data.draw(st.sampled_from(["A8", "A8b", "A16"]))
    weights = st.lists(st.integers(-32767, 32767), min_size=len(x), max_size=len(x))
    W = data.draw(st.lists(weights, min_size=1, max_size=18))
    scales = [data.draw(st.integers(1 << 22, (1 << 23) - 1)) for _ in W]
    constants = scales, [data.draw(st.integers(0, 127)) for _ in W]
    a, bias = data.draw(st.integers(0, 47)), data.draw(st.none() | st.lists(i32, min_size=len(W), max_size=len(W)))
    expected = numerics.linear(x, W, *constants, a, mode, 4, bias)
    for kernels in KERNELS[1:]:
        assert numerics.linear(x, W, *constants, a, mode, 4, bias, kernels=kernels) == expected
