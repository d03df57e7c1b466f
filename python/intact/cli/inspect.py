"""`intact info` and `intact kernels`."""

from __future__ import annotations

import json as json_module
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intact import hub
from intact.cli.common import JsonOption, ThreadsOption, print_json, print_rows
from intact.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from intact._native import _Adapter


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("info")(info)
    app.command("kernels")(kernels)


def info(
    path: Annotated[str, typer.Argument(help="A model directory, a GGUF file or a Hugging Face directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare all hashes; exit with 1 if one differs.")] = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Describe a model directory or a source."""
    path = hub.local(path)
    if not (Path(path) / "intact.json").is_file():
        if verify:
            raise typer.BadParameter("only a model directory has hashes", param_hint="--verify")
        facts = _source(path)
    else:
        facts = _directory(path, threads)
        if verify:
            facts["verified"] = _verify(path, threads)
    if json:
        print_json(facts)
    else:
        print_rows([(name, _plain(value)) for name, value in facts.items()])
    if facts.get("verified", {}).get("error"):
        raise typer.Exit(1)


def kernels(json: JsonOption = False) -> None:
    """List kernel sets and GPU adapters: what this machine can run, what is chosen, what passes the self-test."""
    from intact import _native

    sets = _native.kernels()
    if mask := os.environ.get("INTACT_CPU"):
        names = [entry["name"] for entry in sets if entry["available"]]
        if mask not in names:
            raise DeviceError(f"INTACT_CPU: {mask!r} is not one of {', '.join(names)} on this machine")
        for entry in sets:
            entry["chosen"] = entry["name"] == mask
    adapters = [_adapter(entry) for entry in _native.adapters()]
    if json:
        print_json({"kernels": sets, "threads": _native.usable_cpus(), "adapters": adapters})
        return
    for entry in sets:
        state = "chosen" if entry["chosen"] else "available" if entry["available"] else "missing"
        print(f"{entry['name']:<12} {state:<10} needs {entry['needs']}")
    print(f"{'threads':<12} {_native.usable_cpus()}")
    for adapter in adapters:
        kind = "software" if adapter["software"] else "hardware"
        verdict = "passed" if adapter["passed"] else "REFUSED"
        print(f"{adapter['name']}: {verdict}, {kind}, driver {adapter['driver']}")
        if adapter["problem"]:
            print(f"  {adapter['problem']}")
    if not adapters:
        print("no GPU adapter")


def _adapter(entry: _Adapter) -> dict[str, object]:
    """What there is to say about an adapter, with the result of its self-test."""
    from intact import devices

    problem = devices.problem(entry)
    facts = {"name": entry["name"], "backend": entry["backend"], "driver": entry["driver"]}
    return {**facts, "software": entry["software"], "passed": problem is None, "problem": problem}


def _directory(path: str, threads: int | None) -> dict[str, Any]:
    from intact._native import Model

    model = Model.open(path, threads)
    manifest = json_module.loads(model.manifest())
    matrices = manifest["model"]["matrices"].values()
    weights = sum(matrix["rows"] * matrix["columns"] for matrix in matrices)
    formats: Counter[str] = Counter()
    for matrix in matrices:
        formats[f"{matrix['format']} {matrix['activation']}"] += matrix["rows"] * matrix["columns"]
    return {
        "kind": "intact",
        "architecture": _architecture(Path(path) / "config.json"),
        "contract_version": manifest["model"]["contract"],
        "profile": manifest["provenance"].get("profile"),
        "source": manifest["provenance"].get("source"),
        "digest": model.digest,
        "fraction_bits": model.fraction_bits,
        "vocabulary": model.vocabulary,
        "context": model.context,
        "weights": weights,
        "plane_bytes": model.plane_bytes,
        "bits_per_weight": round(8 * model.plane_bytes / weights, 3),
        "formats": dict(formats.most_common()),
    }


def _source(path: str) -> dict[str, Any]:
    from intact._native import Source

    source = Source(path)
    config = json_module.loads(source.config())
    types: Counter[str] = Counter()
    weights = 0
    for name in source.tensor_names():
        count = 1
        for length in source.tensor_shape(name):
            count *= length
        types[source.tensor_type(name)] += count
        weights += count
    return {
        "kind": source.kind,
        "architecture": config.get("model_type"),
        "vocabulary": config.get("vocab_size"),
        "context": config.get("max_position_embeddings"),
        "weights": weights,
        "formats": dict(types.most_common()),
    }


def _architecture(config: Path) -> str | None:
    try:
        value = json_module.loads(config.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None


def _verify(path: str, threads: int | None) -> dict[str, Any]:
    from intact._native import Model

    try:
        planes, files = Model.open(path, threads).verify()
    except ModelError as error:
        return {"planes": 0, "files": 0, "error": str(error)}
    return {"planes": planes, "files": files, "error": None}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {content}" for name, content in value.items())
    return value
