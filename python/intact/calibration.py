"""Calibration: which inputs of each matrix matter, measured on a text by the integer engine itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from intact import evaluate, hub
from intact._native import Calibration, Engine, Model, usable_cpus
from intact.conversion import source_tokenizer
from intact.errors import RequestError, TokenizerError
from intact.progress import progress_bar
from intact.tokenizer import Tokenizer

CHECKPOINT_WINDOWS = 16  # between two writes of the file


def calibrate(
    model: str | os.PathLike[str],
    text: str,
    destination: str | os.PathLike[str],
    *,
    weights: str = "auto",
    full: bool = False,
    windows: int = 32,
    window: int = 512,
    threads: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs windows of a text and writes the second moments of what every matrix reads (docs/CALIBRATION.md).

    The same model, text and settings give the same bytes on every machine and with any number of threads.

    Args:
        model: A model directory; or a GGUF file or Hugging Face directory, which is converted in memory.
        text: The text.
        destination: The file to write, also at times on the way.
        weights: "auto" weighs tokens by what attention makes of them, "none" counts all the same.
        full: All second moments, for error feedback, rather than those of each column with itself.
        windows: Windows at most, evenly spread over the text.
        window: Tokens per window.
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
    if not text.strip():
        raise RequestError("text: is empty; give prose of the kind that the model is to write")
    path, target = Path(hub.local(model)), Path(destination)
    if target.exists() and not resume:
        raise RequestError(f"{target}: already exists; choose another file or resume it")
    if (path / "intact.json").is_file():
        loaded = Model.open(str(path), threads)
        tokenizer = Tokenizer.from_directory(path) if (path / "tokenizer.json").is_file() else None
    else:
        tokenizer = source_tokenizer(str(path))
        loaded = Model.convert(str(path), threads=threads)
    if tokenizer is None:
        raise TokenizerError(f"{path}: there is no tokenizer.json, which a text needs")
    if window > loaded.context:
        raise RequestError(f"window: {window} tokens are more than the model's context, {loaded.context}")
    bos = tokenizer.bos_id if tokenizer.encode("")[:1] == [tokenizer.bos_id] else None
    chosen = evaluate.windows(tokenizer.encode(text, add_special_tokens=False), window, windows, bos)

    engine = Engine(loaded, threads=threads or usable_cpus(), max_sequences=1, kv_tokens=loaded.context)
    # The windows, not the text: whatever else decides them is in their tokens.
    ids = b"".join(token.to_bytes(4, "little") for tokens in chosen for token in tokens)
    sums = Calibration(loaded, hashlib.sha256(ids).hexdigest(), window, weights, full)
    if resume and target.exists():
        sums.resume(target)
    with progress_bar("calibrating", "window", progress) as report:
        for done in range(sums.windows, len(chosen)):
            if done and done % CHECKPOINT_WINDOWS == 0:
                sums.write(target)
            sums.add(engine, chosen[done])
            report(done + 1, len(chosen), "")
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
