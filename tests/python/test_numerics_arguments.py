"""What `intact.numerics` says to arguments outside the contract."""

import numpy as np
import pytest

from intact import numerics

I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1
U32, U64 = (0, (1 << 32) - 1), (0, (1 << 64) - 1)
SCALE, ROOT, SHIFT = (1 << 22, (1 << 23) - 1), (1 << 14, (1 << 15) - 1), (-127, 127)

# One call of each function that is right, to be spoilt in one argument at a time.
HEAD = {"F": 12, "xq": 127, "xk": 127, "xv": 127, "ca": 1 << 14, "cash": 15, "lo": 0}
GOOD = {
    "requant": {"x": 1, "m": 1, "s": 1},
    "dynquant": {"x": [1, 2], "xmax": 127},
    "rsqrt": {"v": 1},
    "rmsnorm": {"x": [1, 2], "g": [1, 2], "gs": 14, "E": 0, "rn": 1 << 14, "rk": 13, "F": 12},
    "exp2": {"x": -1, "B": 22},
    "sigmoid": {"x": 1, "F": 12},
    "sincos": {"phase": 1},
    "blockscale": {"q": [1] * 32},
    "philox": {"ctr": [1] * 4, "key": [1] * 2},
    "linear": {"x": [1, 2], "W": [[1, 2]], "m": [1 << 22], "sh": [9], "a": 0, "mode": "A8b", "S": 1, "bias": [1]},
    "embed": {"w": [1, 2], "m": 1 << 22, "sh": 9, "F": 12},
    "residual_add": {"x": [1], "y": [1]},
    "rope": {"v": [1] * 4, "position": 1, "freq64": [1], "rot": 2, "interleaved": True},
    "hadamard": {"v": [1, 2]},
    "attention": {"q": [1, 2], "k": [[1, 2]], "v": [[1, 2]], **HEAD, "softcap": (1, 1, 1, 1)},
    "swiglu": {"g": 1, "u": 1, "F": 12},
    "geglu": {"g": 1, "u": 1, "F": 12},
    "relu2": {"g": 1, "u": 1, "F": 12},
    "gelu": {"x": 1, "F": 12},
    "softcap": {"x": 1, "im": 1, "is_": 1, "cm": 1, "cs": 1, "F": 12},
    "router": {"r": [1, 2], "k": 1, "F": 12, "renorm": True, "sigmoid": False},
    "sample": {"logits": [1, 2], "F": 12, "tau": 1, "top_k": 0, "top_p": 1, "min_p": 0, "rnd": 0},
    "greedy": {"logits": [1, 2]},
    "logprobs": {"logits": [1, 2], "F": 12},
    "decode": {"format": "U4z8", "planes": {}, "rows": 1, "columns": 1, "table": None},
}
GOOD["decode"]["planes"] = {"payload": bytes(256), "scale": bytes(64), "offset": bytes(64)}

# The range of each argument of that name, and where one function has another.
LIMITS = {
    **dict.fromkeys(("x", "m", "u", "g", "y", "v", "q", "k", "r", "logits", "bias"), (I32_MIN, I32_MAX)),
    **dict.fromkeys(("phase", "ctr", "key", "position", "top_k", "rnd"), U32),
    **dict.fromkeys(("gs", "rk", "sh"), (0, 127)),
    **dict.fromkeys(("W", "w"), (-32767, 32767)),
    **dict.fromkeys(("xq", "xk"), (1, 32385)),
    **dict.fromkeys(("im", "cm"), (0, I32_MAX)),
    **dict.fromkeys(("is_", "cs", "cash"), SHIFT),
    **dict.fromkeys(("top_p", "min_p"), (0, 65536)),
    **dict.fromkeys(("rn", "ca"), ROOT),
    **{"freq64": U64, "B": (0, 30), "F": (8, 20), "E": (0, (1 << 44) - 1), "a": (0, 47), "S": (1, 255), "lo": (0, 0)},
    **{"xv": (1, 127), "xmax": (1, I32_MAX), "tau": (1, U32[1]), "rot": (2, 4), "rows": (1, 1 << 20)},
    "columns": (1, 131072),
}
OWN_LIMITS = {
    **{("rsqrt", "v"): (1, U64[1]), ("exp2", "x"): (I32_MIN, 0), ("blockscale", "q"): (-32385, 32385)},
    **{("rmsnorm", "g"): (-32768, 32767), ("linear", "m"): SCALE, ("embed", "m"): SCALE, ("router", "k"): (1, 2)},
}
INTEGERS = [
    (name, key)
    for name, args in GOOD.items()
    for key in args
    if key not in ("mode", "softcap", "interleaved", "renorm", "sigmoid", "format", "planes", "table")
]
LISTS = [(name, key) for name, key in INTEGERS if isinstance(GOOD[name][key], list)]
WITH_KERNELS = ["attention", "dynquant", "geglu", "linear", "relu2", "rmsnorm", "swiglu"]


def with_value(good, value):
    """The argument with its first element replaced."""
    return [with_value(good[0], value), *good[1:]] if isinstance(good, list) else value


@pytest.mark.parametrize("name", GOOD)
def test_the_good_calls_are_good(name):
    assert set(GOOD) == set(numerics.__all__)
    getattr(numerics, name)(**GOOD[name])


@pytest.mark.parametrize(("name", "key"), INTEGERS)
def test_ranges(name, key):
    function, good = getattr(numerics, name), GOOD[name]
    low, high = OWN_LIMITS.get((name, key)) or LIMITS.get(key) or (None, None)
    if (name, key) == ("requant", "s"):
        for s in (-(1 << 70), 1 << 70, [-(1 << 70), 5]):
            function(**{**good, "s": s})
        assert function(-3, 1, -(1 << 70)) == I32_MIN
        assert function(I32_MIN, I32_MIN, 1 << 70) == 0
    else:
        for value in (low, high):
            # The limit itself is fine; another argument may have to go with it, as planes do with rows.
            try:
                function(**{**good, key: with_value(good[key], value)})
            except ValueError as error:
                if str(error).startswith(f"{key}: "):
                    raise
        for value in (low - 1, high + 1, -(1 << 70), 1 << 70):
            with pytest.raises(ValueError, match=rf"^(k, )?{key}: "):
                function(**{**good, key: with_value(good[key], value)})
    if not isinstance(good[key], list):
        in_list = [good[key]]
        for value in (True, 1.0, "1", None, b"1", np.float32(1), np.bool_(True), 1j):
            if (name, key, value) != ("relu2", "u", None):
                with pytest.raises(TypeError, match=f"^{key}: "):
                    function(**{**good, key: value})
    else:
        in_list = good[key]
        if key != "bias":
            with pytest.raises(TypeError, match=f"^{key}: "):
                function(**{**good, key: None})
    for value in (True, 1.5, "1", None, np.float64(2)):
        with pytest.raises(TypeError, match=f"^{key}: "):
            function(**{**good, key: with_value(in_list, value)})
    for dtype in (np.float32, np.float64, np.bool_, np.complex64, "U1", "M8[s]"):
        with pytest.raises(TypeError, match=f"^{key}: "):
            function(**{**good, key: np.zeros(np.shape(in_list), dtype=dtype)})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *((name, key, wrong) for name, key in LISTS for wrong in (1, [], [[]], [[[1]]])),
        ("rmsnorm", "g", [1]),
        ("rmsnorm", "x", [0] * 16385),
        ("blockscale", "q", [1] * 33),
        ("philox", "ctr", [1] * 5),
        ("philox", "key", [1]),
        ("linear", "x", [1] * 3),
        ("linear", "m", [1 << 22] * 2),
        ("linear", "m", [5]),
        ("linear", "m", [0]),
        ("linear", "sh", [1, 1]),
        ("linear", "bias", [1, 1]),
        ("linear", "mode", "A4"),
        ("linear", "mode", 8),
        ("linear", "W", [[0] * 131073]),
        ("embed", "m", 1),
        ("embed", "w", [0] * 131073),
        ("residual_add", "y", [1, 2]),
        ("rope", "rot", 3),
        ("rope", "freq64", [1, 2]),
        ("hadamard", "v", [1] * 3),
        ("hadamard", "v", [1] * 2048),
        ("attention", "q", [1] * 3),
        ("attention", "k", [[1, 2]] * 2),
        ("attention", "softcap", (1, 1, 1)),
        ("attention", "softcap", 5),
        ("attention", "softcap", (-1, 1, 1, 1)),
        ("router", "k", 3),
        ("swiglu", "u", [[1, 2], [3, 4], [5, 6]]),
        ("decode", "format", "U4z8/32"),
        ("decode", "format", "W16b8"),
        ("decode", "format", ""),
        ("decode", "planes", {}),
        ("decode", "planes", {**GOOD["decode"]["planes"], "scale": bytes(63)}),
        ("decode", "planes", {**GOOD["decode"]["planes"], "payload": bytes(320)}),
        ("decode", "rows", 1 << 20),
        ("decode", "columns", 33),
        ("decode", "table", [1] * 16),
        ("decode", "table", [1] * 15),
        ("decode", "table", [128] * 16),
    ],
)
def test_lengths_shapes_and_names(name, key, value):
    args = {**GOOD[name], **({"g": [1, 2, 3]} if name == "swiglu" else {}), key: value}
    with pytest.raises((ValueError, TypeError)) as error:
        getattr(numerics, name)(**args)
    said = str(error.value).split(": ")[0].replace(",", "").split()
    # Where two arguments disagree the message may be about either.
    others = {
        "rmsnorm": "g",
        "linear": "x m sh",
        "rope": "rot",
        "residual_add": "y",
        "attention": "k v",
        "decode": "planes",
    }
    assert {key, *others.get(name, "").split()} & set(said), error.value


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_unknown_kernels(name):
    for unknown in ("", "sse9", "Reference"):
        with pytest.raises(ValueError, match=r"^kernels: .*reference"):
            getattr(numerics, name)(**GOOD[name], kernels=unknown)
    with pytest.raises(TypeError, match="kernels"):
        getattr(numerics, name)(**GOOD[name], kernels=5)


def test_a_cap_that_could_overflow_is_refused():
    args = {**GOOD["linear"], "x": [1] * 128, "W": [[32767] * 128]}
    with pytest.raises(ValueError, match=r"^S: "):
        numerics.linear(**{**args, "S": 5})
    assert numerics.linear(**{**args, "S": 4}) == numerics.linear(**{**args, "S": 4}, kernels="reference")


def test_scores_that_could_overflow_are_refused():
    args = {**GOOD["attention"], "q": [1] * 3, "k": [[1] * 3], "v": [[1] * 3], "xq": 32385}
    numerics.attention(**{**args, "xk": 22103})
    with pytest.raises(ValueError, match=r"^xq: "):
        numerics.attention(**{**args, "xk": 22104})


def test_sizes_are_bounded():
    column, row = np.zeros((1 << 14, 1), dtype=np.int8), np.zeros((1, 1 << 13), dtype=np.int8)
    with pytest.raises(ValueError, match=r"^g, u: .*elements"):
        numerics.swiglu(column, row, 12)
    with pytest.raises(ValueError, match=r"^x: .*elements"):
        numerics.sigmoid(np.broadcast_to(np.int8(0), ((1 << 26) + 1,)), 12)
