"""`intact eval`: accuracy against the source's weights in floats."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from intact.cli.common import CpuOption, JsonOption, ModelArgument, ProfileOption, ThreadsOption, open_model, read_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from intact.reference import FloatModel


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("eval")(evaluate)


def evaluate(
    model: ModelArgument,
    reference: Annotated[str, typer.Option("--reference", help="The source with the true weights.")],
    text: Annotated[str, typer.Option("--text", help="Prose that took no part in any calibration; - is stdin.")],
    windows: Annotated[int, typer.Option("--windows", min=1, help="Windows of text.")] = 24,
    size: Annotated[int, typer.Option("--size", min=2, help="Tokens per window.")] = 512,
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    json: JsonOption = False,
) -> None:
    """Measure KL divergence, perplexity and top-1 agreement against a float32 run of the source's own weights."""
    from tqdm import tqdm

    from intact import evaluate as evaluation
    from intact import numerics

    passage = read_text(text)
    floats = float_model(reference)
    llm = open_model(model, threads, cpu, profile)
    ids = llm.tokenizer.encode(passage, add_special_tokens=False)
    # A tokenizer that begins a text with a token of its own does so in front of nothing, too.
    begins = llm.tokenizer.encode("")[:1] == [llm.tokenizer.bos_id]
    chosen = evaluation.windows(ids, size, windows, llm.tokenizer.bos_id if begins else None)

    def exact_nll(logits: npt.NDArray[np.int32], targets: list[int]) -> int:
        rows = zip(logits, targets, strict=True)
        return -sum(int(numerics.logprobs(row, llm.fraction_bits)[target]) for row, target in rows)

    shown = tqdm(chosen, desc="evaluating", unit="window", disable=not sys.stderr.isatty())
    result = evaluation.evaluate(llm, floats.logits, shown, exact_nll)
    if json:
        print(json_module.dumps({"model_digest": llm.digest, **json_module.loads(result.to_json())}, indent=2))
    else:
        print(result.table())


def float_model(path: str) -> FloatModel:
    """The float reference of a source, with its tensors kept in memory."""
    import functools

    from intact._native import Source
    from intact.reference import FloatModel

    source = Source(path)
    names = frozenset(source.tensor_names())

    @functools.cache
    def tensor(name: str) -> npt.NDArray[np.float32]:
        if name not in names:
            raise KeyError(name)
        return source.tensor(name)

    return FloatModel(json_module.loads(source.config()), tensor)
