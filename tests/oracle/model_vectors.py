"""What the tiny models compute: models/NAME.json."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import chain
from typing import Any

from .draw import Draw
from .model import Run, Vectors, Write, read_model
from .output import digest
from .sampling import Settings, choose, greedy, logprobs, q16, temperature_q16

PROMPT_LENGTH, CONTINUATION = 24, 8

SETTINGS = Settings(
    tau=temperature_q16(Fraction("0.8")),
    top_k=40,
    top_p=q16(Fraction("0.95")),
    min_p=q16(Fraction("0.02")),
    seed=0x123456789ABCDEF,
    stream=3,
)


def vectors_digest(values: Vectors) -> str:
    """SHA-256 over i32, token after token."""
    return digest(chain.from_iterable(values), 4)


def write_entry(part: str, write: Write) -> dict[str, Any]:
    """One slot write as it is published."""
    digests = {"width": len(write.values[0]), "sha256": vectors_digest(write.values)}
    return {"part": part, "op": write.op, "slot": write.slot, **digests}


def last_logits(head: list[Write]) -> tuple[list[int], list[int]]:
    """Logits of the last token: for the greedy choice (before a final softcap), and final."""
    logits = [write.values[-1] for write in head if write.slot == "logits"]
    return logits[0], logits[-1]


def continuation(run: Run, head: list[Write], settings: Settings | None) -> dict[str, list[int]]:
    """Eight more tokens after a prompt, with their log-probabilities; settings None is the greedy choice."""
    F = run.model.fraction_bits
    ids: list[int] = []
    scores = []
    for step in range(CONTINUATION):
        raw, final = last_logits(head)
        ids.append(greedy(raw) if settings is None else choose(final, settings, step, F))
        scores.append(logprobs(final, F)[ids[-1]])
        _, head = run.feed(ids[-1:])
    return {"ids": ids, "logprobs": scores}


def expected(files: Mapping[str, bytes], label: str) -> dict[str, Any]:
    """Everything that is published about one model directory; the label seeds its prompt."""
    model = read_model(files)
    draw = Draw(f"prompt/{label}")
    prompt = [draw.below(model.vocabulary) for _ in range(PROMPT_LENGTH)]
    run = Run(model)
    body, head = run.feed(prompt)
    logits = head[-1].values
    return {
        "prompt": prompt,
        "writes": [write_entry("body", write) for write in body] + [write_entry("head", write) for write in head],
        "logits": {"last": logits[-1], "sha256": vectors_digest(logits)},
        "greedy": continuation(run.fork(), head, None),
        "sampled": {"settings": SETTINGS._asdict(), **continuation(run.fork(), head, SETTINGS)},
    }
