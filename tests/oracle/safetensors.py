"""The safetensors file of a model: planes of bytes at multiples of 64 (docs/MODEL.md)."""

import json
from collections.abc import Mapping
from itertools import pairwise

ALIGNMENT = 64


def write(planes: Mapping[str, bytes]) -> bytes:
    """The file; the header is padded with blanks so that the first plane begins at a multiple of 64."""
    header, offset = {}, 0
    for name in sorted(planes):
        size = len(planes[name])
        assert size % ALIGNMENT == 0, name
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + b"".join(planes[name] for name in sorted(planes))


def read(data: bytes) -> dict[str, bytes]:
    """The planes by name."""
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % ALIGNMENT == 0, "the planes do not begin at a multiple of 64"
    header = json.loads(data[8 : 8 + length])
    body, planes = data[8 + length :], {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        assert entry["dtype"] == "U8" and entry["shape"] == [end - start], name
        planes[name] = body[start:end]
    ends = [0, *(entry["data_offsets"][1] for entry in header.values())]
    assert list(header) == sorted(header) and sum(b - a for a, b in pairwise(ends)) == len(body), "gaps or other order"
    return planes
