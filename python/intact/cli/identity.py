"""`intact hash`: digests of a model, of its logits and of its tokens."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from intact.cli.common import (
    CpuOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    OffloadOption,
    ProfileOption,
    ThreadsOption,
    open_model,
    print_json,
    print_rows,
)

if TYPE_CHECKING:
    from intact.llm import LLM

LENGTH = 64


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("hash")(hash)


def hash(  # named after its command
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="A text in place of the fixed prompt.")] = None,
    expect: Annotated[str | None, typer.Option("--expect", help="Exit with 1 unless `all` is this digest.")] = None,
    chunk: Annotated[int, typer.Option("--chunk", help="Tokens per step; changes no digest.")] = 256,
    page: Annotated[int, typer.Option("--page", help="Positions per cache page; changes no digest.")] = 64,
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    device: DeviceOption = "cpu",
    offload: OffloadOption = 0,
    json: JsonOption = False,
) -> None:
    """Print digests of the model, and of logits and tokens for a fixed prompt."""
    llm = open_model(model, threads, cpu, profile, device=device, offload=offload, chunk=chunk, page=page)
    fixed = fixed_prompt(llm.vocabulary_size)[: llm.context]
    ids = fixed if prompt is None else llm.tokenizer.encode(prompt)
    digests = {"model": llm.digest, **run_digests(llm, ids)}
    digests["all"] = hashlib.sha256("\n".join(f"{k} {v}" for k, v in digests.items()).encode()).hexdigest()
    equal = expect is None or expect == digests["all"]
    if json:
        print_json({**digests, "contract_version": llm.contract_version, "expected": expect, "equal": equal})
    else:
        print_rows(list(digests.items()))
    if not equal:
        print(f"intact: all is {digests['all']}, expected is {expect}", file=sys.stderr)
        raise typer.Exit(1)


def fixed_prompt(vocabulary: int) -> list[int]:
    """64 token ids from the contract's philox: word 0 for counter (i, 0, 0, 0), key (0, 0), mod vocabulary."""
    from intact.numerics import philox

    return [int(philox([i, 0, 0, 0], [0, 0])[0]) % vocabulary for i in range(LENGTH)]


def run_digests(llm: LLM, ids: Sequence[int]) -> dict[str, str]:
    """SHA-256 of all logits of a prompt, of its 64 greedy tokens, and of 64 sampled ones, as little-endian int32."""
    from intact.sampling import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True)
    sampled = SamplingParams(temperature=0.8, seed=42, max_tokens=LENGTH, ignore_eos=True)
    outputs = llm.generate([ids, ids], [greedy, sampled])
    tokens = [output.outputs[0].token_ids for output in outputs]
    return {
        "logits": hashlib.sha256(llm.logits(ids).astype("<i4").tobytes()).hexdigest(),
        "greedy": _token_digest(tokens[0]),
        "sampled": _token_digest(tokens[1]),
    }


def _token_digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in tokens)).hexdigest()
