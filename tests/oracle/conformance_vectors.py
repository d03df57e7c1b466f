"""Digests of the conformance suite's cases and hashes of the files that they come from (conformance.json)."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from .output import compact

CONTRACT = 1
CHOICES = ("greedy", "sampled")


def case_digest(results: list[Any]) -> str:
    """SHA-256 over results, each as compact JSON and a newline."""
    return sha256("".join(compact(result) + "\n" for result in results).encode()).hexdigest()


def model_results(expected: Mapping[str, Any]) -> list[Any]:
    """What a tiny model computes, one list a result: slot writes, logits, continuations."""
    writes = [[write[key] for key in ("part", "op", "slot", "width", "sha256")] for write in expected["writes"]]
    logits = ["logits", expected["logits"]["last"], expected["logits"]["sha256"]]
    return [*writes, logits, *([name, expected[name]["ids"], expected[name]["logprobs"]] for name in CHOICES)]


def format_result(matrix: Mapping[str, Any]) -> list[Any]:
    """What is computed from one stored matrix."""
    preshifts = [matrix["preshift"][mode] for mode in ("A8", "A16")]
    sums = [matrix["sums"][mode] for mode in ("A8", "A8b", "A16")]
    return [matrix["W_sha256"], matrix["chunk_sum"], matrix["cap"], preshifts, sums]


def conformance(files: Mapping[str, bytes]) -> bytes:
    """conformance.json for the other files of tests/vectors."""
    content = {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    cases = {}
    for family in ("primitives", "ops"):
        for name, calls in content[f"{family}.json"].items():
            cases[f"{family}/{name}"] = case_digest([call["result"] for call in calls])
    domains: dict[str, list[Any]] = {}
    for entry in content["digests.json"]["digests"]:
        domains.setdefault(entry["function"], []).append([entry["count"], entry["sha256"]])
    cases |= {f"domains/{name}": case_digest(results) for name, results in domains.items()}
    for name, matrices in content["formats.json"].items():
        cases[f"formats/{name}"] = case_digest([format_result(matrix) for matrix in matrices])
    for path, expected in content.items():
        folder, _, name = path.removesuffix(".json").partition("/")
        if folder == "models" and "/" not in name:
            cases[f"models/{name}"] = case_digest(model_results(expected))
    hashes = {name: sha256(data).hexdigest() for name, data in sorted(files.items())}
    published = {"contract": CONTRACT, "files": hashes, "cases": dict(sorted(cases.items()))}
    return (json.dumps(published, indent=1) + "\n").encode()
