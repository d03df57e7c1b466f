"""The program of a tiny model: its operations, its matrices by name, and the values of its vectors."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import isqrt
from typing import Any

from . import constants
from .architectures import HIDDEN, LAYERS, Architecture, exact
from .draw import Draw
from .fixed import I32_MAX


@dataclass(frozen=True)
class Profile:
    """Activation modes of the layers and of the head, and the cache: xv, and xk where it is not the widest."""

    name: str
    layers: str
    head: str
    key_max: int | None
    value_max: int
    hadamard: bool


DEFAULT = Profile("default", "A16", "A16", None, 127, False)
PROFILES = (DEFAULT, Profile("fast", "A8b", "A16", None, 127, False), Profile("fastest", "A8", "A8", 127, 127, True))
NARROW_CACHES = (Profile("k8v4", "A16", "A16", 127, 7, True), Profile("k4v4", "A16", "A16", 7, 7, True))


@dataclass
class Program:
    """A program under construction: lists of operations, shapes of matrices, values of vectors."""

    architecture: Architecture
    profile: Profile
    body: list[dict[str, Any]] = field(default_factory=list)
    head: list[dict[str, Any]] = field(default_factory=list)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    biased: set[str] = field(default_factory=set)
    groups: list[list[str]] = field(default_factory=list)
    gains: dict[str, list[int]] = field(default_factory=dict)
    tables: dict[str, list[int]] = field(default_factory=dict)

    def norm(self, slot: str, out: str, name: str, n: int, ops: list[dict[str, Any]] | None = None) -> None:
        """Adds an rms_norm with random gains around 1."""
        model = self.architecture
        draw = Draw(f"{model.name}/{name}.gain")
        codes, gain_shift = constants.gain_codes(
            [model.gain_offset + Fraction(draw.between(-96, 96), 256) + (1 - model.gain_offset) for _ in range(n)]
        )
        E, rn, rk = constants.norm_constants(n, exact(model.epsilon), model.fraction_bits)
        self.gains[f"{name}.gain"] = codes
        keys = {"gain": f"{name}.gain", "gain_shift": gain_shift, "epsilon": E, "root": rn, "root_shift": rk}
        (self.body if ops is None else ops).append({"op": "rms_norm", "in": slot, "out": out, **keys})

    def linear(self, slot: str, outs: dict[str, str], rows: list[int], columns: int, biased: bool = False) -> None:
        """Adds a linear from a slot to several; outs maps slots to matrices."""
        self.shapes |= {name: (n, columns) for name, n in zip(outs.values(), rows, strict=True)}
        self.groups.append(list(outs.values()))
        self.biased |= set(outs.values()) if biased else set()
        self.body.append({"op": "linear", "in": slot, "matrices": list(outs.values()), "out": list(outs)})

    def softcap(self, cap: float) -> dict[str, int]:
        """The constants of a softcap."""
        keys = ("inverse", "inverse_shift", "cap", "cap_shift")
        return dict(zip(keys, constants.softcap_constants(exact(cap)), strict=True))

    def attention(self, layer: int) -> None:
        """Adds projections, rotation, attention and output of one layer, up to the residual add."""
        model, profile = self.architecture, self.profile
        prefix, width = f"model.layers.{layer}.self_attn", model.head_dim
        projections = {slot: f"{prefix}.{slot}_proj" for slot in ("q", "k", "v")}
        rows = [model.heads * width, model.kv_heads * width, model.kv_heads * width]
        self.linear("h", projections, rows, HIDDEN, model.attention_bias)
        for slot in ("q", "k"):
            if model.head_norms:
                self.norm(slot, slot, f"{prefix}.{slot}_norm", width)
            if model.rotated[layer]:
                table = {"table": "model.rotary_emb.freq64", "interleaved": model.interleaved}
                self.body.append({"op": "rope", "slot": slot, "head_width": width, **table})
            if profile.hadamard:
                self.body.append({"op": "hadamard", "slot": slot, "head_width": width})
        widest = min(32385, isqrt(I32_MAX // width))
        key_max = profile.key_max or widest
        query_max = min(32385, I32_MAX // width // key_max) if profile.key_max else widest
        softcap = model.attention_softcap
        ca, cash = constants.score_constants(model.score_scale(), width, profile.hadamard, softcap is not None)
        op: dict[str, Any] = {"op": "attention", "query": "q", "key": "k", "value": "v", "out": "o"}
        op |= {"heads": model.heads, "kv_heads": model.kv_heads, "head_width": width, "window": model.windows[layer]}
        op |= {"query_max": query_max, "key_max": key_max, "value_max": profile.value_max}
        op |= {"scale": ca, "scale_shift": cash}
        self.body.append(op if softcap is None else op | {"softcap": self.softcap(softcap)})
        if model.sub_norms:
            self.norm("o", "o", f"{prefix}.attn_sub_norm", model.heads * width)
        self.linear("o", {"y": f"{prefix}.o_proj"}, [HIDDEN], model.heads * width)

    def feed_forward(self, layer: int) -> None:
        """Adds gate, up, activation and down of one layer, up to the residual add."""
        model = self.architecture
        prefix, width = f"model.layers.{layer}.mlp", model.feed_forward
        if model.gated:
            self.linear("h", {slot: f"{prefix}.{slot}_proj" for slot in ("gate", "up")}, [width, width], HIDDEN)
            slots = {"gate": "gate", "up": "up", "out": "up"}
            self.body.append({"op": "gated_activation", "kind": model.activation, **slots})
        else:
            self.linear("h", {"up": f"{prefix}.up_proj"}, [width], HIDDEN)
            self.body.append({"op": "activation", "kind": model.activation, "slot": "up"})
        if model.sub_norms:
            self.norm("up", "up", f"{prefix}.ffn_sub_norm", width)
        self.linear("up", {"y": f"{prefix}.down_proj"}, [HIDDEN], width)

    def residual(self, layer: int, branch: int) -> None:
        """Adds the post-norm of a branch, if any, and the residual add."""
        if self.architecture.post_norms:
            self.norm("y", "y", f"model.layers.{layer}.{self.architecture.post_norms[branch]}", HIDDEN)
        self.body.append({"op": "residual_add", "into": "x", "from": "y"})


def build(architecture: Architecture, profile: Profile) -> Program:
    """The program of an architecture in a profile."""
    program = Program(architecture, profile)
    embedding, head = "model.embed_tokens", "model.embed_tokens" if architecture.tied else "lm_head"
    program.shapes |= dict.fromkeys((embedding, head), (architecture.vocabulary, HIDDEN))
    if any(architecture.rotated):
        program.tables["model.rotary_emb.freq64"] = architecture.frequencies()
    program.body.append({"op": "embed", "matrix": embedding, "out": "x"})
    for layer in range(LAYERS):
        program.norm("x", "h", f"model.layers.{layer}.input_layernorm", HIDDEN)
        program.attention(layer)
        program.residual(layer, 0)
        program.norm("x", "h", f"model.layers.{layer}.{architecture.feed_forward_norm}", HIDDEN)
        program.feed_forward(layer)
        program.residual(layer, 1)
    program.norm("x", "h", "model.norm", HIDDEN, program.head)
    program.head.append({"op": "linear", "in": "h", "matrices": [head], "out": ["logits"]})
    if architecture.final_softcap is not None:
        program.head.append({"op": "softcap", "slot": "logits", **program.softcap(architecture.final_softcap)})
    return program
