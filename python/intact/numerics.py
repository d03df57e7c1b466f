"""Every primitive and operation of the arithmetic contract, to call from Python.

Names, argument orders and formulas are those of docs/NUMERICS.md, appendix A; the section that defines a function is in
its docstring. The arithmetic is the engine's own, in Rust: what a function here returns is what a model computes.

Values are integers of any kind: an `int` gives an `int`, a `list` (also a nested one) a `list`, a numpy array of
integers an array of int32. Where an argument is an array the results are arrays. Functions of single values map over
lists and arrays of any shape; requant broadcasts its three arguments, and the gated activations their two, as numpy
does. Vectors and matrices have one and two dimensions. x "in QF" stands for x·2^-F, with 8 <= F <= 20.

`kernels` runs a function with the kernels of that name: "reference", or a faster set of `intact kernels` that this
machine has. None is the plain formula. The result is the same; only tests and the curious need to choose.

Errors: TypeError for what is not an integer (booleans and floating-point numbers are none), ValueError for an integer,
a length or a name outside its range. Both name the argument. Nothing wraps, and nothing is cut off in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from . import _native

__all__ = [
    "attention",
    "blockscale",
    "decode",
    "dynquant",
    "embed",
    "exp2",
    "geglu",
    "gelu",
    "greedy",
    "hadamard",
    "linear",
    "logprobs",
    "philox",
    "relu2",
    "requant",
    "residual_add",
    "rmsnorm",
    "rope",
    "router",
    "rsqrt",
    "sample",
    "sigmoid",
    "sincos",
    "softcap",
    "swiglu",
]

Like = TypeVar("Like", int, list[Any], NDArray[Any])
"""A value, or a list or array of values: results have the kind of the arguments."""
Vector = TypeVar("Vector", list[Any], NDArray[Any])
"""A list or array: results have the kind of the arguments."""
Array: TypeAlias = NDArray[Any]

_I32 = -(1 << 31), (1 << 31) - 1
_U32 = 0, (1 << 32) - 1
_U64 = 0, (1 << 64) - 1
_F = 8, 20
_CODE_MAX = 32385  # the largest activation code
_WEIGHT_MAX = 32767
_VOCABULARY = (1 << 20) - 1
_COLUMNS = 131072
_MOST = 1 << 26  # elements of any argument or result, so that a slip in a shape cannot ask for all memory


def _numbers(name: str, value: object) -> Array:
    """The integers of an argument: an array of an integer dtype, or of Python ints."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "iu":
            return value
        if value.dtype != object:
            raise TypeError(f"{name}: an array of integers is needed, not of {value.dtype}")
    elif not isinstance(value, (int, np.integer, list, tuple)):
        raise TypeError(f"{name}: an int, or a list or array of them, is needed, not {type(value).__name__}")
    numbers = np.array(value, dtype=object)
    for kind in set(map(type, numbers.flat)):
        if kind is bool or not issubclass(kind, (int, np.integer)):
            what = "a list of unequal or empty lists" if issubclass(kind, (list, tuple)) else kind.__name__
            raise TypeError(f"{name}: an integer is needed, not {what}")
    return numbers


def _array(name: str, value: object, bounds: tuple[int, int], dtype: Any = np.int32, clamp: bool = False) -> Array:
    """A copy of an argument as an array of `dtype`, its values within `bounds` (with `clamp` brought there)."""
    numbers = _numbers(name, value)
    if numbers.size > _MOST:
        raise ValueError(f"{name}: has {numbers.size} elements, more than {_MOST}")
    if numbers.size:
        smallest, largest = int(numbers.min()), int(numbers.max())
        if smallest < bounds[0] or largest > bounds[1]:
            if not clamp:
                found = smallest if smallest < bounds[0] else largest
                raise ValueError(f"{name}: {found} is not within {bounds[0]} … {bounds[1]}")
            numbers = np.asarray(np.clip(numbers.astype(object), *bounds))
    return numbers.astype(dtype, order="C", copy=True)


def _scalar(name: str, value: object, low: int, high: int) -> int:
    """An argument that is one integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: an integer is needed, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} is not within {low} … {high}")
    return int(value)


def _vector(
    name: str, value: object, bounds: tuple[int, int] = _I32, dtype: Any = np.int32, most: int = _MOST
) -> Array:
    """An argument of one dimension with 1 … `most` elements."""
    array = _array(name, value, bounds, dtype)
    if array.ndim != 1 or not 1 <= array.size <= most:
        raise ValueError(f"{name}: 1 … {most} integers in a row are needed, not the shape {array.shape}")
    return array


def _matrix(name: str, value: object, bounds: tuple[int, int] = _I32, dtype: Any = np.int32) -> Array:
    """An argument of two dimensions with at least one element."""
    array = _array(name, value, bounds, dtype)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: rows of integers are needed, all of one length, not the shape {array.shape}")
    return array


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: True or False is needed, not {type(value).__name__}")
    return bool(value)


def _same_length(name: str, array: Array, other: str, length: int) -> None:
    if len(array) != length:
        raise ValueError(f"{name}: has {len(array)} elements, but {other} asks for {length}")


def _like(result: Array, *arguments: object) -> Any:
    """A result as the arguments are: an array, a list or an int."""
    if any(isinstance(value, np.ndarray) for value in arguments):
        return result
    return result.tolist()


def _broadcast(names: str, arrays: Sequence[Array]) -> tuple[list[Array], tuple[int, ...]]:
    """The arrays, flat and of one length, and their common shape."""
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{names}: the shapes {shapes} do not fit together") from None
    if math.prod(shape) > _MOST:
        raise ValueError(f"{names}: together they have the shape {shape}, more than {_MOST} elements")
    return [np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(-1) for array in arrays], shape


def _map(native: Callable[..., Array], x: Array, *constants: object) -> Array:
    return native(x.reshape(-1), *constants).reshape(x.shape)


def requant(x: Like, m: Like | int, s: Like | int) -> Like:
    """P1: x·m·2^-s, rounded half up and saturated to i32. x, m: i32; s: any integer."""
    # Every shift beyond these has the value of the nearest of them.
    arrays = [_array("x", x, _I32), _array("m", m, _I32), _array("s", s, (-31, 63), clamp=True)]
    flat, shape = _broadcast("x, m, s", arrays)
    return cast(Like, _like(_native.requant(*flat).reshape(shape), x, m, s))


def dynquant(x: Vector, xmax: int, *, kernels: str | None = None) -> tuple[Vector, int, int]:
    """P2: the codes q, |q| <= xmax, of a vector with their scale: (q, d, t), x about q·d·2^(t-7).

    x: i32; 1 <= xmax < 2^31. `kernels` acts where xmax is 127 or 32385, the ranges that kernels quantize to.
    """
    q, d, t = _native.dynquant(_vector("x", x), _scalar("xmax", xmax, 1, _I32[1]), kernels)
    return _like(q, x), d, t


def rsqrt(v: Like) -> tuple[Like, Like]:
    """P3: (R, u) with 1/sqrt(v) about R·2^-(31+u); 1 <= v < 2^64."""
    array = _array("v", v, (1, _U64[1]), np.uint64)
    R, u = _native.rsqrt(array.reshape(-1))
    return _like(R.reshape(array.shape), v), _like(u.reshape(array.shape), v)


def rmsnorm(x: Vector, g: Vector, gs: int, E: int, rn: int, rk: int, F: int, *, kernels: str | None = None) -> Vector:
    """P4: x, in QF, divided by its root mean square and multiplied by the gains g·2^-gs.

    x, g: as long as each other, 1 … 16384; g: i16. 0 <= gs, rk <= 127; 0 <= E < 2^44, n·eps·2^(2F);
    2^14 <= rn < 2^15, rn·2^-rk being sqrt(n).
    """
    vector = _vector("x", x, most=16384)
    gains = _vector("g", g, (-32768, 32767), np.int16)
    _same_length("g", gains, "x", vector.size)
    constants = (
        _scalar("gs", gs, 0, 127),
        _scalar("E", E, 0, (1 << 44) - 1),
        _scalar("rn", rn, 1 << 14, (1 << 15) - 1),
        _scalar("rk", rk, 0, 127),
        _scalar("F", F, *_F),
    )
    return cast(Vector, _like(_native.rmsnorm(vector, gains, *constants, kernels), x, g))


def exp2(x: Like, B: int) -> Like:
    """P5: 2^(x/65536)·2^B, 0 … 2^B, for x in -2^31 … 0; 0 <= B <= 30."""
    return cast(Like, _like(_map(_native.exp2, _array("x", x, (_I32[0], 0)), _scalar("B", B, 0, 30)), x))


def sigmoid(x: Like, F: int) -> Like:
    """P6: the logistic function in Q15, 0 … 32768, of x in QF."""
    return cast(Like, _like(_map(_native.sigmoid, _array("x", x, _I32), _scalar("F", F, *_F)), x))


def sincos(phase: Like) -> tuple[Like, Like]:
    """P7: (cosine, sine) in Q30 of phase·2^-32 turns; phase: u32."""
    array = _array("phase", phase, _U32, np.uint32)
    c, s = _native.sincos(array.reshape(-1))
    return _like(c.reshape(array.shape), phase), _like(s.reshape(array.shape), phase)


def blockscale(q: Vector) -> tuple[Vector, Vector]:
    """P8: (c, s), codes |c| <= 127 and a scale 1 … 255 for each 32 of them, q about s·c.

    q: |q| <= 32385; its length is a multiple of 32.
    """
    array = _vector("q", q, (-_CODE_MAX, _CODE_MAX))
    if array.size % 32:
        raise ValueError(f"q: has {array.size} elements, which is not a multiple of 32")
    c, s = _native.blockscale(array)
    return _like(c, q), _like(s, q)


def philox(ctr: Vector, key: Vector) -> Vector:
    """P9: Philox4x32-10. ctr: four u32, key: two; four u32 (an array of uint32 where an argument is an array)."""
    counter, keys = _vector("ctr", ctr, _U32, np.uint32), _vector("key", key, _U32, np.uint32)
    _same_length("ctr", counter, "Philox4x32", 4)
    _same_length("key", keys, "Philox4x32", 2)
    words = _native.philox(counter.tolist(), keys.tolist())
    return cast(Vector, _like(np.array(words, dtype=np.uint32), ctr, key))


def linear(
    x: Vector,
    W: Vector,
    m: Vector,
    sh: Vector,
    a: int,
    mode: str,
    S: int = 0,
    bias: Vector | None = None,
    *,
    kernels: str | None = None,
) -> Vector:
    """2.1: a linear layer, from x in QF (K elements) to N results in QF.

    W: shape (N, K), |W| <= 32767, N <= 2^20, K <= 131072; m, sh: of each row 2^22 <= m < 2^23 and 0 <= sh <= 127, or
    both 0; a: the pre-shift, 0 … 47; mode: "A8", "A8b" or "A16"; S: the largest block scale, 1 … 255, and small enough
    for rule 2.3, in mode "A8b", and ignored otherwise; bias: N values in QF, or None. `kernels` stores W in format W16r
    and runs the set's quantize, dot and finish.
    """
    weights = _matrix("W", W, (-_WEIGHT_MAX, _WEIGHT_MAX), np.int16)
    rows, columns = weights.shape
    if rows > 1 << 20 or columns > _COLUMNS:
        raise ValueError(f"W: has the shape {weights.shape}; at most 2^20 rows and {_COLUMNS} columns are possible")
    vector = _vector("x", x)
    _same_length("x", vector, "W", columns)
    row_m, row_sh = _row_constants(m, sh)
    _same_length("m", row_m, "W", rows)
    biases = None if bias is None else _vector("bias", bias)
    if biases is not None:
        _same_length("bias", biases, "W", rows)
    if mode not in ("A8", "A8b", "A16"):
        raise ValueError(f'mode: {mode!r} is not "A8", "A8b" or "A16"')
    cap = _scalar("S", S, 1, 255) if mode == "A8b" else 1
    shift = _scalar("a", a, 0, 47)
    y = _native.linear(vector, weights, row_m, row_sh, shift, mode, cap, biases, kernels)
    return cast(Vector, _like(y, x, W))


def _row_constants(m: object, sh: object) -> tuple[Array, Array]:
    scales, shifts = _vector("m", m, (0, (1 << 23) - 1)), _vector("sh", sh, (0, 127))
    _same_length("sh", shifts, "m", scales.size)
    wrong = (scales < 1 << 22) & ((scales != 0) | (shifts != 0))
    if wrong.any():
        row = int(wrong.argmax())
        found = f"m = {scales[row]}, sh = {shifts[row]}"
        raise ValueError(f"m: row {row} has {found}; 2^22 <= m < 2^23 is needed, or m = sh = 0")
    return scales, shifts


def embed(w: Vector, m: int, sh: int, F: int) -> Vector:
    """2.5: a token's vector in QF from its row w of the embedding, |w| <= 32767, with the row's constants.

    2^22 <= m < 2^23 and 0 <= sh <= 127, or both 0; at most 131072 columns.
    """
    weights = _vector("w", w, (-_WEIGHT_MAX, _WEIGHT_MAX), np.int16, _COLUMNS)
    scale, shift = _scalar("m", m, 0, (1 << 23) - 1), _scalar("sh", sh, 0, 127)
    _row_constants([scale], [shift])
    return cast(Vector, _like(_native.embed(weights, scale, shift, _scalar("F", F, *_F)), w))


def residual_add(x: Like, y: Like) -> Like:
    """Section 3: x + y, saturated to i32; both in QF and of one shape."""
    first, second = _array("x", x, _I32), _array("y", y, _I32)
    if first.shape != second.shape:
        raise ValueError(f"y: has the shape {second.shape}, but x has {first.shape}")
    return cast(Like, _like(_map(_native.residual_add, first, second.reshape(-1)), x, y))


def rope(v: Vector, position: int, freq64: Vector, rot: int, interleaved: bool) -> Vector:
    """3.1: one head vector in QF, turned by its position; elements from rot on stay.

    0 <= position < 2^32; freq64: rot/2 values, u64, in turns·2^-64 per position; rot: even, 2 … length of v;
    interleaved: pairs (2i, 2i + 1), else (i, i + rot/2).
    """
    vector = _vector("v", v)
    if _scalar("rot", rot, 2, max(2, vector.size)) % 2 or rot > vector.size:
        raise ValueError(f"rot: {rot} is not even and at most {vector.size}, the length of v")
    table = _vector("freq64", freq64, _U64, np.uint64)
    _same_length("freq64", table, "rot", int(rot) // 2)
    y = _native.rope(vector, _scalar("position", position, *_U32), table, _flag("interleaved", interleaved))
    return cast(Vector, _like(y, v))


def hadamard(v: Vector) -> Vector:
    """3.2: the Walsh-Hadamard transform of one head vector in QF, a power of two of elements up to 1024."""
    vector = _vector("v", v, most=1024)
    if vector.size & (vector.size - 1):
        raise ValueError(f"v: has {vector.size} elements, which is not a power of two")
    return cast(Vector, _like(_native.hadamard(vector), v))


def attention(
    q: Vector,
    k: Vector,
    v: Vector,
    F: int,
    xq: int,
    xk: int,
    xv: int,
    ca: int,
    cash: int,
    lo: int,
    softcap: Sequence[int] | None = None,
    *,
    kernels: str | None = None,
) -> Vector:
    """3.3: one head at the last of n positions, in QF.

    q: head_dim elements, at most 4096; k, v: shape (n, head_dim); all in QF, before dynquant. lo: the first visible
    position, 0 … n - 1. 1 <= xq, xk <= 32385, 1 <= xv <= 127, head_dim·xq·xk < 2^31; 2^14 <= ca < 2^15, |cash| <= 127;
    softcap: (im, is, cm, cs) as in softcap(), or None.
    """
    query, keys, values = _vector("q", q, most=4096), _matrix("k", k), _matrix("v", v)
    positions, width = keys.shape
    if width != query.size or keys.shape != values.shape:
        found = f"k has the shape {keys.shape} and v {values.shape}"
        raise ValueError(f"k, v: both hold vectors of {query.size} elements like q, as many of each; {found}")
    if positions > 1 << 24:
        raise ValueError(f"k: has {positions} positions, more than 2^24")
    xq, xk, xv = _scalar("xq", xq, 1, _CODE_MAX), _scalar("xk", xk, 1, _CODE_MAX), _scalar("xv", xv, 1, 127)
    if width * xq * xk > _I32[1]:
        raise ValueError(f"xq: {width}·{xq}·{xk} = {width * xq * xk} is not below 2^31")
    ca, cash = _scalar("ca", ca, 1 << 14, (1 << 15) - 1), _scalar("cash", cash, -127, 127)
    first, F = _scalar("lo", lo, 0, positions - 1), _scalar("F", F, *_F)
    caps = None
    if softcap is not None:
        constants = _vector("softcap", softcap)
        _same_length("softcap", constants, "attention", 4)
        caps = _softcap_constants("softcap, ", *constants.tolist())
    o = _native.attention(query, keys[first:], values[first:], F, xq, xk, xv, ca, cash, caps, kernels)
    return cast(Vector, _like(o, q, k, v))


def _gated(kind: str, g: Like, u: Like, F: int, kernels: str | None) -> Like:
    (gate, up), shape = _broadcast("g, u", [_array("g", g, _I32), _array("u", u, _I32)])
    y = _native.gated_activation(kind, gate, up, _scalar("F", F, *_F), kernels)
    return cast(Like, _like(y.reshape(shape), g, u))


def swiglu(g: Like, u: Like, F: int, *, kernels: str | None = None) -> Like:
    """3.4: g·sigmoid(g)·u; g, u and the result in QF."""
    return _gated("swiglu", g, u, F, kernels)


def geglu(g: Like, u: Like, F: int, *, kernels: str | None = None) -> Like:
    """3.4: gelu(g)·u; g, u and the result in QF."""
    return _gated("geglu", g, u, F, kernels)


def relu2(g: Like, u: Like | None, F: int, *, kernels: str | None = None) -> Like:
    """3.4: max(g, 0)²·u, or max(g, 0)² where u is None; g, u and the result in QF."""
    if u is not None:
        return _gated("relu2", g, u, F, kernels)
    return cast(Like, _like(_map(_native.relu2, _array("g", g, _I32), _scalar("F", F, *_F), kernels), g))


def gelu(x: Like, F: int) -> Like:
    """3.4: GELU in its tanh form; x and the result in QF."""
    return cast(Like, _like(_map(_native.gelu, _array("x", x, _I32), _scalar("F", F, *_F)), x))


def softcap(x: Like, im: int, is_: int, cm: int, cs: int, F: int) -> Like:
    """3.4: cap·tanh(x/cap); x and the result in QF.

    im·2^-is_ = 2/cap and cm·2^-cs = cap; 0 <= im, cm < 2^31, |is_|, |cs| <= 127.
    """
    constants = _softcap_constants("", im, is_, cm, cs)
    return cast(Like, _like(_map(_native.softcap, _array("x", x, _I32), constants, _scalar("F", F, *_F)), x))


def _softcap_constants(prefix: str, im: object, is_: object, cm: object, cs: object) -> tuple[int, int, int, int]:
    return (
        _scalar(f"{prefix}im", im, 0, _I32[1]),
        _scalar(f"{prefix}is_", is_, -127, 127),
        _scalar(f"{prefix}cm", cm, 0, _I32[1]),
        _scalar(f"{prefix}cs", cs, -127, 127),
    )


def router(r: Vector, k: int, F: int, renorm: bool, sigmoid: bool) -> list[tuple[int, int]]:
    """3.5: the k experts with the largest logits r, in QF, each as (expert, weight in Q15), largest logit first.

    1 <= k <= length of r. renorm: the weights of these k add up to 1, else those of all experts; sigmoid: a sigmoid
    router, else softmax.
    """
    logits = _vector("r", r, most=_VOCABULARY)
    count = _scalar("k", k, 1, logits.size)
    return _native.router(logits, count, _scalar("F", F, *_F), _flag("renorm", renorm), _flag("sigmoid", sigmoid))


def sample(logits: Vector, F: int, tau: int, top_k: int, top_p: int, min_p: int, rnd: int) -> int:
    """Section 4: the token id that the random word rnd, u32, draws.

    logits: in QF, after a final softcap, fewer than 2^20; tau: the temperature in Q16, 1 … 2^32 - 1; top_k: u32, 0 is
    off; top_p, min_p: Q16, 0 … 65536.
    """
    values, F = _vector("logits", logits, most=_VOCABULARY), _scalar("F", F, *_F)
    tau, top_k = _scalar("tau", tau, 1, _U32[1]), _scalar("top_k", top_k, *_U32)
    top_p, min_p = _scalar("top_p", top_p, 0, 65536), _scalar("min_p", min_p, 0, 65536)
    return _native.sample(values, F, tau, top_k, top_p, min_p, _scalar("rnd", rnd, *_U32))


def greedy(logits: Vector) -> int:
    """Section 4: the lowest id among the largest logits, which are those before a final softcap; fewer than 2^20."""
    return _native.greedy(_vector("logits", logits, most=_VOCABULARY))


def logprobs(logits: Vector, F: int) -> Vector:
    """Section 4: log2 of each token's probability at temperature 1, in Q16; logits in QF, fewer than 2^20."""
    values = _native.logprobs(_vector("logits", logits, most=_VOCABULARY), _scalar("F", F, *_F))
    return cast(Vector, _like(values, logits))


def decode(
    format: str, planes: Mapping[str, Any], rows: int, columns: int, table: Sequence[int] | Array | None = None
) -> Any:
    """FORMATS: the integer weights W of a stored matrix as `rows` lists of `columns` integers.

    format: a name such as "U4z8" or "U6b8/16"; planes: the bytes of "payload", "scale", "sign" and "offset", as far as
    the format has them, padding included (further keys are ignored); rows: 1 … 2^20; columns: 1 … 131072; table: 16
    levels in -127 … 127 for N4, None for the default. Where the payload is an array of uint8, so is W an array, of
    int32 and shape (rows, columns).
    """
    if not isinstance(format, str):
        raise TypeError(f"format: a name is needed, not {type(format).__name__}")
    if not isinstance(planes, Mapping):
        raise TypeError(f"planes: a dict is needed, not {type(planes).__name__}")
    levels = None
    if table is not None:
        levels = _vector("table", table, (-127, 127))
        _same_length("table", levels, "N4", 16)
    W = _native.decode(
        format,
        _plane("payload", planes.get("payload")),
        _plane("scale", planes.get("scale")),
        _plane("sign", planes.get("sign")),
        _plane("offset", planes.get("offset")),
        _scalar("rows", rows, 1, 1 << 20),
        _scalar("columns", columns, 1, _COLUMNS),
        None if levels is None else levels.tolist(),
    )
    return _like(W, planes.get("payload"))


def _plane(name: str, data: object) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    if isinstance(data, np.ndarray) and data.dtype != np.uint8:
        raise TypeError(f"planes: {name} is an array of {data.dtype}, not of uint8")
    if not isinstance(data, (bytearray, memoryview, np.ndarray)):
        raise TypeError(f"planes: {name} is {type(data).__name__}, not bytes")
    return bytes(data)
