"""Checks of an installed package, run by the interpreter under test: `python probe.py SITE SOURCES VECTORS SCRATCH`.

Prints one JSON object a line: `check` with `value` and `seconds`, or with `error`. A check compares with what is true
everywhere and returns what must be equal on all machines; the caller compares that. To add one, write a function and
name it in CHECKS. This file runs under emulators and with the runtime dependencies alone: keep it small and quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PROMPT = "The quick brown fox"


class Places(NamedTuple):
    """Where things are.

    Attributes:
        site: The directory that the package is installed in.
        sources: `checkpoint` and `tiny.gguf`, the same model as a Hugging Face directory and as a GGUF file.
        vectors: tests/vectors.
        scratch: An empty directory.
    """

    site: Path
    sources: Path
    vectors: Path
    scratch: Path


def package(places: Places) -> Any:
    """What is imported is what is installed, with its stubs, its command and its version."""
    import intact

    directory = Path(intact.__file__).parent
    assert directory == places.site / "intact", f"import intact finds {directory}"
    for name in ("py.typed", "_native.pyi", "_native.abi3.so"):
        assert (directory / name).is_file(), f"the package lacks {name}"
    found = metadata.distribution("intact")
    assert found.version == intact.__version__, f"metadata {found.version}, module {intact.__version__}"
    commands = {entry.name: entry.value for entry in found.entry_points if entry.group == "console_scripts"}
    assert commands == {"intact": "intact.cli:main"}, f"commands {commands}"
    return {"version": found.version, "contract": intact.CONTRACT_VERSION}


def vectors(places: Places) -> Any:
    """The oracle's models on every kernel set: the digest of their logits, greedy tokens and log-probabilities."""
    from intact import LLM, SamplingParams

    names = sorted(path.stem for path in (places.vectors / "models").glob("*.json"))
    assert names, f"{places.vectors} holds no models"
    for name in names:
        path = places.vectors / "models" / name
        expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
        for cpu in kernel_sets():
            llm = LLM(path, cpu=cpu, threads=2)
            logits = digest(llm.logits(expected["prompt"]).astype("<i4").tobytes())
            assert logits == expected["logits"]["sha256"], f"{name} on {cpu}: logits {logits}"
            greedy = SamplingParams(temperature=0, max_tokens=len(expected["greedy"]["ids"]), logprobs=0)
            [output] = llm.generate([expected["prompt"]], greedy)[0].outputs
            assert output.logprobs is not None
            steps = zip(output.logprobs, output.token_ids, strict=True)
            run = {"ids": output.token_ids, "logprobs": [step[token].logprob_q16 for step, token in steps]}
            assert run == expected["greedy"], f"{name} on {cpu}: {run}"
    return {"models": len(names)}


def conversion(places: Places) -> Any:
    """Digest and files of the model made from each source, in each profile."""
    import intact

    result = {}
    for source in ("checkpoint", "tiny.gguf"):
        for profile in ("default", "fast", "fastest"):
            model = places.scratch / f"{source}-{profile}"
            intact.quantize(places.sources / source, model, profile=profile, progress=False)
            files = {path.name: digest(path.read_bytes()) for path in sorted(model.iterdir())}
            result[f"{source} {profile}"] = {"digest": intact.LLM(model).digest, "files": files}
    return result


def text(places: Places) -> Any:
    """Text in, text out: a source converted in memory, greedy and sampled, streams of several lengths together."""
    from intact import LLM, SamplingParams

    llm = LLM(places.sources / "checkpoint", threads=2)
    settings = [
        SamplingParams(temperature=0, max_tokens=16, ignore_eos=True),
        SamplingParams(temperature=0.8, top_k=40, top_p=0.95, seed=7, n=2, max_tokens=24, ignore_eos=True),
    ]
    outputs = llm.generate([PROMPT, PROMPT], settings)
    return [[(one.token_ids, one.text) for one in output.outputs] for output in outputs]


def hash_command(places: Places) -> Any:
    """`intact hash`, and that it refuses another digest."""
    arguments = ["hash", str(places.sources / "tiny.gguf"), "--json", "--threads", "2"]
    status, printed = command(*arguments)
    assert status == 0, printed
    digests = json.loads(printed)
    status, _ = command(*arguments, "--expect", "0" * 64)
    assert status == 1, f"intact hash --expect ended with {status} on another digest"
    return digests


def packaged_model(places: Places) -> Any:
    """`intact hash` of the model inside the package."""
    status, printed = command("hash", "tiny", "--json", "--threads", "2")
    assert status == 0, printed
    return json.loads(printed)


def receipts(places: Places) -> Any:
    """`intact run --receipt` writes a file that `intact verify` confirms; another one it does not."""
    model, receipt = str(places.sources / "checkpoint"), places.scratch / "receipt.json"
    request = ("--prompt", PROMPT, "--max-tokens", "8", "--seed", "3")
    status, printed = command("run", model, *request, "--receipt", str(receipt), "--receipt-trace", "tensors")
    assert status == 0, printed
    claim = receipt.read_bytes()
    status, verdict = command("verify", str(receipt), model)
    assert status == 0, verdict
    recorded = json.loads(claim)["sha256"].encode()
    receipt.write_bytes(claim.replace(recorded, recorded[::-1]))
    status, verdict = command("verify", str(receipt), model)
    assert status == 1, f"intact verify ended with {status} on a changed receipt: {verdict}"
    return {"receipt": digest(claim), "length": len(claim)}


def conformance(places: Places) -> Any:
    """`intact verify --machine` with the fastest kernel set: the digest that docs/CONFORMANCE.md defines."""
    status, printed = command("verify", "--machine", "--cpu", kernel_sets()[-1], "--threads", "2", "--json")
    assert status == 0, printed
    report = json.loads(printed)
    [ran] = [backend for backend in report["backends"] if backend["ran"]]
    return {"cases": ran["cases"], "digest": ran["digest"], "expected": report["expected"]}


def no_gpu(places: Places) -> Any:
    """With no loader of GPU drivers: none is listed, `device="gpu"` says what to do, "auto" is the CPU and says so."""
    from intact import LLM, DeviceError, DeviceWarning, SamplingParams

    status, printed = command("kernels", "--json")
    assert status == 0, printed
    assert json.loads(printed)["adapters"] == [], printed
    refusal, tokens = "", []
    for device in ("gpu", "auto", "cpu"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeviceWarning)
            try:
                llm = LLM("tiny", device=device, threads=2)
            except DeviceError as error:
                refusal = str(error)
                continue
        announced = [warning for warning in caught if warning.category is DeviceWarning]
        assert len(announced) == (device == "auto"), f"{device}: {[str(warning.message) for warning in caught]}"
        tokens.append(llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=16))[0].outputs[0].token_ids)
    assert "Vulkan" in refusal, f"device='gpu' where there is none: {refusal or 'loads'}"
    first, second = tokens
    assert first == second, tokens
    return {"refusal": refusal, "tokens": first}


CHECKS: tuple[Callable[[Places], Any], ...] = (
    package,
    vectors,
    conversion,
    text,
    hash_command,
    packaged_model,
    receipts,
    no_gpu,
    conformance,
)


def kernel_sets() -> list[str]:
    """The names of the kernel sets that run here, slowest first."""
    from intact._native import kernels

    return [entry["name"] for entry in kernels() if entry["available"]]


def command(*arguments: str) -> tuple[Any, str]:
    """Status and standard output of the command line, without another start of the interpreter."""
    from intact.cli import main

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            main(list(arguments))
    except SystemExit as end:
        return end.code, out.getvalue()
    raise AssertionError("the command line did not exit")


def digest(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Runs every check; one that fails does not stop the others."""
    places = Places(*(Path(argument) for argument in sys.argv[1:5]))
    machine = {"machine": platform.machine(), "byteorder": sys.byteorder, "python": platform.python_version()}
    print(json.dumps({"machine": machine, "kernels": kernel_sets()}), flush=True)
    for check in CHECKS:
        start = time.monotonic()
        try:
            line = {"value": check(places)}
        except Exception:
            line = {"error": traceback.format_exc(limit=-4)}
        print(json.dumps({"check": check.__name__, **line, "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    main()
