"""Calibration: which inputs of each matrix matter, measured on a text by the integer engine itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from intact import evaluate, hub
from intact._native import Calibration, Engine, Model, usable_cpus
from intact.conversion import source_tokenizer
from intact.errors import RequestError, TokenizerError
from intact.gradients import Gradient, GradientModel
from intact.llm import LLM
from intact.progress import progress_bar
from intact.reference import source_model
from intact.sampling import SamplingParams
from intact.tokenizer import Tokenizer

CHECKPOINT_WINDOWS = 16  # between two writes of the file
TRIAL_WINDOWS = 6
TRIAL_TOKENS = 192
"""Of how many windows, and how many tokens of each, the sensitivity of matrices is measured on."""
LEAD = 16  # tokens before a window that the model writes, so that windows begin as differently as those of a text


def calibrate(
    model: str | os.PathLike[str],
    text: str | Sequence[str] | None,
    destination: str | os.PathLike[str],
    *,
    weights: str = "auto",
    full: bool = False,
    sensitivities: bool | None = None,
    generate: bool = False,
    windows: int = 32,
    window: int = 512,
    seed: int = 0,
    threads: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs windows of a text and writes the second moments of what every matrix reads (docs/CALIBRATION.md).

    The same model, text and settings give the same bytes on every machine and with any number of threads.

    Args:
        model: A model directory; or a GGUF file or Hugging Face directory, which is converted in memory.
        text: The text, or several, which give equally many windows each. None lets the model write every window
            itself, at temperature 1.
        destination: The file to write, also at times on the way.
        weights: "gradient" weighs tokens by gradients of the float reference and measures how sensitive the model is to
            each matrix, for a source only; "auto" weighs them by what attention makes of them, "none" counts all the
            same.
        full: All second moments, for error feedback, rather than those of each column with itself.
        sensitivities: Measure how sensitive the model is to each matrix, which `target_size` goes by, where gradients
            have not: each one loses bits in turn, and the model reads some of the text again. By default with `full`.
        generate: Besides the texts, let the model write as many windows as each of them gives.
        windows: Windows at most, evenly spread over each text.
        window: Tokens per window.
        seed: Decides what the model writes, and which tokens it draws for gradients; 0…2^63 - 1.
        threads: CPU threads, 1…1024; by default all that this process may use.
        resume: Go on from the destination where it exists.
        progress: Show a progress bar on stderr.

    Returns:
        The destination ("path"), the SHA-256 of the file ("digest"), the "windows" and "tokens" in it.

    Raises:
        ModelError: The model or file cannot be read, or the file cannot be written.
        RequestError: A setting is out of its range, the text is too short, or the file to resume is of something else.
        TokenizerError: The model has no tokenizer.
    """
    texts = [] if text is None else [text] if isinstance(text, str) else list(text)
    if not all(part.strip() for part in texts) or (text is not None and not texts):
        raise RequestError("text: is empty; give prose of the kind that the model is to write")
    # How many windows each text gives, and last the model itself.
    parts = len(texts) + (generate or not texts)
    if windows < parts:
        raise RequestError(f"windows: {windows} are too few for {parts} texts; give at least one for each")
    shares = [windows // parts + (part < windows % parts) for part in range(parts)]
    path, target = Path(hub.local(model)), Path(destination)
    if target.exists() and not resume:
        raise RequestError(f"{target}: already exists; choose another file or resume it")
    if (path / "intact.json").is_file():
        loaded = Model.open(str(path), threads)
        tokenizer = Tokenizer.from_directory(path) if (path / "tokenizer.json").is_file() else None
    else:
        tokenizer = source_tokenizer(str(path))
        loaded = Model.convert(str(path), threads=threads)
    gradients = _gradient_model(path) if weights == "gradient" else None
    if tokenizer is None:
        raise TokenizerError(f"{path}: there is no tokenizer.json, which a text needs")
    if window > loaded.context:
        raise RequestError(f"window: {window} tokens are more than the model's context, {loaded.context}")
    bos = tokenizer.bos_id if tokenizer.encode("")[:1] == [tokenizer.bos_id] else None
    chosen: list[list[int]] = []
    for part, share in zip(texts, shares, strict=False):
        chosen += evaluate.windows(tokenizer.encode(part, add_special_tokens=False), window, share, bos)
    if generate or not texts:
        chosen += _written(path, shares[-1], window, seed, threads, progress)

    engine = Engine(loaded, threads=threads or usable_cpus(), max_sequences=1, kv_tokens=loaded.context)
    # The windows, not the text: whatever else decides them is in their tokens.
    ids = b"".join(token.to_bytes(4, "little") for tokens in chosen for token in tokens)
    sums = Calibration(loaded, hashlib.sha256(ids).hexdigest(), window, weights, full)
    if resume and target.exists():
        sums.resume(target)
    with progress_bar("calibrating", "window", progress) as report:
        first = sums.windows
        found = _gradients(gradients, chosen[first:], seed + first, loaded.fraction_bits, threads or usable_cpus())
        for done, gradient in enumerate(found, first):
            if done and done % CHECKPOINT_WINDOWS == 0:
                sums.write(target)
            sums.add(engine, chosen[done], gradient)
            report(done + 1, len(chosen), "")
    sums.write(target)
    if full if sensitivities is None else sensitivities:
        count = min(TRIAL_WINDOWS, len(chosen))
        some = [chosen[i * len(chosen) // count][:TRIAL_TOKENS] for i in range(count)]
        with progress_bar("measuring", "matrix", progress) as report:
            sums.try_matrices(loaded, some, threads, report)
        sums.write(target)
    with open(target, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "path": str(target),
        "digest": digest.hexdigest(),
        "windows": sums.windows,
        "tokens": sums.windows * window,
    }


def _gradient_model(path: Path) -> GradientModel:
    """The float model of a source.

    Raises:
        RequestError: It is a model directory, which has no floats.
    """
    if (path / "intact.json").is_file():
        raise RequestError(f"weights: {path} has no float weights for gradients; calibrate the source, or choose auto")
    return source_model(str(path), GradientModel)


def _gradients(
    model: GradientModel | None, windows: list[list[int]], seed: int, fraction_bits: int, threads: int
) -> Iterator[dict[str, Gradient]]:
    """Those of each window in order, as many at a time as there are threads; none without a model."""
    if model is None:
        yield from ({} for _ in windows)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(windows), threads):
            some = range(start, min(start + threads, len(windows)))
            yield from pool.map(lambda i: model.gradients(windows[i], seed + i, fraction_bits), some)


def _written(path: Path, windows: int, window: int, seed: int, threads: int | None, progress: bool) -> list[list[int]]:
    """The ends of texts that the model writes itself, from each of the tokens that begin or end a text in turn."""
    llm = LLM(path, threads=threads, kv_tokens=windows * (window + LEAD + 64))
    tokenizer, lead = llm.tokenizer, min(LEAD, llm.context - window)
    starts = sorted(tokenizer.eos_ids | (set() if tokenizer.bos_id is None else {tokenizer.bos_id}))
    if not starts:
        raise RequestError("text: the model has no token that begins or ends a text; give a text")
    prompts = list(islice(cycle([start] for start in starts), windows))
    settings = [SamplingParams(seed=seed + i, max_tokens=window + lead - 1, ignore_eos=True) for i in range(windows)]
    outputs = llm.generate(prompts, settings, use_tqdm=progress)
    return [[*output.prompt_token_ids, *output.outputs[0].token_ids][lead:] for output in outputs]
