"""Encode time and decode speed of a model in each of several formats.

    .venv/bin/python benches/formats.py SOURCE DIRECTORY TYPE [TYPE …] [--head TYPE] [--layers N] [--threads 1 2]
        [--record NAME]

SOURCE is what `intact quantize` takes; each TYPE's model directory is DIRECTORY/TYPE and is made if it is not there.
`--layers N` repeats the layer of a SOURCE that has only one, so that a large model's speed can be had without the
encoding of a large model (`benches/synthetic.py DIRECTORY --hugging-face --layers 1`). The table has, for each type,
the bits per weight of the layers, the bytes read per token, the time of the conversion with all threads, head and
reading included (not with `--layers`), and the tokens per second of decoding one sequence with their share of the roof
that `intact bench` measures in the same process: medians over `--rounds`, in which all types take turns.

`--record NAME` also writes the table, with machine, commit and date, to benches/record/NAME.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import intact
from benches.end_to_end import RECORD, commit, machine

LAYER = re.compile(r"(?<=model\.layers\.)0(?=\.)")


def encode(source: str, target: Path, type: str, head: str) -> None:
    """Writes a model directory, and beside it what that took."""
    start = time.perf_counter()
    intact.quantize(source, target, type=type, head_type=head, progress=sys.stderr.isatty())
    seconds = time.perf_counter() - start
    times_of(target).write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


def times_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.encode.json")


def matrices(target: Path) -> dict[str, Any]:
    """The manifest's matrices by name."""
    found: dict[str, Any] = json.loads((target / "intact.json").read_bytes())["model"]["matrices"]
    return found


def names(text: str, layers: int) -> list[str]:
    """A name in every layer; alone where it is in none."""
    return [LAYER.sub(str(layer), text) for layer in range(layers)] if LAYER.search(text) else [text]


def repeat(target: Path, layers: int) -> None:
    """Turns a model of one layer into one with that layer `layers` times (docs/MODEL.md)."""
    manifest: dict[str, Any] = json.loads((target / "intact.json").read_bytes())
    model = manifest["model"]
    body = model["program"]["body"]
    if any(".layers." in name and not LAYER.search(name) for name in matrices(target)):
        raise SystemExit(f"{target}: has more than one layer; --layers takes a source with one")
    for part in ("matrices", "vectors"):
        model[part] = {name: entry for old, entry in model[part].items() for name in names(old, layers)}
    model["program"]["body"] = body[:1] + [
        json.loads(LAYER.sub(str(layer), json.dumps(op))) for layer in range(layers) for op in body[1:]
    ]
    canonical = json.dumps(model, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    manifest["digest"] = hashlib.sha256(canonical).hexdigest()

    path = target / "model.safetensors"
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        old = json.loads(file.read(size))
        planes = {name: plane for name, plane in old.items() if name != "__metadata__"}
        copies = sorted((name, plane["data_offsets"]) for of, plane in planes.items() for name in names(of, layers))
        header, offset = {}, 0
        for name, (start, stop) in copies:
            header[name] = {"dtype": "U8", "shape": [stop - start], "data_offsets": [offset, offset + stop - start]}
            offset += stop - start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % 64)
        with (target / "new").open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for _, (start, stop) in copies:
                file.seek(8 + size + start)
                out.write(file.read(stop - start))
    (target / "new").replace(path)
    (target / "intact.json").write_text(json.dumps(manifest), encoding="utf-8")


def bench(target: Path, threads: list[int], tokens: int) -> Iterator[dict[str, Any]]:
    """The rows of `intact bench`, in a process of its own."""
    command = [sys.executable, "-m", "intact", "bench", str(target), "--json", "-p", "0", "-r", "3", "-n", str(tokens)]
    command += [f"--threads={count}" for count in threads]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr.strip())
    found = json.loads(result.stdout)
    return ({**row, "bytes": found["decode_bytes"]} for row in found["rows"])


def bits(target: Path) -> float:
    """Stored bits per weight of the layers' matrices."""
    with (target / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    body = {name: matrix for name, matrix in matrices(target).items() if ".layers." in name}
    stored: int = sum(
        header[f"{name}.{plane}"]["shape"][0] for name, matrix in body.items() for plane in matrix["planes"]
    )
    weights: int = sum(matrix["rows"] * matrix["columns"] for matrix in body.values())
    return 8 * stored / weights


def main() -> None:
    """Encodes, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("directory", type=Path)
    parser.add_argument("types", nargs="+", metavar="TYPE")
    parser.add_argument("--head", default="U8b8", metavar="TYPE")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", metavar="NAME")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    targets: dict[str, Path] = {type: options.directory / type.replace("/", "_") for type in options.types}
    for type, target in targets.items():
        if not target.exists():
            part = target.with_name(f"{target.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            encode(options.source, part, type, options.head)
            if options.layers:
                repeat(part, options.layers)
            times_of(part).replace(times_of(target))
            part.replace(target)
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for type, target in targets.items():
            for row in bench(target, options.threads, options.tokens):
                rows.setdefault((type, row["threads"]), []).append(row)
    columns = ["type", "bits", "MB per token", *(f"tokens/s × {n}" for n in options.threads)]
    if not options.layers:
        columns += ["conversion, s", "s per million weights"]
    lines = [columns, ["---"] * len(columns)]
    for type, target in targets.items():
        cells = [type, f"{bits(target):.2f}", f"{rows[type, options.threads[0]][0]['bytes'] / 1e6:.1f}"]
        for count in options.threads:
            rate = statistics.median(row["median"] for row in rows[type, count])
            share = statistics.median(row["roof_share"] * row["median"] / row["mean"] for row in rows[type, count])
            cells.append(f"{rate:.1f} ({share:.0%})")
        if not options.layers:
            seconds = json.loads(times_of(target).read_bytes())["seconds"]
            weights = sum(matrix["rows"] * matrix["columns"] for matrix in matrices(target).values())
            cells += [f"{seconds:.0f}", f"{1e6 * seconds / weights:.2f}"]
        lines.append(cells)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    if options.record:
        source = Path(options.source).name + (f", its layer {options.layers} times" if options.layers else "")
        place = f"{', '.join(map(str, machine().values()))} cores"
        note = f"{source}; {place}; commit {commit()}; {datetime.now(timezone.utc):%Y-%m-%d}."
        note += f" Decode of {options.tokens} tokens, medians of {options.rounds} rounds; head {options.head}."
        (RECORD / f"{options.record}.md").write_text(f"# {options.record}\n\n{note}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
