"""Cases of the constants that a converter derives from a configuration (constants.json).

Real numbers are decimal strings, so that no reader has to round them.
"""

from fractions import Fraction

from . import constants, sampling
from .draw import Draw
from .output import Case, Cases, case


def dyadic(value: str, bits: int) -> tuple[int, int]:
    """(m, sh) of a positive real."""
    return constants.dyadic(Fraction(value), bits)


def norm_constants(n: int, epsilon: str, F: int) -> tuple[int, int, int]:
    """(E, rn, rk)."""
    return constants.norm_constants(n, Fraction(epsilon), F)


def gain_codes(gains: list[str]) -> tuple[list[int], int]:
    """(g, gs)."""
    return constants.gain_codes([Fraction(g) for g in gains])


def softcap_constants(cap: str) -> tuple[int, int, int, int]:
    """(im, is, cm, cs)."""
    return constants.softcap_constants(Fraction(cap))


def score_constants(head_dim: int, hadamard: bool, softcap: bool) -> tuple[int, int]:
    """(ca, cash) for score_scale = 1/sqrt(head_dim)."""
    return constants.score_constants(1 / constants.sqrt(Fraction(head_dim)), head_dim, hadamard, softcap)


def freq64(theta: str, rot: int, scaling: dict[str, str | int] | None) -> list[int]:
    """The table of one rope; scaling holds the keys of a Hugging Face `rope_scaling`."""
    return constants.freq64(constants.rope_frequencies(Fraction(theta), rot, scaling))


def tau(temperature: str) -> int:
    """A temperature above 0 in Q16."""
    return sampling.temperature_q16(Fraction(temperature))


LLAMA3 = {
    "rope_type": "llama3",
    "factor": "32.0",
    "low_freq_factor": "1.0",
    "high_freq_factor": "4.0",
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": "4.0", "original_max_position_embeddings": 32768}
LINEAR = {"rope_type": "linear", "factor": "8.0"}


def freq64_cases() -> list[Case]:
    """Plain tables of common models, then each kind of scaling."""
    plain = (
        ("10000", 64),
        ("10000", 128),
        ("100000", 64),
        ("500000", 128),
        ("1000000", 128),
        ("10000", 2),
        ("10000", 256),
    )
    scaled = (("500000", 64, LLAMA3), ("1000000", 128, YARN), ("10000", 128, LINEAR))
    cases = [case(freq64, theta=theta, rot=rot, scaling=None) for theta, rot in plain]
    return cases + [case(freq64, theta=theta, rot=rot, scaling=scaling) for theta, rot, scaling in scaled]


def decimal(draw: Draw, scale: int) -> str:
    """A random decimal with six digits after the point, below `scale` in magnitude and never 0."""
    value = draw.between(1, scale * 1000000 - 1)
    return f"{'-' if draw.below(2) else ''}{value // 1000000}.{value % 1000000:06d}"


def derived_constants() -> Cases:
    """Cases of every constant."""
    draw = Draw("constants")
    numbers = ["1", "0.5", "2", "3", "0.99999999999", "1.9999999999", "1e-30", "30", "50", "127"]
    gains = [["1.0"], ["2.0", "-1.999999"], ["0.000001"], ["100.5", "-0.25"]]
    gains += [[decimal(draw, 4) for _ in range(16)] for _ in range(4)]
    sizes = (1, 2, 16, 64, 100, 128, 576, 2048, 4096, 16384)
    return {
        "dyadic": [case(dyadic, value=value, bits=bits) for value in numbers for bits in (15, 23, 25, 31)],
        "norm_constants": [
            case(norm_constants, n=n, epsilon=e, F=F) for n in sizes for e in ("1e-5", "1e-6") for F in (8, 12, 20)
        ],
        "gain_codes": [case(gain_codes, gains=g) for g in gains],
        "softcap_constants": [case(softcap_constants, cap=cap) for cap in ("30.0", "50.0", "15.0", "1.0")],
        "score_constants": [
            case(score_constants, head_dim=head_dim, hadamard=hadamard, softcap=softcap)
            for head_dim in (16, 32, 64, 128, 256)
            for hadamard in (False, True)
            for softcap in (False, True)
        ],
        "freq64": freq64_cases(),
        "tau": [case(tau, temperature=value) for value in ("0.000001", "0.1", "0.7", "0.8", "1.0", "1.5", "65535.0")],
    }
