"""A model directory read back and run: the interpreter of docs/MODEL.md programs."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from . import formats, ops, safetensors
from .attention import attend, first_visible
from .fixed import DynQuant, dynquant
from .linear import multiply, quantize

Vectors = list[list[int]]


class Matrix(NamedTuple):
    """A decoded matrix with what a linear or an embed needs of it."""

    W: Vectors
    m: list[int]
    sh: list[int]
    embedding_row: list[tuple[int, int]]
    bias: list[int] | None
    preshift: int
    mode: str
    cap: int


class Write(NamedTuple):
    """One slot written by one operation: its new value for every token of the batch."""

    op: int
    slot: str
    values: Vectors


@dataclass
class Model:
    """A model in memory."""

    fraction_bits: int
    vocabulary: int
    matrices: dict[str, Matrix]
    vectors: dict[str, list[int]]
    body: list[dict[str, Any]]
    head: list[dict[str, Any]]


def integers(plane: bytes, size: int, count: int, signed: bool) -> list[int]:
    """The first `count` little-endian integers of a plane."""
    return [int.from_bytes(plane[i : i + size], "little", signed=signed) for i in range(0, count * size, size)]


def read_matrix(name: str, entry: Mapping[str, Any], planes: Mapping[str, bytes]) -> Matrix:
    """Decodes one matrix of intact.json and checks the hashes of its planes."""
    own = {part: planes[f"{name}.{part}"] for part in entry["planes"]}
    for part, data in own.items():
        assert sha256(data).hexdigest() == entry["planes"][part], f"{name}.{part}"
    rows, columns = entry["rows"], entry["columns"]
    constants = formats.row_constants(own["row"], rows)
    return Matrix(
        W=formats.decode(entry["format"], own, rows, columns, entry.get("table")),
        m=[m for m, _ in constants],
        sh=[sh for _, sh in constants],
        embedding_row=formats.row_constants(own.get("embedding_row", own["row"]), rows),
        bias=integers(own["bias"], 4, rows, True) if "bias" in own else None,
        preshift=entry["preshift"],
        mode=entry["activation"],
        cap=entry.get("cap", 0),
    )


def read_model(files: Mapping[str, bytes]) -> Model:
    """The model of a directory, given as file names and contents."""
    model = json.loads(files["intact.json"])["model"]
    planes = safetensors.read(files["model.safetensors"])
    vectors = {}
    for name, entry in model["vectors"].items():
        assert sha256(planes[name]).hexdigest() == entry["sha256"], name
        size, signed = (2, True) if name.endswith(".gain") else (8, False)
        vectors[name] = integers(planes[name], size, entry["length"], signed)
    matrices = {name: read_matrix(name, entry, planes) for name, entry in model["matrices"].items()}
    program = model["program"]
    return Model(model["fraction_bits"], model["vocabulary"], matrices, vectors, program["body"], program["head"])


def by_runs(x: Sequence[int], n: int, function: Callable[[list[int]], list[int]]) -> list[int]:
    """The function over each run of n elements."""
    return [y for start in range(0, len(x), n) for y in function(list(x[start : start + n]))]


def softcap_of(op: Mapping[str, Any]) -> ops.Softcap:
    """The constants of a softcap operation or of an attention's softcap."""
    return ops.Softcap(op["inverse"], op["inverse_shift"], op["cap"], op["cap_shift"])


@dataclass
class Run:
    """One sequence in progress: the slots of the latest batch, and the quantized past of every attention."""

    model: Model
    length: int = 0
    slots: dict[str, Vectors] = field(default_factory=dict)
    past: dict[tuple[int, int], tuple[list[DynQuant], list[DynQuant]]] = field(default_factory=dict)

    def fork(self) -> "Run":
        """A sequence with the same past that goes on independently."""
        past = {key: (list(keys), list(values)) for key, (keys, values) in self.past.items()}
        return Run(self.model, self.length, {}, past)

    def feed(self, tokens: Sequence[int]) -> tuple[list[Write], list[Write]]:
        """Runs body and head for the next tokens of the sequence; returns what each wrote, in order."""
        self.slots = {}
        body = self.run(self.model.body, tokens)
        head = self.run(self.model.head, tokens)
        self.length += len(tokens)
        return body, head

    def run(self, program: Sequence[Mapping[str, Any]], tokens: Sequence[int]) -> list[Write]:
        """Runs a list of operations over the batch."""
        writes = []
        for index, op in enumerate(program):
            for slot, values in self.execute(index, op, tokens):
                if slot == "logits":
                    values = [vector[: self.model.vocabulary] for vector in values]
                self.slots[slot] = values
                writes.append(Write(index, slot, values))
        return writes

    def execute(self, index: int, op: Mapping[str, Any], tokens: Sequence[int]) -> Iterator[tuple[str, Vectors]]:
        """The slots that one operation writes."""
        model, slots, F = self.model, self.slots, self.model.fraction_bits
        match op["op"]:
            case "embed":
                matrix = model.matrices[op["matrix"]]
                yield op["out"], [ops.embed(matrix.W[token], *matrix.embedding_row[token], F) for token in tokens]
            case "rms_norm":
                g = model.vectors[op["gain"]]
                gs, E, rn, rk = op["gain_shift"], op["epsilon"], op["root"], op["root_shift"]
                norm = partial(ops.rmsnorm, g=g, gs=gs, E=E, rn=rn, rk=rk, F=F)
                yield op["out"], [by_runs(x, len(g), norm) for x in slots[op["in"]]]
            case "linear":
                matrices = [model.matrices[name] for name in op["matrices"]]
                inputs = [quantize(x, matrices[0].mode, matrices[0].cap) for x in slots[op["in"]]]
                for slot, (W, m, sh, _, bias, preshift, _, _) in zip(op["out"], matrices, strict=True):
                    yield slot, [multiply(x, W, m, sh, preshift, bias) for x in inputs]
            case "rope":
                table = model.vectors[op["table"]]
                turned = []
                for position, x in enumerate(slots[op["slot"]], self.length):
                    turn = partial(
                        ops.rope, position=position, freq64=table, rot=2 * len(table), interleaved=op["interleaved"]
                    )
                    turned.append(by_runs(x, op["head_width"], turn))
                yield op["slot"], turned
            case "hadamard":
                yield op["slot"], [by_runs(x, op["head_width"], ops.hadamard) for x in slots[op["slot"]]]
            case "attention":
                yield op["out"], self.attention(index, op)
            case "gated_activation":
                function = {"swiglu": ops.swiglu, "geglu": ops.geglu, "relu2": ops.relu2}[op["kind"]]
                pairs = zip(slots[op["gate"]], slots[op["up"]], strict=True)
                yield op["out"], [[function(g, u, F) for g, u in zip(*pair, strict=True)] for pair in pairs]
            case "activation":
                assert op["kind"] == "relu2"
                yield op["slot"], [[ops.relu2(g, None, F) for g in x] for x in slots[op["slot"]]]
            case "residual_add":
                pairs = zip(slots[op["into"]], slots[op["from"]], strict=True)
                yield op["into"], [ops.residual_add(x, y) for x, y in pairs]
            case "softcap":
                cap = softcap_of(op)
                yield op["slot"], [[ops.softcap(v, *cap, F) for v in x] for x in slots[op["slot"]]]
            case unknown:
                raise ValueError(f"unknown operation {unknown!r}")

    def attention(self, index: int, op: Mapping[str, Any]) -> Vectors:
        """Appends the batch's keys and values to the past and attends from every position of the batch."""
        width, kv_heads, heads = op["head_width"], op["kv_heads"], op["heads"]
        for head in range(kv_heads):
            keys, values = self.past.setdefault((index, head), ([], []))
            part = slice(head * width, (head + 1) * width)
            keys += [dynquant(k[part], op["key_max"]) for k in self.slots[op["key"]]]
            values += [dynquant(v[part], op["value_max"]) for v in self.slots[op["value"]]]
        cap = softcap_of(op["softcap"]) if "softcap" in op else None
        limits = op["query_max"], op["value_max"], op["scale"], op["scale_shift"]
        outputs = []
        for position, query in enumerate(self.slots[op["query"]], self.length):
            visible = slice(first_visible(position, op["window"]), position + 1)
            output: list[int] = []
            for head in range(heads):
                keys, values = self.past[index, head // (heads // kv_heads)]
                q = query[head * width : (head + 1) * width]
                output += attend(q, keys[visible], values[visible], self.model.fraction_bits, *limits, cap).o
            outputs.append(output)
        return outputs
