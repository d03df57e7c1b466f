"""Cases of the operations: edges and random arguments (ops.json)."""

from fractions import Fraction
from math import isqrt

from . import ops, sampling
from .attention import attention
from .constants import norm_constants
from .draw import Draw
from .fixed import I32_MAX, I32_MIN
from .linear import chunk_sum, linear, preshift
from .output import Case, Cases, case

I32_EDGES = (I32_MIN, I32_MIN + 1, -65536, -4096, -1, 0, 1, 4095, 4096, 131072, 1 << 30, I32_MAX)
CAP_30 = ops.Softcap(1145324612, 34, 31457280, 20)
CAP_50 = ops.Softcap(1374389535, 35, 26214400, 19)


def norm_cases(draw: Draw) -> list[Case]:
    """P4: lengths from one element on, extreme inputs, epsilon 0 and the largest."""
    cases = []
    for n in (1, 2, 3, 16, 64, 100, 576):
        _, rn, rk = norm_constants(n, Fraction(0), 12)
        inputs = [[0] * n, [I32_MIN] * n, [I32_MAX] * n, [1] * n] if n <= 16 else []
        inputs += [draw.vector(n, 31) for _ in range(8 if n <= 64 else 3)]
        for x in inputs:
            for E in (0, 671, (1 << 44) - 1) if n <= 16 else (draw.below(1 << 20),):
                g = [draw.between(-32767, 32767) for _ in range(n)]
                gs = draw.choice((0, 10, 13, 14, 15, 20, 30))
                cases.append(case(ops.rmsnorm, x=x, g=g, gs=gs, E=E, rn=rn, rk=rk, F=draw.choice((8, 12, 16, 20))))
    return cases


def linear_cases(draw: Draw) -> list[Case]:
    """Section 2: every mode, column counts around 32, extreme weights, zero rows, row constants and biases."""
    cases = []
    for columns in (1, 31, 32, 33, 64, 96, 129, 576):
        for mode in ("A8", "A8b", "A16"):
            for kind in ("small", "large", "extreme"):
                bound = {"small": 127, "large": 8192, "extreme": 32767}[kind]
                W = [[draw.between(-bound, bound) for _ in range(columns)] for _ in range(3 if columns < 100 else 2)]
                if kind == "extreme":
                    W = [[bound if draw.below(2) or n == 0 else -bound for _ in row] for n, row in enumerate(W)]
                W[1] = [0] * columns if columns == 33 else W[1]
                S = min(255, I32_MAX // chunk_sum(W, 128) // 127) if mode == "A8b" else 0
                x = draw.vector(columns, 31) if kind != "large" else [draw.choice(I32_EDGES) for _ in range(columns)]
                a = preshift(W, mode, S) if kind != "large" else draw.between(0, 47)
                m = [draw.between(1 << 22, (1 << 23) - 1) if any(row) else 0 for row in W]
                sh = [draw.choice((0, 20, 30, 36, 40, 60, 127)) if any(row) else 0 for row in W]
                bias = [draw.wide(31) for _ in W] if draw.below(2) else None
                cases.append(case(linear, x=x, W=W, m=m, sh=sh, a=a, mode=mode, S=S, bias=bias))
    return cases


def attention_cases(draw: Draw) -> list[Case]:
    """3.3: cache widths, context lengths, windows, softcap, extreme and zero vectors."""
    cases = []
    for width in (4, 16, 64):
        wide = min(32385, isqrt(I32_MAX // width))
        for xk, xv in ((wide, 127), (127, 127), (127, 7), (7, 7), (1, 1)):
            xq = wide if xk == wide else min(32385, I32_MAX // width // xk)
            for positions in (1, 2, 9, 24) if width < 64 else (1, 12):
                for softcap in (None, CAP_50):
                    q, k, v = (
                        [draw.vector(width, draw.choice((4, 13, 15, 31))) for _ in range(n)]
                        for n in (1, positions, positions)
                    )
                    lo = draw.below(positions) if draw.below(2) else 0
                    scale = {"ca": draw.between(1 << 14, (1 << 15) - 1), "cash": draw.choice((13, 15, 17, 20))}
                    F = draw.choice((8, 12, 16, 20))
                    cases.append(
                        case(attention, q=q[0], k=k, v=v, F=F, xq=xq, xk=xk, xv=xv, **scale, lo=lo, softcap=softcap)
                    )
    flat = {"xq": wide, "xk": wide, "xv": 127, "ca": 23637, "cash": 17, "F": 12, "lo": 0, "softcap": None}
    ends = [[I32_MIN] * 64, [I32_MAX] * 64, [0] * 64]
    cases += [case(attention, q=q, k=[k, ends[2]], v=[v, k], **flat) for q in ends for k in ends for v in ends]
    # A dominant value of weight 0 coarsens the others: tm is a maximum over all visible positions.
    sink = [[4096 * 64] * 64, [0] * 64, [4096] * 64]
    cases.append(
        case(attention, q=sink[2], k=[*sink, [-4096 * 64] * 64], v=[[1] * 64, sink[2], sink[1], ends[1]], **flat)
    )
    return cases


def activation_cases(draw: Draw) -> Cases:
    """3.4: every scalar function over edges and random arguments of every F."""
    cases: Cases = {"swiglu": [], "geglu": [], "relu2": [], "gelu": [], "softcap": []}
    scalars = [(g, u, F) for F in (8, 12, 20) for g in I32_EDGES for u in (I32_MIN, -4096, 3, I32_MAX)]
    scalars += [(draw.wide(F + 6), draw.wide(F + 6), F) for F in range(8, 21) for _ in range(12)]
    for g, u, F in scalars:
        cases["swiglu"].append(case(ops.swiglu, g=g, u=u, F=F))
        cases["geglu"].append(case(ops.geglu, g=g, u=u, F=F))
        cases["relu2"].append(case(ops.relu2, g=g, u=u, F=F))
    for g, F in dict.fromkeys((g, F) for g, _, F in scalars):
        cases["relu2"].append(case(ops.relu2, g=g, u=None, F=F))
        cases["gelu"].append(case(ops.gelu, x=g, F=F))
        for cap in (CAP_30, CAP_50):
            cases["softcap"].append(case(ops.softcap, x=g, **cap._asdict(), F=F))
    return cases


def rope_cases(draw: Draw) -> Cases:
    """3.1: pairs, then whole heads with both pairings and with copied elements."""
    angles = [0, 1, 1 << 29, 1 << 30, 1 << 31, 3 << 30, 0xFFFFFFFF, *(draw.word() for _ in range(20))]
    ends = ((I32_MIN, I32_MIN), (I32_MAX, I32_MIN), (I32_MAX, I32_MAX), (0, 1), (4096, -2048))
    pairs = [case(ops.rope_pair, a=a, b=b, phase=phase) for phase in angles for a, b in ends]
    phases = [case(ops.phase, position=p, freq64=draw.word() << 32 | draw.word()) for p in (0, 1, 2, 4095, 1 << 24)]
    heads = []
    for width, rot in ((2, 2), (16, 16), (16, 8), (64, 64), (64, 48)):
        for interleaved in (False, True):
            for position in (0, 1, 1000, (1 << 24) - 1):
                table = [draw.word() << 32 | draw.word() for _ in range(rot // 2)]
                v = draw.vector(width, 31)
                heads.append(case(ops.rope, v=v, position=position, freq64=table, rot=rot, interleaved=interleaved))
    return {"phase": phases, "rope_pair": pairs, "rope": heads}


def sampling_cases(draw: Draw) -> Cases:
    """Section 4: ties, single tokens, every filter, extreme temperatures and random numbers."""
    lists = [[0], [5, 5, 5, 5], [I32_MIN, I32_MAX, I32_MIN], [I32_MAX] * 3, [draw.wide(14) for _ in range(200)]]
    lists += [draw.vector(draw.between(2, 50), 31) for _ in range(10)]
    lists += [[draw.between(-20000, 20000) for _ in range(draw.between(2, 50))] for _ in range(20)]
    cases: Cases = {"greedy": [case(sampling.greedy, logits=logits) for logits in lists], "sample": [], "logprobs": []}
    for logits in lists:
        for F in (8, 12, 20):
            cases["logprobs"].append(case(sampling.logprobs, logits=logits, F=F))
        for _ in range(10):
            settings = {
                "F": draw.choice((10, 12, 16)),
                "tau": draw.choice((1, 6554, 52429, 65536, 131072, (1 << 32) - 1)),
                "top_k": draw.choice((0, 0, 1, 2, 40, 1000)),
                "top_p": draw.choice((0, 1, 32768, 58982, 65535, 65536, 65536)),
                "min_p": draw.choice((0, 0, 1, 3277, 65536)),
                "rnd": draw.choice((0, 0xFFFFFFFF, draw.word(), draw.word())),
            }
            cases["sample"].append(case(sampling.sample, logits=logits, **settings))
    # Two or four equal logits and a random number at exactly a half or a quarter: the sum must exceed it, not reach it.
    for logits, rnd in (([7, 7], 1 << 31), ([7, 7], (1 << 31) - 1), ([7] * 4, 1 << 30), ([7] * 4, 3 << 30)):
        for top_p in (32768, 65535, 65536):
            settings = {"F": 12, "tau": 65536, "top_k": 0, "top_p": top_p, "min_p": 0, "rnd": rnd}
            cases["sample"].append(case(sampling.sample, logits=logits, **settings))
    return cases


def router_cases(draw: Draw) -> Cases:
    """3.5: selection with ties, both routers, both normalizations, and the sum of outputs."""
    lists = [[0] * 4, [I32_MAX, I32_MIN, 0, 1], [I32_MIN] * 3, *(draw.vector(8, 31) for _ in range(4))]
    lists += [[draw.between(-20000, 20000) for _ in range(8)] for _ in range(8)]
    router = [
        case(ops.router, r=r, k=k, F=12, renorm=renorm, sigmoid=sigmoid)
        for r in lists
        for k in (1, 2, len(r))
        for renorm in (False, True)
        for sigmoid in (False, True)
    ]
    sums = [
        case(ops.expert_sum, w=[draw.below(32769) for _ in range(k)], y=[draw.vector(8, 31) for _ in range(k)])
        for k in (1, 2, 4)
        for _ in range(8)
    ]
    return {"router": router, "expert_sum": sums}


def operations() -> Cases:
    """Cases of every operation."""
    draw = Draw("ops")
    row_constants = [(0, 0), *((m, sh) for m in (1 << 22, (1 << 23) - 1) for sh in (0, 8, 33, 127))]
    rows = [([draw.between(-32767, 32767) for _ in range(33)], m, sh) for m, sh in row_constants]
    vectors = [[I32_MIN] * n for n in (1, 2, 4)] + [[I32_MAX] * 8] + [draw.vector(1 << k, 31) for k in range(8)]
    return {
        "embed": [case(ops.embed, w=w, m=m, sh=sh, F=F) for w, m, sh in rows for F in (8, 12, 20)],
        "rmsnorm": norm_cases(draw),
        "linear": linear_cases(draw),
        **rope_cases(draw),
        "hadamard": [case(ops.hadamard, v=v) for v in vectors],
        "attention": attention_cases(draw),
        "residual_add": [
            case(ops.residual_add, x=list(I32_EDGES), y=[y] * len(I32_EDGES)) for y in (I32_MIN, -1, 0, 1, I32_MAX)
        ],
        **activation_cases(draw),
        **router_cases(draw),
        **sampling_cases(draw),
    }
