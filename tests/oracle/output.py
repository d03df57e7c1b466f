"""How vectors become text: cases, digests and stable JSON."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

Case = dict[str, Any]
Cases = dict[str, list[Case]]


def case(function: Callable[..., Any], **args: Any) -> Case:
    """One call: its arguments by name and its result."""
    return {"args": args, "result": function(**args)}


def digest(values: Iterable[int], size: int) -> str:
    """SHA-256 over integers as little-endian words of `size` bytes, in order."""
    mask = (1 << 8 * size) - 1
    return sha256(b"".join((value & mask).to_bytes(size, "little") for value in values)).hexdigest()


def compact(value: Any) -> str:
    """JSON on one line; tuples are arrays."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def cases_text(cases: Mapping[str, Sequence[Any]]) -> bytes:
    """A JSON object of lists, with one line for each case."""
    parts = (f" {compact(name)}: [\n  " + ",\n  ".join(map(compact, cases[name])) + "\n ]" for name in cases)
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def json_text(value: Any, width: int = 160) -> bytes:
    """Indented JSON in which an object or array that fits the line stays on it."""

    def render(value: Any, indent: int) -> str:
        flat = json.dumps(value, ensure_ascii=False)
        if indent + len(flat) <= width or not isinstance(value, (dict, list)):
            return flat
        inner = " " * (indent + 1)
        if isinstance(value, dict):
            items = [f"{inner}{json.dumps(key)}: {render(item, indent + 1)}" for key, item in value.items()]
            return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
        return "[\n" + ",\n".join(inner + render(item, indent + 1) for item in value) + "\n" + " " * indent + "]"

    return (render(value, 0) + "\n").encode()
